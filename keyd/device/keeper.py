"""Keeps one token usable: its hosts, its state, who may use it. Daemon side.

Each host has a place with a task of its own that starts it, looks at the token through it, logs
it in and replaces it when it dies. The first place opens the token; the others follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from keyd.device.dispatch import Dispatcher, Place
from keyd.device.events import EventKind, OnEvent, OnSigned, TokenEvent
from keyd.device.failures import RETRY_AFTER_S, failure_error
from keyd.device.login import Door, is_pin_blocked
from keyd.device.settings import TokenConfig
from keyd.device.supervisor import HostDiedError, HostProcess
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import (
    DeviceFaultError,
    DeviceGoneError,
    KeydError,
    PinRefusedError,
    TokenLockedError,
    from_reason,
)
from keyd.model import Pin, PinAttempts, SignJob, TokenState, TokenStatus

log = logging.getLogger(__name__)

_POLL_S = 0.4
"""How often an idle token is looked at; it bounds how late its loss is noticed."""

_ABSENT_POLL_S = 0.2
"""How often an absent token is looked for: its return must be noticed well within a second."""

_GRACE_S = 5.0
"""Jobs wait this long for a host that is being replaced."""

_BACKOFF_S = (0.0, 0.0, 0.1, 0.2, 0.5, 1.0)
"""Waits before a host is started again, by how often in a row it died young."""

_YOUNG_S = 2.0
_CRASHES = 3
"""After so many hosts that died before they said anything the token is FAULTED, and retried."""


class TokenKeeper:
    """One configured token."""

    def __init__(
        self,
        config: TokenConfig,
        attempts: PinAttempts,
        run_dir: Path,
        on_event: OnEvent,
        on_signed: OnSigned,
    ) -> None:
        self.config = config
        self._door = Door(config, attempts)
        self._run_dir = run_dir
        self._on_event = on_event
        self._places = [Place(index) for index in range(config.hosts)]
        self._jobs = Dispatcher(
            config,
            self._places,
            why_not=self._why_not,
            on_lost=self._session_lost,
            on_signed=on_signed,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._logins: set[asyncio.Task[pb.TokenInfo]] = set()
        self._state = TokenState.ABSENT
        self._error: KeydError = self._gone("is being started")
        self._info = pb.TokenInfo()
        self._opened = asyncio.Event()
        self._decided = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None
        self._was_ready = False
        self._stopping = False

    # -- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to keep the token."""
        for place in self._places:
            self._spawn(self._keep(place))

    async def settled(self) -> None:
        """Wait until the token's state is known: not while it is started or recovered."""
        await self._decided.wait()

    async def stop(self) -> None:
        """End the hosts; what waits is answered DeviceGoneError."""
        self._stopping = True
        self._settle(TokenState.ABSENT, self._gone("is not served any more: keyd is stopping"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*self._logins, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what callers see ----------------------------------------------------------------

    def status(self) -> TokenStatus:
        """The token as it stands."""
        hosts = sum(place.usable_host is not None for place in self._places)
        detail = ""
        if self._state is not TokenState.READY:
            hint = self._error.hint
            detail = f"{self._error.message}; {hint}" if hint else self._error.message
        elif hosts < len(self._places):
            detail = f"{hosts} of {len(self._places)} hosts are logged in"
            if self._door.is_prompt:
                detail += f"; keydctl token unlock {self.config.name}"
        return TokenStatus(
            name=self.config.name,
            state=self._state,
            serial=self._info.serial,
            label=self._info.label,
            model=self._info.model,
            manufacturer=self._info.manufacturer,
            firmware=self._info.firmware,
            pin_state=self._info.pin_state,
            detail=detail,
            hosts=hosts,
            queued=self._jobs.queued,
        )

    async def sign(
        self, jobs: Sequence[SignJob], gone: Callable[[], bool]
    ) -> list[bytes | KeydError]:
        """See model.Device."""
        return await self._jobs.sign(jobs, gone)

    async def ask(self, request: pb.Request) -> pb.Reply:
        """Send one request to a logged-in host.

        Raises:
            TokenError: what the host answered, or why nobody can.
        """
        if (error := self._why_not()) is not None:
            raise error
        await self._decided.wait()
        if (error := self._why_not()) is not None:
            raise error
        usable = [place for place in self._places if place.usable_host is not None]
        if not usable:
            raise self._gone("has no host at the moment, one is being started")
        place = min(usable, key=lambda found: found.in_flight)
        assert place.host is not None
        try:
            reply = await place.host.ask(request)
        except HostDiedError as died:
            raise self._gone(f"lost its host: {died}") from died
        if reply.WhichOneof("what") == "failure":
            if reply.failure.session_lost:
                self._session_lost(place)
            raise failure_error(self.config.name, reply.failure)
        return reply

    def _why_not(self) -> KeydError | None:
        """Why the token does not sign now, as an error of its own for each caller; None while
        it does, or will in a moment."""
        if self._state is TokenState.READY:
            return None
        error = self._error
        return from_reason(
            error.reason,
            error.message,
            facts=error.facts,
            hint=error.hint,
            retry_after_s=error.retry_after_s,
        )

    # -- unlock and lock -----------------------------------------------------------------

    async def unlock(self, pin: Pin | None, *, spend_last_try: bool) -> None:
        """A person logs in; see model.Device. Goes on to its end when the caller leaves."""
        await asyncio.shield(self._spawn(self._unlock(pin, spend_last_try)))

    async def _unlock(self, pin: Pin | None, spend_last_try: bool) -> None:
        if all(place.usable_host for place in self._places):
            await self._door.forgive(self._info.serial)
            return
        given = pin if pin is not None else self._door.read_source()
        # Held until all are in: the later hosts must not try the configured PIN in between.
        async with self._door.lock:
            for place in self._places:
                host = await self._host_that_sees(place)
                if host is None or place.logged_in:
                    continue
                try:
                    info = await self._door.log_in_person(
                        host, given, spend_last_try=spend_last_try
                    )
                except HostDiedError as died:
                    raise self._gone(f"lost its host while logging in: {died}") from died
                except KeydError as error:
                    self._not_logged_in(place, error, by_person=True)
                    raise
                self._open(place, info, by_person=True)

    async def _host_that_sees(self, place: Place) -> HostProcess | None:
        """The place's host once it has shown the token; None for a second host that is missing."""
        try:
            async with asyncio.timeout(_GRACE_S):
                await place.seen.wait()
        except TimeoutError:
            if place.index == 0:
                raise (self._why_not() or self._gone("has no host")) from None
        return place.host

    async def lock(self) -> None:
        """End the logged-in hosts; LOCKED until somebody unlocks."""
        self._door.locked_by_hand = True
        for place in self._places:
            place.logged_in = False
        self._settle(TokenState.LOCKED, self._locked("was locked by hand"), by_person=True)
        hosts = [place.host for place in self._places if place.host is not None]
        for host in hosts:
            host.kill("locked by hand")
        for host in hosts:
            await host.ended.wait()

    # -- one place -----------------------------------------------------------------------

    async def _keep(self, place: Place) -> None:
        """Fill the place for ever."""
        loop = asyncio.get_running_loop()
        died_young = 0
        while True:
            if place.index > 0:
                await self._opened.wait()
            started, host, answered = loop.time(), None, False
            try:
                host = await HostProcess.start(self.config, place.index, self._run_dir)
                place.host = host
                host.on_end(place.wake.set)
                answered = await self._tend(place, host)
            except OSError as error:
                self._settle_place(
                    place, TokenState.FAULTED, self._fault(f"its host cannot be started: {error}")
                )
            except Exception:
                # One token's trouble must not end its keeper.
                log.exception("token %s", self.config.name)
                self._settle_place(
                    place, TokenState.FAULTED, self._fault("keyd failed, see its log")
                )
            finally:
                place.seen.clear()
                if host is not None:
                    await asyncio.shield(host.close())
                place.host = None
            died_young = died_young + 1 if loop.time() - started < _YOUNG_S else 0
            if host is not None:
                self._after_end(place, host, crashing=not answered and died_young >= _CRASHES)
            await asyncio.sleep(_BACKOFF_S[min(died_young, len(_BACKOFF_S) - 1)])

    async def _tend(self, place: Place, host: HostProcess) -> bool:
        """Look at the token through this host until it ends; True if it ever answered."""
        answered = False
        while not host.ended.is_set():
            place.wake.clear()
            if not (place.logged_in and place.in_flight):
                try:
                    reply = await host.ask(pb.Request(probe=pb.Probe()))
                    answered = True
                    await self._after_probe(place, host, reply)
                except HostDiedError:
                    break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S if place.seen.is_set() else _ABSENT_POLL_S):
                    await place.wake.wait()
        return answered

    async def _after_probe(self, place: Place, host: HostProcess, reply: pb.Reply) -> None:
        if reply.WhichOneof("what") == "failure":
            place.seen.clear()
            error = failure_error(self.config.name, reply.failure)
            gone = isinstance(error, DeviceGoneError)
            self._settle_place(place, TokenState.ABSENT if gone else TokenState.FAULTED, error)
            return
        probed = reply.probed
        if not probed.HasField("token"):
            place.seen.clear()
            self._settle_place(place, TokenState.ABSENT, self._absent())
            return
        self._info = probed.token
        place.seen.set()
        if probed.logged_in:
            self._open(place, probed.token)
            return
        self._lose(place)
        async with self._door.lock:
            if place.logged_in:
                return
            try:
                info = await self._log_in(host, probed)
            except KeydError as error:
                self._not_logged_in(place, error)
                return
            self._open(place, info)

    async def _log_in(self, host: HostProcess, probed: pb.Probed) -> pb.TokenInfo:
        """Log in without a person. A stop in the middle waits for the outcome: an attempt that
        is left standing would lock the token at the next start."""
        login = asyncio.get_running_loop().create_task(
            self._door.log_in(host, probed.token, holds_pin=probed.holds_pin)
        )
        self._logins.add(login)
        login.add_done_callback(self._logins.discard)
        return await asyncio.shield(login)

    def _after_end(self, place: Place, host: HostProcess, *, crashing: bool) -> None:
        """Say that a host ended, and what that means for the token."""
        was_in = place.logged_in
        self._lose(place)
        if self._stopping or self._door.locked_by_hand:
            return
        self._tell(EventKind.HOST_DIED, f"a host of token {self.config.name} ended: {host.how}")
        if crashing:
            self._settle_place(
                place, TokenState.FAULTED, self._gone(f"has hosts that end: {host.how}")
            )
        elif was_in and self._door.is_prompt:
            self._door.needs_pin = f"needs its PIN again: its host ended ({host.how})"
            self._settle_place(place, TokenState.LOCKED, self._locked(self._door.needs_pin))

    # -- state ---------------------------------------------------------------------------

    def _open(self, place: Place, info: pb.TokenInfo, *, by_person: bool = False) -> None:
        """This place is logged in."""
        self._info = info
        if place.logged_in or self._stopping:
            return
        place.logged_in = True
        self._opened.set()
        self._decided.set()
        self._cancel_grace()
        before, self._state = self._state, TokenState.READY
        if before is TokenState.ABSENT and self._was_ready:
            self._tell(EventKind.RETURNED, f"token {self.config.name} is back")
        elif before is not TokenState.READY:
            detail = f"token {self.config.name} is logged in"
            self._tell(EventKind.UNLOCKED, detail, by_person=by_person)
        self._was_ready = True
        self._jobs.wake()

    def _session_lost(self, place: Place) -> None:
        """A host noticed that its session is gone: look at the token now."""
        self._lose(place)
        place.wake.set()

    def _lose(self, place: Place) -> None:
        """This place has no session any more; it may soon have one again."""
        was_in, place.logged_in = place.logged_in, False
        if any(p.logged_in for p in self._places):
            return
        self._opened.clear()
        if was_in and self._state is TokenState.READY and self._grace is None:
            self._decided.clear()
            self._grace = asyncio.get_running_loop().call_later(_GRACE_S, self._give_up)

    def _give_up(self) -> None:
        self._grace = None
        self._settle(TokenState.FAULTED, self._gone("has no host that answers"))

    def _cancel_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _not_logged_in(self, place: Place, error: KeydError, *, by_person: bool = False) -> None:
        """A login did not come to pass: the token's state follows from why."""
        if isinstance(error, PinRefusedError):
            self._tell(EventKind.PIN_REFUSED, error.message, by_person=by_person)
        if isinstance(error, DeviceGoneError):
            state = TokenState.ABSENT
        elif is_pin_blocked(error, self._info):
            state = TokenState.PIN_LOCKED
        elif isinstance(error, PinRefusedError | TokenLockedError):
            state = TokenState.LOCKED
            # What callers of sign() see is a locked token, whatever locked it.
            error = TokenLockedError(error.message, hint=error.hint, token=self.config.name)
        else:
            state = TokenState.FAULTED
        self._settle_place(place, state, error, by_person=by_person)

    def _settle_place(
        self, place: Place, state: TokenState, error: KeydError, *, by_person: bool = False
    ) -> None:
        """What this place found; it is the token's state unless another place is logged in."""
        self._lose(place)
        if not self._opened.is_set():
            self._settle(state, error, by_person=by_person)

    def _settle(self, state: TokenState, error: KeydError, *, by_person: bool = False) -> None:
        """The token does not sign, because of ``error``; whoever waits is told."""
        changed = state is not self._state or error.message != self._error.message
        self._state, self._error = state, error
        self._opened.clear()
        self._decided.set()
        self._cancel_grace()
        if changed and not self._stopping:
            kind = {
                TokenState.ABSENT: EventKind.ABSENT,
                TokenState.FAULTED: EventKind.FAULTED,
            }.get(state, EventKind.LOCKED)
            self._tell(kind, error.message, by_person=by_person)
        self._jobs.refuse_waiting()

    def _tell(self, kind: EventKind, detail: str, *, by_person: bool = False) -> None:
        self._on_event(
            TokenEvent(self.config.name, kind, detail, self._info.serial, by_person=by_person)
        )

    # -- errors --------------------------------------------------------------------------

    def _absent(self) -> DeviceGoneError:
        selectors = (("label", self.config.label), ("serial", self.config.serial))
        wanted = " and ".join(f"{what} {value}" for what, value in selectors if value)
        return self._gone(f"is not there: no token has {wanted}")

    def _gone(self, what: str) -> DeviceGoneError:
        name = self.config.name
        return DeviceGoneError(f"token {name} {what}", retry_after_s=RETRY_AFTER_S, token=name)

    def _fault(self, what: str) -> DeviceFaultError:
        return DeviceFaultError(f"token {self.config.name}: {what}", token=self.config.name)

    def _locked(self, what: str) -> TokenLockedError:
        name = self.config.name
        return TokenLockedError(
            f"token {name} {what}", hint=f"keydctl token unlock {name}", token=name
        )
