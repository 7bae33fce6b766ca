"""Group commit: what waits while one commit runs becomes the next group. One thread.

The event loop never waits for the disk: callers hand over their items and await a future, which
the thread resolves through the loop once the group is durable.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.audit import merkle
from keyd.audit.clock_guard import BEHIND, ClockGuard
from keyd.audit.entry import entry_body
from keyd.errors import AuditUnavailableError, KeydError
from keyd.model import (
    SYSTEM,
    AuditRows,
    Caller,
    Clock,
    Effect,
    EntryDraft,
    NewEntry,
    Outcome,
    Receipt,
    SetFlag,
    StoreSignature,
    TreeHead,
)

log = logging.getLogger("keyd.audit")

CLOCK_SUSPECT = "clock-suspect"
"""Durable flag: why the clock is not to be trusted."""

Item = tuple[EntryDraft, Sequence[Effect]]
Results = list[Receipt | KeydError] | KeydError
"""One result for each item, or one error for all."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Items that wait together, and the future their results are for (the event loop's)."""

    items: Sequence[Item]
    waiter: asyncio.Future[Results]


Answers = Sequence[tuple[Submission, Results]]


class GroupCommit:
    """The writer thread and its queue.

    ``answer``: called on the thread once a group, with the head after it (None when it failed)
    and the results: waking the event loop for each caller would cost more than the commit.
    """

    def __init__(
        self,
        rows: AuditRows,
        clock: Clock,
        elapsed_s: Callable[[], float],
        *,
        max_group_items: int,
        probe_interval_s: float,
        answer: Callable[[TreeHead | None, Answers], None],
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._elapsed_s = elapsed_s
        self._max_group_items = max_group_items
        self._probe_interval_s = probe_interval_s
        self._answer = answer
        self._queue: deque[Submission] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._accept_clock = False
        self._guard = ClockGuard(clock.now(), elapsed_s(), None)
        self._thread = threading.Thread(target=self._run, name="keyd-audit", daemon=True)
        self._broken: tuple[datetime, str] | None = None

    @property
    def broken(self) -> tuple[datetime, str] | None:
        """Since when and why the log cannot be written, or None."""
        return self._broken

    def start(self, head: TreeHead) -> None:
        """Start the thread on a log that stands at ``head``."""
        self._guard = ClockGuard(self._clock.now(), self._elapsed_s(), head.last_time)
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue items; any thread. After ``stop`` they are refused."""
        with self._wake:
            if not self._stopping:
                self._queue.append(submission)
                self._wake.notify()
                return
        stopping = AuditUnavailableError("the daemon is stopping", retry_after_s=1.0)
        self._answer(None, [(submission, stopping)])

    def accept_clock(self) -> None:
        """From the next group on, entry times follow the clock again, wherever it points."""
        self._accept_clock = True

    def stop(self) -> None:
        """Commit what waits, then end the thread; blocks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._stopping:
                    timeout = self._probe_interval_s if self._broken else None
                    if not self._wake.wait(timeout):
                        break
                group = self._take()
                if not group and self._stopping:
                    return
            self._serve(group)

    def _take(self) -> list[Submission]:
        group: list[Submission] = []
        count = 0
        while self._queue and (
            not group or count + len(self._queue[0].items) <= self._max_group_items
        ):
            group.append(self._queue.popleft())
            count += len(group[-1].items)
        return group

    def _serve(self, group: Sequence[Submission]) -> None:
        """Commit one group (an empty one looks whether a broken log can be written again)."""
        was_broken = self._broken
        items = [item for submission in group for item in submission.items]
        results: Results
        head: TreeHead | None = None
        try:
            head, results = self._commit(items)
        except AuditUnavailableError as error:
            results = self._unavailable(error, len(items))
        except Exception as error:
            log.exception("the log's writer failed")
            results = self._unavailable(
                AuditUnavailableError(f"the log's writer failed: {type(error).__name__}"),
                len(items),
            )
        else:
            self._broken = None
            if was_broken is not None:
                log.warning("the log can be written again")
        answers: list[tuple[Submission, Results]] = []
        start = 0
        for submission in group:
            end = start + len(submission.items)
            own = results if isinstance(results, KeydError) else results[start:end]
            answers.append((submission, own))
            start = end
        self._answer(head, answers)

    def _unavailable(self, error: AuditUnavailableError, items: int) -> AuditUnavailableError:
        if self._broken is None:
            log.error("the log cannot be written", extra={"why": error.message, "items": items})
            self._broken = (self._clock.now(), error.message)
        return error

    def _commit(self, items: Sequence[Item]) -> tuple[TreeHead, list[Receipt | KeydError]]:
        if self._accept_clock:
            self._accept_clock = False
            self._guard.accept(self._clock.now(), self._elapsed_s())
        said = self._clock.now()
        time, suspect = self._guard.next_time(said, self._elapsed_s())
        own = self._own_items(suspect)
        both = [*own, *items]
        with self._rows.group() as group:
            conflicts = group.apply([effects for _, effects in both], time)
            size, frontier, _ = group.head
            clock = said if said < time - BEHIND else None
            entries = [
                _new_entry(index, time, clock, draft, effects, conflict)
                for index, ((draft, effects), conflict) in enumerate(
                    zip(both, conflicts, strict=True), size
                )
            ]
            frontier, nodes = merkle.append(size, frontier, [e.leaf_hash for e in entries])
            head = TreeHead(size + len(entries), frontier, time if entries else group.head[2])
            if entries:
                group.append(entries, head, nodes)
        return head, [
            conflict or Receipt(entry.log_index, time)
            for entry, conflict in zip(entries[len(own) :], conflicts[len(own) :], strict=True)
        ]

    def _own_items(self, suspect: str) -> list[Item]:
        """What the log has to say itself, in front of what others have."""
        own: list[Item] = []
        if self._broken is not None:
            since, why = self._broken
            own.append((alert_draft("recovery", f"not written since {since:%F %T}Z: {why}"), ()))
        if suspect and self._rows.get_flag(CLOCK_SUSPECT) is None:
            own.append((alert_draft("clock-alert", suspect), (SetFlag(CLOCK_SUSPECT, suspect),)))
        return own


def alert_draft(action: str, message: str) -> EntryDraft:
    """What the log itself has to say to people."""
    return EntryDraft(action, Outcome.ALLOWED, Caller(SYSTEM, ""), message=message, alert=True)


def _new_entry(
    index: int,
    time: datetime,
    clock: datetime | None,
    draft: EntryDraft,
    effects: Sequence[Effect],
    conflict: KeydError | None,
) -> NewEntry:
    signature = None
    if conflict is not None:
        # Who and what stay; the signature is thrown away with the effects, so no word of it.
        draft = replace(
            draft,
            outcome=Outcome.REFUSED,
            reason_code=conflict.reason,
            message=conflict.message,
            signature_sha256="",
        )
    else:
        for effect in effects:
            if isinstance(effect, StoreSignature):
                signature = effect.signature
    body = entry_body(index, time, draft, clock=clock)
    return NewEntry(index, time, draft, body, merkle.leaf_hash(body), signature)
