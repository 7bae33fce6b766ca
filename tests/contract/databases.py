"""The databases that the store's contract is tested on, and a log's writer in few lines.

A database joins by a factory in ``DATABASES``: (folder, clock) -> an open store on the same data
each time it is called with the same folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from keyd.audit import merkle
from keyd.audit.entry import entry_body
from keyd.errors import KeydError
from keyd.model import (
    Caller,
    Effect,
    EntryDraft,
    NewEntry,
    Outcome,
    Principal,
    StoreSignature,
    TreeHead,
)
from keyd.store.store import Store, open_store
from tests.fakes import FakeClock

Item = tuple[EntryDraft, Sequence[Effect]]
Factory = Callable[[Path, FakeClock], Store]
DATABASES: dict[str, Factory] = {"sqlite": lambda folder, clock: open_store(folder, clock=clock)}


def a_draft(action: str = "create", **fields: object) -> EntryDraft:
    caller = Caller(Principal(str(fields.pop("who", "socket:ci")), "unix"), "req-1")
    draft = EntryDraft(action, Outcome.ALLOWED, caller)
    return replace(draft, **fields)  # type: ignore[arg-type]


def commit(
    store: Store, items: Sequence[Item], now: datetime = datetime(2030, 1, 1, tzinfo=UTC)
) -> list[KeydError | None]:
    """What the log's writer does with a group, in few lines."""
    with store.group() as group:
        conflicts = group.apply([effects for _, effects in items], now)
        entries = []
        for index, (draft, effects) in enumerate(items, group.head.size):
            body = entry_body(index, now, draft)
            kept = [e.signature for e in effects if isinstance(e, StoreSignature)]
            leaf = merkle.leaf_hash(body)
            entries.append(NewEntry(index, now, draft, body, leaf, kept[0] if kept else None))
        leaves = [entry.leaf_hash for entry in entries]
        frontier, nodes = merkle.append(group.head.size, group.head.frontier, leaves)
        group.append(entries, TreeHead(group.head.size + len(items), frontier, now), nodes)
    return conflicts
