"""Comparing the log with checkpoints that others kept, and what follows where entries are lost.

What is known to be lost, and whether a person has accepted it, is standing.py's; here it is looked
for, written down, and answered: no checkpoint of ours contradicts one before a person knows of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from keyd.audit.checkpointer import Checkpointer
from keyd.audit.proofs import Proofs
from keyd.audit.standing import LOSS, Comparison, Standing, Verdict, compare
from keyd.errors import CheckpointBehindError
from keyd.model import (
    AuditRows,
    Caller,
    Clock,
    Effect,
    EntryDraft,
    Outcome,
    Receipt,
    SetFlag,
    TreeHead,
)

_ACCEPT_HINT = (
    "find out what was lost (docs/recovery.md), then: keydctl role accept; "
    "or, while the daemon is stopped: keyd-server checkpoint accept"
)


class Losses:
    """The log's own part; ``head``: of the log as it is, ``record``: Log.record, ``alert``: writes
    an alert (action, message, effect) where the log can still be written."""

    def __init__(
        self,
        rows: AuditRows,
        clock: Clock,
        checkpointer: Checkpointer,
        proofs: Proofs,
        *,
        head: Callable[[], TreeHead],
        record: Callable[[EntryDraft, Sequence[Effect]], Awaitable[Receipt]],
        alert: Callable[[str, str, Effect], Awaitable[None]],
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._checkpointer = checkpointer
        self._proofs = proofs
        self._head = head
        self._record = record
        self._alert = alert
        self._standing = Standing(rows)

    @property
    def why(self) -> str:
        """Entries are, or may be, gone, and nobody has accepted it. Empty when all is well."""
        return self._standing.why

    def check(self) -> None:
        """See model.AuditLog.check_nothing_lost."""
        if why := self.why:
            raise CheckpointBehindError(why, hint=_ACCEPT_HINT)

    def describe(self) -> Mapping[str, str]:
        """See Log.describe_loss."""
        return self._standing.describe(self._checkpointer.origins.base, self._head())

    def begin(self) -> None:
        """Sign checkpoints under the name that the last accepted loss has left."""
        base = self._checkpointer.origins.base
        self._checkpointer.set_origins(self._standing.origins(base))

    async def check_outside(self) -> None:
        """See Log.check_outside."""
        note = await asyncio.to_thread(self._checkpointer.read_file)
        if note is not None and self._checkpointer.keys:
            await self._note(
                note, "the checkpoint file outside the state folder", foreign_is_loss=True
            )
        self._pause_checkpoints()

    async def note_client_checkpoint(self, note: str) -> Verdict:
        """See Log.note_client_checkpoint."""
        newest = self._checkpointer.newest
        if newest is not None and note == newest.note:
            return Verdict.SAME if newest.size == self._head().size else Verdict.AHEAD
        return await self._note(note, "a checkpoint that a client kept")

    async def accept(self, caller: Caller, said: str, effects: Sequence[Effect]) -> Receipt | None:
        """See Log.accept_checkpoint."""
        if not self.why:
            return None
        base = self._checkpointer.origins.base
        accepted = self._standing.acceptance(base, self._head(), self._clock.now())
        receipt = await self._record(
            EntryDraft(
                "checkpoint-accept",
                Outcome.ALLOWED,
                caller,
                said=said,
                message=accepted.loss,
                alert=True,
                details=accepted.details,
            ),
            [*accepted.flags, *effects],
        )
        # Until here no checkpoint was signed (paused), so none covers this entry by an old name.
        self._checkpointer.set_origins(accepted.origins)
        self._pause_checkpoints()
        return receipt

    async def _note(self, note: str, whose: str, *, foreign_is_loss: bool = False) -> Verdict:
        found = await asyncio.to_thread(self._compare, note)
        loss = self._standing.new_loss(
            found, note, whose, self._head().size, foreign_is_loss=foreign_is_loss
        )
        if loss is not None:
            await self._alert("checkpoint-alert", loss.why, SetFlag(LOSS, loss.write()))
            self._pause_checkpoints()
        return found.verdict

    def _compare(self, note: str) -> Comparison:
        keys, origins = self._checkpointer.keys, self._checkpointer.origins
        return compare(note, origins, keys, self._proofs, self._rows.head().size)

    def _pause_checkpoints(self) -> None:
        """Never sign a tree that contradicts one we signed, before a person knows of it."""
        self._checkpointer.paused = self.why
        self._checkpointer.grown(self._head())
