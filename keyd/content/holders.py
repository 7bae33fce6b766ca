"""Who holds what, in both dialects: keys by their ids, the keys of a role, names of delegations."""

from __future__ import annotations

from collections.abc import Callable

from keyd.content.documents import TOP_LEVEL_ROLES, DelegatedRole, PublicKeyInfo, RoleKeys
from keyd.content.fields import Fields
from keyd.content.refusal import printable, refuse

MAX_KEYS = 4096
"""Most keys of one root or targets file: each costs tens of microseconds to read."""


def keys_by_id(
    fields: Fields, read: Callable[[str, Fields], PublicKeyInfo]
) -> dict[str, PublicKeyInfo]:
    """A ``keys`` object, each key as the dialect reads it."""
    if len(fields.rest()) > MAX_KEYS:
        raise refuse("too-large", f"{len(fields.rest())} keys; keyd reads up to {MAX_KEYS}")
    return {keyid: read(keyid, key) for keyid, key in fields.each()}


def role_keys(fields: Fields, *, or_null: bool = False) -> RoleKeys:
    """``keyids`` and ``threshold``; the rest stays in ``fields`` and becomes ``unknown``."""
    keyids = fields.texts("keyids", or_null=or_null)
    if len(set(keyids)) != len(keyids):
        raise fields.wrong("names a key twice", "keyids")
    threshold = fields.integer("threshold", 1)
    return RoleKeys(keyids=keyids, threshold=threshold, unknown=fields.rest())


def check_delegated_names(fields: Fields, roles: list[DelegatedRole]) -> None:
    """Refuse a name that stands twice, is empty, or is a top-level role's."""
    seen: set[str] = set()
    for role in roles:
        if not role.name or role.name in TOP_LEVEL_ROLES:
            raise fields.wrong("must have names other than the top-level roles'", "roles")
        if role.name in seen:
            raise fields.wrong(f"delegates twice to {printable(role.name)}", "roles")
        seen.add(role.name)
