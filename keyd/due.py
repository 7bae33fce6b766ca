"""Keys whose rotation is due, and how long ahead of it people are told.

A key with a rotation period is due when its active version is as old as the period. What is told
ahead is told at most a tenth of the period before, so that a key that lives a week is not due all
its life.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyd.model import Key, KeyVersion, Registry, VersionState

_SHARE_AHEAD = 10


@dataclass(frozen=True, slots=True)
class Due:
    """A rotation that will be due. ``at``: when; ``tell_at``: from when on people are told of it
    and it may be prepared."""

    key: Key
    active: KeyVersion
    at: datetime
    tell_at: datetime

    def is_overdue(self, now: datetime) -> bool:
        """True once the period is over."""
        return now >= self.at

    @property
    def successor(self) -> KeyVersion | None:
        """The newest version above the active one, in whatever state, or None."""
        above = [v for v in self.key.versions if v.number > self.active.number]
        return max(above, key=lambda v: v.number, default=None)

    @property
    def staged(self) -> KeyVersion | None:
        """The successor, when it could sign; or None."""
        found = self.successor
        return found if found is not None and found.state is VersionState.ENABLED else None


class Rotations:
    """The rotations of a registry. What a commit does not change is not worked out again: health,
    metrics and status may ask as often as they like."""

    def __init__(self, registry: Registry, *, ahead_s: float) -> None:
        """``ahead_s``: how long before it is due a rotation is told at most."""
        self._registry = registry
        self._ahead = timedelta(seconds=ahead_s)
        self._keys: Sequence[Key] = ()
        self._due: tuple[Due, ...] = ()

    def all(self) -> tuple[Due, ...]:
        """Every key with a period, soonest first."""
        keys = self._registry.keys()
        if keys is not self._keys:  # the registry shows one object as long as nothing changed
            found = [due for key in keys if (due := self._find(key)) is not None]
            self._due = tuple(sorted(found, key=lambda due: (due.at, due.key.name)))
            self._keys = keys
        return self._due

    def ahead(self, now: datetime) -> list[Due]:
        """Those that people are told of now, soonest first."""
        return [due for due in self.all() if now >= due.tell_at]

    def overdue(self, now: datetime) -> int:
        """How many are over their period."""
        return sum(due.is_overdue(now) for due in self.all())

    def _find(self, key: Key) -> Due | None:
        active = key.active
        if not key.rotation_period_s or active is None or active.state is not VersionState.ENABLED:
            return None
        period = timedelta(seconds=key.rotation_period_s)
        try:
            at = active.created_at + period
        except OverflowError:  # after the year 9999
            return None
        return Due(key, active, at, at - min(self._ahead, period / _SHARE_AHEAD))
