"""What a pipeline sends to bound keys: metadata that names keys of a tests.domain, as python-tuf
writes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key
from securesystemslib.signer import SSlibKey
from tuf.api import metadata as api
from tuf.api.serialization.json import CanonicalJSONSerializer

from keyd.model import Context, Encoding, KeyVersion, SignRequest

REPOSITORY = "acme"
EXPIRES = datetime(2030, 4, 1, tzinfo=UTC)
"""Ninety days after the clock of a tests.domain, within every limit."""


def tuf_key(version: KeyVersion) -> SSlibKey:
    """The version's public key as a root or a delegation names it."""
    key = SSlibKey.from_crypto(load_der_public_key(version.public_key))
    assert isinstance(key, SSlibKey)
    return key


def root(
    version: int,
    *holders: KeyVersion,
    threshold: int = 1,
    online: KeyVersion | None = None,
    targets: Sequence[KeyVersion] = (),
    targets_threshold: int = 1,
) -> bytes:
    """A root of these holders; the other roles are held by ``online``, else by the first."""
    made = api.Root(version, expires=EXPIRES)
    for holder in holders:
        made.add_key(tuf_key(holder), "root")
    made.roles["root"].threshold = threshold
    for role in ("targets", "snapshot", "timestamp"):
        held_by = targets if role == "targets" and targets else [online or holders[0]]
        for holder in held_by:
            made.add_key(tuf_key(holder), role)
    made.roles["targets"].threshold = targets_threshold
    return payload(made)


def targets(version: int, *paths: str, expires: datetime = EXPIRES) -> bytes:
    files = {path: api.TargetFile(3, {"sha256": "07" * 32}, path) for path in paths}
    return payload(api.Targets(version, expires=expires, targets=files))


def delegating(version: int, name: str, *holders: KeyVersion, threshold: int = 1) -> bytes:
    """A targets file that delegates everything to one role."""
    made = api.Targets(version, expires=EXPIRES)
    keys: dict[str, api.Key] = {tuf_key(h).keyid: tuf_key(h) for h in holders}
    role = api.DelegatedRole(name, list(keys), threshold, False, ["*"])
    made.delegations = api.Delegations(keys, {name: role})
    return payload(made)


def snapshot(version: int, **roles: int) -> bytes:
    meta = {f"{role}.json": api.MetaFile(at) for role, at in (roles or {"targets": 1}).items()}
    return payload(api.Snapshot(version, expires=EXPIRES, meta=meta))


def timestamp(version: int, of: int = 1) -> bytes:
    return payload(api.Timestamp(version, expires=EXPIRES, snapshot_meta=api.MetaFile(of)))


def payload(signed: api.Signed) -> bytes:
    return CanonicalJSONSerializer().serialize(signed)


def ask(key: str, message: bytes | None, role: str = "", **fields: Any) -> SignRequest:
    """A request for a DER signature; ``role`` of the repository where the bindings leave a
    choice."""
    context = Context(REPOSITORY, role) if role else Context()
    return SignRequest(
        key=key, message=message, **{"encoding": Encoding.DER, "context": context, **fields}
    )
