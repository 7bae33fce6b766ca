"""The little DER (X.690) that cryptography has no call for: it reads no unsigned X.509."""

from __future__ import annotations

from typing import NamedTuple

from keyd.content.refusal import refuse

INTEGER, BIT_STRING, SEQUENCE = 0x02, 0x03, 0x30
CONTEXT_0 = 0xA0
"""Context tag [0], constructed: the version of a certificate, the attributes of a request."""

_MAX_LENGTH_BYTES = 4


class Element(NamedTuple):
    """One element. ``start``: of its tag; ``body``: of its content; ``end``: behind it."""

    tag: int
    start: int
    body: int
    end: int


def element(data: bytes, start: int, limit: int) -> Element:
    """The element at ``start``, which ends at ``limit`` or before.

    Raises:
        ContentError: truncated, of indefinite length, or a length written longer than needed.
    """
    if start + 2 > limit:
        raise refuse("not-der", f"DER ends within an element, at byte {start}")
    tag, length, body = data[start], data[start + 1], start + 2
    if length >= 0x80:
        size = length & 0x7F
        body += size
        if not 1 <= size <= _MAX_LENGTH_BYTES or body > limit:
            raise refuse("not-der", f"no DER length at byte {start + 1}")
        length = int.from_bytes(data[start + 2 : body], "big")
        if length < 0x80 or length >> 8 * (size - 1) == 0:
            raise refuse("not-der", f"a length longer than it needs to be, at byte {start + 1}")
    if body + length > limit:
        raise refuse("not-der", f"DER ends within an element, at byte {start}")
    return Element(tag, start, body, body + length)


def children(data: bytes, parent: Element, count: int) -> list[Element]:
    """The first ``count`` elements inside another; fewer if it has no more."""
    found: list[Element] = []
    start = parent.body
    while start < parent.end and len(found) < count:
        found.append(element(data, start, parent.end))
        start = found[-1].end
    return found


def wrap(tag: int, *parts: bytes) -> bytes:
    """One element around its content."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body
