"""keyd.v1.ApprovalService: messages <-> nouns."""

from __future__ import annotations

import re

from keyd.approvalreads import MAX_LISTED
from keyd.consents import Shown
from keyd.errors import InvalidRequestError
from keyd.model import ApprovalState
from keyd.server.wire.fields import check_range, check_size, check_text, to_timestamp
from keyd.v1 import approvals_pb2 as pb
from keyd.voting import MAX_SIGNATURE_CHARS

DEFAULT_LIMIT = 100
MAX_DIGEST_BYTES = 64

_ID = re.compile(r"[A-Za-z0-9]{1,64}")
_STATES_OUT = {s: pb.ApprovalState.Value(f"APPROVAL_STATE_{s}") for s in ApprovalState}


def approval_id(value: str) -> str:
    """An approval's id as somebody typed it."""
    if not _ID.fullmatch(value):
        raise InvalidRequestError(
            "id", "no id of an approval", hint="see the open ones: keydctl approvals"
        )
    return value


def digest(message: pb.ApproveRequest) -> bytes:
    """The digest that the approver worked out."""
    return check_size("digest", message.digest, MAX_DIGEST_BYTES)


def signature(message: pb.ApproveRequest) -> str:
    """The armored SSHSIG, or nothing."""
    return check_text("signature", message.signature, MAX_SIGNATURE_CHARS, lines=True)


def limit(message: pb.ListApprovalsRequest) -> int:
    """How many to list."""
    return check_range("limit", message.limit, 0, MAX_LISTED) or DEFAULT_LIMIT


def approval_message(shown: Shown) -> pb.Approval:
    """An approval as one caller sees it."""
    approval = shown.approval
    return pb.Approval(
        id=approval.id,
        state=_STATES_OUT[approval.state],
        action=approval.action,
        subject=approval.subject,
        key_version=approval.key_version,
        repository=approval.repository,
        role=approval.role,
        metadata_version=approval.metadata_version,
        digest=approval.digest,
        summary=approval.summary,
        requester=approval.requester,
        reason=approval.said,
        requirements=[
            pb.ApprovalRequirement(
                rule=standing.requirement.rule,
                needed=standing.requirement.needed,
                have=standing.have,
                of=standing.requirement.of,
                own=standing.requirement.own,
                signed=standing.requirement.signed,
            )
            for standing in shown.standing
        ],
        why=approval.why,
        votes=[
            pb.ApprovalVote(
                principal=vote.principal,
                at=to_timestamp(vote.at),
                reason=vote.said,
                signature=vote.signature,
                signer=vote.signer,
            )
            for vote in approval.votes
        ],
        created_at=to_timestamp(approval.created_at),
        expires_at=to_timestamp(approval.expires_at),
        content=shown.contents.content,
        previous=shown.contents.previous,
        waits_for_me=shown.waits_for_me,
    )
