"""A filter in front of the kept signatures: has this digest ever been signed?

Nearly every request asks for a digest that was never signed. A Bloom filter (two bits of 2^25, 4
MiB) says so without a query: wrongly sends one in 300 to the database with a million signatures
kept, one in five with ten million; never says no wrongly once it is loaded. It serves a database
that only this process writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

_BITS = 25
_MASK = (1 << _BITS) - 1


class SeenDigests:
    """Marks are digests' first 8 bytes as a signed number (schema.entries.c.digest_mark)."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_BITS - 3))
        self._turn = threading.Lock()
        self.loaded = False
        """All of the database's marks are in; until then the answer is always maybe."""

    def add(self, marks: Iterable[int]) -> None:
        """Remember marks; any thread."""
        bits = self._bits
        with self._turn:
            for mark in marks:
                one, two = mark & _MASK, (mark >> _BITS) & _MASK
                bits[one >> 3] |= 1 << (one & 7)
                bits[two >> 3] |= 1 << (two & 7)

    def may_hold(self, mark: int) -> bool:
        """False only when no such digest was signed."""
        bits = self._bits
        one, two = mark & _MASK, (mark >> _BITS) & _MASK
        return not self.loaded or bool(
            bits[one >> 3] >> (one & 7) & 1 and bits[two >> 3] >> (two & 7) & 1
        )
