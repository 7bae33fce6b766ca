"""keyd.v1.AuditService: messages <-> nouns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keyd.expiring import Expiry
from keyd.model import Checkpoint, Entry, EntryFilter, Outcome, Principal
from keyd.server.wire.fields import (
    MAX_PATTERN_CHARS,
    check_hex,
    check_range,
    check_request_id,
    check_text,
    choose,
    parse_key,
    parse_time,
    to_timestamp,
)
from keyd.v1 import audit_pb2 as pb

MAX_LIST_PAGE = 10_000
MAX_INDEX = 2**62
MAX_NOTE_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That an entry is in a tree. ``hashes``: leaf side first (RFC 6962, 2.1.1).
    ``checkpoint``: of at least ``tree_size``."""

    entry: Entry
    tree_size: int
    hashes: Sequence[bytes]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That one tree is a prefix of another (RFC 6962, 2.1.2)."""

    old_size: int
    new_size: int
    old_root_hash: bytes
    new_root_hash: bytes
    hashes: Sequence[bytes]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class DueRotation:
    """A key whose rotation is due soon. ``at``: when its active ``version`` is as old as the key's
    period. ``note``: what is prepared and what to do, for people."""

    key: str
    version: int
    at: datetime
    is_overdue: bool
    note: str


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The daemon in one look. ``health``: SERVING, DEGRADED or NOT_SIGNING. ``problems``: each
    with what to do. ``due`` and ``expiring``: the soonest few; ``overdue`` and ``expired``: how
    many keys and roles."""

    started_at: datetime
    health: str
    problems: Sequence[str]
    keys: int
    unbound_keys: int
    log_size: int
    uncheckpointed: int
    freezes: Sequence[str]
    policy_sha256: str
    due: Sequence[DueRotation] = ()
    overdue: int = 0
    expiring: Sequence[Expiry] = ()
    expired: int = 0


def entry_filter(message: pb.ListEntriesRequest) -> EntryFilter:
    """What ListEntries asks for."""
    key, version = parse_key("key", message.key) if message.key else ("", 0)
    return EntryFilter(
        key=key,
        version=version,
        principal=check_text("principal", message.principal, 2 * MAX_PATTERN_CHARS),
        action=check_text("action", message.action, 64),
        outcome=choose("decision", message.decision, Outcome) if message.decision else "",
        digest=check_hex("digest", message.digest),
        keyid=check_hex("keyid", message.keyid),
        request_id=check_request_id(message.request_id),
        signature_sha256=check_hex("signature_sha256", message.signature_sha256, 64),
        since=parse_time("from", getattr(message, "from")) if message.HasField("from") else None,
        until=parse_time("until", message.until) if message.HasField("until") else None,
        start_index=check_range("start_index", message.start_index, 0, MAX_INDEX),
        descending=message.descending,
    )


def index(field: str, value: int, *, least: int = 0) -> int:
    """An index of an entry or a size of a tree."""
    return check_range(field, value, least, MAX_INDEX)


def note(message: pb.ShowCheckpointRequest) -> str:
    """A signed note's text, bounded; it is read and verified by the log."""
    return check_text("note", message.note, MAX_NOTE_CHARS, lines=True)


def entry_message(entry: Entry) -> pb.Entry:
    """An entry as its canonical JSON."""
    return pb.Entry(index=entry.index, body=entry.body)


def checkpoint_message(checkpoint: Checkpoint, verifier_keys: str) -> pb.Checkpoint:
    """A checkpoint with the keys that check it."""
    return pb.Checkpoint(
        note=checkpoint.note,
        size=checkpoint.size,
        root_hash=checkpoint.root_hash,
        verifier_keys=verifier_keys,
    )


def inclusion_message(proof: InclusionProof, verifier_keys: str) -> pb.InclusionProof:
    """An inclusion proof."""
    return pb.InclusionProof(
        entry=entry_message(proof.entry),
        tree_size=proof.tree_size,
        hashes=proof.hashes,
        checkpoint=checkpoint_message(proof.checkpoint, verifier_keys),
    )


def consistency_message(proof: ConsistencyProof, verifier_keys: str) -> pb.ConsistencyProof:
    """A consistency proof."""
    return pb.ConsistencyProof(
        old_size=proof.old_size,
        new_size=proof.new_size,
        hashes=proof.hashes,
        old_root_hash=proof.old_root_hash,
        new_root_hash=proof.new_root_hash,
        checkpoint=checkpoint_message(proof.checkpoint, verifier_keys),
    )


def who_am_i(principal: Principal, grants: Sequence[str], server_version: str) -> pb.WhoAmIResponse:
    """The caller as the daemon sees it."""
    message = pb.WhoAmIResponse(
        principal=principal.id,
        method=principal.method,
        certificate_sha256=principal.fingerprint,
        is_group=principal.is_group,
        grants=grants,
        server_version=server_version,
    )
    if principal.certificate_not_after is not None:
        message.certificate_not_after.CopyFrom(to_timestamp(principal.certificate_not_after))
    return message


def full_status(report: StatusReport, server_version: str) -> pb.Status:
    """Everything, for callers who may read the log."""
    return pb.Status(
        server_version=server_version,
        started_at=to_timestamp(report.started_at),
        health=report.health,
        problems=report.problems,
        keys=report.keys,
        log_size=report.log_size,
        uncheckpointed=report.uncheckpointed,
        freezes=report.freezes,
        policy_sha256=report.policy_sha256,
        unbound_keys=report.unbound_keys,
        due_rotations=[_due_message(due) for due in report.due],
        overdue_keys=report.overdue,
        expiring_roles=[_expiring_message(expiry) for expiry in report.expiring],
        expired_roles=report.expired,
    )


def _due_message(due: DueRotation) -> pb.DueRotation:
    return pb.DueRotation(
        key=due.key,
        version=due.version,
        due_at=to_timestamp(due.at),
        overdue=due.is_overdue,
        note=due.note,
    )


def _expiring_message(expiry: Expiry) -> pb.ExpiringRole:
    return pb.ExpiringRole(
        repository=expiry.repository,
        role=expiry.role,
        version=expiry.version,
        expires_at=to_timestamp(expiry.expires),
        state=expiry.state,
    )


def short_status(report: StatusReport, server_version: str) -> pb.Status:
    """For any known caller: no counts and no lines, which name keys and tokens."""
    problems = []
    if report.problems:
        problems = ["something is wrong; whoever has the audit grant can see what"]
    return pb.Status(
        server_version=server_version,
        started_at=to_timestamp(report.started_at),
        health=report.health,
        problems=problems,
    )
