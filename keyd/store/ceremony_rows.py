"""Ceremonies as rows: loads them, and writes the difference a group makes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, and_, or_, select

from keyd.model import Ceremony, Phase
from keyd.store.schema import from_microseconds, to_microseconds
from keyd.store.schema_roles import IS_OPEN_CEREMONY, ceremonies

_c = ceremonies.c


def load_all(connection: Connection) -> dict[str, Ceremony]:
    """All ceremonies, by id, oldest first."""
    rows = connection.execute(select(ceremonies).order_by(_c.number))
    return {row.id: _ceremony(row) for row in rows}


def load_ceremonies(
    connection: Connection, ids: Collection[str], repositories: Collection[str]
) -> dict[str, Ceremony]:
    """Those of the ids that there are, and the open ones of the repositories."""
    if not ids:
        return {}
    query = select(ceremonies).where(
        or_(
            _c.id.in_(ids),
            and_(_c.repository.in_(repositories), IS_OPEN_CEREMONY),
        )
    )
    return {row.id: _ceremony(row) for row in connection.execute(query)}


def write_ceremonies(
    connection: Connection, before: Mapping[str, Ceremony], changes: Mapping[str, Ceremony]
) -> None:
    """Write what differs; what ends first, so that the repository has room for the next one."""
    changed = [ceremony for id, ceremony in changes.items() if id in before]
    for ceremony in sorted(changed, key=lambda ceremony: ceremony.phase.is_open):
        update = ceremonies.update().where(_c.id == ceremony.id)
        connection.execute(update.values(_row(ceremony)))
    new = [_row(ceremony) for id, ceremony in changes.items() if id not in before]
    if new:
        connection.execute(ceremonies.insert(), new)


def _row(ceremony: Ceremony) -> dict[str, Any]:
    return {
        "id": ceremony.id,
        "repository": ceremony.repository,
        "plan": ceremony.plan,
        "phase": ceremony.phase.value,
        "started_by": ceremony.started_by,
        "started_at": to_microseconds(ceremony.started_at),
        "changed_at": to_microseconds(ceremony.changed_at),
        "said": ceremony.said,
        "draft": ceremony.draft,
        "facts": json.dumps(dict(ceremony.facts), sort_keys=True),
        "step": ceremony.step,
    }


def _ceremony(row: Any) -> Ceremony:
    return Ceremony(
        id=row.id,
        repository=row.repository,
        plan=row.plan,
        phase=Phase(row.phase),
        started_by=row.started_by,
        started_at=from_microseconds(row.started_at),
        changed_at=from_microseconds(row.changed_at),
        said=row.said,
        draft=row.draft,
        facts=json.loads(row.facts),
        step=row.step,
    )
