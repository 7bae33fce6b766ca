"""ApprovalService for client tests: the part of tests/scripted_daemon.py that asks people.

It does what protos/keyd/v1/approvals.proto says as far as clients can see, and lies when told to.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from keyd.errors import (
    ApprovalNeededError,
    ApprovalNotFoundError,
    ApprovalStateError,
    InvalidRequestError,
    KeydError,
)
from keyd.v1 import approvals_pb2, signing_pb2

BOB = "email:bob@example.org"
"""Asks; everybody else may approve."""

_OPEN = (approvals_pb2.APPROVAL_STATE_PENDING, approvals_pb2.APPROVAL_STATE_APPROVED)
_LOOK_S = 0.05


class ScriptedApprovals:
    """``demanded``: key -> how many have to consent before it signs. ``lie_about_approval``
    changes what leaves, after everything else is right."""

    principal: str

    def __init__(self) -> None:
        self.approvals: dict[str, approvals_pb2.Approval] = {}
        self.demanded: dict[str, int] = {}
        self.lie_about_approval: Callable[[approvals_pb2.Approval], None] = lambda _: None
        self._changed = threading.Condition()
        self._stopped = False

    def ask(
        self,
        content: bytes,
        *,
        action: str = "sign",
        subject: str = "acme/root",
        key_version: int = 1,
        context: tuple[str, str] = ("", ""),
        version: int = 0,
        previous: bytes = b"",
        digest: bytes = b"",
        needed: int = 2,
        requester: str = BOB,
        reason: str = "release 7",
    ) -> str:
        """A new request for consent; its id."""
        now = datetime.now(UTC).replace(microsecond=0)
        approval = approvals_pb2.Approval(
            id=f"ap-{len(self.approvals) + 1}",
            state=approvals_pb2.APPROVAL_STATE_PENDING,
            action=action,
            subject=subject,
            key_version=key_version,
            repository=context[0],
            role=context[1],
            metadata_version=version,
            digest=digest or hashlib.sha256(content).digest(),
            summary="as the daemon sees it",
            requester=requester,
            reason=reason,
            why=["rule release: two people"],
            content=content,
            previous=previous,
        )
        approval.requirements.add(rule="release", needed=needed, of=["email:*@example.org"])
        approval.created_at.FromDatetime(now)
        approval.expires_at.FromDatetime(now + timedelta(days=1))
        with self._changed:
            self.approvals[approval.id] = approval
            self._changed.notify_all()
        return approval.id

    def vote(self, approval_id: str, principal: str) -> None:
        """Somebody consents, by another connection."""
        with self._changed:
            self._vote(approval_id, approvals_pb2.ApprovalVote(principal=principal))

    def end(self, approval_id: str, state: approvals_pb2.ApprovalState.ValueType) -> None:
        """It ends, whoever did that."""
        with self._changed:
            self.approvals[approval_id].state = state
            self._changed.notify_all()

    def stop_watchers(self) -> None:
        """Let streams end, so that the server can."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def use_consent(self, request: signing_pb2.SignRequest) -> None:
        """What a signature needs first."""
        key = request.key.partition("/versions/")[0]
        if key not in self.demanded or request.dry_run:
            return
        digest = hashlib.sha256(request.message).digest()
        with self._changed:
            found = [
                a
                for a in self.approvals.values()
                if (a.digest, a.subject) == (digest, key) and a.state in _OPEN
            ]
            if found and found[0].state == approvals_pb2.APPROVAL_STATE_APPROVED:
                found[0].state = approvals_pb2.APPROVAL_STATE_USED
                self._changed.notify_all()
                return
        needed = self.demanded[key]
        asked = found[0].id if found else self.ask(request.message, subject=key, needed=needed)
        have = len(self.approvals[asked].votes)
        raise ApprovalNeededError(
            f"sign {key} needs {needed} approvals, has {have}",
            hint="have it approved",
            approval=asked,
            have=have,
            need=needed,
        )

    # -------------------------------------------------------------------------------- service

    def get_approval(self, r: approvals_pb2.GetApprovalRequest) -> approvals_pb2.Approval:
        return self._shown(self._get(r.id), full=True)

    def list_approvals(
        self, r: approvals_pb2.ListApprovalsRequest
    ) -> approvals_pb2.ListApprovalsResponse:
        found = [self._shown(a) for a in reversed(self.approvals.values())]
        wanted = [
            a
            for a in found
            if (a.state in _OPEN or not r.open) and (a.waits_for_me or not r.waits_for_me)
        ]
        return approvals_pb2.ListApprovalsResponse(approvals=wanted[: r.limit or 100])

    def approve(self, r: approvals_pb2.ApproveRequest) -> approvals_pb2.Approval:
        with self._changed:
            found = self._get(r.id)
            if r.digest != found.digest:
                raise InvalidRequestError("digest", "not what the approval is about")
            vote = approvals_pb2.ApprovalVote(
                principal=self.principal, reason=r.reason, signature=r.signature
            )
            self._vote(r.id, vote)
        return self._shown(found)

    def reject(self, r: approvals_pb2.ApprovalRequest) -> approvals_pb2.Approval:
        self.end(self._get(r.id).id, approvals_pb2.APPROVAL_STATE_REJECTED)
        return self._shown(self._get(r.id))

    def revoke(self, r: approvals_pb2.ApprovalRequest) -> approvals_pb2.Approval:
        self.end(self._get(r.id).id, approvals_pb2.APPROVAL_STATE_WITHDRAWN)
        return self._shown(self._get(r.id))

    def watch_approvals(
        self, r: approvals_pb2.WatchApprovalsRequest
    ) -> Iterator[approvals_pb2.Approval]:
        if r.id:
            self._get(r.id)
        seen: dict[str, approvals_pb2.Approval] = {}
        while not self._stopped:
            with self._changed:
                now = [self._shown(a) for a in self.approvals.values() if r.id in ("", a.id)]
            for approval in now:
                if seen.get(approval.id) != approval:
                    seen[approval.id] = approval
                    yield approval
            if r.id and seen[r.id].state not in _OPEN:
                return
            with self._changed:
                self._changed.wait(_LOOK_S)

    def _get(self, approval_id: str) -> approvals_pb2.Approval:
        if approval_id not in self.approvals:
            raise ApprovalNotFoundError(f"no approval {approval_id}", approval=approval_id)
        return self.approvals[approval_id]

    def _vote(self, approval_id: str, vote: approvals_pb2.ApprovalVote) -> None:
        found = self.approvals[approval_id]
        if found.state not in _OPEN:
            raise self._over(found)
        vote.at.FromDatetime(datetime.now(UTC))
        found.votes.append(vote)
        found.requirements[0].have = len(found.votes)
        if len(found.votes) >= found.requirements[0].needed:
            found.state = approvals_pb2.APPROVAL_STATE_APPROVED
        self._changed.notify_all()

    @staticmethod
    def _over(found: approvals_pb2.Approval) -> KeydError:
        return ApprovalStateError(f"{found.id} is over", approval=found.id, state=found.state)

    def _shown(
        self, found: approvals_pb2.Approval, *, full: bool = False
    ) -> approvals_pb2.Approval:
        shown = approvals_pb2.Approval()
        shown.CopyFrom(found)
        voted = {vote.principal for vote in found.votes}
        shown.waits_for_me = found.state in _OPEN and self.principal not in voted | {
            found.requester
        }
        if not full:
            shown.ClearField("content")
            shown.ClearField("previous")
        self.lie_about_approval(shown)
        return shown
