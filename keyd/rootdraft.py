"""The next root of a TUF repository, in which new key versions take the place of old ones. Pure.

What is made is what `keydctl tuf ceremony` would make of the same plan: fields that keyd does not
know stay as they are, and so does the order of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keyd import publickeys
from keyd.content import parse_document
from keyd.content.canonical import decode, encode
from keyd.content.documents import TOP_LEVEL_ROLES, Dialect, Root
from keyd.content.refusal import refuse
from keyd.model import Key, KeyVersion

PLAN_FORMAT = 1
"""Of the plans that keyd/adapters/tufrepo/ceremony_plan.py reads."""

DAYS = 365.0
"""How long a new root lives where nobody knows how long the old one did: as in keydctl tuf."""

_SHORTEST = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Succession:
    """``new`` takes the place of ``old`` in these roles of the root."""

    key: Key
    old: KeyVersion
    new: KeyVersion
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class NextRoot:
    """``plan``: canonical JSON as a ceremony keeps it. ``facts``: the new key versions, by name.
    ``payload``: the bytes to sign. ``is_safe``: what is published can be signed anew by the old
    keys that are here, so that some order of publishing keeps the repository valid."""

    version: int
    plan: str
    facts: Mapping[str, str]
    payload: bytes
    is_safe: bool


def named_roles(root: Root, public_key: bytes) -> frozenset[str]:
    """The top-level roles that a key pair has in a root."""
    return frozenset(role for role in TOP_LEVEL_ROLES if _ids(root, role, public_key))


def lifetime(expires: datetime, signed_at: datetime, max_days: float) -> timedelta:
    """How long the next root shall live: as long as the last one did when it was signed, a year
    where that is not known (a root that was only shown may have been old by then), and never
    longer than ``max_days``."""
    lived = expires - signed_at
    known = lived if lived >= _SHORTEST else timedelta(days=DAYS)
    return min(known, timedelta(days=max_days))


def draft(
    payload: bytes,
    repository: str,
    successions: Sequence[Succession],
    *,
    expires: datetime,
    can_sign: Callable[[bytes], bool],
) -> NextRoot | None:
    """The root after the one in ``payload`` (its signed bytes); None when there is nothing to
    change. ``can_sign``: whether the daemon signs with a key pair (DER SubjectPublicKeyInfo).

    Raises:
        ContentError: the bytes are no TUF root, or what would follow is none.
    """
    root = parse_document(payload)
    if not isinstance(root, Root) or root.dialect is not Dialect.TUF:
        raise refuse("type", "a root of TUF is needed")
    found = list(_rotations(root, successions))
    if not found:
        return None
    after: Any = decode(payload)
    for each, role, keyid in found:
        new_id = publickeys.tuf_keyid(each.new.public_key, each.key.scheme)
        keyids = [new_id if k == keyid else k for k in after["roles"][role]["keyids"]]
        after["roles"][role]["keyids"] = list(dict.fromkeys(keyids))
        after["keys"][new_id] = publickeys.tuf_key(each.new.public_key, each.key.scheme)
    named = {keyid for role in after["roles"].values() for keyid in role["keyids"]}
    for keyid in {keyid for _, _, keyid in found} - named:
        del after["keys"][keyid]
    after["version"] = root.version + 1
    after["expires"] = expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = encode(after)
    _check(made)
    return NextRoot(
        root.version + 1,
        _plan(repository, root.version, found),
        {f"new {n}": each.new.name for n, (each, _, _) in enumerate(found)},
        made,
        all(_can_follow(root, role, can_sign) for _, role, _ in found),
    )


def _rotations(
    root: Root, successions: Sequence[Succession]
) -> Iterator[tuple[Succession, str, str]]:
    """What to replace, by role and keyid, in the usual order of roles."""
    for role in TOP_LEVEL_ROLES:
        for each in successions:
            if role in each.roles and not _ids(root, role, each.new.public_key):
                for keyid in _ids(root, role, each.old.public_key):
                    yield each, role, keyid


def _ids(root: Root, role: str, public_key: bytes) -> list[str]:
    held = root.roles[role].keyids
    return [k for k in held if k in root.keys and root.keys[k].spki == public_key]


def _can_follow(root: Root, role: str, can_sign: Callable[[bytes], bool]) -> bool:
    """Root itself waits for people in any case; of the others, what is published may have to be
    signed anew, by enough of the old keys too."""
    if role == "root":
        return True
    keys = (root.keys.get(keyid) for keyid in root.roles[role].keyids)
    here = {key.identity for key in keys if key is not None and can_sign(key.spki)}
    return len(here) >= root.roles[role].threshold


def _check(made: bytes) -> None:
    after = parse_document(made)
    assert isinstance(after, Root)
    for name, role in after.roles.items():
        if role.threshold > len(role.keyids):
            raise refuse(
                "field",
                f"would be {role.threshold} of {len(role.keyids)} keys, since the root names one "
                "key pair under two ids",
                field=f"roles.{name}.threshold",
            )


def _plan(repository: str, base: int, found: Sequence[tuple[Succession, str, str]]) -> str:
    rotate = [{"key": each.key.name, "keyid": keyid, "role": role} for each, role, keyid in found]
    plan = {
        "add": [],
        "base": base,
        "drop": [],
        "format": PLAN_FORMAT,
        "keep_old": False,
        "repository": repository,
        "rotate": rotate,
        "thresholds": {},
    }
    return encode(plan).decode()
