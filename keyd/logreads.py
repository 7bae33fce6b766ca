"""What callers may read of the log: entries, checkpoints, proofs (server/audit.py's AuditReads)."""

from __future__ import annotations

import asyncio

from keyd.audit.log import Log
from keyd.errors import AuditUnavailableError, InvalidRequestError
from keyd.model import Caller, Checkpoint, EntryFilter, EntryPage
from keyd.server.wire.audit import ConsistencyProof, InclusionProof
from keyd.store.store import Store


class LogReads:
    """Joins the log, which knows the tree, with the store, which holds the rows."""

    def __init__(self, log: Log, store: Store) -> None:
        self._log = log
        self._store = store

    @property
    def size(self) -> int:
        """Entries in the log."""
        return self._log.size

    @property
    def verifier_keys(self) -> str:
        """C2SP verifier keys, one a line."""
        return "".join(f"{key}\n" for key in self._log.checkpointer.keys)

    async def list_entries(
        self, wanted: EntryFilter, *, limit: int, after: int | None = None
    ) -> EntryPage:
        """See server.audit.AuditReads."""
        return await self._store.list_entries(wanted, page_size=limit, after=after)

    async def wait_for_entry(self, index: int) -> None:
        """See server.audit.AuditReads."""
        await self._log.wait_beyond(index)

    async def get_checkpoint(self, *, fresh: bool) -> Checkpoint | None:
        """See server.audit.AuditReads."""
        if fresh and self._log.size:
            return await self._log.checkpointer.fresh()
        return self._log.checkpointer.newest

    async def prove_inclusion(self, index: int, tree_size: int) -> InclusionProof:
        """See server.audit.AuditReads."""
        checkpoint = await self._checkpoint_over(tree_size or index + 1)
        size = tree_size or checkpoint.size
        if index >= size:
            raise InvalidRequestError("index", f"a tree of {size} entries has no entry {index}")
        hashes = await asyncio.to_thread(self._log.proofs.inclusion, index, size)
        page = await self._store.list_entries(EntryFilter(start_index=index), page_size=1)
        return InclusionProof(page.entries[0], size, hashes, checkpoint)

    async def prove_consistency(self, old_size: int, new_size: int) -> ConsistencyProof:
        """See server.audit.AuditReads."""
        checkpoint = await self._checkpoint_over(max(old_size, new_size))
        new_size = new_size or checkpoint.size
        if old_size > new_size:
            raise InvalidRequestError("old_size", f"{old_size} is beyond {new_size}")
        proofs = self._log.proofs
        old_root, new_root, hashes = await asyncio.to_thread(
            lambda: (
                proofs.root(old_size),
                proofs.root(new_size),
                proofs.consistency(old_size, new_size),
            )
        )
        return ConsistencyProof(old_size, new_size, old_root, new_root, hashes, checkpoint)

    async def show_checkpoint(self, caller: Caller, note: str) -> str:  # noqa: ARG002
        """See server.audit.AuditReads. The entry of an alert names no caller: the note is signed
        by the log's own key, whoever brings it."""
        return await self._log.note_client_checkpoint(note)

    async def _checkpoint_over(self, size: int) -> Checkpoint:
        """A checkpoint of at least that many entries, signed now if there is none yet."""
        if size > self._log.size:
            raise InvalidRequestError("tree_size", f"the log has {self._log.size} entries")
        newest = self._log.checkpointer.newest
        if newest is None or newest.size < size:
            newest = await self._log.checkpointer.fresh()
        if newest.size < size:
            raise AuditUnavailableError("no checkpoint covers that entry yet", retry_after_s=1.0)
        return newest
