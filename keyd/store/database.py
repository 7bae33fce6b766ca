"""Opens the database: one writer, a few readers, the pragmas that make a commit durable."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, QueuePool

from keyd.errors import AuditUnavailableError
from keyd.store import driver

BUSY_TIMEOUT_MS = 5_000
READERS = 2
# Pages of WAL before a commit folds them into the database file: larger is fewer, longer folds.
_WAL_PAGES = 8_000
# Holds the index pages that commits come back to (schema.py keeps those few); what falls out is
# still in the kernel's cache.
_CACHE_KIB = 16 * 1024


def sqlite_engine(file: Path, *, read_only: bool = False) -> Engine:
    """An engine for a SQLite file in WAL mode whose commits are on the disk when they return.

    A writer's transaction takes the write lock at once (BEGIN IMMEDIATE), so that it never finds
    at its end that another came first; a reader sees one snapshot from its first read on.
    """
    if read_only:
        engine = create_engine(
            f"sqlite:///{file}",
            poolclass=QueuePool,
            pool_size=READERS,
            max_overflow=8,
            connect_args={"check_same_thread": False},
        )
    else:
        engine = create_engine(
            f"sqlite:///{file}", poolclass=NullPool, connect_args={"check_same_thread": False}
        )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The driver's own transaction control would begin too late.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        # A WAL that grew once under load gives its room back.
        connection.execute("PRAGMA journal_size_limit=67108864")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver.run(connection, begin)

    return engine


class Writer:
    """The one connection that writes, for whichever thread's turn it is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self._connection: Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit durably at the end of the block, roll back when it raises.

        Raises:
            AuditUnavailableError: the database could not be written; after a failed commit it is
                unknown whether the change is there.
        """
        with self._turn:
            try:
                connection = self._connection or self._engine.connect()
                self._connection = connection
                with connection.begin():
                    yield connection
            except SQLAlchemyError as error:
                self._drop()
                cause = getattr(error, "orig", None) or error
                raise AuditUnavailableError(
                    f"the database cannot be written: {cause}",
                    hint="look at the disk of the state folder; keyd goes on by itself",
                    retry_after_s=1.0,
                ) from error

    def _drop(self) -> None:
        """Forget a connection whose transaction failed; the next one starts afresh."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        """Close the connection, and with it the last one that may fold the WAL."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._engine.dispose()
