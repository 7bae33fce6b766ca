"""Keeps one token usable: starts its hosts, logs them in, replaces them. Daemon side.

Each host has a place with a task of its own that starts it, looks at the token through it, logs
it in and replaces it when it dies. The first place opens the token; the others follow. What all
that means for the token, and for who waits for it, is in condition.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from keyd.device.condition import GRACE_S
from keyd.device.dispatch import Place
from keyd.device.events import EventKind, KnownKeys, OnEvent, OnSigned
from keyd.device.failures import (
    failure_error,
    fault_error,
    locked_error,
)
from keyd.device.front import TokenFront
from keyd.device.settings import TokenConfig
from keyd.device.supervisor import HostDiedError, HostProcess
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceGoneError, KeydError, PinRefusedError
from keyd.model import Pin, PinAttempts, TokenState

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_POLL_S = 0.4
"""How often an idle token is looked at; it bounds how late its loss is noticed."""

_ABSENT_POLL_S = 0.2
"""How often an absent token is looked for: its return must be noticed well within a second."""

_SILENT_S = 1.0
"""A token that says nothing for so long is said to be silent."""

_BACKOFF_S = (0.0, 0.0, 0.1, 0.2, 0.5, 1.0)
"""Waits before a host is started again, by how often in a row it died young."""

_YOUNG_S = 2.0
_CRASHES = 3
"""After so many hosts that died before they said anything the token is FAULTED, and retried."""


class TokenKeeper(TokenFront):
    """One configured token."""

    def __init__(
        self,
        config: TokenConfig,
        attempts: PinAttempts,
        run_dir: Path,
        on_event: OnEvent,
        on_signed: OnSigned,
        known_keys: KnownKeys,
    ) -> None:
        super().__init__(config, attempts, on_event, on_signed, known_keys)
        self._run_dir = run_dir
        self._tasks: set[asyncio.Task[Any]] = set()
        self._logins: set[asyncio.Task[pb.LoggedIn]] = set()

    # -- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to keep the token."""
        for place in self._places:
            self._spawn(self._keep(place))

    async def settled(self) -> None:
        """Wait until the token's state is known: not while it is started or recovered."""
        await self._condition.decided()

    async def stop(self) -> None:
        """End the hosts; what waits is answered DeviceGoneError."""
        self._condition.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*self._logins, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- unlock and lock -----------------------------------------------------------------

    async def unlock(self, pin: Pin | None, *, spend_last_try: bool) -> bool:
        """A person logs in; see model.Device. Goes on to its end when the caller leaves."""
        return await asyncio.shield(self._spawn(self._unlock(pin, spend_last_try)))

    async def _unlock(self, pin: Pin | None, spend_last_try: bool) -> bool:
        if all(place.usable_host for place in self._places):
            await self._door.forgive(self._condition.info.serial)
            return False
        was_tried = False
        given = pin if pin is not None else self._door.read_source()
        # Held until all are in: the later hosts must not try the configured PIN in between.
        async with self._door.lock:
            for place in self._places:
                host = await self._host_that_sees(place, GRACE_S)
                if host is None and place.index == 0:
                    raise self._unseen()
                if host is None or place.logged_in:
                    continue
                was_tried = True
                try:
                    entered = await self._door.log_in_person(
                        host, self._condition.info, given, spend_last_try=spend_last_try
                    )
                except HostDiedError as died:
                    raise self._gone(f"lost its host while logging in: {died}") from died
                except KeydError as error:
                    self._not_logged_in(place, error, by_person=True)
                    # What the token says of its PIN now is read at once.
                    place.wake.set()
                    raise
                self._entered(place, entered, by_person=True)
        return was_tried

    async def lock(self) -> None:
        """End the logged-in hosts; LOCKED until somebody unlocks."""
        self._door.locked_by_hand = True
        for place in self._places:
            place.logged_in = False
        self._condition.settle(
            TokenState.LOCKED, locked_error(self.config.name, "was locked by hand"), by_person=True
        )
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
                await self._condition.opened.wait()
            started, host, answered = loop.time(), None, False
            try:
                host = await HostProcess.start(self.config, place.index, self._run_dir)
                place.host = host
                host.on_end(place.wake.set)
                answered = await self._tend(place, host)
            except OSError as error:
                self._faulted(place, f"its host cannot be started: {error}")
            except Exception:
                # One token's trouble must not end its keeper.
                log.exception("token %s", self.config.name)
                self._faulted(place, "keyd failed, see its log")
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
            if not (place.logged_in and (place.in_flight or self._jobs.touch.is_wanted)):
                try:
                    reply = await self._probe(host)
                    answered = True
                    await self._after_probe(place, host, reply)
                except HostDiedError:
                    break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S if place.seen.is_set() else _ABSENT_POLL_S):
                    await place.wake.wait()
        return answered

    async def _probe(self, host: HostProcess) -> pb.Reply:
        """Look, and say so when that takes long: whoever holds a card lets nobody else look."""
        silence = asyncio.get_running_loop().call_later(_SILENT_S, self._fell_silent)
        try:
            return await host.ask(pb.Request(probe=pb.Probe()))
        finally:
            silence.cancel()
            self._is_silent = False

    def _fell_silent(self) -> None:
        self._is_silent = True

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
            self._settle_place(place, TokenState.ABSENT, self._absent(probed))
            return
        self._condition.info = probed.token
        place.seen.set()
        if probed.logged_in:
            self._open(place, probed.token)
            return
        self._lose(place)
        async with self._door.lock:
            if place.logged_in:
                return
            try:
                entered = await self._log_in(host, probed)
            except KeydError as error:
                self._not_logged_in(place, error)
                return
            self._entered(place, entered)

    async def _log_in(self, host: HostProcess, probed: pb.Probed) -> pb.LoggedIn:
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
        if self._condition.is_stopping or self._door.locked_by_hand:
            return
        self._condition.tell(
            EventKind.HOST_DIED, f"a host of token {self.config.name} ended: {host.how}"
        )
        if crashing:
            self._settle_place(
                place, TokenState.FAULTED, self._gone(f"has hosts that end: {host.how}")
            )
        elif was_in and self._door.is_prompt:
            self._door.needs_pin = f"needs its PIN again: its host ended ({host.how})"
            self._settle_place(
                place, TokenState.LOCKED, locked_error(self.config.name, self._door.needs_pin)
            )

    # -- what that means for the token -----------------------------------------------------

    def _entered(self, place: Place, entered: pb.LoggedIn, *, by_person: bool = False) -> None:
        """A login came to pass."""
        self._jobs.touch.forget()
        self._jobs.touch.policies = {p.object_id: p.touch for p in entered.policies}
        self._open(place, entered.token, by_person=by_person)

    def _open(self, place: Place, info: pb.TokenInfo, *, by_person: bool = False) -> None:
        """This place is logged in."""
        self._condition.info = info
        if place.logged_in or self._condition.is_stopping:
            return
        place.logged_in = True
        self._condition.open(by_person=by_person)
        self._jobs.wake()

    def _not_logged_in(self, place: Place, error: KeydError, *, by_person: bool = False) -> None:
        """A login did not come to pass: the token's state follows from why."""
        if isinstance(error, PinRefusedError):
            self._condition.tell(EventKind.PIN_REFUSED, error.message, by_person=by_person)
        state, seen = self._condition.after_login_failed(error)
        self._settle_place(place, state, seen, by_person=by_person)

    def _settle_place(
        self, place: Place, state: TokenState, error: KeydError, *, by_person: bool = False
    ) -> None:
        """What this place found; it is the token's state unless another place is logged in."""
        self._lose(place)
        if not self._condition.opened.is_set():
            self._condition.settle(state, error, by_person=by_person)

    def _faulted(self, place: Place, why: str) -> None:
        self._settle_place(place, TokenState.FAULTED, fault_error(self.config.name, why))
