"""Recognises the four top-level TUF roles in the bytes that are about to be signed.

Two dialects write them: TUF 1.0 (``_type`` in lower case, ``spec_version``) and Notary's older
form (``_type`` with a capital, no ``spec_version``). Both are signed as OLPC canonical JSON, which
leaves control characters, newlines included, bare inside strings. Whatever cannot be understood
without doubt is opaque: two readers of a JSON text with a doubled key may see different versions,
so keyd claims to see none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

from keyd.model import Statement

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Larger payloads are opaque unread: the daemon's message limit."""

MAX_CONTAINERS = 200_000
MAX_MEMBERS = 600_000
"""More objects and arrays, or members and elements, than this are opaque unread. Targets metadata
of 8 MiB stay below with 70 000 targets; millions of tiny objects would cost seconds of everybody's
time."""

MAX_VERSION = 2**63 - 1
"""Larger versions are opaque: they fit neither the wire nor the database."""

_KINDS = ("root", "targets", "snapshot", "timestamp")
_TYPES = {kind: (kind, "tuf") for kind in _KINDS} | {
    kind.capitalize(): (kind, "notary") for kind in _KINDS
}
_OPAQUE = Statement()
_MAX_EXPIRES_CHARS = 64


class _DoubtfulError(ValueError):
    """The text is JSON to some readers only, or not to be agreed upon."""


def read(payload: bytes) -> Statement:
    """Say what a payload is; never raises. Anything but a clear TUF or Notary role is opaque."""
    if len(payload) > MAX_PAYLOAD_BYTES or not payload[:64].lstrip().startswith(b"{"):
        return _OPAQUE
    containers = payload.count(b"{") + payload.count(b"[")
    if containers > MAX_CONTAINERS or payload.count(b",") > MAX_MEMBERS:
        return _OPAQUE
    if b"_type" not in payload and b"\\u" not in payload:  # an escape may hide the name
        return _OPAQUE
    try:
        signed = json.loads(
            payload.decode("utf-8"),
            strict=False,  # canonical JSON has bare control characters in strings
            object_pairs_hook=_object,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):  # ValueError also for integers of over 4300 digits
        return _OPAQUE
    return _statement(signed) if isinstance(signed, dict) else _OPAQUE


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DoubtfulError("doubled key")
    return found


def _refuse(constant: str) -> NoReturn:
    raise _DoubtfulError(f"{constant} is not JSON")


def _statement(signed: Mapping[str, object]) -> Statement:
    type_, version, expires = (signed.get(k) for k in ("_type", "version", "expires"))
    if not isinstance(type_, str) or type_ not in _TYPES:
        return _OPAQUE
    # A bool is an int to Python and a version to nobody.
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
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
    for name in _KINDS:
        role = roles.get(name) if isinstance(roles, dict) else None
        if isinstance(role, dict) and isinstance(role.get("threshold"), int):
            parts.append(f"{name} {role['threshold']} of {_count(role.get('keyids'))}")
    return ", " + ", ".join(parts) if parts else ""


def _count(items: object) -> int:
    return len(items) if isinstance(items, dict | list) else 0


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
