"""Notices a clock that cannot be trusted. Pure.

Three things are suspect, and stay so (a durable flag, audit/log.py) until a person runs
``keyd-server clock accept``:

- the clock is more than two minutes behind the newest entry, at start or while running;
- it moved a day or more ahead of the time that passed by the machine's own count (monotonic,
  counting suspend) while the daemon ran;
- it is a day or more ahead of the newest entry at start. That is normal when the daemon was off
  for the weekend, and also what somebody does who wants a waiting time to be over; the daemon
  cannot tell, and what depends on it cannot be undone. So a person looks once.

Suspect stops only what depends on time: destroying a key version (and later approvals). Signing
goes on; entry times never run backwards, whatever the clock does (``next_time``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

BEHIND = timedelta(minutes=2)
AHEAD = timedelta(days=1)


def suspect_at_start(now: datetime, newest_entry: datetime | None) -> str:
    """Why the clock is suspect when the daemon starts; empty when it is not."""
    if newest_entry is None:
        return ""
    if now < newest_entry - BEHIND:
        return f"the clock ({now:%F %T}Z) is behind the newest entry ({newest_entry:%F %T}Z)"
    if now > newest_entry + AHEAD:
        return f"the clock ({now:%F %T}Z) is over a day after the newest entry"
    return ""


class ClockGuard:
    """Watches the clock of a running daemon.

    ``elapsed_s``: seconds on a clock that nobody sets (CLOCK_BOOTTIME).
    """

    def __init__(self, now: datetime, elapsed_s: float, newest_entry: datetime | None) -> None:
        self._base = (now, elapsed_s)
        self._newest = newest_entry

    def next_time(self, now: datetime, elapsed_s: float) -> tuple[datetime, str]:
        """The time of the next entry, and why the clock is suspect (or empty)."""
        base_now, base_elapsed = self._base
        ahead = (now - base_now) - timedelta(seconds=elapsed_s - base_elapsed)
        # Slow drift and leap seconds are no jump: compare with the look before this one.
        self._base = (now, elapsed_s)
        suspect = ""
        if ahead >= AHEAD:
            suspect = f"the clock jumped ahead by {ahead}"
        if self._newest is not None and now < self._newest:
            if now < self._newest - BEHIND:
                suspect = f"the clock is {self._newest - now} behind the newest entry"
            return self._newest, suspect
        self._newest = now
        return now, suspect

    def accept(self, now: datetime, elapsed_s: float) -> None:
        """A person says the clock is right: later entries may be earlier than those before."""
        self._base = (now, elapsed_s)
        self._newest = now
