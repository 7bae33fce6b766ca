"""Approvals as rows: loads them, and writes the difference a group makes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, func, null, select

from keyd.model import Approval, ApprovalContents, ApprovalState, Requirement, Vote
from keyd.store.plan_approvals import PlannedApproval
from keyd.store.schema import from_microseconds, to_microseconds
from keyd.store.schema_roles import IS_OPEN_APPROVAL, approvals

KEPT_BYTES = 64 * 1024
"""Content of an approval that is done stays readable up to this size; of longer one the digest
stays, in the approval and in the log."""

_CHUNK = 500
_c = approvals.c
_WITHOUT_BYTES = [column for column in _c if column not in (_c.content, _c.previous)]


def _kept(column: ColumnElement[bytes]) -> ColumnElement[bytes]:
    return case(
        (and_(bindparam("is_done") == 1, func.length(column) > KEPT_BYTES), null()), else_=column
    )


_UPDATE = (
    approvals.update()
    .where(_c.id == bindparam("of_id"))
    .values(
        state=bindparam("new_state"),
        votes=bindparam("new_votes"),
        content=_kept(_c.content),
        previous=_kept(_c.previous),
    )
)


def load_open(connection: Connection) -> dict[str, Approval]:
    """The open approvals, by id, oldest first."""
    rows = connection.execute(select(*_WITHOUT_BYTES).where(IS_OPEN_APPROVAL).order_by(_c.number))
    return {row.id: _approval(row) for row in rows}


def load_approvals(
    connection: Connection, ids: Collection[str], digests: Collection[bytes]
) -> dict[str, Approval]:
    """Those of the ids that there are, in whatever state, and the open ones for the digests."""
    found: dict[str, Approval] = {}
    for column, values in ((_c.id, list(ids)), (_c.digest, list(digests))):
        for start in range(0, len(values), _CHUNK):
            query = select(*_WITHOUT_BYTES).where(column.in_(values[start : start + _CHUNK]))
            if column is _c.digest:
                query = query.where(IS_OPEN_APPROVAL)
            found |= {row.id: _approval(row) for row in connection.execute(query)}
    return found


def load_approval(
    connection: Connection, approval_id: str
) -> tuple[Approval, ApprovalContents] | None:
    """One approval with its bytes."""
    row = connection.execute(select(approvals).where(_c.id == approval_id)).first()
    if row is None:
        return None
    return _approval(row), ApprovalContents(row.content or b"", row.previous or b"")


def list_approvals(connection: Connection, limit: int) -> list[Approval]:
    """The newest ones in any state, newest first."""
    query = select(*_WITHOUT_BYTES).order_by(_c.number.desc()).limit(limit)
    return [_approval(row) for row in connection.execute(query)]


def write_approvals(connection: Connection, changes: Mapping[str, PlannedApproval]) -> None:
    """Write what differs; what ends first, so that a new one for the same operation has room."""
    changed = [p.approval for p in changes.values() if p.contents is None]
    if changed:
        connection.execute(_UPDATE, [_update_row(approval) for approval in changed])
    new = [(p.approval, p.contents) for p in changes.values() if p.contents is not None]
    if new:
        connection.execute(
            approvals.insert(), [_row(approval, contents) for approval, contents in new]
        )


def _update_row(approval: Approval) -> dict[str, Any]:
    return {
        "of_id": approval.id,
        "new_state": approval.state.value,
        "new_votes": _votes_json(approval.votes),
        "is_done": 0 if approval.state.is_open else 1,
    }


def _row(approval: Approval, contents: ApprovalContents) -> dict[str, Any]:
    return {
        "id": approval.id,
        "action": approval.action,
        "subject": approval.subject,
        "key_version": approval.key_version,
        "repository": approval.repository,
        "role": approval.role,
        "metadata_version": approval.metadata_version,
        "digest": approval.digest,
        "summary": approval.summary,
        "requester": approval.requester,
        "requirements": json.dumps(
            [[r.rule, r.needed, r.of, r.own, r.signed, r.expires_s] for r in approval.requirements]
        ),
        "why": json.dumps(approval.why),
        "said": approval.said,
        "created_at": to_microseconds(approval.created_at),
        "expires_at": to_microseconds(approval.expires_at),
        "state": approval.state.value,
        "votes": _votes_json(approval.votes),
        "content": contents.content,
        "previous": contents.previous,
    }


def _votes_json(votes: Sequence[Vote]) -> str:
    return json.dumps(
        [[v.principal, to_microseconds(v.at), v.said, v.signature, v.signer] for v in votes]
    )


def _vote(principal: str, at: int, said: str, signature: str, signer: str) -> Vote:
    return Vote(principal, from_microseconds(at), said, signature, signer)


def _requirement(
    rule: str, needed: int, of: list[str], own: bool, signed: bool, expires_s: int
) -> Requirement:
    return Requirement(rule, needed, tuple(of), own, signed, expires_s)


def _approval(row: Any) -> Approval:
    return Approval(
        id=row.id,
        action=row.action,
        subject=row.subject,
        key_version=row.key_version,
        repository=row.repository,
        role=row.role,
        metadata_version=row.metadata_version,
        digest=row.digest,
        summary=row.summary,
        requester=row.requester,
        requirements=tuple(_requirement(*fields) for fields in json.loads(row.requirements)),
        why=tuple(json.loads(row.why)),
        said=row.said,
        created_at=from_microseconds(row.created_at),
        expires_at=from_microseconds(row.expires_at),
        state=ApprovalState(row.state),
        votes=tuple(_vote(*fields) for fields in json.loads(row.votes)),
    )
