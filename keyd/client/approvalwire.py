"""Approvals as they come over the wire -> the client's types."""

from __future__ import annotations

from keyd.client import types, wire
from keyd.model import ApprovalState, Vote
from keyd.v1 import approvals_pb2


def approval(message: approvals_pb2.Approval) -> types.Approval:
    """An approval as it came; nothing in it is checked against its content yet."""
    return types.Approval(
        id=message.id,
        action=message.action,
        subject=message.subject,
        key_version=message.key_version,
        repository=message.repository,
        role=message.role,
        metadata_version=message.metadata_version,
        digest=message.digest,
        summary=message.summary,
        requester=message.requester,
        requirements=tuple(_requirement(r) for r in message.requirements),
        why=tuple(message.why),
        said=message.reason,
        created_at=wire.time(message.created_at),
        expires_at=wire.time(message.expires_at),
        state=ApprovalState(
            wire.enum_name(approvals_pb2.ApprovalState.Name, message.state, "APPROVAL_STATE_")
        ),
        votes=tuple(
            Vote(v.principal, wire.time(v.at), v.reason, v.signature, v.signer)
            for v in message.votes
        ),
        content=message.content,
        previous=message.previous,
        waits_for_me=message.waits_for_me,
    )


def _requirement(message: approvals_pb2.ApprovalRequirement) -> types.Requirement:
    return types.Requirement(
        rule=message.rule,
        needed=message.needed,
        of=tuple(message.of),
        own=message.own,
        signed=message.signed,
        have=message.have,
    )
