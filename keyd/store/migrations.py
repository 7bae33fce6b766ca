"""Leads a database to the schema this code knows, step by step, a backup first.

An empty file gets all tables of schema.py and schema_roles.py at once. An older database runs the
numbered steps in order, in one transaction, after a copy was put beside it. A newer one is refused:
what this code does not know it must not write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, inspect, select

from keyd.errors import ConfigError
from keyd.store import schema, schema_roles
from keyd.store.backup import copy_database
from keyd.store.database import Writer

Step = Callable[[Connection], None]
"""Changes the tables from the version before to its own number."""


def _add_marks_and_consent(connection: Connection) -> None:
    # As schema_roles.py has them: who changes one of them there writes down here how it was before.
    tables = [schema_roles.marks, schema_roles.approvals, schema_roles.ceremonies]
    schema.metadata.create_all(connection, tables)


def _add_attestations(connection: Connection) -> None:
    schema.metadata.create_all(connection, [schema.attestations])


STEPS: Mapping[int, Step] = {2: _add_marks_and_consent, 3: _add_attestations}
"""Number -> step, from 2 on. Version 1 is the first there was."""


def migrate(writer: Writer, file: Path, now: datetime, steps: Mapping[int, Step] = STEPS) -> int:
    """Bring the database to the newest version; return how many steps ran.

    Raises:
        ConfigError: the database is newer than this code, or no database of keyd.
    """
    newest = max(steps, default=schema.SCHEMA_VERSION)
    with writer.transaction() as connection:
        found = _version(connection, file)
        if found is None:
            _create(connection)
            found = schema.SCHEMA_VERSION
    if found > newest:
        raise ConfigError(
            f"{file} was written by a newer keyd (schema {found}, this one knows {newest})",
            hint="start the newer keyd-server, or restore a backup from before its upgrade",
            file=file,
        )
    if found == newest:
        return 0
    copy = file.with_name(f"{file.name}.before-schema-{newest}.{now:%Y%m%dT%H%M%SZ}")
    # A start that died after its copy tries again within the second; nothing was written since.
    if not copy.exists():
        copy_database(file, copy)
    with writer.transaction() as connection:
        for number in range(found + 1, newest + 1):
            steps[number](connection)
        connection.execute(schema.schema_version.update().values(version=newest))
    return newest - found


def _version(connection: Connection, file: Path) -> int | None:
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if schema.schema_version.name not in tables:
        raise ConfigError(f"{file} is a database, but not keyd's", file=file)
    return int(connection.execute(select(schema.schema_version.c.version)).scalar_one())


def _create(connection: Connection) -> None:
    schema.metadata.create_all(connection)
    connection.execute(schema.schema_version.insert().values(one=1, version=schema.SCHEMA_VERSION))
    connection.execute(schema.tree.insert().values(one=1, size=0, frontier=b""))
