"""What keys of a Notary collection are called: one reversible mapping.

    (GUN, role)        notary/GUN/ROLE       as in notary/docker.io/library/alpine/timestamp
    its second key     notary/GUN/ROLE.2     rotated, or the collection was begun anew

Names of keys hold lower-case letters, digits, ``.`` ``_`` ``-`` and ``/`` only. Every other byte of
a GUN's UTF-8 is written ``0xHH`` in lower-case hex, ``localhost:5000/app`` as
``localhost0x3a5000/app``. So are a ``/`` beside nothing or another ``/``, a ``.``, ``_`` or ``-``
where a part begins or ends, and a ``0`` that would read as the beginning of such a ``0xHH``. In a
role ``/`` is always written so: the last part of a name is the role.

Each key of a collection has a history of its own: clients take another key only from a root that
people signed, so that what a new key signs takes nothing back of what an old one said. The marks
of a collection's second key are kept under ``GUN@2``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from keyd.errors import InvalidRequestError
from keyd.model import MAX_NAME_CHARS, ONLINE_ROLES, Key, check_name

PREFIX = "notary/"
"""How all such names begin; a glob over them is ``notary/*``."""

MADE_FOR = "made-for"
SERVER = "notary-server"
"""Label of the keys that are made when a notary-server asks for them, and its value."""

MAX_GUN_CHARS = 200
"""Far more than fits into the name of a key."""

_ROLE = re.compile(r"[-a-z0-9_]+(?:/[-a-z0-9_]+)*")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-/")
_EDGE = frozenset(b"._-")
_ESCAPED = re.compile(r"0x([0-9a-f]{2})")
_LOOKS_ESCAPED = re.compile(rb"x[0-9a-f]{2}")
_NUMBERED = re.compile(r"(.+)\.([1-9][0-9]{0,8})")
_HISTORY = re.compile(r"(.+)@(?:[2-9]|[1-9][0-9]{1,8})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GunName:
    """What the name of a key says. ``number``: 1 for the first key made for GUN and role."""

    gun: str
    role: str
    number: int = 1


def key_name(gun: str, role: str, number: int = 1) -> str:
    """The name of the key.

    Raises:
        InvalidRequestError: a GUN or role that no key can be named for, with the reason.
    """
    check_gun(gun)
    if not _ROLE.fullmatch(role):
        raise InvalidRequestError("role", f"{role[:80]!r} is no role of a Notary collection")
    if number < 1:
        raise InvalidRequestError("number", "keys are counted from 1")
    name = f"{PREFIX}{_escape(gun.encode())}/{_escape(role.encode(), slash=False)}"
    if number > 1:
        name += f".{number}"
    if len(name) > MAX_NAME_CHARS:
        raise InvalidRequestError(
            "gun",
            f"{gun!r} is too long: the name of its {role} key would have {len(name)} characters, "
            f"at most {MAX_NAME_CHARS} fit",
            hint="take a shorter name for the collection",
        )
    return check_name("name", name)


@lru_cache(maxsize=4096)
def find_gun_name(name: str) -> GunName | None:
    """What the name of a key says, None for a name that :func:`key_name` does not give."""
    if not name.startswith(PREFIX):
        return None
    gun, _, role = name.removeprefix(PREFIX).rpartition("/")
    number = 1
    if numbered := _NUMBERED.fullmatch(role):
        role, number = numbered[1], int(numbered[2])
    try:
        found = GunName(_unescape(gun), _unescape(role), number)
        # Several texts could be read as one GUN; only the one that is written counts.
        return found if key_name(found.gun, found.role, number) == name else None
    except (InvalidRequestError, UnicodeDecodeError):
        return None


def check_gun(gun: str) -> str:
    """Return a GUN that keys can be bound to.

    Raises:
        InvalidRequestError: empty, endless, not printable, with a character of a pattern, or
            ending in ``@N`` as the history of a further key does.
    """
    wrong = ""
    if not gun or len(gun) > MAX_GUN_CHARS:
        wrong = f"{len(gun)} characters, 1 to {MAX_GUN_CHARS} are taken"
    elif not gun.isprintable() or " " in gun:
        wrong = f"{gun[:80]!r} has a space or what cannot be printed"
    elif any(c in gun for c in "*?["):
        wrong = f"{gun[:80]!r} has one of * ? [, which stand for other names in patterns"
    elif without_number(gun) != gun:
        # Its marks would be those of another collection's second key, for whoever may push to it.
        wrong = f"{gun[:80]!r} ends as the history of a further key of {without_number(gun)[:80]!r}"
    if wrong:
        raise InvalidRequestError("gun", wrong, hint="take another name for the collection")
    return gun


def is_made_for_server(key: Key) -> bool:
    """True for keys that a notary-server had made."""
    return key.name.startswith(PREFIX) and key.labels.get(MADE_FOR) == SERVER


def history_of(name: str, repository: str, role: str) -> str:
    """Under which repository the marks of a key are kept that signs for (repository, role):
    ``GUN@N`` for the N-th key made for snapshot or timestamp of a collection, else as it is."""
    found = find_gun_name(name)
    if found is None or found.number == 1 or (found.gun, found.role) != (repository, role):
        return repository
    return f"{repository}@{found.number}" if role in ONLINE_ROLES else repository


def without_number(repository: str) -> str:
    """``GUN@N`` as ``GUN``; anything else as it is."""
    found = _HISTORY.fullmatch(repository)
    return found[1] if found else repository


def _escape(raw: bytes, *, slash: bool = True) -> str:
    """From the end on, so that what follows a ``0`` is known."""
    out = b""
    for at in range(len(raw) - 1, -1, -1):
        byte = raw[at]
        before, after = raw[at - 1 : at] if at else b"/", raw[at + 1 : at + 2] or b"/"
        at_edge = before == b"/" or after == b"/"
        if (
            byte not in _PLAIN
            or (byte == ord("/") and (not slash or at_edge or at in (0, len(raw) - 1)))
            or (byte in _EDGE and at_edge)
            or (byte == ord("0") and _LOOKS_ESCAPED.match(out))
        ):
            out = b"0x%02x" % byte + out
        else:
            out = bytes([byte]) + out
    return out.decode("ascii")


def _unescape(text: str) -> str:
    out, at = bytearray(), 0
    while at < len(text):
        if found := _ESCAPED.match(text, at):
            out.append(int(found[1], 16))
            at = found.end()
        else:
            out += text[at].encode()
            at += 1
    return out.decode()
