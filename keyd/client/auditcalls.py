"""The calls of AuditService: arguments in, a :class:`Call` out. Nothing here talks to anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses: what the daemon refused, ServerGoneError, DeadlineError.
"""

from __future__ import annotations

from keyd.client import types, wire
from keyd.client.call import Call, Page, Pages, call
from keyd.model import Entry
from keyd.v1 import audit_pb2

_ENTRIES_A_PAGE = 1000


def list_entries(
    wanted: types.EntryFilter = types.ALL_ENTRIES,
    *,
    descending: bool = False,
    page_size: int = _ENTRIES_A_PAGE,
) -> Pages[Entry]:
    """Entries by index (or newest first); asks for a page when it is needed."""

    def page(token: str) -> Call[Page[Entry]]:
        request = audit_pb2.ListEntriesRequest(
            key=wanted.key,
            principal=wanted.principal,
            action=wanted.action,
            decision=wanted.decision,
            digest=wanted.digest,
            keyid=wanted.keyid,
            request_id=wanted.request_id,
            until=wire.timestamp(wanted.until),
            page_size=page_size,
            page_token=token,
            descending=descending,
            start_index=wanted.start_index,
            signature_sha256=wanted.signature_sha256,
            **{"from": wire.timestamp(wanted.since)},
        )
        return call(
            "AuditService/ListEntries",
            request,
            audit_pb2.ListEntriesResponse,
            lambda m: Page([wire.entry(e) for e in m.entries], m.next_page_token),
            repeatable=True,
        )

    return page


def tail(start_index: int = -1) -> Call[Entry]:
    """Entries from ``start_index`` on (-1: new ones only), then each as it becomes durable.

    Ends only when the caller stops, or with an error.
    """
    request = audit_pb2.TailEntriesRequest(start_index=start_index)
    return call("AuditService/TailEntries", request, audit_pb2.Entry, wire.entry)


def checkpoint(*, fresh: bool = False) -> Call[types.Checkpoint]:
    """The newest signed checkpoint; ``fresh``: of the whole log as it is now."""
    request = audit_pb2.GetCheckpointRequest(fresh=fresh)
    return call(
        "AuditService/GetCheckpoint",
        request,
        audit_pb2.Checkpoint,
        wire.checkpoint,
        repeatable=True,
        note_of=lambda c: c.note,
    )


def prove_inclusion(index: int, *, tree_size: int = 0) -> Call[types.InclusionProof]:
    """Proof that an entry is in the tree; ``tree_size`` 0: that of the newest checkpoint."""
    request = audit_pb2.ProveInclusionRequest(index=index, tree_size=tree_size)
    return call(
        "AuditService/ProveInclusion",
        request,
        audit_pb2.InclusionProof,
        lambda m: types.InclusionProof(
            wire.entry(m.entry), m.tree_size, tuple(m.hashes), wire.checkpoint(m.checkpoint)
        ),
        repeatable=True,
        note_of=lambda p: p.checkpoint.note,
    )


def prove_consistency(old_size: int, *, new_size: int = 0) -> Call[types.ConsistencyProof]:
    """Proof that the smaller tree is a prefix of the larger; 0: that of the newest checkpoint."""
    request = audit_pb2.ProveConsistencyRequest(old_size=old_size, new_size=new_size)
    return call(
        "AuditService/ProveConsistency",
        request,
        audit_pb2.ConsistencyProof,
        lambda m: types.ConsistencyProof(
            m.old_size,
            m.new_size,
            tuple(m.hashes),
            m.old_root_hash,
            m.new_root_hash,
            wire.checkpoint(m.checkpoint),
        ),
        repeatable=True,
        note_of=lambda p: p.checkpoint.note,
    )


def show_checkpoint(note: str) -> Call[str]:
    """Hand back a kept checkpoint: same, behind, ahead, inconsistent or foreign."""
    return call(
        "AuditService/ShowCheckpoint",
        audit_pb2.ShowCheckpointRequest(note=note),
        audit_pb2.ShowCheckpointResponse,
        lambda m: m.verdict,
        repeatable=True,
    )


def whoami() -> Call[types.WhoAmI]:
    """The caller as the daemon sees it, with its grants."""
    return call(
        "AuditService/WhoAmI",
        audit_pb2.WhoAmIRequest(),
        audit_pb2.WhoAmIResponse,
        lambda m: types.WhoAmI(
            principal=m.principal,
            method=m.method,
            certificate_sha256=m.certificate_sha256,
            certificate_not_after=wire.time(m.certificate_not_after)
            if m.HasField("certificate_not_after")
            else None,
            is_group=m.is_group,
            grants=tuple(m.grants),
            server_version=m.server_version,
        ),
        repeatable=True,
    )


def status() -> Call[types.Status]:
    """State of the daemon in one answer."""
    return call(
        "AuditService/GetStatus",
        audit_pb2.GetStatusRequest(),
        audit_pb2.Status,
        lambda m: types.Status(
            server_version=m.server_version,
            started_at=wire.time(m.started_at) if m.HasField("started_at") else None,
            health=m.health,
            problems=tuple(m.problems),
            keys=m.keys,
            log_size=m.log_size,
            uncheckpointed=m.uncheckpointed,
            freezes=tuple(m.freezes),
            policy_sha256=m.policy_sha256,
            unbound_keys=m.unbound_keys,
            due_rotations=tuple(
                types.DueRotation(d.key, d.version, wire.time(d.due_at), d.overdue, d.note)
                for d in m.due_rotations
            ),
            overdue_keys=m.overdue_keys,
            expiring_roles=tuple(
                types.ExpiringRole(
                    e.repository, e.role, e.version, wire.time(e.expires_at), e.state
                )
                for e in m.expiring_roles
            ),
            expired_roles=m.expired_roles,
        ),
        repeatable=True,
    )
