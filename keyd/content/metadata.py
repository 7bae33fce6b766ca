"""Recognises the four top-level TUF roles in the bytes that are about to be signed.

Two dialects write them: TUF 1.0 (``_type`` in lower case, ``spec_version``) and Notary's older
form (``_type`` with a capital, no ``spec_version``). This reader takes more than the strict one of
reader.py, which rules for bound keys rely on: whitespace and odd insides do not hide a role, so
that a grant for opaque bytes only cannot be used to sign a root that is merely untidy. What cannot
be understood without doubt is opaque: two readers of a JSON text with a doubled key may see
different versions, so keyd claims to see none. Go's encoding/json, with which Notary and go-tuf
read, takes a key in any case for the one it looks for: ``_type`` beside ``_TYPE`` is doubled too.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyd.content.canonical import MAX_INTEGER, MAX_PAYLOAD_BYTES, Json, load
from keyd.content.documents import TOP_LEVEL_ROLES
from keyd.errors import ContentError
from keyd.model import Statement

_TYPES = {kind: (kind, "tuf") for kind in TOP_LEVEL_ROLES} | {
    kind.capitalize(): (kind, "notary") for kind in TOP_LEVEL_ROLES
}
_OPAQUE = Statement()
_MAX_EXPIRES_CHARS = 64


def read(payload: bytes) -> Statement:
    """Say what a payload is; never raises. Anything but a clear TUF or Notary role is opaque."""
    if len(payload) > MAX_PAYLOAD_BYTES or not payload[:64].lstrip().startswith(b"{"):
        return _OPAQUE
    if b"_type" not in payload and b"\\u" not in payload:  # an escape may hide the name
        return _OPAQUE
    try:
        signed = load(payload)
    except ContentError:
        return _OPAQUE
    return statement_of(signed)


def statement_of(signed: Json) -> Statement:
    """What a ``signed`` object that was read already says, as in :func:`read`."""
    if not isinstance(signed, dict) or len({name.casefold() for name in signed}) != len(signed):
        return _OPAQUE
    return _statement(signed)


def _statement(signed: Mapping[str, object]) -> Statement:
    type_, version, expires = (signed.get(k) for k in ("_type", "version", "expires"))
    if not isinstance(type_, str) or type_ not in _TYPES:
        return _OPAQUE
    # A bool is an int to Python and a version to nobody.
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_INTEGER:
        return _OPAQUE
    if (
        not isinstance(expires, str)
        or not 0 < len(expires) <= _MAX_EXPIRES_CHARS
        or not all(" " < c <= "~" for c in expires)
    ):
        return _OPAQUE
    kind, dialect = _TYPES[type_]
    spec = signed.get("spec_version", "1.0")
    if dialect == "tuf" and not (isinstance(spec, str) and spec.split(".")[0] == "1"):
        return _OPAQUE
    return Statement(
        kind=kind,
        dialect=dialect,
        version=version,
        expires=expires,
        summary=f"{kind} v{version}, expires {expires}{_details(kind, signed)}",
    )


def _details(kind: str, signed: Mapping[str, object]) -> str:
    """The part of the summary that differs by role: counts only, so nothing can be smuggled in."""
    if kind == "root":
        return _thresholds(signed.get("roles"))
    if kind == "targets":
        delegations = signed.get("delegations")
        roles = delegations.get("roles") if isinstance(delegations, dict) else None
        targets, delegated = _count(signed.get("targets")), _count(roles)
        return f", {_plural(targets, 'target')}, {_plural(delegated, 'delegation')}"
    meta = signed.get("meta")
    if kind == "snapshot":
        return f", {_plural(_count(meta), 'file')}"
    entry = meta.get("snapshot.json", meta.get("snapshot")) if isinstance(meta, dict) else None
    number = entry.get("version") if isinstance(entry, dict) else None
    return f", snapshot v{number}" if isinstance(number, int) else ""


def _thresholds(roles: object) -> str:
    parts = []
    for name in TOP_LEVEL_ROLES:
        role = roles.get(name) if isinstance(roles, dict) else None
        if isinstance(role, dict) and isinstance(role.get("threshold"), int):
            parts.append(f"{name} {role['threshold']} of {_count(role.get('keyids'))}")
    return ", " + ", ".join(parts) if parts else ""


def _count(items: object) -> int:
    return len(items) if isinstance(items, dict | list) else 0


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
