"""How one token stands, and why: what its callers are told. No hosts, no PINs.

A token is READY while one of its places is logged in. When the last one is lost it stays READY
for a moment in which calls wait, since hosts are replaced quickly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from keyd.device.events import EventKind, OnEvent, TokenEvent
from keyd.device.failures import gone_error
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import (
    DeviceGoneError,
    KeydError,
    PinRefusedError,
    TokenLockedError,
    from_reason,
)
from keyd.model import TokenState

GRACE_S = 5.0
"""Jobs wait this long for a host that is being replaced."""

_EVENTS = {TokenState.ABSENT: EventKind.ABSENT, TokenState.FAULTED: EventKind.FAULTED}


class Condition:
    """State of one token. Each change is an event; ``on_settled`` is called whenever it is known
    that the token does not sign, so that nothing waits in vain.

    ``info``: what the token said of itself last. ``opened`` is set while a place is logged in.
    """

    def __init__(self, token: str, on_event: OnEvent, on_settled: Callable[[], None]) -> None:
        self._token = token
        self._on_event = on_event
        self._on_settled = on_settled
        self._error: KeydError = gone_error(token, "is being started")
        self._decided = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None
        self._was_ready = False
        self.state = TokenState.ABSENT
        self.info = pb.TokenInfo()
        self.opened = asyncio.Event()
        self.is_stopping = False

    @property
    def why(self) -> str:
        """Why the token does not sign and what to do, in words; empty while it signs."""
        if self.state is TokenState.READY:
            return ""
        hint = self._error.hint
        return f"{self._error.message}; {hint}" if hint else self._error.message

    def why_not(self) -> KeydError | None:
        """Why the token does not sign now, as an error of its own for each caller; None while
        it does, or will in a moment."""
        if self.state is TokenState.READY:
            return None
        error = self._error
        return from_reason(
            error.reason,
            error.message,
            facts=error.facts,
            hint=error.hint,
            retry_after_s=error.retry_after_s,
        )

    async def decided(self) -> None:
        """Wait until the state is known: not while the token is started or recovered."""
        await self._decided.wait()

    def stop(self) -> None:
        """keyd ends: no more events, and nothing opens the token again."""
        self.is_stopping = True
        self.settle(
            TokenState.ABSENT, gone_error(self._token, "is not served any more: keyd is stopping")
        )

    def open(self, *, by_person: bool) -> None:
        """A place is logged in."""
        self.opened.set()
        self._decided.set()
        self._cancel_grace()
        before, self.state = self.state, TokenState.READY
        if before is TokenState.ABSENT and self._was_ready:
            self.tell(EventKind.RETURNED, f"token {self._token} is back")
        elif before is not TokenState.READY:
            detail = f"token {self._token} is logged in"
            self.tell(EventKind.UNLOCKED, detail, by_person=by_person)
        self._was_ready = True

    def shut(self, *, just_now: bool) -> None:
        """No place is logged in, ``just_now``: one was before. It may soon be again."""
        self.opened.clear()
        if just_now and self.state is TokenState.READY and self._grace is None:
            self._decided.clear()
            self._grace = asyncio.get_running_loop().call_later(GRACE_S, self._give_up)

    def settle(self, state: TokenState, error: KeydError, *, by_person: bool = False) -> None:
        """The token does not sign, because of ``error``; whoever waits is told."""
        changed = state is not self.state or error.message != self._error.message
        self.state, self._error = state, error
        self.opened.clear()
        self._decided.set()
        self._cancel_grace()
        if changed and not self.is_stopping:
            self.tell(_EVENTS.get(state, EventKind.LOCKED), error.message, by_person=by_person)
        self._on_settled()

    def after_login_failed(self, error: KeydError) -> tuple[TokenState, KeydError]:
        """The state that follows from why a login did not come to pass, and what callers see."""
        if isinstance(error, DeviceGoneError):
            return TokenState.ABSENT, error
        if error.facts.get("ckr") == "CKR_PIN_LOCKED" or self.info.pin_state == "locked":
            self.info.pin_state = "locked"
            return TokenState.PIN_LOCKED, error
        if isinstance(error, PinRefusedError | TokenLockedError):
            # What callers of sign() see is a locked token, whatever locked it.
            seen = TokenLockedError(error.message, hint=error.hint, token=self._token)
            return TokenState.LOCKED, seen
        return TokenState.FAULTED, error

    def tell(self, kind: EventKind, detail: str, *, by_person: bool = False) -> None:
        """Report one event of this token."""
        self._on_event(TokenEvent(self._token, kind, detail, self.info.serial, by_person=by_person))

    def _give_up(self) -> None:
        self._grace = None
        self.settle(TokenState.FAULTED, gone_error(self._token, "has no host that answers"))

    def _cancel_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
