"""From jobs to frames to signatures: hands the queue of one token to its hosts.

A signature that may wait for a touch travels alone, and nothing beside it: whoever leaves until
then is not touched for. Requesters take turns at touches, so that one who asks without end keeps
nobody from the next one. While a cached touch counts, other signatures with its key go first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from keyd.device.events import OnSigned
from keyd.device.failures import failure_error, fault_error, gone_error
from keyd.device.queue import Call, Frame, SignQueue
from keyd.device.settings import TokenConfig
from keyd.device.supervisor import HostDiedError, HostProcess
from keyd.device.touch import TouchDesk
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import (
    DeadlineError,
    KeydError,
    PinRefusedError,
    TokenLockedError,
    TouchRefusedError,
)
from keyd.model import Purpose, SignJob, Waiting

_IN_FLIGHT = 2
"""Frames per host: while it works on one, the next is there already."""

_FRAME_JOBS = 256
_FRAME_SECONDS = 0.05
"""A frame holds about this much of the token's time, so that slow tokens get short ones."""

_SHOWN_CALLS = 20
"""So many of the calls that wait are named to whoever looks."""


class Place:
    """One of the token's hosts, whichever process fills it.

    ``seen`` is set while the host has shown the token, ``wake`` to look at it now.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.host: HostProcess | None = None
        self.logged_in = False
        self.in_flight = 0
        self.seen = asyncio.Event()
        self.wake = asyncio.Event()

    @property
    def usable_host(self) -> HostProcess | None:
        """The host while it is logged in and takes requests."""
        if self.host is not None and self.logged_in and self.host.is_open:
            return self.host
        return None


class Dispatcher:
    """The jobs of one token. Frames go to the usable host with the fewest in flight.

    ``why_not``: the error that answers jobs now, None while they may wait. ``on_lost``: a host
    told that its session is gone.
    """

    def __init__(
        self,
        config: TokenConfig,
        places: Sequence[Place],
        *,
        why_not: Callable[[], KeydError | None],
        on_lost: Callable[[Place], None],
        on_signed: OnSigned,
    ) -> None:
        self._token = config.name
        self._places = places
        self._why_not = why_not
        self._on_lost = on_lost
        self._on_signed = on_signed
        self._queue = SignQueue(config.name, config.queue_limit)
        self._dispatching = False
        self._job_s = 0.0002
        self.touch = TouchDesk()

    @property
    def queued(self) -> int:
        """Jobs that wait and are not yet with a host."""
        return self._queue.size

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """The first calls that wait."""
        return tuple(
            Waiting(call.jobs[call.waiting[0]].purpose, len(call.waiting))
            for call in self._queue.waiting(_SHOWN_CALLS)
        )

    async def sign(
        self, jobs: Sequence[SignJob], gone: Callable[[], bool]
    ) -> list[bytes | KeydError]:
        """Queue the jobs and wait for all; see model.Device."""
        if (error := self._why_not()) is not None:
            raise error
        if not jobs:
            return []
        loop = asyncio.get_running_loop()
        call = Call(jobs, loop.create_future(), loop.time(), deque(range(len(jobs))), gone)
        self._queue.put(call, self._queue.size * self._job_s / len(self._places))
        self.wake()
        try:
            return await call.future
        finally:
            self._queue.drop(call)

    def wake(self) -> None:
        """Hand out frames once this turn of the loop is over: what arrives together travels
        together."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def refuse_waiting(self) -> None:
        """Answer everything that waits with the reason why it cannot be signed."""
        for call, index in self._queue.take_all():
            call.settle(index, self._why_not() or gone_error(self._token, "does not sign now"))

    def _dispatch(self) -> None:
        self._dispatching = False
        loop = asyncio.get_running_loop()
        max_jobs = max(1, min(_FRAME_JOBS, int(_FRAME_SECONDS / self._job_s)))
        while not self.touch.is_wanted:
            free = [p for p in self._places if p.usable_host and p.in_flight < _IN_FLIGHT]
            if not free:
                return
            place = min(free, key=lambda p: p.in_flight)
            is_idle = not any(p.in_flight for p in self._places)
            now = loop.time()
            if self.touch.counts_for is not None:
                self._queue.bring_forward(partial(self.touch.is_fresh_for, now=now))
            frame = self._queue.take(max_jobs, now, self.touch.frame_rule(now, is_idle=is_idle))
            if frame is None:
                return
            assert place.host is not None
            place.in_flight += 1
            first, index = frame.items[0]
            if self.touch.needs_touch(first.jobs[index], now):
                self.touch.begin(first.jobs[index])
            answer = place.host.send(
                pb.Request(sign_many=frame.message), partial(self._heard, frame)
            )
            answer.add_done_callback(partial(self._answered, place, frame))

    def _heard(self, frame: Frame, progress: pb.Progress) -> None:
        call, index = frame.items[progress.touch.index]
        self.touch.hear(call.jobs[index].purpose, progress)

    def _answered(self, place: Place, frame: Frame, answer: asyncio.Future[pb.Reply]) -> None:
        place.in_flight -= 1
        if self.touch.is_wanted:
            call, index = frame.items[0]
            self._queue.let_others_first(call.jobs[index].purpose.asked_by)
        self.touch.end(asyncio.get_running_loop().time())
        try:
            reply = answer.result()
        except HostDiedError as error:
            self.touch.forget()
            died = gone_error(self._token, f"lost its host: {error}")
            self._try_again(frame, dict.fromkeys(range(len(frame.items)), died))
        else:
            self._take_results(place, frame, reply)
        self.wake()

    def _take_results(self, place: Place, frame: Frame, reply: pb.Reply) -> None:
        if reply.WhichOneof("what") == "failure":
            for call, index in frame.items:
                call.settle(index, failure_error(self._token, reply.failure))
            return
        signed = reply.signed
        if len(signed.signatures) != len(frame.items):
            self._distrust(place, frame, len(signed.signatures))
            return
        failures = {failed.index: failed.failure for failed in signed.failures}
        lost: dict[int, KeydError] = {}
        is_locked = False
        for at, ((call, index), signature) in enumerate(
            zip(frame.items, signed.signatures, strict=True)
        ):
            failure = failures.get(at)
            if failure is None:
                call.settle(index, signature)
            elif failure.session_lost:
                lost[at] = failure_error(self._token, failure)
            else:
                error = failure_error(self._token, failure)
                is_locked |= isinstance(error, PinRefusedError | TokenLockedError)
                if isinstance(error, DeadlineError | TouchRefusedError):
                    self._give_up_touch(call, index, error)
                call.settle(index, error)
        made = len(frame.items) - len(failures)
        if made:
            self._job_s = 0.8 * self._job_s + 0.2 * signed.token_seconds / made
            self._on_signed(self._token, made, frame.waited_s, signed.token_seconds)
        if lost or is_locked:
            self._on_lost(place)
        if lost:
            self._try_again(frame, lost)

    def _give_up_touch(self, call: Call, index: int, error: KeydError) -> None:
        """Nobody touched it: the call is told what for, and does not ask once more."""
        self.touch.forget()
        job = call.jobs[index]
        if job.purpose != Purpose():
            error.message += f"; it was for {job.purpose}"
            error.args = (error.message,)
        for other in self._queue.withdraw(call, lambda j: j.object_id == job.object_id):
            call.settle(other, error)

    def _distrust(self, place: Place, frame: Frame, answers: int) -> None:
        """A host that miscounts is not asked again: its answers could be anybody's."""
        why = f"its host answered {answers} of {len(frame.items)} jobs"
        if place.host is not None:
            place.host.kill(why)
        error = fault_error(self._token, why)
        for call, index in frame.items:
            call.settle(index, error)

    def _try_again(self, frame: Frame, lost: dict[int, KeydError]) -> None:
        """Jobs whose host or session went away: once more, where that can come to anything."""
        for at in reversed(lost):
            call, index = frame.items[at]
            if call.future.done():
                continue
            if index in call.retried:
                call.settle(index, lost[at])
            elif (error := self._why_not()) is not None:
                call.settle(index, error)
            else:
                call.retried.add(index)
                self._queue.put_back((call, index))
