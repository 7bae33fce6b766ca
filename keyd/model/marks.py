"""How far a role of a repository has come: what was signed last, and what was complete last.

TUF clients refuse what goes back (TUF 1.0, 5.3 to 5.6), and two different files under one version
split them. A mark is what lets the daemon see both before it signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

ONLINE_ROLES = ("snapshot", "timestamp")
"""Roles that servers sign anew before they store them: other bytes at a version are no accident
until that version is known to be published."""


class MarkState(StrEnum):
    """SIGNED: some signatures are there. COMPLETE: every threshold is met, by signatures that keyd
    made or was shown. PUBLISHED: somebody showed it as published; clients may hold it."""

    SIGNED = "SIGNED"
    COMPLETE = "COMPLETE"
    PUBLISHED = "PUBLISHED"


@dataclass(frozen=True, slots=True)
class Need:
    """One threshold that has to be met. ``signers``: SHA-256 of the DER SubjectPublicKeyInfo of
    each key that counts, lower-case hex, so that one key under two keyids counts once."""

    threshold: int
    signers: frozenset[str]

    def is_met(self, by: frozenset[str]) -> bool:
        """True when enough of ``by`` count."""
        return len(self.signers & by) >= self.threshold


@dataclass(frozen=True, slots=True)
class Marked:
    """One version of a role's metadata. ``digest``: SHA-256 of the signed bytes (the payload, not
    the file). ``keyset``: hash over the keys the role had then, empty where unknown: tells
    whether they changed since. ``dialect``: ``tuf`` or ``notary``."""

    version: int
    digest: bytes
    kind: str
    dialect: str
    expires: datetime
    keyset: str = ""

    def is_same(self, other: Marked) -> bool:
        """True for the same bytes under the same version."""
        return (self.version, self.digest) == (other.version, other.digest)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where (repository, role) stands.

    ``newest``: the version signed last. ``signers``: identities (as in :class:`Need`) that are
    known to have signed it. ``needs``: what makes it complete; empty where the role's keys are
    not known, then the first signature does. ``complete``: the last version that was complete,
    often ``newest`` itself; None before there was one. ``before``: where ``complete`` is
    ``newest``, the one that was complete before it. ``floor``: the one before the two, of which
    the bytes are not kept; ``newest`` itself where all above it was given up. ``published_before``:
    what is ``below`` was PUBLISHED. ``reissued``: how often other bytes were signed under
    ``newest``'s version. ``signed_at``: when it was last signed or shown.
    """

    repository: str
    role: str
    newest: Marked
    state: MarkState
    signed_at: datetime
    signers: frozenset[str] = frozenset()
    needs: tuple[Need, ...] = ()
    complete: Marked | None = None
    reissued: int = 0
    published_before: bool = False
    before: Marked | None = None
    floor: Marked | None = None

    @property
    def is_complete(self) -> bool:
        """True when ``newest`` is COMPLETE or PUBLISHED."""
        return self.state is not MarkState.SIGNED

    @property
    def is_whole(self) -> bool:
        """True when ``newest`` is itself the one that was complete last."""
        return self.complete is not None and self.complete.is_same(self.newest)

    @property
    def below(self) -> Marked | None:
        """The last version but ``newest`` that was complete, whose bytes are kept."""
        return self.before if self.is_whole else self.complete

    @property
    def is_complete_published(self) -> bool:
        """True when ``complete`` was PUBLISHED."""
        return self.state is MarkState.PUBLISHED if self.is_whole else self.published_before

    def floor_under(self, following: Marked) -> Marked | None:
        """The floor of the mark that follows with ``following``, and keeps ``complete`` of this
        one. Never ``following`` itself: bytes may come back after others at their version."""
        floors = (self.before, self.floor)
        return next((f for f in floors if f is not None and not f.is_same(following)), None)

    @property
    def is_floor(self) -> bool:
        """True when all that was signed above ``newest`` was given up, and its bytes are gone."""
        return self.floor is not None and self.floor.is_same(self.newest)

    @property
    def may_be_reissued(self) -> bool:
        """True when other bytes at ``newest``'s version split nobody as far as is known here; only
        for ONLINE_ROLES."""
        return self.state is not MarkState.PUBLISHED and not self.is_floor

    @property
    def ends(self) -> datetime:
        """When ``newest`` or ``complete`` expires, whichever is first."""
        newest, complete = self.newest.expires, self.complete
        return newest if complete is None else min(newest, complete.expires)

    @property
    def missing(self) -> int:
        """How many signatures are missing at least; 0 when complete."""
        if self.is_complete:
            return 0
        return max((n.threshold - len(n.signers & self.signers) for n in self.needs), default=0)


@dataclass(frozen=True, slots=True)
class MarkContents:
    """The signed bytes behind a mark: of ``newest``, ``complete`` and ``before``; empty where there
    is none, and for a floor. The first two are the same object when both versions are."""

    newest: bytes = b""
    complete: bytes = b""
    before: bytes = b""


class Marks(Protocol):
    """All marks as of the last commit (store/). The first two never block."""

    def find_mark(self, repository: str, role: str) -> Mark | None:
        """The mark, or None before anything of the role was signed or shown."""

    def marks(self) -> Sequence[Mark]:
        """All marks, by repository and role."""

    async def load_contents(self, repository: str, role: str) -> MarkContents:
        """The bytes behind a mark; empty ones where there is no mark."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the policy lets metadata of one role say. ``max_expiry_days``: the longest time from
    now to ``expires``. ``max_step``: how far a version may be above the mark. ``paths``: globs
    that all target paths must match; empty for no limit. ``rule``: name of the limit that set
    the first two, for people; empty for the defaults."""

    max_expiry_days: float
    max_step: int = 100
    paths: tuple[str, ...] = field(default=())
    rule: str = ""
