"""One token as its callers see it: how it stands, and what is asked of its hosts. Daemon side.

Who starts the hosts and logs them in is keeper.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from keyd.device.condition import GRACE_S, Condition
from keyd.device.dispatch import Dispatcher, Place
from keyd.device.events import KnownKeys, OnEvent, OnSigned
from keyd.device.failures import CARD_IS_KEPT, TROUBLE_HINTS, failure_error, gone_error
from keyd.device.login import Door
from keyd.device.settings import TokenConfig
from keyd.device.supervisor import HostDiedError, HostProcess
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceGoneError, KeydError
from keyd.model import PinAttempts, Purpose, SignJob, TokenState, TokenStatus

_LOCKED_ROUNDS = 4
_ASIDE_POLL_S = 0.02
"""How often a request that needs no login looks for a host."""


class TokenFront:
    """Answers for one token; others see to it that it has hosts."""

    def __init__(
        self,
        config: TokenConfig,
        attempts: PinAttempts,
        on_event: OnEvent,
        on_signed: OnSigned,
        known_keys: KnownKeys,
    ) -> None:
        self.config = config
        self._door = Door(config, attempts, known_keys)
        self._condition = Condition(
            config.name, on_event, on_settled=lambda: self._jobs.refuse_waiting()
        )
        self._places = [Place(index) for index in range(config.hosts)]
        self._jobs = Dispatcher(
            config,
            self._places,
            why_not=self._condition.why_not,
            on_lost=self._session_lost,
            on_signed=on_signed,
        )
        self._is_silent = False

    def status(self) -> TokenStatus:
        """The token as it stands."""
        hosts = sum(place.usable_host is not None for place in self._places)
        info = self._condition.info
        detail = self._condition.why
        if not detail and hosts < len(self._places):
            detail = f"{hosts} of {len(self._places)} hosts are logged in"
            if self._door.is_prompt:
                detail += f"; keydctl token unlock {self.config.name}"
        touch = self._jobs.touch.request(info.serial)
        if self._is_silent and touch is None:
            busy = "it has not answered for a second: another program may be using it"
            detail = f"{detail}; {busy}" if detail else busy
        return TokenStatus(
            name=self.config.name,
            state=self._condition.state,
            serial=info.serial,
            label=info.label,
            model=info.model,
            manufacturer=info.manufacturer,
            firmware=info.firmware,
            pin_state=info.pin_state,
            detail=detail,
            hosts=hosts,
            queued=self._jobs.queued,
            touch=touch,
            waiting=self._jobs.waiting,
        )

    async def sign(
        self, jobs: Sequence[SignJob], gone: Callable[[], bool]
    ) -> list[bytes | KeydError]:
        """See model.Device."""
        return await self._jobs.sign(jobs, gone)

    async def ask(self, request: pb.Request, *, purpose: Purpose | None = None) -> pb.Reply:
        """Send one request to a logged-in host. ``purpose``: what a touch is for, where it may
        want one.

        Raises:
            TokenError: what the host answered, or why nobody can.
        """
        if (error := self._condition.why_not()) is not None:
            raise error
        await self._condition.decided()
        if (error := self._condition.why_not()) is not None:
            raise error
        usable = [place for place in self._places if place.usable_host is not None]
        if not usable:
            raise self._gone("has no host at the moment, one is being started")
        place = min(usable, key=lambda found: found.in_flight)
        assert place.host is not None
        try:
            heard = partial(self._jobs.touch.hear, purpose) if purpose is not None else None
            reply = await place.host.send(request, heard)
        except HostDiedError as died:
            raise self._gone(f"lost its host: {died}") from died
        finally:
            if purpose is not None:
                self._jobs.touch.go_out()
        if reply.WhichOneof("what") == "failure":
            if reply.failure.session_lost:
                self._session_lost(place)
            raise failure_error(self.config.name, reply.failure)
        return reply

    async def check(self) -> None:
        """Look at the token through a logged-in host.

        Raises:
            TokenError: it is not there, or not logged in any more.
        """
        probed = (await self.ask(pb.Request(probe=pb.Probe()))).probed
        if probed.HasField("token") and probed.logged_in:
            return
        for place in self._places:
            place.wake.set()
        if not probed.HasField("token"):
            raise self._absent(probed)
        raise self._gone("has lost its login")

    async def ask_aside(self, request: pb.Request, *, within_s: float = GRACE_S) -> pb.Reply:
        """Send one request to the first host that sees the token, logged in or not.

        Raises:
            TokenError: what the host answered, or that nobody sees the token.
        """
        place = self._places[0]
        host = await self._host_that_sees(place, within_s)
        if host is None:
            raise self._unseen()
        try:
            reply = await host.ask(request)
        except HostDiedError as died:
            raise self._gone(f"lost its host: {died}") from died
        if reply.WhichOneof("what") == "failure":
            raise failure_error(self.config.name, reply.failure)
        return reply

    async def _host_that_sees(self, place: Place, within_s: float) -> HostProcess | None:
        """The place's host once it has shown the token; None when it does not. One that replaces
        the host which a lock ended is waited for longer: it takes its time on a busy machine, and
        nothing else is the matter."""
        for _ in range(_LOCKED_ROUNDS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    # A host that was just ended still counts as seeing the token for a moment.
                    while not (place.seen.is_set() and place.host and place.host.is_open):
                        await asyncio.sleep(_ASIDE_POLL_S)
                    return place.host
            if self._condition.state is not TokenState.LOCKED:
                break
        return None

    def _unseen(self) -> KeydError:
        """Why no host shows the token. A lock is no reason: who unlocks it must not be told to."""
        if self._condition.state is TokenState.LOCKED:
            return self._gone("has no host yet, one is being started")
        return self._condition.why_not() or self._gone("has no host")

    async def refresh(self) -> None:
        """What lies on the token was changed: every host looks anew, with the PIN it has."""
        for place in self._places:
            if place.host is None:
                continue
            with contextlib.suppress(HostDiedError):
                await place.host.ask(pb.Request(refresh=pb.Refresh()))
            self._session_lost(place)

    def _session_lost(self, place: Place) -> None:
        """A host noticed that its session is gone: look at the token now."""
        self._lose(place)
        place.wake.set()

    def _lose(self, place: Place) -> None:
        """This place has no session any more; it may soon have one again."""
        was_in, place.logged_in = place.logged_in, False
        if not any(p.logged_in for p in self._places):
            self._condition.shut(just_now=was_in)

    def _absent(self, probed: pb.Probed) -> KeydError:
        others = f"; there is {', '.join(probed.others)}" if probed.others else ""
        what = f"is not there: no token has {self.config.wanted}{others}"
        if probed.trouble == CARD_IS_KEPT:
            what += f"; {probed.trouble}"
        elif probed.trouble:
            what = f"cannot be looked for: {probed.trouble}"
        error = self._gone(what)
        absent = "plug it in, or correct its serial or label in keyd.toml"
        error.hint = TROUBLE_HINTS.get(probed.trouble, absent)
        return error

    def _gone(self, what: str) -> DeviceGoneError:
        return gone_error(self.config.name, what)
