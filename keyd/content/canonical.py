"""OLPC canonical JSON, the form in which TUF and Notary sign: encode, load, strict decode.

No whitespace, members sorted by code point (the same order as by UTF-8 bytes), strings as raw
UTF-8 with only ``\\`` and ``"`` escaped, integers in decimal, no floats. securesystemslib and
docker/go write the same bytes. They differ over control characters that no honest metadata has,
so keyd leaves only tab, newline and carriage return, bare as both have them.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from keyd.content.refusal import printable, refuse

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What :func:`load` finds. After :func:`decode` there are no floats in it."""

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""Larger payloads are refused unread: the daemon's message limit."""

MAX_CONTAINERS = 200_000
MAX_MEMBERS = 600_000
"""More objects and arrays, or members and elements, than this are refused unread. Targets metadata
of 8 MiB stay below with 70 000 targets; millions of tiny objects would cost seconds of everybody's
time."""

MAX_DEPTH = 64
"""Deeper nesting is refused: TUF's own is 6, and other readers end at depths of their own."""

MAX_INTEGER = 2**63 - 1
"""The largest integer, and its negative the smallest: beyond, readers disagree about the value."""

_ESCAPE = re.compile(r'\\(?:["\\]|u[0-9a-f]{4}|.)')
_BARE = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\\\", '\\"': '\\"'}


def encode(value: object) -> bytes:
    """Write a value in canonical form.

    Raises:
        ContentError: a float, an integer beyond 64 bits, a lone surrogate, a control character,
            a name that is no text, too deep nesting, or a type JSON does not have.
    """
    _check(value)
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if "\\" in text:  # json escapes control characters, canonical JSON has them bare
        text = _ESCAPE.sub(_bare, text)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise refuse("not-utf8", "a text holds half of a surrogate pair") from e


def load(text: bytes) -> Json:
    """Read JSON that may have whitespace, escapes and any order of members: a file, not what is
    signed. Bare control characters in strings are taken, as canonical JSON has them.

    Raises:
        ContentError: too large, not UTF-8, not JSON, a member named twice, NaN or Infinity.
    """
    if len(text) > MAX_PAYLOAD_BYTES:
        raise refuse("too-large", f"{len(text)} bytes; keyd reads up to {MAX_PAYLOAD_BYTES}")
    if text.count(b"{") + text.count(b"[") > MAX_CONTAINERS or text.count(b",") > MAX_MEMBERS:
        raise refuse(
            "too-large", f"over {MAX_CONTAINERS} objects and arrays, or {MAX_MEMBERS} members"
        )
    try:
        found: Json = json.loads(
            text.decode("utf-8"),
            strict=False,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
        )
    except RecursionError as e:
        raise refuse("too-deep", f"nested deeper than {MAX_DEPTH}") from e
    except UnicodeDecodeError as e:
        raise refuse("not-utf8", f"not UTF-8 at byte {e.start}") from e
    except json.JSONDecodeError as e:
        raise refuse("not-json", f"not JSON: {e.msg} at character {e.pos}") from e
    except ValueError as e:  # an integer of over 4300 digits
        raise refuse("number", "an integer is far too large") from e
    return found


def decode(payload: bytes) -> Json:
    """Read bytes that are canonical JSON, exactly.

    Raises:
        ContentError: all that :func:`load` and :func:`encode` refuse, and any byte that differs
            from the canonical form.
    """
    value = load(payload)
    canonical = encode(value)
    if canonical != payload:
        raise refuse("not-canonical", _difference(payload, canonical))
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise refuse("duplicate-key", f'"{printable(name)}" stands twice in one object')
            seen.add(name)
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise refuse("number", f"{constant} is not JSON")


def _bare(escape: re.Match[str]) -> str:
    found = _BARE.get(escape[0])
    if found is None:
        raise refuse("control", f"a text holds the control character {escape[0]}")
    return found


def _check(value: object) -> None:
    """Level by level instead of by recursion: depth is bounded and cannot exhaust the stack."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, str) or item is None or isinstance(item, bool):
                continue
            if isinstance(item, dict):
                _check_names(item)
                below.extend(item.values())
            elif isinstance(item, list | tuple):
                below.extend(item)
            elif isinstance(item, int):
                if not -MAX_INTEGER <= item <= MAX_INTEGER:
                    raise refuse("number", "an integer is beyond 64 bits")
            elif isinstance(item, float):
                raise refuse("number", "canonical JSON has no floats")
            else:
                raise refuse("not-json", f"JSON has no {type(item).__name__}")
        if not below:
            return
        level = below
    raise refuse("too-deep", f"nested deeper than {MAX_DEPTH}")


def _check_names(item: dict[object, object]) -> None:
    for name in item:
        if not isinstance(name, str):
            raise refuse("not-json", f"a member's name is a {type(name).__name__}, not text")


def _difference(payload: bytes, canonical: bytes) -> str:
    """Where two byte strings part, found by halving: a loop over megabytes takes too long."""
    low, high = 0, min(len(payload), len(canonical))
    while low < high:
        middle = (low + high + 1) // 2
        if payload[:middle] == canonical[:middle]:
            low = middle
        else:
            high = middle - 1
    if payload[low : low + 2] == b"\\u":
        return (
            f"not canonical JSON: the escape at byte {low}; signed bytes hold the character "
            "itself, only the file around them may escape it"
        )
    return f"not canonical JSON: byte {low} differs from the canonical form"
