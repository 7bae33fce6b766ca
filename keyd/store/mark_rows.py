"""Marks as rows: loads them without their bytes, and writes the difference a group makes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, func, select, tuple_

from keyd.model import Mark, MarkContents, Marked, MarkState, Need
from keyd.store.plan_marks import Held, PlannedMark, RoleName, is_whole
from keyd.store.schema import from_microseconds, to_microseconds
from keyd.store.schema_roles import marks

_CHUNK = 500
_c = marks.c
_WITHOUT_BYTES = [column for column in _c if column not in (_c.content, _c.complete_content)]
# Where an update finds the complete version's bytes.
_NOWHERE, _STAYS, _WAS_NEWEST, _GIVEN = range(4)
_this = (_c.repository == bindparam("of_repository"), _c.role == bindparam("of_role"))
_INSERT = marks.insert()
_DELETE = delete(marks).where(*_this)
# The right-hand sides read the row as it was. Bytes that stay are never sent, only a version's
# first signature brings some.
_UPDATE = (
    marks.update()
    .where(*_this)
    .values(
        {
            **{
                column: bindparam(f"new_{column.name}", type_=column.type)
                for column in _WITHOUT_BYTES
                if not column.primary_key
            },
            _c.content: func.coalesce(bindparam("new_content", type_=_c.content.type), _c.content),
            _c.complete_content: case(
                {
                    _STAYS: _c.complete_content,
                    _WAS_NEWEST: _c.content,
                    _GIVEN: bindparam("given", type_=_c.content.type),
                },
                value=bindparam("source"),
                else_=None,
            ),
        }
    )
)


def load_all(connection: Connection) -> dict[RoleName, Mark]:
    """All marks, by repository and role."""
    rows = connection.execute(select(*_WITHOUT_BYTES).order_by(_c.repository, _c.role))
    return {(row.repository, row.role): _mark(row) for row in rows}


def load_marks(connection: Connection, names: Collection[RoleName]) -> dict[RoleName, Mark]:
    """Those of the named marks that there are."""
    found: dict[RoleName, Mark] = {}
    listed = list(names)
    for start in range(0, len(listed), _CHUNK):
        chunk = listed[start : start + _CHUNK]
        query = select(*_WITHOUT_BYTES).where(tuple_(_c.repository, _c.role).in_(chunk))
        found |= {(row.repository, row.role): _mark(row) for row in connection.execute(query)}
    return found


def load_contents(connection: Connection, repository: str, role: str) -> MarkContents:
    """The bytes behind a mark; empty ones where there is no mark."""
    row = connection.execute(
        select(_c.content, _c.complete_content, _c.complete_version).where(
            _c.repository == repository, _c.role == role
        )
    ).first()
    if row is None:
        return MarkContents()
    if row.complete_version is None:
        return MarkContents(row.content)
    complete = row.content if row.complete_content is None else row.complete_content
    return MarkContents(row.content, complete)


def write_marks(
    connection: Connection,
    before: Mapping[RoleName, Mark],
    changes: Mapping[RoleName, PlannedMark | None],
) -> None:
    """Write what differs, in one statement each for what is new, changed and gone."""
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    for (repository, role), planned in changes.items():
        this = {"of_repository": repository, "of_role": role}
        old = before.get((repository, role))
        if planned is None:
            gone += [this] if old else []
        elif old is None:
            complete = planned.complete_source
            new.append(
                _row(planned.mark)
                | {
                    "content": planned.newest,
                    "complete_content": None if _needs_none(planned.mark) else complete,
                }
            )
        else:
            row = {f"new_{name}": value for name, value in _row(planned.mark).items()}
            changed.append(row | this | _sources(planned))
    for statement, rows in ((_DELETE, gone), (_UPDATE, changed), (_INSERT, new)):
        if rows:
            connection.execute(statement, rows)


def _needs_none(mark: Mark) -> bool:
    """True when the complete version has no bytes of its own."""
    return mark.complete is None or is_whole(mark)


def _sources(planned: PlannedMark) -> dict[str, Any]:
    given: bytes | None = None
    if _needs_none(planned.mark):
        source = _NOWHERE
    elif isinstance(planned.complete, bytes):
        source, given = _GIVEN, planned.complete
    else:
        # A version that was the newest and complete had its bytes in the one place.
        source = _WAS_NEWEST if planned.complete is Held.NEWEST else _STAYS
    return {
        "new_content": planned.newest if isinstance(planned.newest, bytes) else None,
        "source": source,
        "given": given,
    }


def _row(mark: Mark) -> dict[str, Any]:
    return {
        "repository": mark.repository,
        "role": mark.role,
        "state": mark.state.value,
        "signed_at": to_microseconds(mark.signed_at),
        "signers": json.dumps(sorted(mark.signers)),
        "needs": json.dumps([[need.threshold, sorted(need.signers)] for need in mark.needs]),
        "reissued": mark.reissued,
        **_marked_row("", mark.newest),
        **_marked_row("complete_", mark.complete),
    }


def _marked_row(prefix: str, marked: Marked | None) -> dict[str, Any]:
    return {
        f"{prefix}version": marked and marked.version,
        f"{prefix}digest": marked and marked.digest,
        f"{prefix}kind": marked and marked.kind,
        f"{prefix}dialect": marked and marked.dialect,
        f"{prefix}expires": marked and to_microseconds(marked.expires),
        f"{prefix}keyset": marked and marked.keyset,
    }


def _mark(row: Any) -> Mark:
    newest = Marked(
        row.version, row.digest, row.kind, row.dialect, from_microseconds(row.expires), row.keyset
    )
    complete = None
    if row.complete_version is not None:
        complete = Marked(
            row.complete_version,
            row.complete_digest,
            row.complete_kind,
            row.complete_dialect,
            from_microseconds(row.complete_expires),
            row.complete_keyset,
        )
    return Mark(
        row.repository,
        row.role,
        newest,
        MarkState(row.state),
        from_microseconds(row.signed_at),
        frozenset(json.loads(row.signers)),
        tuple(Need(threshold, frozenset(of)) for threshold, of in json.loads(row.needs)),
        complete,
        row.reissued,
    )
