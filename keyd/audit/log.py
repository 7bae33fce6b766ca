"""The audit log: model.AuditLog over the rows, with checkpoints and everything that stops signing.

Entries and their effects go to the writer thread (group_commit.py), refusals pass a counter first
(refusal_writer.py), checkpoints are signed beside it (checkpointer.py). What is lost of it is
losses.py's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from keyd.audit.checkpointer import Checkpointer
from keyd.audit.clock_guard import suspect_at_start
from keyd.audit.group_commit import (
    CLOCK_SUSPECT,
    Answers,
    GroupCommit,
    Item,
    Results,
    Submission,
    alert_draft,
)
from keyd.audit.losses import Losses
from keyd.audit.proofs import Proofs
from keyd.audit.refusal_writer import RefusalWriter
from keyd.audit.refusals import Refusals
from keyd.audit.standing import Verdict
from keyd.errors import AuditUnavailableError, ClockError, KeydError
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


def boot_time_s() -> float:
    """Seconds since boot, counting suspend: a clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """``max_uncheckpointed``: entries without a checkpoint after which nothing is signed.
    ``refusal_interval_s``: repeated refusals become one entry in that time. ``reserve_bytes``:
    with less room on the disk refusals are not written, so that signatures still can be."""

    max_uncheckpointed: int = 100_000
    refusal_interval_s: float = 60.0
    reserve_bytes: int = 64 * 1024 * 1024
    max_group_items: int = 2_000
    probe_interval_s: float = 1.0


class Log:
    """model.AuditLog. Made and used on one event loop; ``start`` before anything else."""

    def __init__(
        self,
        rows: AuditRows,
        clock: Clock,
        checkpointer: Checkpointer,
        settings: LogSettings,
        *,
        elapsed_s: Callable[[], float] = boot_time_s,
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._settings = settings
        self._elapsed_s = elapsed_s
        self._head = TreeHead(0, (), None)
        self._tails: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()
        self._writer = GroupCommit(
            rows,
            clock,
            elapsed_s,
            max_group_items=settings.max_group_items,
            probe_interval_s=settings.probe_interval_s,
            answer=self._on_thread_answer,
        )
        self.checkpointer = checkpointer
        self.refusals = Refusals(settings.refusal_interval_s)
        self.proofs = Proofs(rows)
        self._losses = Losses(
            rows,
            clock,
            checkpointer,
            self.proofs,
            head=lambda: self._head,
            record=self.record,
            alert=self._alert,
        )
        self._refusal_writer = RefusalWriter(
            self.refusals,
            rows,
            self.record_many,
            elapsed_s,
            interval_s=settings.refusal_interval_s,
            reserve_bytes=settings.reserve_bytes,
        )

    # -- life

    async def start(self) -> None:
        """Look how the log stands to the checkpoint outside and to the clock, then take entries.

        What is wrong is written as an alert; it stops signing with bound keys, or what depends
        on time, but not the start.
        """
        self._head, newest = await asyncio.to_thread(
            lambda: (self._rows.head(), self._rows.newest_checkpoint())
        )
        self._losses.begin()
        self.checkpointer.begin(self._head, newest)
        suspect = suspect_at_start(self._clock.now(), self._head.last_time)
        self._writer.start(self._head)
        if suspect and self.clock_suspect is None:
            await self._alert("clock-alert", suspect, SetFlag(CLOCK_SUSPECT, suspect))
        await self.check_outside()
        self._tasks = [
            asyncio.create_task(self.checkpointer.run()),
            asyncio.create_task(self._refusal_writer.run()),
        ]

    async def stop(self, *, checkpoint_timeout_s: float = 3.0) -> None:
        """Write the counted refusals, sign a last checkpoint where that is quick, end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(KeydError):
            await self._refusal_writer.finish()
        with suppress(KeydError, TimeoutError):
            async with asyncio.timeout(checkpoint_timeout_s):
                if self._head.size:
                    self.checkpointer.journal(await self.checkpointer.fresh())
        await asyncio.to_thread(self._writer.stop)
        for tail in self._tails:
            tail.cancel()

    # -- model.AuditLog

    async def record(self, draft: EntryDraft, effects: Sequence[Effect] = ()) -> Receipt:
        """See model.AuditLog."""
        result = (await self.record_many([(draft, effects)]))[0]
        if isinstance(result, KeydError):
            raise result
        return result

    async def record_many(self, items: Sequence[Item]) -> list[Receipt | KeydError]:
        """See model.AuditLog. More items than one group holds are committed in several; when one
        of those fails, entries of the others stay in the log, for signatures never released."""
        limit = self._settings.max_group_items
        parts = [
            self._submit(items[start : start + limit]) for start in range(0, len(items), limit)
        ]
        results: list[Receipt | KeydError] = []
        failure: KeydError | None = None
        for part in parts:
            found = await part
            if isinstance(found, KeydError):
                failure = found
            else:
                results += found
        if failure is not None:
            raise failure
        return results

    async def refuse(self, draft: EntryDraft) -> None:
        """See model.AuditLog."""
        await self._refusal_writer.refuse(draft)

    def check_signing_allowed(self, *, bound: bool) -> None:
        """See model.AuditLog."""
        broken = self._writer.broken
        if broken is not None:
            raise AuditUnavailableError(
                f"the log cannot be written since {broken[0]:%F %T}Z: {broken[1]}",
                retry_after_s=self._settings.probe_interval_s,
            )
        if self.uncheckpointed > self._settings.max_uncheckpointed:
            raise AuditUnavailableError(
                f"{self.uncheckpointed} entries have no checkpoint: "
                f"{self.checkpointer.problem or self.checkpointer.paused or 'the log key is slow'}",
                hint="bring the log key's token back",
                retry_after_s=1.0,
                uncheckpointed=self.uncheckpointed,
            )
        if bound:
            self.check_nothing_lost()

    def check_nothing_lost(self) -> None:
        """See model.AuditLog."""
        self._losses.check()

    # -- state for the other rooms

    @property
    def size(self) -> int:
        """Durable entries."""
        return self._head.size

    @property
    def uncheckpointed(self) -> int:
        """Entries that no checkpoint covers."""
        return self.checkpointer.uncheckpointed

    @property
    def loss(self) -> str:
        """Why bound keys do not sign: entries are, or may be, gone. Empty when all is well."""
        return self._losses.why

    def describe_loss(self) -> Mapping[str, str]:
        """What a person would accept, for consent to be bound to: ``loss`` in words, ``lost_from``
        and ``lost_to`` (entries, or ``unknown``), the ``origin`` that would end, and where the
        database was restored the SHA-256 of that note. Empty when nothing is lost."""
        return self._losses.describe()

    @property
    def clock_suspect(self) -> str | None:
        """Why the clock is not to be trusted, or None."""
        return self._rows.get_flag(CLOCK_SUSPECT)

    def check_clock(self) -> None:
        """For what depends on time.

        Raises:
            ClockError: the clock is suspect and nobody has accepted it.
        """
        suspect = self.clock_suspect
        if suspect is not None:
            raise ClockError(
                suspect, hint="check the machine's clock, then: keyd-server clock accept"
            )

    def problems(self) -> list[str]:
        """What is wrong with the log, in words; empty when all is well. Cheap."""
        found: list[str] = []
        for bound in (False, True):
            try:
                self.check_signing_allowed(bound=bound)
            except KeydError as error:
                found.append(f"{error.message}; {error.hint}" if error.hint else error.message)
                break
        if self.checkpointer.problem:
            since = self.checkpointer.problem_since
            found.append(
                f"checkpoints: {self.checkpointer.problem} (since {since:%F %T}Z, "
                f"{self.uncheckpointed} entries without one)"
            )
        if self.clock_suspect is not None:
            found.append(f"{self.clock_suspect}; then: keyd-server clock accept")
        return found

    async def wait_beyond(self, size: int) -> int:
        """Wait until the log has more than ``size`` entries; return how many it has."""
        while self._head.size <= size:
            tail: asyncio.Future[None] = self._loop.create_future()
            self._tails.add(tail)
            try:
                await tail
            finally:
                self._tails.discard(tail)
        return self._head.size

    # -- what people and clients tell the log

    async def check_outside(self) -> None:
        """Compare the log with the checkpoint file outside the state folder. Part of ``start``;
        again after the log keys became known or changed.

        A file that is not this log's is a loss too: the database was replaced, or the file was.
        """
        await self._losses.check_outside()

    async def note_client_checkpoint(self, note: str) -> Verdict:
        """Compare the log with a checkpoint that a client kept and sends back.

        One that covers entries we lack stops signing with bound keys, durably.
        """
        return await self._losses.note_client_checkpoint(note)

    async def accept_checkpoint(
        self, caller: Caller, said: str = "", effects: Sequence[Effect] = ()
    ) -> Receipt | None:
        """A person has seen that entries are lost: bound keys sign again, and the log goes on
        under a new origin. None when nothing is known to be lost.

        ``effects``: what else belongs into the same transaction.
        """
        return await self._losses.accept(caller, said, effects)

    async def accept_clock(self, caller: Caller, said: str = "") -> Receipt:
        """A person has checked the clock: it counts again, wherever it points."""
        self._writer.accept_clock()
        return await self.record(
            EntryDraft(
                "clock-accept",
                Outcome.ALLOWED,
                caller,
                said=said,
                message=self.clock_suspect or "",
                alert=True,
            ),
            [SetFlag(CLOCK_SUSPECT, None)],
        )

    # -- inside

    async def _alert(self, action: str, message: str, effect: Effect) -> None:
        # When even this cannot be written the log is broken, which stops more than the alert.
        with suppress(AuditUnavailableError):
            await self.record(alert_draft(action, message), [effect])

    def _submit(self, items: Sequence[Item]) -> asyncio.Future[Results]:
        future: asyncio.Future[Results] = self._loop.create_future()
        self._writer.submit(Submission(items, future))
        return future

    def _on_thread_answer(self, head: TreeHead | None, answers: Answers) -> None:
        # A loop that is closed has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answered, head, answers)

    def _answered(self, head: TreeHead | None, answers: Answers) -> None:
        if head is not None:
            self._head = head
            self.checkpointer.grown(head)
        for submission, results in answers:
            # A caller that gave up has cancelled it; its entry is durable all the same.
            if not submission.waiter.done():
                submission.waiter.set_result(results)
        if head is not None:
            for tail in self._tails:
                if not tail.done():
                    tail.set_result(None)
