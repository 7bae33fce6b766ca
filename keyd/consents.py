"""Whose consent an operation takes, and how much of it is there. Pure.

The policy in force decides, at the request, at each vote and once more at use: a vote stops to
count with its grant, with the rule that asked for it, and, where consent has to be signed, with the
key that signed it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.errors import ApprovalStateError
from keyd.model import (
    Action,
    Approval,
    ApprovalContents,
    ApprovalState,
    Binding,
    Caller,
    Context,
    Policy,
    Principal,
    Requirement,
    Vote,
)

BUILT_IN = "keyd: "
"""How a requirement and a line of Approval.why begin that no rule of the policy, but keyd itself
brought in."""

_NO_CONTENTS = ApprovalContents()


@dataclass(frozen=True, slots=True)
class Standing:
    """A requirement and how many different people whose consent counts for it have given it."""

    requirement: Requirement
    have: int

    @property
    def is_met(self) -> bool:
        """True when those are enough."""
        return self.have >= self.requirement.needed


@dataclass(frozen=True, slots=True)
class Shown:
    """An approval as one caller sees it now: ``approval.state`` as it stands under the policy in
    force and the clock; ``waits_for_me``: the caller's consent would count and is missing."""

    approval: Approval
    standing: tuple[Standing, ...]
    waits_for_me: bool
    contents: ApprovalContents = _NO_CONTENTS


class Consents:
    """Judges approvals by the policy in force."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def policy_hash(self) -> str:
        """SHA-256 of the policy in force, hex: what is judged under another one may differ."""
        return self._policy.hash

    def demanded(
        self,
        requester: Principal,
        action: Action,
        subject: str,
        context: Context,
        why: Iterable[str] = (),
    ) -> tuple[Requirement, ...]:
        """What the rules demand before this operation. ``why``: what keyd itself objects to, lines
        that start with :data:`BUILT_IN`; it takes one approver where no rule asks for any."""
        by_rule = self._policy.requirements(requester, action, subject, context)
        if by_rule:
            return by_rule
        own_reason = next((line for line in why if line.startswith(BUILT_IN)), None)
        return () if own_reason is None else (Requirement(own_reason, 1),)

    def demanded_by(self, approval: Approval) -> tuple[Requirement, ...]:
        """What is demanded of an open approval; what was demanded of one that ended."""
        if not approval.state.is_open:
            return approval.requirements
        context = Context(approval.repository, approval.role)
        return self.demanded(
            person(approval.requester),
            Action(approval.action),
            approval.subject,
            context,
            approval.why,
        )

    def standing(self, approval: Approval, demanded: Sequence[Requirement]) -> tuple[Standing, ...]:
        """How much of each requirement is there. A person counts for each that asks for them."""
        voted = [(vote, person(vote.principal)) for vote in approval.votes]
        if approval.state.is_open:
            voted = [(vote, who) for vote, who in voted if self.may_approve(who, approval)]
        return tuple(
            Standing(r, sum(self._counts(r, approval, vote, who) for vote, who in voted))
            for r in demanded
        )

    def may_approve(self, who: Principal, approval: Approval) -> bool:
        """True when a grant lets this principal approve on the subject."""
        context = Context(approval.repository, approval.role)
        return self._policy.decide(who, Action.APPROVE, approval.subject, context=context).allowed

    def may_see(self, who: Principal, approval: Approval) -> bool:
        """True for whoever asked, whoever may approve, and whoever has approved."""
        return (
            who.id == approval.requester
            or self.may_approve(who, approval)
            or any(vote.principal == who.id for vote in approval.votes)
        )

    def entitled(self, who: Principal, approval: Approval) -> tuple[Requirement, ...]:
        """The requirements this person's consent counts for, given in the form they ask for.

        Raises:
            ApprovalStateError: none, and why.
        """
        if who.is_group:
            raise _no_word(
                approval,
                f"{who.id} is a socket open to a group, which is no person",
                "call over a socket or with a certificate of your own",
            )
        if not self.may_approve(who, approval):
            raise _no_word(
                approval,
                f"no grant lets {who.id} approve on {approval.subject or 'all keys'}",
                f"take your request back with: keydctl approvals revoke {approval.id}"
                if who.id == approval.requester
                else "see your grants with: keydctl whoami",
            )
        demanded = self.demanded_by(approval)
        asked = [r for r in demanded if self._policy.counts_for(r, who)]
        counting = tuple(r for r in asked if r.own or who.id != approval.requester)
        if counting:
            return counting
        if asked:
            raise _no_word(
                approval,
                f"{who.id} asked for it, and no rule lets requesters approve for themselves",
                "somebody else has to approve it",
            )
        wanted = "; ".join(f"{r.rule}: {', '.join(r.of)}" for r in demanded if r.of)
        raise _no_word(
            approval,
            f"the consent of {who.id} is not asked for",
            f"asked for are {wanted}" if wanted else "nothing demands consent any more: ask again",
        )

    def show(
        self,
        caller: Caller,
        approval: Approval,
        now: datetime,
        contents: ApprovalContents = _NO_CONTENTS,
    ) -> Shown:
        """The approval as this caller sees it."""
        standing = self.standing(approval, self.demanded_by(approval))
        state = approval.shown_state(now)
        if state.is_open:
            met = all(s.is_met for s in standing)
            state = ApprovalState.APPROVED if met else ApprovalState.PENDING
        waits = state is ApprovalState.PENDING and self._waits_for(
            caller.principal, approval, standing
        )
        return Shown(replace(approval, state=state), standing, waits, contents)

    def _waits_for(self, who: Principal, approval: Approval, standing: Sequence[Standing]) -> bool:
        if any(vote.principal == who.id for vote in approval.votes):
            return False
        try:
            counting = self.entitled(who, approval)
        except ApprovalStateError:
            return False
        return any(s.requirement in counting and not s.is_met for s in standing)

    def _counts(
        self, demanded: Requirement, approval: Approval, vote: Vote, who: Principal
    ) -> bool:
        if not self._policy.counts_for(demanded, who):
            return False
        if not demanded.own and who.id == approval.requester:
            return False
        if not demanded.signed:
            return True
        if not approval.state.is_open:
            return bool(vote.signature)
        keys = self._policy.approver_keys(who.id)
        return bool(vote.signature) and vote.signer in {fingerprint(key) for key in keys}


def person(principal_id: str) -> Principal:
    """The principal of that id, as far as an id tells; for asking the policy about somebody who is
    not calling."""
    return Principal(principal_id, "unix" if principal_id.startswith("socket:") else "mtls")


def bindings_asked(bindings: frozenset[Binding]) -> list[dict[str, str]]:
    """Bindings as people are asked to consent to them, sorted."""
    return [{"repository": b.repository, "role": b.role} for b in sorted(bindings)]


def fingerprint(public_key: str) -> str:
    """``SHA256:...`` of an OpenSSH public key line, as ``ssh-keygen -l`` shows it; empty for what
    is none."""
    words = public_key.split()
    if len(words) < 2:
        return ""
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _no_word(approval: Approval, message: str, hint: str) -> ApprovalStateError:
    return ApprovalStateError(
        f"approval {approval.id}: {message}",
        hint=hint,
        approval=approval.id,
        state=approval.state,
    )
