"""One group's transaction: the effects of its items, its entries, the tree's new head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from keyd.errors import KeydError
from keyd.model import (
    DeleteVersion,
    Effect,
    InsertKey,
    InsertVersion,
    Key,
    NewEntry,
    SetActive,
    SetKeyFields,
    StoreSignature,
    TreeHead,
    TreeNode,
    UpdateVersion,
)
from keyd.store import key_rows
from keyd.store.entry_rows import insert_entries, kept_marks, parameter_mark
from keyd.store.plan import Plan
from keyd.store.registry import Changes
from keyd.store.schema import from_microseconds, to_microseconds, tree_nodes

_HASH_BYTES = 32


def read_head(connection: Connection, *, lock: bool = False) -> TreeHead:
    """The tree row. ``lock``: hold it to the transaction's end (SQLite holds more already)."""
    # As text: once a commit, and putting a query together costs more than running this one.
    held = " FOR UPDATE" if lock and connection.dialect.name != "sqlite" else ""
    rows = connection.exec_driver_sql(f"SELECT size, frontier, last_time FROM tree{held}")  # noqa: S608
    size, hashes, last_time = rows.one()
    frontier = tuple(
        hashes[start : start + _HASH_BYTES] for start in range(0, len(hashes), _HASH_BYTES)
    )
    return TreeHead(size, frontier, None if last_time is None else from_microseconds(last_time))


class StoreGroup:
    """model.AuditGroup on an open transaction; made by Store.group()."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._head = read_head(connection, lock=True)
        self.changes = Changes({}, {}, {})
        self.kept_marks: list[int] = []

    @property
    def head(self) -> TreeHead:
        """See model.AuditGroup."""
        return self._head

    def apply(self, items: Sequence[Sequence[Effect]], now: datetime) -> list[KeydError | None]:
        """See model.AuditGroup."""
        touching = [
            any(not isinstance(effect, StoreSignature) for effect in effects) for effects in items
        ]
        if not any(touching):
            return [None] * len(items)
        effects = [effect for item in items for effect in item]
        before = key_rows.load_keys(self._connection, _key_names(effects))
        public_keys, object_ids = _claims(effects, before)
        plan = Plan(
            before,
            key_rows.public_key_owners(self._connection, public_keys),
            key_rows.object_owners(self._connection, object_ids),
            now,
        )
        conflicts = [
            plan.apply(item) if touches else None
            for item, touches in zip(items, touching, strict=True)
        ]
        self.changes = plan.changes
        key_rows.write_changes(self._connection, before, self.changes)
        return conflicts

    def append(
        self, entries: Sequence[NewEntry], head: TreeHead, nodes: Sequence[TreeNode]
    ) -> None:
        """See model.AuditGroup."""
        insert_entries(self._connection, entries)
        self.kept_marks += kept_marks(entries)
        if nodes:
            self._connection.execute(tree_nodes.insert(), [node._asdict() for node in nodes])
        last_time = None if head.last_time is None else to_microseconds(head.last_time)
        mark = parameter_mark(self._connection)
        self._connection.exec_driver_sql(
            f"UPDATE tree SET size = {mark}, frontier = {mark}, last_time = {mark}",  # noqa: S608
            (head.size, b"".join(head.frontier), last_time),
        )


def _key_names(effects: Sequence[Effect]) -> set[str]:
    names: set[str] = set()
    for effect in effects:
        match effect:
            case InsertKey(key):
                names.add(key.name)
            case InsertVersion(version):
                names.add(version.key)
            case UpdateVersion() | DeleteVersion() | SetActive() | SetKeyFields():
                names.add(effect.key)
            case _:
                pass
    return names


def _claims(effects: Sequence[Effect], before: Mapping[str, Key]) -> tuple[set[bytes], set[bytes]]:
    """The public keys and object ids that the effects may claim, on whatever token."""
    public_keys: set[bytes] = set()
    object_ids: set[bytes] = set()
    for effect in effects:
        match effect:
            case InsertVersion(version):
                object_ids.add(version.object_id)
                public_keys.add(version.public_key)
            case UpdateVersion():
                key = before.get(effect.key)
                version_before = key.find_version(effect.number) if key else None
                if version_before is not None:
                    object_ids.add(version_before.object_id)
                public_keys.add(effect.public_key or b"")
            case _:
                pass
    return public_keys - {b""}, object_ids
