"""Every call of the API: arguments in, a :class:`Call` out. Nothing here talks to anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses: what the daemon refused, ServerGoneError, DeadlineError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from keyd.client import types, wire
from keyd.client.call import Call, Page, Pages, call
from keyd.model import Binding, Entry, KeyAlgorithm, Pin, Scheme, TokenStatus
from keyd.v1 import audit_pb2, keys_pb2, tokens_pb2

_ENTRIES_A_PAGE = 1000


def _change(method: str, request: Message) -> Call[types.Key]:
    return call(f"KeyService/{method}", request, keys_pb2.Key, wire.key)


# ------------------------------------------------------------------------------------------ keys


def create_key(
    name: str,
    algorithm: KeyAlgorithm,
    *,
    token: str = "",
    scheme: Scheme | None = None,
    bindings: Iterable[Binding] = (),
    labels: Mapping[str, str] | None = None,
    rotation_period_s: int = 0,
    reason: str = "",
) -> Call[types.Key]:
    """Generate version 1 of a new key; ``token`` may be empty where only one is configured."""
    request = keys_pb2.CreateKeyRequest(
        name=name,
        token=token,
        algorithm=algorithm.value,
        scheme=scheme.value if scheme else "",
        bindings=wire.bindings(bindings),
        labels=dict(labels or {}),
        rotation_period_s=rotation_period_s,
        reason=reason,
    )
    return _change("CreateKey", request)


def list_keys(wanted: types.KeyFilter = types.ALL_KEYS, *, page_size: int = 0) -> Pages[types.Key]:
    """The keys the caller may see, by name; asks for a page (100 keys) when it is needed."""

    def page(token: str) -> Call[Page[types.Key]]:
        request = keys_pb2.ListKeysRequest(
            token=wanted.token,
            repository=wanted.repository,
            role=wanted.role,
            state=wire.state(wanted.state),
            label=wanted.label,
            name=wanted.name,
            page_size=page_size,
            page_token=token,
        )
        return call(
            "KeyService/ListKeys",
            request,
            keys_pb2.ListKeysResponse,
            lambda m: Page([wire.key(k) for k in m.keys], m.next_page_token),
            repeatable=True,
        )

    return page


def get_key(name: str) -> Call[types.Key]:
    """One key with all versions and public keys."""
    request = keys_pb2.GetKeyRequest(name=name)
    return call("KeyService/GetKey", request, keys_pb2.Key, wire.key, repeatable=True)


def rotate(
    name: str, *, at_once: bool = False, expected_newest: int = 0, reason: str = ""
) -> Call[types.Key]:
    """Generate a new version: staged for a bound key; with ``at_once`` active at once.

    ``expected_newest``: the newest version the caller knows; another one is a
    RotationConflictError.
    """
    request = keys_pb2.RotateKeyRequest(
        name=name, at_once=at_once, reason=reason, expected_newest_version=expected_newest
    )
    return _change("RotateKey", request)


def activate(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """Make an enabled version the one that signs by default."""
    request = keys_pb2.ActivateKeyVersionRequest(name=name, version=version, reason=reason)
    return _change("ActivateKeyVersion", request)


def _version(name: str, version: int, reason: str) -> keys_pb2.KeyVersionRequest:
    return keys_pb2.KeyVersionRequest(name=name, version=version, reason=reason)


def enable(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """DISABLED -> ENABLED."""
    return _change("EnableKeyVersion", _version(name, version, reason))


def disable(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """ENABLED -> DISABLED."""
    return _change("DisableKeyVersion", _version(name, version, reason))


def schedule_destroy(
    name: str, version: int, *, wait_s: int = 0, reason: str = ""
) -> Call[types.Key]:
    """Start the waiting time (0: 7 days) after which a person may destroy the version."""
    request = keys_pb2.ScheduleDestroyRequest(
        name=name, version=version, wait_s=wait_s, reason=reason
    )
    return _change("ScheduleDestroy", request)


def cancel_destroy(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """DESTROY_SCHEDULED -> DISABLED."""
    return _change("CancelDestroy", _version(name, version, reason))


def destroy(name: str, version: int, *, reason: str = "") -> Call[types.Key]:
    """Destroy the key pair on the token; only after the waiting time."""
    return _change("Destroy", _version(name, version, reason))


def adopt(
    token: str,
    name: str,
    object_id: bytes,
    *,
    bindings: Iterable[Binding] = (),
    reason: str = "",
) -> Call[types.Adopted]:
    """Register one key pair that lies on a token already; ``object_id`` is its CKA_ID."""
    request = keys_pb2.AdoptKeyRequest(
        token=token,
        name=name,
        object_id=object_id,
        bindings=wire.bindings(bindings),
        reason=reason,
    )
    return _adopt(request)


def adopt_labelled(token: str, *, reason: str = "") -> Call[types.Adopted]:
    """Register every key pair on a token whose label is NAME/N, as keyd writes it."""
    return _adopt(keys_pb2.AdoptKeyRequest(token=token, all_labelled=True, reason=reason))


def _adopt(request: keys_pb2.AdoptKeyRequest) -> Call[types.Adopted]:
    return call(
        "KeyService/AdoptKey",
        request,
        keys_pb2.AdoptKeyResponse,
        lambda m: types.Adopted(tuple(wire.key(k) for k in m.keys), tuple(m.skipped)),
    )


def update(
    name: str,
    *,
    bindings: Iterable[Binding] | None = None,
    labels: Mapping[str, str] | None = None,
    rotation_period_s: int | None = None,
    reason: str = "",
) -> Call[types.Key]:
    """Replace bindings, labels or rotation period; None leaves a field as it is."""
    request = keys_pb2.UpdateKeyRequest(
        name=name,
        set_bindings=bindings is not None,
        bindings=wire.bindings(bindings or ()),
        set_labels=labels is not None,
        labels=dict(labels or {}),
        set_rotation_period=rotation_period_s is not None,
        rotation_period_s=rotation_period_s or 0,
        reason=reason,
    )
    return _change("UpdateKey", request)


def freeze(key: str = "", *, reason: str = "") -> Call[tuple[str, ...]]:
    """Stop signing with one key, or with all (empty). Answers with the freezes that stand."""
    request = keys_pb2.FreezeRequest(key=key, reason=reason)
    return call("KeyService/Freeze", request, keys_pb2.FreezeResponse, lambda m: tuple(m.freezes))


def unfreeze(key: str = "", *, reason: str = "") -> Call[tuple[str, ...]]:
    """End a freeze of one key, or the one on all (empty). Answers with those that still stand."""
    request = keys_pb2.FreezeRequest(key=key, reason=reason)
    return call("KeyService/Unfreeze", request, keys_pb2.FreezeResponse, lambda m: tuple(m.freezes))


# ---------------------------------------------------------------------------------------- tokens


def list_tokens() -> Call[list[TokenStatus]]:
    """The tokens the caller may see, in the order of the daemon's configuration."""
    return call(
        "TokenService/ListTokens",
        tokens_pb2.ListTokensRequest(),
        tokens_pb2.ListTokensResponse,
        lambda m: [wire.token(t) for t in m.tokens],
        repeatable=True,
    )


def unlock(
    token: str, pin: Pin | None = None, *, spend_last_try: bool = False
) -> Call[TokenStatus]:
    """Log in with a person's PIN; None uses the configured source once more. Never repeated."""
    request = tokens_pb2.UnlockRequest(
        token=token, pin=pin.reveal() if pin else "", spend_last_try=spend_last_try
    )
    return call("TokenService/Unlock", request, tokens_pb2.Token, wire.token)


def lock(token: str, *, reason: str = "") -> Call[TokenStatus]:
    """Log out: the token stays LOCKED until somebody unlocks it."""
    request = tokens_pb2.LockRequest(token=token, reason=reason)
    return call("TokenService/Lock", request, tokens_pb2.Token, wire.token)


def list_objects(token: str) -> Call[list[types.TokenObject]]:
    """The key pairs on a token, registered or not."""
    request = tokens_pb2.ListObjectsRequest(token=token)
    return call(
        "TokenService/ListObjects",
        request,
        tokens_pb2.ListObjectsResponse,
        lambda m: [wire.token_object(o) for o in m.objects],
        repeatable=True,
    )


# ----------------------------------------------------------------------------------------- audit


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
        ),
        repeatable=True,
    )
