"""Marks as rows: loads them without their bytes, and writes the difference a group makes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, select

from keyd.model import Mark, MarkContents, Marked, MarkState, Need
from keyd.store import driver
from keyd.store.plan_marks import Held, PlannedMark, RoleName, arranged
from keyd.store.schema import from_microseconds, to_microseconds
from keyd.store.schema_roles import marks

_CHUNKS = (256, 64, 16, 4, 1)
_c = marks.c
_WITHOUT_BYTES = [column for column in _c if column not in (_c.content, _c.below_content)]
_NAMES = [column.name for column in _WITHOUT_BYTES]
# Where an update finds the bytes of the version below.
_NOWHERE, _STAYS, _WAS_NEWEST, _GIVEN = range(4)


def load_all(connection: Connection) -> dict[RoleName, Mark]:
    """All marks, by repository and role."""
    rows = connection.execute(select(*_WITHOUT_BYTES).order_by(_c.repository, _c.role))
    return {(row.repository, row.role): _mark(row) for row in rows}


def load_marks(connection: Connection, names: Collection[RoleName]) -> dict[RoleName, Mark]:
    """Those of the named marks that there are."""
    found: dict[RoleName, Mark] = {}
    listed, start = list(names), 0
    for size in _CHUNKS:
        while len(listed) - start >= size:
            wanted = tuple(part for name in listed[start : start + size] for part in name)
            sql = _select_sql(size, driver.parameter_mark(connection))
            for values in driver.fetch(connection, sql, wanted):
                row = SimpleNamespace(**dict(zip(_NAMES, values, strict=True)))
                found[row.repository, row.role] = _mark(row)
            start += size
    return found


@lru_cache(maxsize=16)
def _select_sql(names: int, mark: str) -> str:
    # SQLite answers a row value IN a list by reading the whole table, and keeps the order of a
    # CROSS JOIN: so each name is one look into the index.
    columns = ", ".join(f"marks.{column.name}" for column in _WITHOUT_BYTES)
    wanted = ", ".join([f"({mark}, {mark})"] * names)
    return (
        f"SELECT {columns} FROM (VALUES {wanted}) AS wanted CROSS JOIN marks "  # noqa: S608
        "WHERE marks.repository = wanted.column1 AND marks.role = wanted.column2"
    )


def load_contents(connection: Connection, repository: str, role: str) -> MarkContents:
    """The bytes behind a mark; empty ones where there is no mark."""
    row = connection.execute(
        select(*_c).where(_c.repository == repository, _c.role == role)
    ).first()
    return MarkContents() if row is None else arranged(_mark(row), row.content, row.below_content)


def write_marks(
    connection: Connection,
    before: Mapping[RoleName, Mark],
    changes: Mapping[RoleName, PlannedMark | None],
) -> None:
    """Write what differs, in one statement each for what is gone, changed and new."""
    new: list[tuple[Any, ...]] = []
    changed: list[tuple[Any, ...]] = []
    gone: list[tuple[Any, ...]] = []
    for name, planned in changes.items():
        if planned is None:
            gone += [name] if name in before else []
        elif name in before:
            changed.append((*_row(planned.mark), *_sources(planned), *name))
        else:
            below = None if planned.mark.below is None else planned.below
            new.append((*name, *_row(planned.mark), planned.newest, below))
    statements = _write_sql(driver.parameter_mark(connection))
    for sql, rows in zip(statements, (gone, changed, new), strict=True):
        if rows:
            driver.run_many(connection, sql, rows)


@lru_cache(maxsize=2)
def _write_sql(mark: str) -> tuple[str, str, str]:
    """Delete, update, insert. The right-hand sides of the update read the row as it was, so bytes
    that stay are never sent: only a version's first signature brings some."""
    names = [column.name for column in _WITHOUT_BYTES if not column.primary_key]
    this = f"WHERE repository = {mark} AND role = {mark}"
    values = ", ".join([mark] * len(_c))
    return (
        f"DELETE FROM marks {this}",  # noqa: S608
        f"UPDATE marks SET {', '.join(f'{name} = {mark}' for name in names)}, "  # noqa: S608
        f"content = coalesce({mark}, content), below_content = CASE {mark} "
        f"WHEN {_STAYS} THEN below_content WHEN {_WAS_NEWEST} THEN content "
        f"WHEN {_GIVEN} THEN {mark} END {this}",
        f"INSERT INTO marks ({', '.join(column.name for column in _c)}) VALUES ({values})",  # noqa: S608
    )


def _sources(planned: PlannedMark) -> tuple[bytes | None, int, bytes | None]:
    """New bytes of the newest version; where those of the one below are; they, when new."""
    newest = planned.newest if isinstance(planned.newest, bytes) else None
    if planned.mark.below is None:
        return newest, _NOWHERE, None
    if isinstance(planned.below, bytes):
        return newest, _GIVEN, planned.below
    return newest, _WAS_NEWEST if planned.below is Held.NEWEST else _STAYS, None


def _row(mark: Mark) -> tuple[Any, ...]:
    """The columns between the names and the bytes, in their order."""
    return (
        *_marked_row(mark.newest),
        mark.state.value,
        to_microseconds(mark.signed_at),
        json.dumps(sorted(mark.signers)),
        json.dumps([[need.threshold, sorted(need.signers)] for need in mark.needs]),
        mark.reissued,
        *((None,) * 6 if mark.complete is None else _marked_row(mark.complete)),
        mark.published_before,
        _marked_json(mark.before),
        _marked_json(mark.floor),
    )


def _marked_json(marked: Marked | None) -> str | None:
    if marked is None:
        return None
    version, digest, *rest = _marked_row(marked)
    return json.dumps([version, digest.hex(), *rest])


def _marked(told: str | None) -> Marked | None:
    if told is None:
        return None
    version, digest, kind, dialect, expires, keyset = json.loads(told)
    return Marked(version, bytes.fromhex(digest), kind, dialect, from_microseconds(expires), keyset)


def _marked_row(marked: Marked) -> tuple[Any, ...]:
    expires = to_microseconds(marked.expires)
    return (
        marked.version,
        marked.digest,
        marked.kind,
        marked.dialect,
        expires,
        marked.keyset,
    )


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
        bool(row.published_before),
        _marked(row.before),
        _marked(row.floor),
    )
