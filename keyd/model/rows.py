"""The rows under the log: store/ keeps them, audit/ says what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

from keyd.errors import KeydError
from keyd.model.audit import Checkpoint, EntryDraft
from keyd.model.effects import Effect


class TreeHead(NamedTuple):
    """The Merkle tree (RFC 6962) as of one commit.

    ``frontier``: roots of the complete subtrees that make up ``size``, largest first, SHA-256
    each; as many as ``size`` has one bits. ``last_time``: of the newest entry, None while empty.
    """

    size: int
    frontier: tuple[bytes, ...]
    last_time: datetime | None


class TreeNode(NamedTuple):
    """The hash over entries ``[position << level, (position + 1) << level)``; kept at the levels
    8, 16 and 24 (the tile boundaries of C2SP tlog-tiles), so that proofs read few rows."""

    level: int
    position: int
    hash: bytes


class NewEntry(NamedTuple):
    """One row to append: the draft for the columns, the bytes for the proof.

    ``signature``: kept so that a lost answer can be given again, ECDSA as raw r||s; else None.
    """

    log_index: int
    time: datetime
    draft: EntryDraft
    body: bytes
    leaf_hash: bytes
    signature: bytes | None


class AuditGroup(Protocol):
    """One open write transaction that holds the log's lock."""

    @property
    def head(self) -> TreeHead:
        """The tree as this transaction found it."""

    def apply(self, items: Sequence[Sequence[Effect]], now: datetime) -> list[KeydError | None]:
        """Apply each item's effects, all or none of an item, in order; an item sees those before
        it. For each None, or the conflict its effects met (documented at the effect)."""

    def append(
        self, entries: Sequence[NewEntry], head: TreeHead, nodes: Sequence[TreeNode]
    ) -> None:
        """Insert the entries and replace the tree head."""


class AuditRows(Protocol):
    """The seam between audit/ and store/. All methods block; any of them raises
    AuditUnavailableError when the database cannot be read or written."""

    def group(self) -> AbstractContextManager[AuditGroup]:
        """Take the log's lock; commit durably when the block ends, roll back when it raises.

        Raises AuditUnavailableError when the commit failed or its result is unknown.
        """

    def head(self) -> TreeHead:
        """The tree as of the last commit."""

    def bodies(self, start: int, end: int) -> list[bytes]:
        """The bodies of entries [start, end), by index."""

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """The leaf hashes of entries [start, end), by index."""

    def nodes(self, level: int, start: int, end: int) -> list[bytes]:
        """The kept subtree hashes [start, end) of a level (8, 16 or 24)."""

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that was saved, or None."""

    def save_checkpoint(self, checkpoint: Checkpoint, now: datetime) -> None:
        """Keep it; of each hour only the newest stays."""

    def checkpoints(self) -> list[Checkpoint]:
        """All kept checkpoints, by size."""

    def get_flag(self, name: str) -> str | None:
        """A durable flag's value as of the last commit, or None; does not block."""

    def free_bytes(self) -> int:
        """Room left on the file system that holds the log, in bytes."""
