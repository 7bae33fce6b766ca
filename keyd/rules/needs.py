"""Which signatures make a version of a role complete, and whether the role's keys changed.

TUF 1.0, 5.3.4: a root needs the threshold of the root before it and its own. All other roles need
the threshold that the root, or the delegating targets file, sets for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from keyd.content.documents import (
    TOP_LEVEL_ROLES,
    Document,
    PublicKeyInfo,
    RoleKeys,
    Root,
    SuccinctRoles,
    Targets,
)
from keyd.model import Need

Holders = tuple[RoleKeys, Mapping[str, PublicKeyInfo]]
"""The keyids and threshold of a role, and the keys that the ids stand for."""

_ALSO = {"snapshot": "targets", "timestamp": "snapshot"}


def identity_of(spki: bytes) -> str:
    """What a signer is called in marks: SHA-256 of the DER SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(spki).hexdigest()


def needs_of(
    role: str, document: Document, root: Root | None, delegator: Targets | None
) -> tuple[Need, ...]:
    """The thresholds that make ``document`` complete as a version of ``role``.

    ``root``: the last complete root; for a root itself, the one before it. ``delegator``: for a
    delegated role. Empty where nobody here knows who holds the role: then the first signature
    makes it complete.
    """
    if isinstance(document, Root):
        own = _need(holders_in(document, "root"))
        if root is None or root.version >= document.version:
            return (own,)
        before = _need(holders_in(root, "root"))
        return (own,) if own == before else (own, before)
    holders = find_holders(role, root, delegator)
    return (_need(holders),) if holders else ()


def keyset_of(role: str, root: Root | None, delegator: Targets | None) -> str:
    """Equal as long as the role is held by the same keys; empty where they are not known.

    SHA-256, hex, over the sorted identities. For snapshot and timestamp it tells apart the keys
    of the role itself and of the top-level role below it, as ``snapshot:HEX targets:HEX`` and
    ``timestamp:HEX snapshot:HEX``: what these two say of the role below may go back only when its
    keys changed (TUF 1.0, 5.3.11).
    """
    holders = find_holders(role, root, delegator)
    if holders is None:
        return ""
    if root is None or role not in _ALSO:
        return _hash(holders)
    below = _ALSO[role]
    return f"{role}:{_hash(holders)} {below}:{_hash(holders_in(root, below))}"


def has_changed(role: str, before: str, now: str) -> bool:
    """True when two keysets of snapshot or timestamp both tell the keys of ``role``, and differ."""
    old, new = _parts(before).get(role), _parts(now).get(role)
    return old is not None and new is not None and old != new


def identities(holders: Holders) -> frozenset[str]:
    """The signers that count for a role: key pairs, whatever ids they have."""
    role, keys = holders
    return frozenset(keys[keyid].identity for keyid in role.keyids if keyid in keys)


def holders_in(root: Root, role: str) -> Holders:
    """Who holds a top-level role by this root."""
    return root.roles[role], root.keys


def find_holders(role: str, root: Root | None, delegator: Targets | None) -> Holders | None:
    """Who holds a role by the root, or by the delegator for a delegated role; None if unknown."""
    if role in TOP_LEVEL_ROLES:
        return holders_in(root, role) if root else None
    delegations = delegator.delegations if delegator else None
    if delegations is None:
        return None
    held: RoleKeys | None = next((r for r in delegations.roles if r.name == role), None)
    if held is None and delegations.succinct and _is_bin(role, delegations.succinct):
        held = delegations.succinct
    return (held, delegations.keys) if held else None


def _is_bin(role: str, bins: SuccinctRoles) -> bool:
    """True for one of the hash bins' names: PREFIX-HEX, as many digits as the last one has."""
    prefix, _, suffix = role.rpartition("-")
    last = (1 << bins.bit_length) - 1
    if prefix != bins.name_prefix or len(suffix) != len(f"{last:x}"):
        return False
    if not all(c in "0123456789abcdef" for c in suffix):
        return False
    return int(suffix, 16) <= last


def _need(holders: Holders) -> Need:
    return Need(holders[0].threshold, identities(holders))


def _hash(holders: Holders) -> str:
    return hashlib.sha256("\n".join(sorted(identities(holders))).encode()).hexdigest()


def _parts(keyset: str) -> dict[str, str]:
    parts = (part.partition(":") for part in keyset.split())
    return {role: value for role, colon, value in parts if colon}
