"""A change of a root in named phases, which the daemon remembers so that anybody can go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Phase(StrEnum):
    """Where a ceremony stands: the phase that is next to be done. Phases follow each other in this
    order; DONE and ABORTED end it."""

    PLAN = "PLAN"
    GENERATE = "GENERATE"
    STAGE = "STAGE"
    CONSENT = "CONSENT"
    SIGN = "SIGN"
    CHECK = "CHECK"
    PUBLISH = "PUBLISH"
    RETIRE = "RETIRE"
    DONE = "DONE"
    ABORTED = "ABORTED"

    @property
    def is_open(self) -> bool:
        """True while there is something to do."""
        return self not in (Phase.DONE, Phase.ABORTED)


@dataclass(frozen=True, slots=True)
class Ceremony:
    """One change of a repository's root.

    ``plan``: what shall change, as canonical JSON text (adapters/tufrepo/ceremony.py says of
    what); the daemon keeps it and shows it. ``draft``: the bytes to sign once there are any,
    ``draft_digest`` their SHA-256 in hex. ``facts``: what phases left for later ones (new key
    versions, published files), small texts. ``step``: counts the changes, for optimistic locking.
    """

    id: str
    repository: str
    plan: str
    phase: Phase
    started_by: str
    started_at: datetime
    changed_at: datetime
    said: str = ""
    draft: bytes = b""
    facts: Mapping[str, str] = field(default_factory=dict)
    step: int = 1


class Ceremonies(Protocol):
    """Ceremonies as of the last commit (store/); never blocks. Those that ended are kept too."""

    def find_ceremony(self, ceremony_id: str) -> Ceremony | None:
        """The ceremony of that id, or None."""

    def ceremonies(self) -> Sequence[Ceremony]:
        """All ceremonies, newest first."""
