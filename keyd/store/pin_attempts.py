"""model.PinAttempts on the database: what survives the daemon, so that one try is one try."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from keyd.model import Clock
from keyd.store.database import Writer
from keyd.store.schema import pin_attempts, to_microseconds


class StoredPinAttempts:
    """Each method is one durable transaction."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock

    def begin(self, serial: str, source: str) -> bool:
        """See model.PinAttempts."""
        values = {
            "serial": serial,
            "source": source,
            "since": to_microseconds(self._clock.now()),
        }
        with self._writer.transaction() as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            inserted = connection.execute(
                dialect.insert(pin_attempts)
                .values(values)
                .on_conflict_do_nothing()
                .returning(pin_attempts.c.serial)
            ).all()
        return bool(inserted)

    def clear(self, serial: str) -> None:
        """See model.PinAttempts."""
        with self._writer.transaction() as connection:
            connection.execute(delete(pin_attempts).where(pin_attempts.c.serial == serial))

    def find(self, serial: str) -> str | None:
        """See model.PinAttempts."""
        with self._writer.transaction() as connection:
            return connection.execute(
                select(pin_attempts.c.source).where(pin_attempts.c.serial == serial)
            ).scalar()
