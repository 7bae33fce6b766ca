"""Marks, approvals and ceremonies as of the last commit, in memory; their bytes are read.

The writer changes these mappings in place once a commit is durable, since tens of thousands of
marks would be too many to copy each time. Readers on other threads take one value, or a copy of
all in one step of the interpreter: each value is whole, those of one commit may come one by one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from keyd.model import Approval, ApprovalContents, Ceremony, Mark, MarkContents
from keyd.store import approval_rows, mark_rows
from keyd.store.plan_marks import RoleName

_Answer = TypeVar("_Answer")


class Reading(Protocol):
    """Runs a query on one of the store's threads for readers."""

    async def __call__(self, read: Callable[[Connection], _Answer], /) -> _Answer:
        """Raises AuditUnavailableError when the database cannot be read."""


class StoredMarks:
    """model.Marks."""

    def __init__(self, read: Reading) -> None:
        self._read = read
        self._marks: dict[RoleName, Mark] = {}
        self._ordered: list[RoleName] = []

    def load(self, marks: Mapping[RoleName, Mark]) -> None:
        """Show these instead; the writer's."""
        self._ordered, self._marks = sorted(marks), dict(marks)

    def change(self, changes: Mapping[RoleName, Mark | None]) -> None:
        """Show what a commit changed; None for what it removed. The writer's."""
        for name, mark in changes.items():
            if mark is None:
                if self._marks.pop(name, None) is not None:
                    del self._ordered[bisect_left(self._ordered, name)]
                continue
            if name not in self._marks:
                insort(self._ordered, name)
            self._marks[name] = mark

    def find_mark(self, repository: str, role: str) -> Mark | None:
        """See model.Marks."""
        return self._marks.get((repository, role))

    def marks(self) -> Sequence[Mark]:
        """See model.Marks."""
        found = map(self._marks.get, self._ordered.copy())
        return tuple(mark for mark in found if mark is not None)

    async def load_contents(self, repository: str, role: str) -> MarkContents:
        """See model.Marks."""
        return await self._read(lambda c: mark_rows.load_contents(c, repository, role))


class StoredApprovals:
    """model.OpenApprovals."""

    def __init__(self, read: Reading) -> None:
        self._read = read
        self._open: dict[str, Approval] = {}

    def load(self, approvals: Mapping[str, Approval]) -> None:
        """Show these open ones instead, oldest first; the writer's."""
        self._open = dict(approvals)

    def change(self, changes: Iterable[Approval]) -> None:
        """Show what a commit changed; the writer's."""
        for approval in changes:
            if approval.state.is_open:
                self._open[approval.id] = approval
            else:
                self._open.pop(approval.id, None)

    def find_approval(self, approval_id: str) -> Approval | None:
        """See model.OpenApprovals."""
        return self._open.get(approval_id)

    def open_approvals(self) -> Sequence[Approval]:
        """See model.OpenApprovals."""
        return tuple(self._open.copy().values())

    async def load_approval(self, approval_id: str) -> tuple[Approval, ApprovalContents] | None:
        """See model.OpenApprovals."""
        return await self._read(lambda c: approval_rows.load_approval(c, approval_id))

    async def list_approvals(self, *, limit: int) -> Sequence[Approval]:
        """See model.OpenApprovals."""
        return await self._read(lambda c: approval_rows.list_approvals(c, limit))


class StoredCeremonies:
    """model.Ceremonies. They are few, so their drafts stay in memory too."""

    def __init__(self) -> None:
        self._ceremonies: dict[str, Ceremony] = {}

    def load(self, ceremonies: Mapping[str, Ceremony]) -> None:
        """Show these instead, oldest first; the writer's."""
        self._ceremonies = dict(ceremonies)

    def change(self, changes: Iterable[Ceremony]) -> None:
        """Show what a commit changed; the writer's."""
        for ceremony in changes:
            self._ceremonies[ceremony.id] = ceremony

    def find_ceremony(self, ceremony_id: str) -> Ceremony | None:
        """See model.Ceremonies."""
        return self._ceremonies.get(ceremony_id)

    def ceremonies(self) -> Sequence[Ceremony]:
        """See model.Ceremonies."""
        return tuple(reversed(self._ceremonies.copy().values()))
