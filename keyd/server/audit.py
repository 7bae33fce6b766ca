"""AuditService. Every read of the log asks for the audit grant first; WhoAmI needs none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from keyd.errors import AuditUnavailableError, InvalidRequestError
from keyd.model import Action, Caller, Checkpoint, EntryFilter, EntryPage, Policy
from keyd.server.limits import Limits
from keyd.server.wire import audit as wire
from keyd.server.wire import pages
from keyd.v1 import audit_pb2 as pb

Authorize = Callable[[Caller, Action, str], Awaitable[object]]
"""Decides on (caller, action, key); raises PolicyDeniedError, the refusal being logged."""

_TAIL_CHUNK = 500


class AuditReads(Protocol):
    """What this servicer reads of the log; entries of the last commit and before. Any method may
    raise AuditUnavailableError."""

    @property
    def size(self) -> int:
        """Entries in the log."""

    @property
    def verifier_keys(self) -> str:
        """C2SP verifier keys, one a line; empty while no log key was ever seen."""

    async def list_entries(
        self, wanted: EntryFilter, *, limit: int, after: int | None = None
    ) -> EntryPage:
        """Up to ``limit`` entries that match, by index (backwards when ``descending``), beyond
        the index ``after`` in that direction."""

    async def wait_for_entry(self, index: int) -> None:
        """Return once the entry with this index is durable. Safe to cancel."""

    async def get_checkpoint(self, *, fresh: bool) -> Checkpoint | None:
        """The newest; None when there is none yet. ``fresh``: sign one of the whole log first."""

    async def prove_inclusion(self, index: int, tree_size: int) -> wire.InclusionProof:
        """``tree_size`` 0: of the newest checkpoint. Raises InvalidRequestError for an index or
        size beyond the log."""

    async def prove_consistency(self, old_size: int, new_size: int) -> wire.ConsistencyProof:
        """``new_size`` 0: of the newest checkpoint. Raises InvalidRequestError for sizes beyond
        the log, or old beyond new."""

    async def show_checkpoint(self, caller: Caller, note: str) -> str:
        """How the log stands to a note a caller kept: same, behind, ahead, inconsistent or
        foreign. Raises InvalidRequestError or LogProofError for what is no signed note."""


class AuditServicer:
    """Reads the request, asks the log, writes what it says."""

    def __init__(
        self,
        reads: AuditReads,
        *,
        authorize: Authorize,
        policy: Callable[[], Policy],
        report: Callable[[], wire.StatusReport],
        server_version: str,
        limits: Limits,
        ended: asyncio.Event,
    ) -> None:
        """``policy``: the one in force. ``report``: the daemon now; never blocks. ``ended``: set
        when the daemon drains; tails end then."""
        self._reads = reads
        self._authorize = authorize
        self._policy = policy
        self._report = report
        self._server_version = server_version
        self._limits = limits
        self._ended = ended

    async def list_entries(
        self, caller: Caller, message: pb.ListEntriesRequest
    ) -> pb.ListEntriesResponse:
        """A page of entries; new entries never shift it."""
        await self._authorize(caller, Action.AUDIT, "")
        size = pages.page_size(message.page_size, wire.MAX_LIST_PAGE)
        cursor = pages.parse_token(message, message.page_token)
        page = await self._reads.list_entries(
            wire.entry_filter(message), limit=size, after=_parse_cursor(cursor)
        )
        shown = list(
            pages.fill_page(
                (wire.entry_message(e) for e in page.entries), size, self._limits.max_page_bytes
            )
        )
        following = page.next_after
        if len(shown) < len(page.entries):
            following = shown[-1].index
        return pb.ListEntriesResponse(
            entries=shown,
            next_page_token="" if following is None else pages.to_token(message, str(following)),
        )

    async def tail_entries(
        self, caller: Caller, message: pb.TailEntriesRequest
    ) -> AsyncIterator[pb.Entry]:
        """Entries from an index on, then each new one, until the caller leaves or the daemon
        drains. The grant is asked for again before each group that is sent."""
        await self._authorize(caller, Action.AUDIT, "")
        start = wire.index("start_index", message.start_index, least=-1)
        position = self._reads.size if start < 0 else start
        while not self._ended.is_set():
            page = await self._reads.list_entries(
                EntryFilter(start_index=position), limit=_TAIL_CHUNK
            )
            if page.entries:
                await self._authorize(caller, Action.AUDIT, "")
            for entry in page.entries:
                yield wire.entry_message(entry)
                position = entry.index + 1
            if not page.entries:
                await _first(self._reads.wait_for_entry(position), self._ended.wait())

    async def get_checkpoint(
        self, caller: Caller, message: pb.GetCheckpointRequest
    ) -> pb.Checkpoint:
        """The newest checkpoint."""
        await self._authorize(caller, Action.AUDIT, "")
        checkpoint = await self._reads.get_checkpoint(fresh=message.fresh)
        if checkpoint is None:
            raise AuditUnavailableError(
                "there is no checkpoint yet", hint="is the log key's token READY? keydctl status"
            )
        return wire.checkpoint_message(checkpoint, self._reads.verifier_keys)

    async def prove_inclusion(
        self, caller: Caller, message: pb.ProveInclusionRequest
    ) -> pb.InclusionProof:
        """An entry's place in the tree."""
        await self._authorize(caller, Action.AUDIT, "")
        index = wire.index("index", message.index)
        tree_size = wire.index("tree_size", message.tree_size)
        proof = await self._reads.prove_inclusion(index, tree_size)
        return wire.inclusion_message(proof, self._reads.verifier_keys)

    async def prove_consistency(
        self, caller: Caller, message: pb.ProveConsistencyRequest
    ) -> pb.ConsistencyProof:
        """One tree a prefix of another."""
        await self._authorize(caller, Action.AUDIT, "")
        old_size = wire.index("old_size", message.old_size)
        new_size = wire.index("new_size", message.new_size)
        proof = await self._reads.prove_consistency(old_size, new_size)
        return wire.consistency_message(proof, self._reads.verifier_keys)

    async def show_checkpoint(
        self, caller: Caller, message: pb.ShowCheckpointRequest
    ) -> pb.ShowCheckpointResponse:
        """What a caller kept. Open to every known caller: it tells only how the log stands to a
        note this log itself signed, and a client without the audit grant has to be heard."""
        note = wire.note(message)
        if not note:
            raise InvalidRequestError("note", "is empty")
        return pb.ShowCheckpointResponse(verdict=await self._reads.show_checkpoint(caller, note))

    async def who_am_i(
        self,
        caller: Caller,
        message: pb.WhoAmIRequest,  # noqa: ARG002 - it has no fields
    ) -> pb.WhoAmIResponse:
        """The caller as the daemon sees it."""
        principal = caller.principal
        return wire.who_am_i(principal, self._policy().grants_of(principal), self._server_version)

    async def get_status(
        self,
        caller: Caller,
        message: pb.GetStatusRequest,  # noqa: ARG002 - it has no fields
    ) -> pb.Status:
        """The daemon in one look; in full for those who may read the log."""
        report = self._report()
        if self._policy().decide(caller.principal, Action.AUDIT, "").allowed:
            return wire.full_status(report, self._server_version)
        return wire.short_status(report, self._server_version)


def _parse_cursor(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise InvalidRequestError("page_token", "not a next_page_token of this request")
    return int(cursor)


async def _first(*waits: Awaitable[object]) -> None:
    """Wait for whichever comes first; the others are cancelled and gone when this returns."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
