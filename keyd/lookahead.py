"""Looking ahead: people are told of rotations that come due, and what can be is prepared.

Each rotation is told twice by an alert entry, ahead of time and when it is overdue. That it was
told is a flag in the entry's own transaction, which names version and due time: so a restart tells
nothing twice, and a new version or another period are told anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from keyd.due import Due, Rotations
from keyd.errors import KeydError
from keyd.expiring import Expiries
from keyd.model import AuditLog, Clock, EntryDraft, Key, Outcome, Registry, SetFlag
from keyd.openings import CALLER
from keyd.preparing import Preparing
from keyd.unbroken import Unbroken

log = logging.getLogger("keyd.rotation")

_EVERY = timedelta(minutes=1)
_AHEAD, _OVERDUE = "ahead", "overdue"


class LookAhead:
    """Looks at what comes due, beside the calls; ``rotations``, ``expiries`` and ``preparing`` may
    be asked by others."""

    def __init__(
        self,
        *,
        registry: Registry,
        rotations: Rotations,
        expiries: Expiries,
        preparing: Preparing,
        audit: AuditLog,
        clock: Clock,
        check_clock: Callable[[], None],
        get_flag: Callable[[str], str | None],
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted: then nothing is
        told or prepared. ``get_flag``: a durable flag's value, or None; never blocks."""
        self._registry = registry
        self.rotations = rotations
        self.expiries = expiries
        self.preparing = preparing
        self._audit = audit
        self._clock = clock
        self._check_clock = check_clock
        self._get_flag = get_flag
        self._work = Unbroken()
        self._busy = self._ended = False
        self._told = ""
        self._seen: Sequence[Key] | None = None
        self._looked_at: datetime | None = None

    def look(self) -> None:
        """Look whether there is something to do, unless that goes on already; never blocks."""
        if not self._busy and not self._ended:
            self._busy = True
            self._work.start(self.once())

    async def stop(self) -> None:
        """Finish what is under way, and begin nothing more."""
        self._ended = True
        await self._work.drain()

    async def once(self) -> None:
        """One look, to its end. What fails is told, and tried again at a later one."""
        try:
            now = self._clock.now()
            await self.expiries.refresh(now)
            if self._is_new(now):
                self._check_clock()
                # First, so that what is told is how it is by then.
                await self.preparing.prepare(self.rotations.ahead(now))
                for due in self.rotations.ahead(now):
                    await self._tell(due, now)
            self._told = ""
        except KeydError as e:
            self._seen = None
            if self._told != e.message:
                self._told = e.message
                log.warning("cannot look ahead, tried again", extra={"why": e.message})
        finally:
            self._busy = False

    def _is_new(self, now: datetime) -> bool:
        """True when keys changed since the last look, or it was a minute ago."""
        keys, last = self._registry.keys(), self._looked_at
        if keys is self._seen and last is not None and last <= now < last + _EVERY:
            return False
        self._seen, self._looked_at = keys, now
        return True

    async def _tell(self, due: Due, now: datetime) -> None:
        """Write the alert of this stage, if it is not written yet."""
        stage = _OVERDUE if due.is_overdue(now) else _AHEAD
        flag, told = f"rotation-due {due.key.name}", f"{due.active.number} {due.at.isoformat()} "
        before = self._get_flag(flag) or ""
        if before in (told + stage, told + _OVERDUE):
            return
        when = f"{due.at:%F %T}Z"
        is_was = f"was due at {when}" if stage == _OVERDUE else f"is due at {when}"
        entry = EntryDraft(
            action="rotation-due",
            outcome=Outcome.ALLOWED,
            caller=CALLER,
            key=due.key.name,
            version=due.active.number,
            token=due.key.token,
            message=f"the rotation of {due.active.name} {is_was}; {self.preparing.note(due)}",
            alert=True,
            details={"stage": stage, "due_at": due.at.isoformat()},
        )
        await self._audit.record(entry, (SetFlag(flag, told + stage),))
        log.warning("a rotation is due", extra={"key": due.key.name, "due_at": when})
