"""When what was signed expires: of every role a mark tells of, the soonest first.

Clients refuse expired metadata (TUF 1.0, 5.3.10 and its likes for the other roles), and nobody
notices a day early by himself.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyd.gunnames import without_number
from keyd.model import ONLINE_ROLES, Mark, Marks, MarkState

KEPT = 200
"""Roles that are told one by one; the others only count."""

_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Expiry:
    """What expires first of a role: the version clients hold, or a newer one. ``state``: of that
    version."""

    expires: datetime
    repository: str
    role: str
    version: int
    state: MarkState


class Expiries:
    """All expiries as of the last :meth:`refresh`, which looks at every mark, aside of the event
    loop and at most once a minute."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._at: datetime | None = None
        self._times: list[datetime] = []
        self.soonest: tuple[Expiry, ...] = ()
        """The first 200, soonest first."""

    def expired(self, now: datetime) -> int:
        """How many roles have expired."""
        return bisect_right(self._times, now)

    async def refresh(self, now: datetime) -> None:
        """Look again, unless that was done within the minute."""
        if self._at is not None and self._at <= now < self._at + _EVERY:
            return
        self._at = now
        self._times, self.soonest = await asyncio.to_thread(self._look)

    def _look(self) -> tuple[list[datetime], tuple[Expiry, ...]]:
        marks = _without_replaced(self._marks.marks())
        soonest = heapq.nsmallest(KEPT, marks, key=lambda m: (_first(m), m.repository, m.role))
        return sorted(map(_first, marks)), tuple(map(_expiry, soonest))


def _without_replaced(marks: Sequence[Mark]) -> list[Mark]:
    """Each key of a Notary collection's server-managed role has a mark; only the one that signed
    last goes on being signed."""
    last: dict[tuple[str, str], Mark] = {}
    for mark in marks:
        where = (without_number(mark.repository), mark.role)
        if mark.role in ONLINE_ROLES and (
            where not in last or mark.signed_at > last[where].signed_at
        ):
            last[where] = mark
    return [
        mark
        for mark in marks
        if mark.role not in ONLINE_ROLES or last[without_number(mark.repository), mark.role] is mark
    ]


def _first(mark: Mark) -> datetime:
    newest, complete = mark.newest.expires, mark.complete
    return newest if complete is None else min(newest, complete.expires)


def _expiry(mark: Mark) -> Expiry:
    first, state = mark.newest, mark.state
    complete = mark.complete
    if complete is not None and complete.expires < first.expires:
        first, state = complete, MarkState.COMPLETE
    return Expiry(first.expires, mark.repository, mark.role, first.version, state)
