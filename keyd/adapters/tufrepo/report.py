"""What a change of a repository did, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

from keyd.errors import ApprovalNeededError, KeydError


@dataclass(frozen=True, slots=True)
class Missing:
    """A signature that could not be made now. ``who``: the URI, or what is known of the key.
    ``error``: the daemon's own error, where it was one."""

    keyid: str
    who: str
    why: str
    error: KeydError | None = None

    @property
    def approval(self) -> str:
        """The id of the approval it waits for, or empty."""
        waits = isinstance(self.error, ApprovalNeededError)
        return self.error.facts.get("approval", "") if waits and self.error else ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Metadata in staged/ that needs more signatures. ``needs``: how many of ``missing``."""

    role: str
    version: int
    path: str
    needs: int
    missing: tuple[Missing, ...]

    @property
    def approvals(self) -> tuple[str, ...]:
        """The ids of the approvals that would let it go on."""
        return tuple(dict.fromkeys(m.approval for m in self.missing if m.approval))


@dataclass(slots=True)
class Report:
    """What a command did. ``published``: file names in the order in which clients got them.
    ``notes``: what somebody should know, though nothing failed."""

    published: list[str] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take over what a later step of the same command did; what it waits for counts alone."""
        self.published += other.published
        self.notes += other.notes
        self.waiting = other.waiting
