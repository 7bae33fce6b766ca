"""What metadata of bound keys may say: longest expiry, steps of versions, target paths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from keyd.model import Limits
from keyd.policy.patterns import matches_any

MAX_STEP = 100
"""How far a version may be above the last one where no limit says otherwise: room for versions
that were given up, and little enough that nobody uses up the numbers of a repository."""

DEFAULT_EXPIRY_DAYS = {
    # A little above what Notary gives by itself: 10 years, 3 years, 3 years, 14 days.
    ("notary", "root"): 3660.0,
    ("notary", "targets"): 1100.0,
    ("notary", "snapshot"): 1100.0,
    ("notary", "timestamp"): 15.0,
    ("tuf", "root"): 3660.0,
    ("tuf", "targets"): 1100.0,
    ("tuf", "snapshot"): 400.0,
    ("tuf", "timestamp"): 100.0,
}
"""Longest time to expiry in days, by dialect and role; delegated roles count as targets."""

_MAX_QUESTIONS_CACHED = 4_096


@dataclass(frozen=True, slots=True)
class Limit:
    """Limits of the roles that ``repositories`` and ``roles`` (globs) name, in one dialect (empty:
    in both). None and an empty tuple leave a setting to later limits and the defaults."""

    name: str
    repositories: tuple[str, ...] = ("*",)
    roles: tuple[str, ...] = ("*",)
    dialect: str = ""
    max_expiry_days: float | None = None
    max_step: int | None = None
    paths: tuple[str, ...] = ()

    def concerns(self, repository: str, role: str, dialect: str) -> bool:
        """True when the limit is about this role."""
        return (
            self.dialect in ("", dialect)
            and matches_any(self.repositories, repository)
            and matches_any(self.roles, role)
        )


class LimitTable:
    """All limits in their order: for each setting the first one that fits decides."""

    def __init__(self, limits: Iterable[Limit]) -> None:
        self._limits = tuple(limits)
        self.find = lru_cache(_MAX_QUESTIONS_CACHED)(self._find)

    def _find(self, repository: str, role: str, dialect: str) -> Limits:
        kind = dialect if dialect == "notary" else "tuf"
        fitting = [limit for limit in self._limits if limit.concerns(repository, role, kind)]
        expiry = next((x for x in fitting if x.max_expiry_days is not None), None)
        step = next((x for x in fitting if x.max_step is not None), None)
        default = DEFAULT_EXPIRY_DAYS.get((kind, role), DEFAULT_EXPIRY_DAYS[kind, "targets"])
        return Limits(
            default if expiry is None or expiry.max_expiry_days is None else expiry.max_expiry_days,
            MAX_STEP if step is None or step.max_step is None else step.max_step,
            next((x.paths for x in fitting if x.paths), ()),
            ", ".join(dict.fromkeys(x.name for x in (expiry, step) if x is not None)),
        )
