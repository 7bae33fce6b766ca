"""Audit entries as rows: appends groups of them, finds them by their fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, null, select

from keyd.errors import InvalidRequestError
from keyd.model import (
    Context,
    Entry,
    EntryFilter,
    EntryPage,
    NewEntry,
    SignatureKey,
    StoredSignature,
)
from keyd.store import driver
from keyd.store.schema import BUCKET_BITS, entries, to_microseconds

# Many rows in one statement: each statement gives the interpreter's lock away and has to win it
# back from a busy event loop, which a statement for each row would do a thousand times a group.
_CHUNKS = (1024, 256, 64, 16, 4, 1)
_LOOKUP_CHUNK = 1000


@lru_cache(maxsize=16)
def _insert_sql(rows: int, mark: str) -> str:
    names = ", ".join(column.name for column in entries.columns)
    row = "(" + ", ".join([mark] * len(entries.columns)) + ")"
    return f"INSERT INTO entries ({names}) VALUES " + ", ".join([row] * rows)  # noqa: S608


def insert_entries(connection: Connection, new: Sequence[NewEntry]) -> None:
    """Append rows, in as few statements as the driver takes."""
    mark = driver.parameter_mark(connection)
    start = 0
    for size in _CHUNKS:
        while len(new) - start >= size:
            values: list[Any] = []
            for entry in new[start : start + size]:
                values += _row(entry)
            sql = _insert_sql(size, mark)
            try:
                driver.run(connection, sql, tuple(values))
            except UnicodeEncodeError:
                # One entry's lone surrogate must not stop its neighbours.
                driver.run(connection, sql, tuple(map(_printable, values)))
            start += size


def _printable(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _row(entry: NewEntry) -> tuple[Any, ...]:
    """The columns of schema.entries, in their order."""
    draft = entry.draft
    keyid_mark, fingerprint = _of_key(draft.keyid, draft.fingerprint)
    return (
        entry.log_index,
        to_microseconds(entry.time),
        entry.body,
        entry.leaf_hash,
        draft.action,
        draft.outcome.value,
        draft.caller.principal.id,
        draft.key or None,
        draft.version or None,
        draft.keyid or None,
        keyid_mark,
        fingerprint,
        draft.scheme or None,
        draft.digest.value if draft.digest else None,
        mark_of(draft.digest.value) if draft.digest else None,
        entry.log_index >> BUCKET_BITS,
        draft.caller.request_id or None,
        mark_of(bytes.fromhex(draft.signature_sha256[:16])) if draft.signature_sha256 else None,
        entry.signature,
        0 if entry.signature is None else 1,
    )


@lru_cache(maxsize=256)
def _of_key(keyid: str, fingerprint: str) -> tuple[int | None, bytes | None]:
    """The columns keyid_mark and fingerprint."""
    return (
        mark_of(keyid.encode("utf-8", "replace")) if keyid else None,
        bytes.fromhex(fingerprint) if fingerprint else None,
    )


def kept_marks(new: Sequence[NewEntry]) -> list[int]:
    """The digests whose signatures these entries keep."""
    return [
        mark_of(entry.draft.digest.value)
        for entry in new
        if entry.signature is not None and entry.draft.digest is not None
    ]


def all_kept_marks(connection: Connection) -> Iterator[list[int]]:
    """The digests of all kept signatures, in lists of some thousand."""
    mark = entries.c.digest_mark
    query = select(mark).where(mark.is_not(None), entries.c.kept == 1)
    for rows in connection.execute(query).partitions(5_000):
        yield [row[0] for row in rows]


def mark_of(value: bytes) -> int:
    """The first 8 bytes of a hash as both databases hold a number."""
    return int.from_bytes(value[:8], "big", signed=True)


def find_signatures(
    connection: Connection, wanted: Sequence[SignatureKey]
) -> dict[SignatureKey, StoredSignature]:
    """The oldest kept signature for each of the wanted that has one."""
    by_row: dict[tuple[object, ...], list[SignatureKey]] = {}
    for w in wanted:
        row = (w.principal, w.key, w.version, w.scheme.value, w.digest.value)
        by_row.setdefault(row, []).append(w)
    marks = list({mark_of(w.digest.value) for w in wanted})
    buckets = _buckets(connection)
    found: dict[SignatureKey, StoredSignature] = {}
    columns = entries.c
    for start in range(0, len(marks), _LOOKUP_CHUNK):
        rows = connection.execute(
            select(
                columns.principal,
                columns.key,
                columns.version,
                columns.scheme,
                columns.digest,
                columns.signature,
                columns.idx,
                columns.body,
            )
            .where(
                columns.bucket.in_(buckets),
                columns.digest_mark.in_(marks[start : start + _LOOKUP_CHUNK]),
                columns.kept == 1,
            )
            .order_by(columns.idx.desc())
        )
        for principal, key, version, scheme, digest, signature, idx, body in rows:
            for match in by_row.get((principal, key, version, scheme, digest), ()):
                if match.context is None or match.context == _context_of(body):
                    found[match] = StoredSignature(signature, idx)
    return found


def _context_of(body: bytes) -> Context | None:
    """What an entry says the signature is for."""
    said = json.loads(body).get("context")
    if not isinstance(said, dict):
        return None
    return Context(said.get("repository", ""), said.get("role", ""))


def list_entries(
    connection: Connection, wanted: EntryFilter, page_size: int, after: int | None
) -> EntryPage:
    """One page of matching entries in the log's order (or against it, ``descending``).

    Raises:
        InvalidRequestError: a digest or signature hash is no hex.
    """
    query = select(entries.c.idx, entries.c.body).where(*_conditions(connection, wanted))
    query = _between(connection, query, wanted, after)
    order = entries.c.idx.desc() if wanted.descending else entries.c.idx.asc()
    rows = connection.execute(query.order_by(order).limit(page_size + 1)).all()
    found = [Entry(row.idx, row.body, json.loads(row.body)) for row in rows[:page_size]]
    next_after = rows[page_size - 1].idx if len(rows) > page_size else None
    if wanted.signature_sha256:
        # The column holds 8 bytes of it; the body has all.
        whole = wanted.signature_sha256.lower()
        found = [entry for entry in found if entry.fields.get("signature_sha256") == whole]
    return EntryPage(tuple(found), next_after)


def _conditions(connection: Connection, wanted: EntryFilter) -> list[ColumnElement[bool]]:
    """The filter's conditions, the most selective one free to use its index.

    The others are kept from theirs: without statistics a database may take the caller's index,
    with a million entries, where the digest's has one.
    """
    columns = entries.c
    sought: list[tuple[ColumnElement[Any], Any]] = []
    if wanted.digest:
        digest = _parse_hex("digest", wanted.digest, (32, 48, 64))
        sought += [(columns.digest_mark, mark_of(digest)), (columns.digest, digest)]
    if wanted.signature_sha256:
        signature = _parse_hex("signature_sha256", wanted.signature_sha256, (32,))
        sought.append((columns.signature_mark, mark_of(signature)))
    named: tuple[tuple[ColumnElement[Any], Any], ...] = (
        (columns.request_id, wanted.request_id),
        (columns.fingerprint, _parse_hex("fingerprint", wanted.fingerprint, (0, 32))),
        (columns.keyid_mark, mark_of(wanted.keyid.encode()) if wanted.keyid else 0),
        (columns.keyid, wanted.keyid),
        (columns.key, wanted.key),
        (columns.outcome, wanted.outcome),
        (columns.action, wanted.action),
        (columns.principal, wanted.principal),
        (columns.version, wanted.version),
    )
    sought += [(column, value) for column, value in named if value]
    conditions: list[ColumnElement[bool]] = []
    if wanted.digest:
        conditions.append(columns.digest_mark.is_not(None))
        conditions.append(columns.bucket.in_(_buckets(connection)))
    for number, (column, value) in enumerate(sought):
        conditions.append((column if number == 0 else _unindexed(column)) == value)
    # Words the partial indexes' conditions, else they cannot be used.
    if wanted.action and wanted.action != "sign":
        conditions.append(columns.action != "sign")
    if wanted.outcome and wanted.outcome != "allowed":
        conditions.append(columns.outcome != "allowed")
    return conditions


def _buckets(connection: Connection) -> list[int]:
    """All buckets of the digest index."""
    last = connection.execute(select(func.max(entries.c.idx))).scalar()
    return [] if last is None else list(range((last >> BUCKET_BITS) + 1))


def _unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The same value as an expression no index holds."""
    return func.coalesce(column, null())


def _parse_hex(field: str, text: str, sizes: tuple[int, ...]) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = None
    if raw is None or len(raw) not in sizes:
        raise InvalidRequestError(field, f"{text[:140]!r} is not the hex of a hash")
    return raw


def _between(
    connection: Connection, query: Select[Any], wanted: EntryFilter, after: int | None
) -> Select[Any]:
    """Bounds on the index: start, page, and the times, which grow with the index."""
    idx, time = entries.c.idx, entries.c.time
    if wanted.start_index > 0:
        query = query.where(idx >= wanted.start_index)
    if after is not None:
        query = query.where(idx < after if wanted.descending else idx > after)
    # Only where a person accepted a clock that was set back may a later entry be earlier.
    set_back = connection.execute(
        select(idx).where(entries.c.action == "clock-accept", entries.c.action != "sign").limit(1)
    ).first()
    for moment, keep in ((wanted.since, time.__ge__), (wanted.until, time.__lt__)):
        if moment is None:
            continue
        query = query.where(keep(to_microseconds(moment)))
        if set_back is None:
            bound = _first_at(connection, moment)
            query = query.where(idx >= bound if moment is wanted.since else idx < bound)
    return query


def _first_at(connection: Connection, moment: datetime) -> int:
    """The index of the first entry at or after a moment, or one past the end."""
    idx, target = entries.c.idx, to_microseconds(moment)
    low, high = 0, (connection.execute(select(func.max(idx))).scalar() or 0) + 1
    while low < high:
        middle = (low + high) // 2
        time = connection.execute(select(entries.c.time).where(idx == middle)).scalar()
        if time is not None and time < target:
            low = middle + 1
        else:
            high = middle
    return low


def read_range(
    connection: Connection, column: ColumnElement[bytes], start: int, end: int
) -> list[bytes]:
    """One column of the entries [start, end), by index."""
    rows = connection.execute(
        select(column).where(entries.c.idx >= start, entries.c.idx < end).order_by(entries.c.idx)
    )
    return [row[0] for row in rows]
