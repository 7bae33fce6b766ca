"""One group's transaction: the effects of its items, its entries, the tree's new head."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from keyd.errors import KeydError
from keyd.model import (
    Approval,
    Ceremony,
    Effect,
    Mark,
    NewEntry,
    StoreSignature,
    TreeHead,
    TreeNode,
)
from keyd.store import approval_rows, ceremony_rows, driver, key_rows, mark_rows
from keyd.store.entry_rows import insert_entries, kept_marks
from keyd.store.plan import Plan
from keyd.store.plan_approvals import ApprovalPlan
from keyd.store.plan_ceremonies import CeremonyPlan
from keyd.store.plan_keys import KeyPlan
from keyd.store.plan_marks import MarkPlan, RoleName
from keyd.store.registry import Changes
from keyd.store.schema import from_microseconds, to_microseconds, tree_nodes
from keyd.store.touched import Touched

_HASH_BYTES = 32


def read_head(connection: Connection, *, lock: bool = False) -> TreeHead:
    """The tree row. ``lock``: hold it to the transaction's end (SQLite holds more already)."""
    held = " FOR UPDATE" if lock and connection.dialect.name != "sqlite" else ""
    sql = f"SELECT size, frontier, last_time FROM tree{held}"  # noqa: S608
    ((size, hashes, last_time),) = driver.fetch(connection, sql)
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
        self.marks: dict[RoleName, Mark | None] = {}
        self.approvals: list[Approval] = []
        self.ceremonies: list[Ceremony] = []
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
        touched = Touched.by([effect for item in items for effect in item])
        connection = self._connection
        keys = key_rows.load_keys(connection, touched.keys)
        marks = mark_rows.load_marks(connection, touched.marks)
        approvals = approval_rows.load_approvals(
            connection, touched.approvals, touched.approval_digests
        )
        ceremonies = ceremony_rows.load_ceremonies(
            connection, touched.ceremonies, touched.ceremony_repositories
        )
        public_keys, object_ids = touched.claims(keys)
        key_plan = KeyPlan(
            keys,
            key_rows.public_key_owners(connection, public_keys),
            key_rows.object_owners(connection, object_ids),
            now,
        )
        mark_plan, approval_plan = MarkPlan(marks, now), ApprovalPlan(approvals, now)
        ceremony_plan = CeremonyPlan(ceremonies)
        plan = Plan(key_plan, mark_plan, approval_plan, ceremony_plan)
        conflicts = [
            plan.apply(item) if touches else None
            for item, touches in zip(items, touching, strict=True)
        ]
        key_rows.write_changes(connection, keys, key_plan.changes)
        mark_rows.write_marks(connection, marks, mark_plan.changes)
        approval_rows.write_approvals(connection, approval_plan.changes)
        ceremony_rows.write_ceremonies(connection, ceremonies, ceremony_plan.changes)
        self.changes = key_plan.changes
        self.marks = {name: p.mark if p else None for name, p in mark_plan.changes.items()}
        self.approvals = [p.approval for p in approval_plan.changes.values()]
        self.ceremonies = list(ceremony_plan.changes.values())
        return conflicts

    def append(
        self, entries: Sequence[NewEntry], head: TreeHead, nodes: Sequence[TreeNode]
    ) -> None:
        """See model.AuditGroup."""
        mark = driver.parameter_mark(self._connection)
        insert_entries(self._connection, entries)
        self.kept_marks += kept_marks(entries)
        if nodes:
            self._connection.execute(tree_nodes.insert(), [node._asdict() for node in nodes])
        last_time = None if head.last_time is None else to_microseconds(head.last_time)
        driver.run(
            self._connection,
            f"UPDATE tree SET size = {mark}, frontier = {mark}, last_time = {mark}",  # noqa: S608
            (head.size, b"".join(head.frontier), last_time),
        )
