"""What people do with approvals: look, consent, say no, take it back, watch.

Each step is an entry and its effect in one transaction. One lock stands around them, so that two
people who consent at once do not get in each other's way; whoever uses an approval up does it
outside of the lock, in the transaction of what it allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from keyd.consententries import approval_entry, vote_details
from keyd.consents import Consents, Shown
from keyd.errors import (
    ApprovalNotFoundError,
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

MAX_SIGNATURE_CHARS = 8000
"""An SSHSIG by the largest RSA key takes a quarter of that; more would not fit into its entry."""

MAX_LISTED = 1000
MAX_VOTES = 100
"""People that can consent to one operation."""

_LOOK_S = 1.0
"""How often a watcher looks without having been told: nobody tells it that an approval was used up,
that its time is over, or that the policy is another."""

SignatureVerifier = Callable[[bytes, str, str, Sequence[str]], str]
"""(text, armored SSHSIG, principal, public keys) -> the fingerprint of the key that signed; raises
KeydError. May block (keyd/sshsig.py)."""


class Voting:
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
        look_s: float = _LOOK_S,
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted."""
        self._gate = gate
        self._policy = policy
        self._approvals = approvals
        self._audit = audit
        self._clock = clock
        self._check_clock = check_clock
        self._verify_signature = verify_signature
        self._look_s = look_s
        self._consents = Consents(policy)
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._unbroken = Unbroken()

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        await self._unbroken.drain()

    # ------------------------------------------------------------------------------- look

    async def get(self, caller: Caller, approval_id: str) -> Shown:
        """One approval in any state, with the bytes it is about.

        Raises:
            ApprovalNotFoundError: there is none, or it is not the caller's to see.
        """
        found = await self._approvals.load_approval(approval_id)
        if found is None or not self._consents.may_see(caller.principal, found[0]):
            raise _not_found(approval_id)
        return self._consents.show(caller, found[0], self._clock.now(), found[1])

    async def list(
        self, caller: Caller, *, only_open: bool = False, waits_for_me: bool = False, limit: int
    ) -> Sequence[Shown]:
        """The approvals the caller may see, newest first, without bytes: all that are open, and
        what is among the newest 1 000 of those that ended."""
        found = {a.id: a for a in self._approvals.open_approvals()}
        if not (only_open or waits_for_me):
            ended = await self._approvals.list_approvals(limit=MAX_LISTED)
            found = {a.id: a for a in ended} | found
        newest = sorted(found.values(), key=lambda a: a.created_at, reverse=True)
        shown: list[Shown] = []
        for approval in newest:
            if len(shown) == limit:
                break
            if not self._consents.may_see(caller.principal, approval):
                continue
            one = self._consents.show(caller, approval, self._clock.now())
            if (only_open and not one.approval.state.is_open) or (
                waits_for_me and not one.waits_for_me
            ):
                continue
            shown.append(one)
        return shown

    async def watch(self, caller: Caller, approval_id: str = "") -> AsyncGenerator[Shown, None]:
        """The open approvals the caller may see, then each that changes, as it is when it is its
        turn: whoever reads slowly misses what was in between, and costs nothing. With an id only
        that one, until it is no longer open.

        Raises:
            ApprovalNotFoundError: as in :meth:`get`.
        """
        seen: dict[str, tuple[Approval, str, Shown]] = {}
        if approval_id:
            await self.get(caller, approval_id)
        while True:
            news = self._news
            now, policy_hash = self._clock.now(), self._consents.policy_hash
            opened = {
                a.id: a
                for a in self._approvals.open_approvals()
                if approval_id in ("", a.id) and now < a.expires_at
            }
            for approval in opened.values():
                before = seen.get(approval.id)
                if before and before[0] is approval and before[1] == policy_hash:
                    continue
                if not self._consents.may_see(caller.principal, approval):
                    seen.pop(approval.id, None)
                    continue
                shown = self._consents.show(caller, approval, now)
                seen[approval.id] = (approval, policy_hash, shown)
                if before is None or before[2] != shown:
                    yield shown
            for ended in {*seen, *filter(None, [approval_id])} - opened.keys():
                seen.pop(ended, None)
                found = await self._approvals.load_approval(ended)
                if found and self._consents.may_see(caller.principal, found[0]):
                    yield self._consents.show(caller, found[0], self._clock.now())
            if approval_id and approval_id not in seen:
                return
            try:
                async with asyncio.timeout(self._look_s):
                    await news.wait()
            except TimeoutError:
                continue

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
                        f"to say no to it: keydctl approvals reject {approval.id}",
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
            raise _not_found(approval_id)
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

    def _tell(self) -> None:
        """Wake whoever watches."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _as_it_is(self, caller: Caller, approval_id: str) -> Shown:
        found = await self._approvals.load_approval(approval_id)
        if found is None:
            raise _not_found(approval_id)
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


def _not_found(approval_id: str) -> ApprovalNotFoundError:
    return ApprovalNotFoundError(
        f"no approval {approval_id}, or it is not yours to see",
        hint="see those that are: keydctl approvals",
        approval=approval_id,
    )
