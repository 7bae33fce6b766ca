"""What a group's effects make of ceremonies: step by step, one open in a repository. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyd.errors import ConflictError
from keyd.model import Ceremony, PutCeremony
from keyd.store.overlay import Overlay
from keyd.store.storable import check_number, check_text


class CeremonyPlan:
    """The touched ceremonies as they will be after the effects applied so far."""

    def __init__(self, ceremonies: Mapping[str, Ceremony]) -> None:
        """Start from the ceremonies, by id, that the effects name, and the open ones of the same
        repositories."""
        self._ceremonies = Overlay(ceremonies)
        self._open = Overlay({c.repository: c.id for c in ceremonies.values() if c.phase.is_open})

    @property
    def layers(self) -> tuple[Overlay[Any, Any], ...]:
        """What an item's end keeps or undoes."""
        return (self._ceremonies, self._open)

    @property
    def changes(self) -> Mapping[str, Ceremony]:
        """What all kept items changed together, by id, new ones in their order."""
        return {id: ceremony for id, ceremony in self._ceremonies.changed.items() if ceremony}

    def apply(self, effect: PutCeremony) -> None:
        """Apply the effect or raise its conflict."""
        new = effect.ceremony
        old = self._ceremonies.find(new.id)
        step = old.step if old else 0
        if step != new.step - 1:
            raise ConflictError(
                f"ceremony {new.id} is at step {step}, so {new.step} cannot be next",
                hint="somebody went on with it; look again: keydctl tuf ceremony status DIR",
                ceremony=new.id,
                step=step,
            )
        if old is not None and old.repository != new.repository:
            raise ConflictError(f"ceremony {new.id} is {old.repository}'s", ceremony=new.id)
        other = self._open.find(new.repository)
        if new.phase.is_open and other not in (None, new.id):
            raise ConflictError(
                f"ceremony {other} of {new.repository} is open",
                hint="end it first: keydctl tuf ceremony resume DIR, or abort DIR",
                ceremony=other,
                repository=new.repository,
            )
        for field in ("id", "repository", "plan", "started_by", "said"):
            check_text(field, getattr(new, field))
        check_number("step", new.step)
        self._ceremonies.put(new.id, new)
        if new.phase.is_open:
            self._open.put(new.repository, new.id)
        elif other == new.id:
            self._open.put(new.repository, None)
