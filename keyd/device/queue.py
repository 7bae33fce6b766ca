"""What waits for one token: calls of many jobs, cut into frames, in turn.

Pure bookkeeping on the event loop. Calls take turns, so that one signature does not wait behind
a batch of ten thousand; jobs of one key and scheme travel as one group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeadlineError, DeviceBusyError, KeydError
from keyd.model import SignJob

_FRAME_BYTES = 1024 * 1024
"""A frame is full beyond this; one larger message travels alone."""

_QUEUE_BYTES = 256 * 1024 * 1024
"""Payloads that may wait for one token, together."""


@dataclass(slots=True, eq=False)
class Call:
    """One sign() in the queue. ``future`` ends with the results, or with its caller."""

    jobs: Sequence[SignJob]
    future: asyncio.Future[list[bytes | KeydError]]
    queued_at: float
    waiting: deque[int]
    gone: Callable[[], bool]
    queued: bool = False
    results: dict[int, bytes | KeydError] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)

    def settle(self, index: int, result: bytes | KeydError) -> None:
        """Job ``index`` has its result; the last one ends the call."""
        self.results[index] = result
        if len(self.results) == len(self.jobs) and not self.future.done():
            self.future.set_result([self.results[i] for i in range(len(self.jobs))])


def _always(_: SignJob, __: int) -> bool:
    return True


Item = tuple[Call, int]


@dataclass(slots=True)
class Frame:
    """Jobs that travel together; ``items`` are in the order of the message's payloads."""

    items: list[Item]
    message: pb.SignMany
    waited_s: float


class SignQueue:
    """The queue of one token, bounded by jobs and bytes."""

    def __init__(self, token: str, limit: int) -> None:
        self._token = token
        self._limit = limit
        self._calls: deque[Call] = deque()
        self._bytes = 0
        self.size = 0

    def put(self, call: Call, wait_s: float) -> None:
        """Append a call.

        ``wait_s``: how long the jobs that are here will take, for whoever is sent away.

        Raises:
            DeviceBusyError: no room for all its jobs; none was taken.
        """
        size_bytes = sum(len(job.payload) for job in call.jobs)
        full = self.size + len(call.jobs) > self._limit or self._bytes + size_bytes > _QUEUE_BYTES
        if full:
            raise DeviceBusyError(
                f"token {self._token} has {self.size} signatures waiting, no room for "
                f"{len(call.jobs)} more (limit {self._limit})",
                retry_after_s=min(max(wait_s, 0.1), 30.0),
                token=self._token,
                queued=self.size,
                limit=self._limit,
            )
        self.size += len(call.jobs)
        self._bytes += size_bytes
        self._append(call)

    def put_back(self, item: Item) -> None:
        """A job that was taken waits again, before all others."""
        call, index = item
        call.waiting.appendleft(index)
        self.size += 1
        self._bytes += len(call.jobs[index].payload)
        if not call.queued:
            call.queued = True
            self._calls.appendleft(call)

    def drop(self, call: Call) -> None:
        """The caller has gone: forget what was not taken."""
        while call.waiting:
            self._leave(call, call.waiting.popleft())

    def bring_forward(self, wanted: Callable[[SignJob], bool]) -> None:
        """Jobs like these go before all others, in their order."""
        for call in self._calls:
            # Sorted stably: each half keeps its order.
            call.waiting = deque(sorted(call.waiting, key=lambda i: not wanted(call.jobs[i])))
        self._calls = deque(
            sorted(self._calls, key=lambda c: not (c.waiting and wanted(c.jobs[c.waiting[0]])))
        )

    def let_others_first(self, requester: str) -> None:
        """The calls of this one come after all others, in their order."""
        if requester:
            self._calls = deque(
                sorted(self._calls, key=lambda c: c.jobs[0].purpose.asked_by == requester)
            )

    def withdraw(self, call: Call, unwanted: Callable[[SignJob], bool]) -> list[int]:
        """Take those jobs of the call out of the queue: their indexes."""
        found = [index for index in call.waiting if unwanted(call.jobs[index])]
        for index in found:
            call.waiting.remove(index)
            self._leave(call, index)
        return found

    def waiting(self, most: int) -> list[Call]:
        """The first calls that wait, in the order of their next turns."""
        return [call for call in islice(self._calls, most) if call.waiting]

    def take(
        self, max_jobs: int, now: float, fits: Callable[[SignJob, int], bool] = _always
    ) -> Frame | None:
        """The next frame, filled from the calls in turn; None when nothing waits, or fits.

        ``fits``: whether a job may join a frame that has so many jobs already.
        """
        groups: dict[tuple[bytes, bytes, str, str, str], list[Item]] = {}
        taken = size_bytes = 0
        oldest = now
        passed: list[Call] = []
        while self._calls and taken < max_jobs and size_bytes < _FRAME_BYTES:
            call = self._calls.popleft()
            call.queued = False
            if call.future.done():
                self.drop(call)
            elif call.gone():
                self._dismiss(call)
            if not call.waiting:
                continue
            if not fits(call.jobs[call.waiting[0]], taken):
                call.queued = True
                passed.append(call)
                continue
            oldest = min(oldest, call.queued_at)
            share = max(1, max_jobs // (len(self._calls) + 1))
            while call.waiting and share and taken < max_jobs:
                job = call.jobs[call.waiting[0]]
                if taken and size_bytes + len(job.payload) > _FRAME_BYTES:
                    size_bytes = _FRAME_BYTES
                    break
                if not fits(job, taken):
                    break
                index = call.waiting.popleft()
                self._leave(call, index)
                kind = (job.object_id, job.public_key, job.algorithm, job.scheme, job.serial)
                groups.setdefault(kind, []).append((call, index))
                taken += 1
                share -= 1
                size_bytes += len(job.payload)
            if call.waiting:
                self._append(call)
        self._calls.extendleft(reversed(passed))
        if not taken:
            return None
        message = pb.SignMany()
        items: list[Item] = []
        for (object_id, public_key, algorithm, scheme, serial), members in groups.items():
            message.groups.add(
                object_id=object_id,
                public_key=public_key,
                algorithm=algorithm,
                scheme=scheme,
                serial=serial,
                payloads=[call.jobs[index].payload for call, index in members],
            )
            items += members
        return Frame(items, message, now - oldest)

    def _dismiss(self, call: Call) -> None:
        """Nobody waits for this call any more: its jobs do not reach the token."""
        left = list(call.waiting)
        self.drop(call)
        for index in left:
            call.settle(
                index,
                DeadlineError("the caller left before the token was asked", token=self._token),
            )

    def take_all(self) -> list[Item]:
        """Everything that waits, to be told that nothing will come of it."""
        items = [(call, index) for call in self._calls for index in call.waiting]
        for call in self._calls:
            call.queued = False
            call.waiting.clear()
        self._calls.clear()
        self.size = self._bytes = 0
        return items

    def _append(self, call: Call) -> None:
        call.queued = True
        self._calls.append(call)

    def _leave(self, call: Call, index: int) -> None:
        self.size -= 1
        self._bytes -= len(call.jobs[index].payload)
