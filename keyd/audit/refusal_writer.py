"""Writes refusals into the log: the first of a kind at once, counted ones when they are due.

Near a full disk none are written, so that signatures still can be; a refusal is answered either
way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from keyd.audit.group_commit import Item
from keyd.audit.refusals import Refusals
from keyd.errors import KeydError
from keyd.model import AuditRows, EntryDraft, Receipt

_TURN_S = 5.0
"""Counted refusals are looked through this often, or once an interval where that is shorter."""

_ROOM_S = 1.0
"""The disk's room is looked at this often."""


class RefusalWriter:
    """Between those who refuse and the log. ``reserve_bytes``: with less room on the disk nothing
    is written."""

    def __init__(
        self,
        refusals: Refusals,
        rows: AuditRows,
        record_many: Callable[[Sequence[Item]], Awaitable[list[Receipt | KeydError]]],
        elapsed_s: Callable[[], float],
        *,
        interval_s: float,
        reserve_bytes: int,
    ) -> None:
        self._refusals = refusals
        self._rows = rows
        self._record_many = record_many
        self._elapsed_s = elapsed_s
        self._interval_s = interval_s
        self._reserve_bytes = reserve_bytes
        self._room_looked_at = float("-inf")
        self._has_room = True

    async def refuse(self, draft: EntryDraft) -> None:
        """See model.AuditLog."""
        if self._refusals.admit(draft, self._elapsed_s()):
            await self._write([draft])

    async def run(self) -> None:
        """Write counted refusals when they are due, until cancelled."""
        while True:
            await asyncio.sleep(min(_TURN_S, self._interval_s))
            await self._write(self._refusals.due(self._elapsed_s()))

    async def finish(self) -> None:
        """Write all that is counted."""
        await self._write(self._refusals.due(self._elapsed_s(), all_of_them=True))

    async def _write(self, drafts: Sequence[EntryDraft]) -> None:
        if not drafts:
            return
        if not await self._room():
            self._refusals.dropped += sum(draft.count for draft in drafts)
            return
        try:
            await self._record_many([(draft, ()) for draft in drafts])
        except KeydError:
            self._refusals.dropped += sum(draft.count for draft in drafts)

    async def _room(self) -> bool:
        """Whether the disk has more than the reserve."""
        now = self._elapsed_s()
        if now - self._room_looked_at >= _ROOM_S:
            self._room_looked_at = now
            try:
                free = await asyncio.to_thread(self._rows.free_bytes)
            except OSError:
                free = 0
            self._has_room = free >= self._reserve_bytes
        return self._has_room
