"""Approvals (m of n): what takes the consent of people, from the request to its one use.

    consent    nothing demanded -> go on; approved -> the effect that uses the approval up, for the
               transaction of what it allows; else the request is there (its entry is durable) and
               the caller learns its id
    people     look, approve, reject, take back                                       (voting.py)
    consent    the very same call again: same requester, action, subject, key version, repository,
               role and digest, judged once more by the policy in force

An approval is bound to exactly that operation; other bytes are another one. Nobody acts for
somebody else: what is approved happens when its requester comes back.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from keyd.consententries import approval_entry, request_details, use_details
from keyd.consents import Shown, Standing
from keyd.content import MAX_PAYLOAD_BYTES
from keyd.content.canonical import encode
from keyd.errors import (
    ApprovalNeededError,
    CheckpointBehindError,
    ConflictError,
    InvalidRequestError,
    RateLimitedError,
)
from keyd.gate import Gate
from keyd.model import (
    Action,
    AddVote,
    Approval,
    ApprovalContents,
    ApprovalState,
    AuditLog,
    Caller,
    Clock,
    CloseApproval,
    Context,
    Effect,
    InsertApproval,
    OpenApprovals,
    Policy,
    RemoveVote,
    Requirement,
)
from keyd.operation import (
    NO_CONTEXT,
    Operation,
    bound_to,
    grave_words,
    objections,
    summary_of,
    why,
)
from keyd.voting import SignatureVerifier, Voting

__all__ = ["Approvals", "Operation", "Shown", "Standing", "new_approval_id"]

MAX_OPEN = 1000
MAX_OPEN_PER_REQUESTER = 100
_MAX_SUMMARY_CHARS = 1000
_RETRY_S = 60.0


def new_approval_id() -> str:
    """128 random bits in lower-case base32 (RFC 4648) without padding, 26 characters: unguessable,
    and safe in a shell."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


class Approvals(Voting):
    """Asks for consent and uses it up; the base class is for those who are asked."""

    def __init__(
        self,
        *,
        gate: Gate,
        policy: Policy,
        approvals: OpenApprovals,
        audit: AuditLog,
        clock: Clock,
        check_clock: Callable[[], None],
        new_id: Callable[[], str],
        verify_signature: SignatureVerifier,
        look_s: float = 1.0,
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted. ``new_id``: see
        :func:`new_approval_id`. ``look_s``: how often watchers look without being told."""
        super().__init__(
            gate=gate,
            policy=policy,
            approvals=approvals,
            audit=audit,
            clock=clock,
            check_clock=check_clock,
            verify_signature=verify_signature,
            look_s=look_s,
        )
        self._new_id = new_id

    async def consent(
        self, operation: Operation, *, despite_loss: bool = False
    ) -> tuple[Effect, ...]:
        """The effects that use up the consent to this operation, to be applied in the transaction
        of what it allows; none when nothing is demanded.

        Two uses of one approval may both come this far: the second transaction conflicts
        (ApprovalStateError). What is demanded is not asked for while entries of the log are lost,
        which may have said that an approval was used up or taken back; but for ``despite_loss``,
        to accept just that.

        Raises:
            ApprovalNeededError: people have to consent first; the request is durable.
            CheckpointBehindError: entries of the log are lost, and nobody has accepted it.
            RateLimitedError: too many requests are open.
            ClockError: the clock is not to be trusted.
        """
        demanded = self._demanded(operation)
        if not demanded:
            return ()
        if not despite_loss:
            self._audit.check_nothing_lost()
        self._check_clock()
        return await self._unbroken.run(self._consent(operation, demanded))

    async def _consent(
        self, operation: Operation, demanded: tuple[Requirement, ...]
    ) -> tuple[Effect, ...]:
        async with self._lock:
            found = self._find_open(operation)
            if found is not None and self._clock.now() >= found.expires_at:
                await self._expire(found)
                found = None
            if found is None:
                found = await self._ask(operation, demanded)
        standing = self._consents.standing(found, demanded)
        if all(s.is_met for s in standing):
            return _use(found)
        raise _needed(operation, found, standing)

    def needs(self, operation: Operation) -> tuple[str, ...]:
        """What the operation still needs before it can be done, one line each; changes nothing."""
        demanded = self._demanded(operation)
        found = self._find_open(operation) if demanded else None
        if found is None or self._clock.now() >= found.expires_at:
            return why(operation, demanded)
        standing = self._consents.standing(found, demanded)
        if all(s.is_met for s in standing):
            return ()
        have = "; ".join(f"{s.have} of {s.requirement.needed}" for s in standing)
        return (*why(operation, demanded), f"approval {found.id} is open: {have} so far")

    async def consent_to(
        self,
        caller: Caller,
        action: Action,
        name: str,
        parameters: Mapping[str, object],
        *,
        key_version: int = 0,
        said: str = "",
        context: Context = NO_CONTEXT,
        summary: str = "",
        despite_loss: bool = False,
    ) -> tuple[Effect, ...]:
        """Like :meth:`consent`, for what is no signature: people consent to the canonical JSON of
        action, name and ``parameters``, which name everything that matters. A refusal is in the
        log when this raises.

        ``summary``: in words; made of the parameters where it is empty.
        """
        if not self._consents.demanded(caller.principal, action, name, context):
            return ()
        content = encode({"action": action.value, "key": name, **parameters})
        operation = Operation(
            caller=caller,
            action=action,
            subject=name,
            content=content,
            digest=hashlib.sha256(content).digest(),
            summary=summary or summary_of(action, name, parameters),
            key_version=key_version,
            context=context,
            said=said,
        )
        try:
            return await self.consent(operation, despite_loss=despite_loss)
        except (ApprovalNeededError, CheckpointBehindError) as e:
            await self._gate.refuse(caller, action, name, e)
            raise

    def details(self, consent: Sequence[Effect]) -> dict[str, str]:
        """What the entry of the action says of the consent it uses up: ``approval`` and
        ``approvers``; nothing where there was none. Where it uses up several, all of them."""
        ids = [effect.approval_id for effect in consent if isinstance(effect, CloseApproval)]
        found = [a for a in map(self._approvals.find_approval, ids) if a is not None]
        return use_details(found) if found else {}

    # ------------------------------------------------------------------------------- inside

    def _demanded(self, operation: Operation) -> tuple[Requirement, ...]:
        return self._consents.demanded(
            operation.caller.principal,
            operation.action,
            operation.subject,
            operation.context,
            objections(operation),
        )

    def _find_open(self, operation: Operation) -> Approval | None:
        wanted = bound_to(operation)
        opened = self._approvals.open_approvals()
        return next((a for a in opened if a.bound_to == wanted), None)

    async def _ask(self, operation: Operation, demanded: tuple[Requirement, ...]) -> Approval:
        for name in ("content", "previous"):
            if len(getattr(operation, name)) > MAX_PAYLOAD_BYTES:
                raise InvalidRequestError(
                    name, f"people can be asked about {MAX_PAYLOAD_BYTES} bytes at most"
                )
        self._check_room(operation.caller.principal.id)
        now = self._clock.now()
        expires_at = now + timedelta(seconds=min(r.expires_s for r in demanded))
        approval = Approval(
            id=self._new_id(),
            action=operation.action.value,
            subject=operation.subject,
            key_version=operation.key_version,
            repository=operation.context.repository,
            role=operation.context.role,
            metadata_version=operation.metadata_version,
            digest=operation.digest,
            summary=operation.summary[:_MAX_SUMMARY_CHARS],
            requester=operation.caller.principal.id,
            requirements=demanded,
            why=why(operation, demanded),
            said=operation.said,
            created_at=now,
            # The text that approvers sign says whole seconds.
            expires_at=expires_at.replace(microsecond=0),
        )
        entry = approval_entry(
            operation.caller,
            "approval-request",
            approval,
            self._consents.policy_hash,
            said=operation.said,
            details=request_details(approval),
        )
        contents = ApprovalContents(operation.content, operation.previous)
        try:
            await self._record(entry, (InsertApproval(approval, contents),))
        except ConflictError:
            found = self._find_open(operation)
            if found is None:
                raise
            return found
        return approval

    def _check_room(self, requester: str) -> None:
        now = self._clock.now()
        opened = [a for a in self._approvals.open_approvals() if now < a.expires_at]
        own = sum(a.requester == requester for a in opened)
        if own < MAX_OPEN_PER_REQUESTER and len(opened) < MAX_OPEN:
            return
        full = f"{own} of {requester}" if own >= MAX_OPEN_PER_REQUESTER else f"{len(opened)}"
        raise RateLimitedError(
            f"{full} requests for approval are open, no more are taken",
            hint="withdraw what is not needed: keydctl approvals, keydctl approvals revoke ID",
            retry_after_s=_RETRY_S,
        )


def _use(approval: Approval) -> tuple[Effect, ...]:
    """Uses the approval up, while its votes are those that were judged."""
    used = CloseApproval(approval.id, ApprovalState.USED)
    if approval.state is ApprovalState.APPROVED:
        return (used,)
    # What is demanded, or whose consent counts, changed since the last vote: the stored state is
    # of that time. The same vote once more makes it the one that follows now.
    last = approval.votes[-1]
    seen = len(approval.votes) - 1
    return (
        RemoveVote(approval.id, last.principal),
        AddVote(approval.id, last, ApprovalState.APPROVED, votes_seen=seen),
        used,
    )


def _needed(
    operation: Operation, approval: Approval, standing: Sequence[Standing]
) -> ApprovalNeededError:
    have = sum(min(s.have, s.requirement.needed) for s in standing)
    need = sum(s.requirement.needed for s in standing)
    why = "; ".join(approval.why)
    wanted = "1 approval" if need == 1 else f"{need} approvals"
    return ApprovalNeededError(
        f"{approval.action} {approval.subject} needs {wanted}, has {have}: {why}",
        hint=f"have it approved: keydctl approve {approval.id}; then repeat the same command",
        approval=approval.id,
        have=have,
        need=need,
        why=why,
        grave=grave_words(operation),
    )
