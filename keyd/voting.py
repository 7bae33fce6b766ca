"""What people do with approvals: consent, say no, take it back; and the end of time.

Each step is an entry and its effect in one transaction. One lock stands around them, so that two
people who consent at once do not get in each other's way; whoever uses an approval up does it
outside of the lock, in the transaction of what it allows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from keyd.approvalreads import ApprovalReads, not_found
from keyd.consententries import approval_entry, vote_details
from keyd.consents import Shown
from keyd.errors import (
    ApprovalStateError,
    AuditUnavailableError,
    InvalidRequestError,
    KeydError,
)
from keyd.gate import Gate
from keyd.model import (
    SYSTEM,
    Action,
    AddVote,
    Approval,
    ApprovalState,
    AuditLog,
    Caller,
    Clock,
    CloseApproval,
    Effect,
    EntryDraft,
    OpenApprovals,
    Policy,
    RemoveVote,
    Vote,
)
from keyd.unbroken import Unbroken

log = logging.getLogger(__name__)

MAX_SIGNATURE_CHARS = 8000
"""An SSHSIG by the largest RSA key takes a quarter of that; more would not fit into its entry."""

MAX_VOTES = 100
"""People that can consent to one operation."""

SignatureVerifier = Callable[[bytes, str, str, Sequence[str]], str]
"""(text, armored SSHSIG, principal, public keys) -> the fingerprint of the key that signed; raises
KeydError. May block (keyd/sshsig.py)."""


class Voting(ApprovalReads):
    """The part of :class:`keyd.approvals.Approvals` that belongs to those who are asked."""

    def __init__(
        self,
        *,
        gate: Gate,
        policy: Policy,
        approvals: OpenApprovals,
        audit: AuditLog,
        clock: Clock,
        check_clock: Callable[[], None],
        verify_signature: SignatureVerifier,
        look_s: float,
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted."""
        super().__init__(policy=policy, approvals=approvals, clock=clock, look_s=look_s)
        self._gate = gate
        self._policy = policy
        self._audit = audit
        self._check_clock = check_clock
        self._verify_signature = verify_signature
        self._lock = asyncio.Lock()
        self._unbroken = Unbroken()

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        await self._unbroken.drain()

    # ------------------------------------------------------------------------------- say

    async def approve(
        self,
        caller: Caller,
        approval_id: str,
        digest: bytes,
        *,
        signature: str = "",
        said: str = "",
    ) -> Shown:
        """The caller consents. ``digest``: what the caller looked at, worked out anew.

        Raises:
            ApprovalNotFoundError: no such approval, or not the caller's to see.
            ApprovalStateError: it is no longer open, or this person's consent does not count.
            InvalidRequestError: the digest is another one, or the signature is not in order.
            ClockError: the clock is not to be trusted.
        """
        return await self._unbroken.run(self._approve(caller, approval_id, digest, signature, said))

    async def _approve(
        self, caller: Caller, approval_id: str, digest: bytes, signature: str, said: str
    ) -> Shown:
        who = caller.principal.id
        try:
            approval = await self._get_open(caller, approval_id)
            self._check_vote(caller, approval, digest, signature)
            signer = ""
            if signature:
                signer = await asyncio.to_thread(
                    self._verify_signature,
                    approval.consent_text(who),
                    signature,
                    who,
                    self._policy.approver_keys(who),
                )
        except KeydError as e:
            await self._refuse(caller, Action.APPROVE, approval_id, e)
            raise
        async with self._lock:
            try:
                # Once more: much may have happened while the signature was looked at.
                approval = await self._get_open(caller, approval_id)
                self._check_vote(caller, approval, digest, signature)
            except KeydError as e:
                await self._refuse(caller, Action.APPROVE, approval_id, e)
                raise
            vote = Vote(who, self._clock.now(), said, signature, signer)
            state = self._state_with(approval, (*approval.votes, vote))
            entry = approval_entry(
                caller,
                Action.APPROVE,
                approval,
                self._consents.policy_hash,
                said=said,
                details=vote_details(approval, vote),
            )
            effect = AddVote(approval.id, vote, state, votes_seen=len(approval.votes))
            await self._record(entry, (effect,))
        return await self._as_it_is(caller, approval_id)

    def _check_vote(
        self, caller: Caller, approval: Approval, digest: bytes, signature: str
    ) -> None:
        self._check_clock()
        counting = self._consents.entitled(caller.principal, approval)
        who = caller.principal.id
        if any(vote.principal == who for vote in approval.votes):
            raise _state_error(
                approval,
                f"{who} has approved {approval.id} already",
                f"to take it back: keydctl approvals revoke {approval.id}",
            )
        if len(approval.votes) >= MAX_VOTES:
            raise _state_error(approval, f"{MAX_VOTES} people have approved {approval.id}", "")
        if digest != approval.digest:
            raise InvalidRequestError(
                "digest",
                f"{digest.hex()[:128]} is not what approval {approval.id} is about",
                hint=f"look at it again, then approve that: keydctl approve {approval.id}",
                approval=approval.id,
            )
        if signature:
            if len(signature) > MAX_SIGNATURE_CHARS:
                raise InvalidRequestError(
                    "signature", f"{len(signature)} characters, at most {MAX_SIGNATURE_CHARS}"
                )
            if not self._policy.approver_keys(who):
                raise InvalidRequestError(
                    "signature",
                    f"the policy knows no key of {who}",
                    hint="have it added to policy.toml: an [[approver]] with its ssh_keys",
                )
        elif signed := next((r for r in counting if r.signed), None):
            raise InvalidRequestError(
                "signature",
                f"{signed.rule} asks for consent that is signed with a key of your own",
                hint=f"keydctl approve {approval.id} --ssh-key FILE",
            )

    async def reject(self, caller: Caller, approval_id: str, *, said: str = "") -> Shown:
        """One of those whose consent counts says no; the approval ends.

        Raises:
            ApprovalNotFoundError, ApprovalStateError: as in :meth:`approve`.
        """
        return await self._unbroken.run(self._reject(caller, approval_id, said))

    async def _reject(self, caller: Caller, approval_id: str, said: str) -> Shown:
        async with self._lock:
            try:
                approval = await self._get_open(caller, approval_id)
                self._consents.entitled(caller.principal, approval)
            except KeydError as e:
                await self._refuse(caller, "approval-reject", approval_id, e)
                raise
            entry = approval_entry(
                caller, "approval-reject", approval, self._consents.policy_hash, said=said
            )
            await self._record(entry, (CloseApproval(approval.id, ApprovalState.REJECTED),))
        return await self._as_it_is(caller, approval_id)

    async def revoke(self, caller: Caller, approval_id: str, *, said: str = "") -> Shown:
        """The requester withdraws the request, or an approver takes the consent back.

        Raises:
            ApprovalNotFoundError: no such approval, or not the caller's to see.
            ApprovalStateError: it is no longer open, or there is nothing of the caller's to take
                back.
        """
        return await self._unbroken.run(self._revoke(caller, approval_id, said))

    async def _revoke(self, caller: Caller, approval_id: str, said: str) -> Shown:
        who = caller.principal.id
        async with self._lock:
            try:
                approval = await self._get_open(caller, approval_id)
                effect: Effect
                if who == approval.requester:
                    effect = CloseApproval(approval.id, ApprovalState.WITHDRAWN)
                    message = "request withdrawn"
                elif any(vote.principal == who for vote in approval.votes):
                    effect = RemoveVote(approval.id, who)
                    message = "consent taken back"
                else:
                    raise _state_error(
                        approval,
                        f"{who} neither asked for {approval.id} nor approved it",
                        f"to say no to it: keydctl reject {approval.id}",
                    )
            except KeydError as e:
                await self._refuse(caller, "approval-revoke", approval_id, e)
                raise
            entry = approval_entry(
                caller,
                "approval-revoke",
                approval,
                self._consents.policy_hash,
                said=said,
                message=message,
            )
            await self._record(entry, (effect,))
        return await self._as_it_is(caller, approval_id)

    # ------------------------------------------------------------------------------- time

    async def sweep(self) -> int:
        """End the open approvals whose time is over, each with an entry; how many those were. A
        clock that is not to be trusted ends none."""
        try:
            self._check_clock()
        except KeydError:
            return 0
        now = self._clock.now()
        async with self._lock:
            late = [a for a in self._approvals.open_approvals() if now >= a.expires_at]
            for approval in late:
                await self._expire(approval)
        return len(late)

    async def tend(self, every_s: float = 60.0) -> None:
        """Sweep again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.sweep()
            except KeydError as e:
                log.warning("expired approvals are not ended yet", extra={"why": e.message})

    async def _expire(self, approval: Approval) -> None:
        entry = approval_entry(
            Caller(SYSTEM, "approvals"), "approval-expire", approval, self._consents.policy_hash
        )
        try:
            await self._record(entry, (CloseApproval(approval.id, ApprovalState.EXPIRED),))
        except ApprovalStateError:
            return  # somebody ended it first

    # ------------------------------------------------------------------------------- inside

    async def _get_open(self, caller: Caller, approval_id: str) -> Approval:
        """An open approval the caller may see; see :meth:`approve` for the errors."""
        approval = self._approvals.find_approval(approval_id)
        if approval is None:
            found = await self._approvals.load_approval(approval_id)
            approval = found[0] if found else None
        if approval is None or not self._consents.may_see(caller.principal, approval):
            raise not_found(approval_id)
        state = approval.shown_state(self._clock.now())
        if not state.is_open:
            raise ApprovalStateError(
                f"approval {approval_id} is {state}",
                hint="ask again: the same request starts a new approval",
                approval=approval_id,
                state=state,
            )
        return approval

    def _state_with(self, approval: Approval, votes: tuple[Vote, ...]) -> ApprovalState:
        voted = replace(approval, votes=votes)
        standing = self._consents.standing(voted, self._consents.demanded_by(voted))
        return ApprovalState.APPROVED if all(s.is_met for s in standing) else ApprovalState.PENDING

    async def _record(self, entry: EntryDraft, effects: Sequence[Effect]) -> None:
        try:
            await self._audit.record(entry, effects)
        finally:
            self._tell()

    async def _as_it_is(self, caller: Caller, approval_id: str) -> Shown:
        found = await self._approvals.load_approval(approval_id)
        if found is None:
            raise not_found(approval_id)
        return self._consents.show(caller, found[0], self._clock.now())

    async def _refuse(
        self, caller: Caller, action: str, approval_id: str, error: KeydError
    ) -> None:
        if isinstance(error, AuditUnavailableError):
            return
        approval = self._approvals.find_approval(approval_id)
        seen = approval is not None and self._consents.may_see(caller.principal, approval)
        await self._gate.refuse(
            caller, action, approval.subject if approval and seen else "", error
        )


def _state_error(approval: Approval, message: str, hint: str) -> ApprovalStateError:
    return ApprovalStateError(message, hint=hint, approval=approval.id, state=approval.state)
