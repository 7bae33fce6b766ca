"""What a group's effects make of the rows they touch. Pure.

The group loads what its items name while it holds the log's lock, plans here, and writes the
difference: so an item's conflict is known before anything of it is written, and its neighbours
are not disturbed.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyd.errors import KeydError
from keyd.model import (
    AddVote,
    CloseApproval,
    DropMark,
    Effect,
    InsertApproval,
    PutCeremony,
    PutMark,
    RecordMark,
    RemoveVote,
    StoreSignature,
)
from keyd.store.plan_approvals import ApprovalPlan
from keyd.store.plan_ceremonies import CeremonyPlan
from keyd.store.plan_keys import KeyPlan
from keyd.store.plan_marks import MarkPlan


class Plan:
    """All of an item's effects or none of them, one subject's plan beside the other."""

    def __init__(
        self, keys: KeyPlan, marks: MarkPlan, approvals: ApprovalPlan, ceremonies: CeremonyPlan
    ) -> None:
        self._keys = keys
        self._marks = marks
        self._approvals = approvals
        self._ceremonies = ceremonies
        self._layers = (*keys.layers, *marks.layers, *approvals.layers, *ceremonies.layers)

    def apply(self, effects: Sequence[Effect]) -> KeydError | None:
        """Apply all effects of one item, or none and return why."""
        try:
            for effect in effects:
                self._apply(effect)
        except KeydError as conflict:
            for layer in self._layers:
                layer.undo()
            return conflict
        for layer in self._layers:
            layer.keep()
        return None

    def _apply(self, effect: Effect) -> None:
        match effect:
            case StoreSignature():
                pass
            case RecordMark() | PutMark() | DropMark():
                self._marks.apply(effect)
            case InsertApproval() | AddVote() | RemoveVote() | CloseApproval():
                self._approvals.apply(effect)
            case PutCeremony():
                self._ceremonies.apply(effect)
            case _:
                self._keys.apply(effect)
