"""What follows when a token changes its state: entries, metrics, and work that waited for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from keyd.device.events import EventKind, TokenEvent
from keyd.enrolment import Enrolment
from keyd.errors import KeydError
from keyd.logkey import LogKey
from keyd.model import (
    SYSTEM,
    Action,
    AuditLog,
    Caller,
    EntryDraft,
    Outcome,
    TokenState,
    TokenStatus,
)
from keyd.server.metrics import Metrics
from keyd.unbroken import Unbroken

log = logging.getLogger("keyd.token")

_LONGEST_PAUSE = 512
"""Calls of catch_up() between two tries, at most; each try that leaves something doubles it."""

_LEVELS = {
    EventKind.UNLOCKED: logging.INFO,
    EventKind.RETURNED: logging.INFO,
    EventKind.LOCKED: logging.INFO,
}


class TokenWatch:
    """Listens to the device pool on the event loop."""

    def __init__(
        self,
        *,
        audit: AuditLog,
        enrolment: Enrolment,
        log_key: LogKey,
        log_key_made: Callable[[], Awaitable[None]],
        tokens: Callable[[], Sequence[TokenStatus]],
        metrics: Metrics,
    ) -> None:
        """``log_key_made`` is called once the log key exists. ``tokens``: as they stand now."""
        self._audit = audit
        self._enrolment = enrolment
        self._log_key = log_key
        self._log_key_made = log_key_made
        self._tokens = tokens
        self._metrics = metrics
        self._work = Unbroken()
        self._pause = self._passed = 0
        self._settling = asyncio.Lock()

    def on_event(self, event: TokenEvent) -> None:
        """Take one event; never blocks."""
        log.log(
            _LEVELS.get(event.kind, logging.WARNING),
            "token %s",
            event.kind,
            extra={"token": event.token, "serial": event.serial, "detail": event.detail},
        )
        if event.kind is EventKind.HOST_DIED:
            self._metrics.host_restarted(event.token)
        entry = _entry(event)
        if entry is not None:
            self._work.start(self._record(entry))
        if event.kind in (EventKind.UNLOCKED, EventKind.RETURNED):
            self._pause = self._passed = 0
            self._work.start(self._ready(event.token))

    def catch_up(self) -> None:
        """Take up what failed though its token is READY, as after a full disk or a host that
        died and came back: no event tells of that. Called again and again; never blocks."""
        unfinished = self._enrolment.unsettled()
        if self._log_key.is_wanted:
            unfinished.add(self._log_key.token)
        ready = {t.name for t in self._tokens() if t.state is TokenState.READY}
        if not unfinished & ready:
            self._pause = self._passed = 0
            return
        self._passed += 1
        if self._passed <= self._pause or self._settling.locked():
            return
        self._pause, self._passed = min(2 * self._pause + 1, _LONGEST_PAUSE), 0
        for token in sorted(unfinished & ready):
            self._work.start(self._ready(token))

    async def _ready(self, token: str) -> None:
        """A token signs (again): settle what a crash left on it, and make the log key."""
        try:
            async with self._settling:
                await self._enrolment.settle(token)
                if token == self._log_key.token:
                    await self._log_key.ensure()
                    await self._log_key_made()
        except KeydError as e:
            log.warning(
                "not finished, tried again later",
                extra={"token": token, "why": e.message},
            )

    async def idle(self) -> None:
        """Wait for what is under way."""
        await self._work.drain()

    async def _record(self, entry: EntryDraft) -> None:
        try:
            await self._audit.record(entry)
        except KeydError as e:
            log.error("a token's event is not in the log", extra={"why": e.message})


def _entry(event: TokenEvent) -> EntryDraft | None:
    """The daemon's own logins are entries; a person's are written where they are asked for."""
    if event.by_person or event.kind not in (EventKind.UNLOCKED, EventKind.PIN_REFUSED):
        return None
    refused = event.kind is EventKind.PIN_REFUSED
    return EntryDraft(
        action=Action.UNLOCK,
        outcome=Outcome.FAILED if refused else Outcome.ALLOWED,
        caller=Caller(SYSTEM, "token"),
        token=event.token,
        token_serial=event.serial,
        message=event.detail,
        reason_code="PIN_REFUSED" if refused else "",
        alert=refused,
    )
