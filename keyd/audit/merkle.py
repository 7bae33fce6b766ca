"""The Merkle tree of the log: RFC 6962, section 2.1, with SHA-256. Pure.

Hashes are 32 bytes. A tree is known by its size and its *frontier*: the roots of the complete
subtrees that make up the size, largest first. Appending needs nothing else; proofs need hashes
of complete subtrees, which the caller looks up (:data:`NodeLookup`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from keyd.errors import LogProofError
from keyd.model import TreeNode

TILE_LEVELS = (8, 16, 24)
"""Levels whose complete nodes are kept; 8 is the height of a C2SP tile."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""MTH of no entries (RFC 6962, 2.1)."""

NodeLookup = Callable[[int, int], bytes]
"""(level, position) -> hash over entries [position << level, (position + 1) << level)."""


def leaf_hash(body: bytes) -> bytes:
    """SHA-256(0x00 || body)."""
    return hashlib.sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def append(
    size: int, frontier: Sequence[bytes], leaves: Sequence[bytes]
) -> tuple[tuple[bytes, ...], list[TreeNode]]:
    """Append leaf hashes to a tree; return the new frontier and the tile nodes completed.

    Raises:
        LogProofError: the frontier does not fit the size.
    """
    if len(frontier) != size.bit_count():
        raise LogProofError(f"a tree of {size} entries cannot have {len(frontier)} subtrees")
    sha256 = hashlib.sha256
    stack = list(frontier)
    completed: list[TreeNode] = []
    for count, leaf in enumerate(leaves, size + 1):
        node = leaf
        # Each trailing zero bit of the new size closes one more subtree.
        level = (count & -count).bit_length() - 1
        for _ in range(min(level, TILE_LEVELS[0])):
            node = sha256(b"\x01" + stack.pop() + node).digest()
        if level >= TILE_LEVELS[0]:
            completed.append(TreeNode(8, (count >> 8) - 1, node))
            for above in range(9, level + 1):
                node = sha256(b"\x01" + stack.pop() + node).digest()
                if above in TILE_LEVELS:
                    completed.append(TreeNode(above, (count >> above) - 1, node))
        stack.append(node)
    return tuple(stack), completed


def root_hash(frontier: Sequence[bytes]) -> bytes:
    """The tree's root: the frontier folded from its small end."""
    if not frontier:
        return EMPTY_ROOT
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = node_hash(left, root)
    return root


def _split(start: int, end: int) -> int:
    """RFC 6962's k: the largest power of two smaller than the number of entries, as an index."""
    return start + (1 << ((end - start - 1).bit_length() - 1))


def range_hash(start: int, end: int, node: NodeLookup) -> bytes:
    """MTH(D[start:end]) for a range that is a subtree of the log's tree (complete, or the ragged
    right edge of some size)."""
    if start == end:
        return EMPTY_ROOT
    width = end - start
    if width & (width - 1) == 0 and start % width == 0:
        level = width.bit_length() - 1
        return node(level, start >> level)
    middle = _split(start, end)
    return node_hash(range_hash(start, middle, node), range_hash(middle, end, node))


def inclusion_proof(index: int, size: int, node: NodeLookup) -> list[bytes]:
    """PATH(index, D[size]) (RFC 6962, 2.1.1), leaf side first.

    Raises:
        LogProofError: the tree of that size has no such entry.
    """
    if not 0 <= index < size:
        raise LogProofError(f"a tree of {size} entries has no entry {index}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = _split(start, end)
        if index < middle:
            path.append(range_hash(middle, end, node))
            end = middle
        else:
            path.append(range_hash(start, middle, node))
            start = middle
    path.reverse()
    return path


def consistency_proof(old_size: int, new_size: int, node: NodeLookup) -> list[bytes]:
    """PROOF(old_size, D[new_size]) (RFC 6962, 2.1.2); empty when nothing needs to be shown.

    Raises:
        LogProofError: the old tree is larger than the new one.
    """
    if not 0 <= old_size <= new_size:
        raise LogProofError(f"a tree of {new_size} entries does not hold one of {old_size}")
    if old_size in (0, new_size):
        return []
    path: list[bytes] = []
    start, end, whole = 0, new_size, True
    while end != old_size:
        middle = _split(start, end)
        if old_size <= middle:
            path.append(range_hash(middle, end, node))
            end = middle
        else:
            path.append(range_hash(start, middle, node))
            start, whole = middle, False
    if not whole:
        path.append(range_hash(start, end, node))
    path.reverse()
    return path


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf hash is entry ``index`` of the tree (RFC 9162, 2.1.3.2).

    Raises:
        LogProofError: it is not, or the proof has the wrong length.
    """
    if not 0 <= index < size:
        raise LogProofError(f"a tree of {size} entries has no entry {index}")
    position, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise LogProofError("the inclusion proof is too long")
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while position & 1 == 0 and position != 0:
                position, last = position >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        position, last = position >> 1, last >> 1
    if last != 0:
        raise LogProofError("the inclusion proof is too short")
    if node != root:
        raise LogProofError(f"entry {index} is not in the tree of {size} entries")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the old tree is a prefix of the new one (RFC 9162, 2.1.4.2).

    Raises:
        LogProofError: it is not, or the proof has the wrong length.
    """
    if not 0 <= old_size <= new_size:
        raise LogProofError(f"a tree of {new_size} entries does not hold one of {old_size}")
    if old_size in (0, new_size):
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected:
            raise LogProofError("two trees of one size differ, or the empty tree has a proof")
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise LogProofError("the consistency proof is empty")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_node = new_node = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise LogProofError("the consistency proof is too long")
        if position & 1 or position == last:
            old_node = node_hash(sibling, old_node)
            new_node = node_hash(sibling, new_node)
            while position & 1 == 0 and position != 0:
                position, last = position >> 1, last >> 1
        else:
            new_node = node_hash(new_node, sibling)
        position, last = position >> 1, last >> 1
    if last != 0:
        raise LogProofError("the consistency proof is too short")
    if old_node != old_root or new_node != new_root:
        raise LogProofError(f"the tree of {old_size} entries is no prefix of that of {new_size}")
