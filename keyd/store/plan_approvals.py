"""What a group's effects make of approvals: one use, one vote a person, in time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, assert_never

from keyd.errors import (
    ApprovalNotFoundError,
    ApprovalStateError,
    ConflictError,
    InvalidRequestError,
)
from keyd.model import (
    AddVote,
    Approval,
    ApprovalContents,
    ApprovalState,
    CloseApproval,
    InsertApproval,
    RemoveVote,
    Vote,
)
from keyd.store.overlay import Overlay
from keyd.store.storable import check_number, check_text

ApprovalEffect = InsertApproval | AddVote | RemoveVote | CloseApproval


@dataclass(frozen=True, slots=True)
class PlannedApproval:
    """An approval as it will be; ``contents`` for a new one."""

    approval: Approval
    contents: ApprovalContents | None = None


class ApprovalPlan:
    """The touched approvals as they will be after the effects applied so far."""

    def __init__(self, approvals: Mapping[str, Approval], now: datetime) -> None:
        """Start from the approvals, by id, that the effects name, in whatever state, and the open
        ones for the same operations as new ones."""
        self._approvals = Overlay({id: PlannedApproval(a) for id, a in approvals.items()})
        self._open = Overlay({a.bound_to: a.id for a in approvals.values() if a.state.is_open})
        self._now = now

    @property
    def layers(self) -> tuple[Overlay[Any, Any], ...]:
        """What an item's end keeps or undoes."""
        return (self._approvals, self._open)

    @property
    def changes(self) -> Mapping[str, PlannedApproval]:
        """What all kept items changed together, by id, new ones in their order."""
        return {id: planned for id, planned in self._approvals.changed.items() if planned}

    def apply(self, effect: ApprovalEffect) -> None:
        """Apply one effect or raise its conflict."""
        match effect:
            case InsertApproval(approval, contents):
                self._insert(approval, contents)
            case AddVote():
                self._add_vote(effect)
            case RemoveVote(approval_id, principal):
                planned = self._get_open(approval_id)
                votes = planned.approval.votes
                rest = tuple(vote for vote in votes if vote.principal != principal)
                if len(rest) == len(votes):
                    raise _state_error(
                        planned.approval,
                        planned.approval.state,
                        f"{principal} has not approved {approval_id}",
                    )
                self._change(planned, state=ApprovalState.PENDING, votes=rest)
            case CloseApproval(approval_id, state):
                self._close(approval_id, state)
            case _:
                assert_never(effect)

    def _insert(self, approval: Approval, contents: ApprovalContents) -> None:
        same = self._open.find(approval.bound_to)
        if same is not None or self._approvals.find(approval.id) is not None:
            raise ConflictError(
                f"approval {same or approval.id} is open for this already",
                hint="it is listed by: keydctl approvals",
                approval=same or approval.id,
            )
        if not approval.state.is_open:
            raise InvalidRequestError("state", f"a new approval cannot be {approval.state}")
        for field in ("id", "action", "subject", "repository", "role", "summary", "requester"):
            check_text(field, getattr(approval, field))
        check_text("said", approval.said)
        check_number("key_version", approval.key_version)
        check_number("metadata_version", approval.metadata_version)
        self._approvals.put(approval.id, PlannedApproval(approval, contents))
        self._open.put(approval.bound_to, approval.id)

    def _add_vote(self, effect: AddVote) -> None:
        planned = self._get_open(effect.approval_id)
        approval = planned.approval
        self._check_in_time(approval)
        if any(vote.principal == effect.vote.principal for vote in approval.votes):
            raise _state_error(
                approval,
                approval.state,
                f"{effect.vote.principal} has approved {approval.id} already",
            )
        if len(approval.votes) != effect.votes_seen:
            raise ConflictError(
                f"approval {approval.id} got another word meanwhile",
                hint="look at it again, then retry",
                approval=approval.id,
            )
        if not effect.state.is_open:
            raise InvalidRequestError("state", f"a vote cannot make an approval {effect.state}")
        self._change(planned, state=effect.state, votes=(*approval.votes, effect.vote))

    def _close(self, approval_id: str, state: ApprovalState) -> None:
        planned = self._get_open(approval_id)
        approval = planned.approval
        if state.is_open:
            raise InvalidRequestError("state", f"{state} does not end an approval")
        if state is ApprovalState.USED:
            self._check_in_time(approval)
            if approval.state is not ApprovalState.APPROVED:
                raise _state_error(
                    approval, approval.state, f"approval {approval_id} is {approval.state} now"
                )
        self._change(planned, state=state, votes=approval.votes)
        self._open.put(approval.bound_to, None)

    def _get_open(self, approval_id: str) -> PlannedApproval:
        planned = self._approvals.find(approval_id)
        if planned is None:
            raise ApprovalNotFoundError(
                f"no approval {approval_id}",
                hint="see the open ones: keydctl approvals",
                approval=approval_id,
            )
        state = planned.approval.state
        if not state.is_open:
            raise _state_error(
                planned.approval, state, f"approval {approval_id} is {state} already"
            )
        return planned

    def _check_in_time(self, approval: Approval) -> None:
        if self._now >= approval.expires_at:
            raise _state_error(
                approval,
                ApprovalState.EXPIRED,
                f"approval {approval.id} was good until {approval.expires_at:%F %T}Z",
            )

    def _change(
        self, planned: PlannedApproval, *, state: ApprovalState, votes: tuple[Vote, ...]
    ) -> None:
        approval = replace(planned.approval, state=state, votes=votes)
        self._approvals.put(approval.id, replace(planned, approval=approval))


def _state_error(approval: Approval, state: ApprovalState, message: str) -> ApprovalStateError:
    hint = (
        "look at it again: keydctl approvals"
        if state.is_open
        else "ask again: the same request starts a new approval"
    )
    return ApprovalStateError(message, hint=hint, approval=approval.id, state=state)
