"""Proofs from the stored tree. Reads few rows whatever the log's size.

A subtree at or above level 8 comes from the kept nodes (levels 8, 16, 24), one below from at most
256 leaf hashes: a proof reads O(log size) ranges of at most 256 rows each.
"""

from __future__ import annotations

from keyd.audit import merkle
from keyd.errors import LogProofError
from keyd.model import AuditRows

_TILE_HEIGHT = 8


class Proofs:
    """Reads proofs out of the rows; all methods block."""

    def __init__(self, rows: AuditRows) -> None:
        self._rows = rows

    def root(self, size: int) -> bytes:
        """The root hash of the log when it had ``size`` entries."""
        self._check(size)
        return merkle.range_hash(0, size, self._node) if size else merkle.EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that entry ``index`` is in the tree of ``size`` entries, leaf side first.

        Raises:
            LogProofError: there is no such entry or no such tree.
        """
        self._check(size)
        return merkle.inclusion_proof(index, size, self._node)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """The proof that the old tree is a prefix of the new one.

        Raises:
            LogProofError: there is no such tree.
        """
        self._check(new_size)
        return merkle.consistency_proof(old_size, new_size, self._node)

    def _check(self, size: int) -> None:
        have = self._rows.head().size
        if not 0 <= size <= have:
            raise LogProofError(f"the log has {have} entries, not {size}")

    def _node(self, level: int, position: int) -> bytes:
        """The hash of a complete subtree, folded from the nearest level that is kept."""
        kept = min(level - level % _TILE_HEIGHT, merkle.TILE_LEVELS[-1])
        width = 1 << (level - kept)
        start, end = position * width, (position + 1) * width
        if kept == 0:
            hashes = self._rows.leaf_hashes(start, end)
        else:
            hashes = self._rows.nodes(kept, start, end)
        if len(hashes) != width:
            raise LogProofError(f"the log lacks rows of the subtree {level}/{position}")
        while len(hashes) > 1:
            pairs = zip(hashes[::2], hashes[1::2], strict=True)
            hashes = [merkle.node_hash(left, right) for left, right in pairs]
        return hashes[0]
