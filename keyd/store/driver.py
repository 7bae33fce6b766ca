"""Fixed statements given to the database's driver as they are.

What SQLAlchemy does around each statement costs more than SQLite takes for most of them, and the
log's writer runs half a dozen for each group. Values stand where :func:`parameter_mark` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError


def parameter_mark(connection: Connection) -> str:
    """What stands for a value in a statement."""
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"


def fetch(connection: Connection, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows a query gives, in the connection's transaction.

    Raises:
        DBAPIError: the driver's error, as SQLAlchemy tells it.
    """
    with _cursor(connection, sql) as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


def run(connection: Connection, sql: str, values: Sequence[Any] = ()) -> None:
    """Run a statement that gives no rows; raises as :func:`fetch`."""
    with _cursor(connection, sql) as cursor:
        cursor.execute(sql, values)


def run_many(connection: Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement for each row of values; raises as :func:`fetch`."""
    with _cursor(connection, sql) as cursor:
        cursor.executemany(sql, rows)


@contextmanager
def _cursor(connection: Connection, sql: str) -> Iterator[DBAPICursor]:
    cursor = connection.connection.cursor()
    try:
        yield cursor
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(sql, None, error) from error
    finally:
        cursor.close()
