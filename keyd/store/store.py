"""The store's face: opens a state folder and gives the other rooms what they need of it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from keyd.errors import AuditUnavailableError, ConfigError, InvalidRequestError
from keyd.model import (
    AuditGroup,
    Checkpoint,
    Clock,
    EntryFilter,
    EntryPage,
    SignatureKey,
    StoredSignature,
    TreeHead,
)
from keyd.store import approval_rows, ceremony_rows, entry_rows, mark_rows
from keyd.store.database import READERS, Writer, sqlite_engine
from keyd.store.group import StoreGroup, read_head
from keyd.store.key_rows import load_snapshot
from keyd.store.migrations import STEPS, Step, migrate
from keyd.store.pin_attempts import StoredPinAttempts
from keyd.store.registry import KeyRegistry
from keyd.store.schema import checkpoints, entries, to_microseconds, tree_nodes
from keyd.store.seen import SeenDigests
from keyd.store.shown import StoredApprovals, StoredCeremonies, StoredMarks
from keyd.store.state_folder import DATABASE, StateLock, create_private

MAX_PAGE = 10_000
_HOUR_US = 3_600_000_000
_Answer = TypeVar("_Answer")


def open_store(state_dir: Path, *, clock: Clock, steps: Mapping[int, Step] = STEPS) -> Store:
    """Lock the state folder (made, mode 0700, when missing), migrate and load its database.

    Blocks; once at start. ``steps``: the migrations to know.

    Raises:
        ConfigError: another daemon uses the folder, the database is newer than this code, or
            its log is damaged.
    """
    lock = StateLock.acquire(state_dir)
    writer: Writer | None = None
    try:
        file = state_dir / DATABASE
        create_private(file)
        writer = Writer(sqlite_engine(file))
        try:
            migrate(writer, file, clock.now(), steps)
            return Store(state_dir, lock, writer, sqlite_engine(file, read_only=True), clock)
        except AuditUnavailableError as error:
            raise ConfigError(f"cannot open {file}: {error.message}", file=file) from error
    except BaseException:
        if writer is not None:
            writer.close()
        lock.release()
        raise


class _Held:
    """What the database holds of all that is shown from memory."""

    def __init__(self, connection: Connection) -> None:
        self.snapshot = load_snapshot(connection)
        self.marks = mark_rows.load_all(connection)
        self.approvals = approval_rows.load_open(connection)
        self.ceremonies = ceremony_rows.load_all(connection)


class Store:
    """model.AuditRows, model.SignatureLookup, and by their names the registry, marks, approvals,
    ceremonies and PIN attempts of one database.

    Writes come from one thread at a time; async methods read on a few threads of their own and
    never wait for a writer.
    """

    def __init__(
        self, state_dir: Path, lock: StateLock, writer: Writer, readers: Engine, clock: Clock
    ) -> None:
        self._state_dir = state_dir
        self._lock = lock
        self._writer = writer
        self._readers = readers
        self._stale = False
        with writer.transaction() as connection:
            held = _Held(connection)
            size = read_head(connection).size
            last = connection.execute(select(func.max(entries.c.idx))).scalar()
        if size != (0 if last is None else last + 1):
            raise ConfigError(
                f"the log in {state_dir} is damaged: a tree of {size} entries, the last one is "
                f"{last}",
                hint="restore a backup; docs/operations.md says how",
                file=state_dir,
            )
        self._closing = False
        self._seen = SeenDigests()
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="keyd-read")
        self._threads.submit(self._load_seen)
        self.registry = KeyRegistry(held.snapshot)
        self.marks = StoredMarks(self._on_thread)
        self.approvals = StoredApprovals(self._on_thread)
        self.ceremonies = StoredCeremonies()
        self._show(held)
        self.pin_attempts = StoredPinAttempts(writer, clock)

    @property
    def state_dir(self) -> Path:
        """The folder that is locked and holds the database."""
        return self._state_dir

    def close(self) -> None:
        """Finish reads, close the database, give the folder free."""
        self._closing = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._readers.dispose()
        self._writer.close()
        self._lock.release()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction of one's own beside the log's groups; durable when the block ends."""
        with self._writer.transaction() as connection:
            yield connection

    # -- model.AuditRows

    @contextmanager
    def group(self) -> Iterator[AuditGroup]:
        """See model.AuditRows."""
        # Until the commit is known to have happened it may or may not have: read again.
        stale, self._stale = self._stale, True
        reloaded = None
        group = None
        try:
            with self._writer.transaction() as connection:
                if stale:
                    reloaded = _Held(connection)
                group = StoreGroup(connection)
                yield group
        except BaseException:
            # Nothing of an uncommitted group is shown; the next one looks what is there.
            if reloaded is not None:
                self._show(reloaded)
            raise
        self._stale = False
        self._seen.add(group.kept_marks)
        if reloaded is not None:
            self._show(reloaded)
        if group.changes:
            self.registry.swap(self.registry.snapshot.changed(group.changes))
        self.marks.change(group.marks)
        self.approvals.change(group.approvals)
        self.ceremonies.change(group.ceremonies)

    def head(self) -> TreeHead:
        """See model.AuditRows."""
        return self._read(read_head)

    def bodies(self, start: int, end: int) -> list[bytes]:
        """See model.AuditRows."""
        return self._read(lambda c: entry_rows.read_range(c, entries.c.body, start, end))

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """See model.AuditRows."""
        return self._read(lambda c: entry_rows.read_range(c, entries.c.leaf_hash, start, end))

    def nodes(self, level: int, start: int, end: int) -> list[bytes]:
        """See model.AuditRows."""
        columns = tree_nodes.c
        query = (
            select(columns.hash)
            .where(columns.level == level, columns.position >= start, columns.position < end)
            .order_by(columns.position)
        )
        return self._read(lambda c: list(c.execute(query).scalars()))

    def newest_checkpoint(self) -> Checkpoint | None:
        """See model.AuditRows."""
        newest = self._read(
            lambda c: c.execute(
                select(checkpoints).order_by(checkpoints.c.hour.desc()).limit(1)
            ).first()
        )
        if newest is None:
            return None
        return Checkpoint(newest.origin, newest.size, newest.root_hash, newest.note)

    def save_checkpoint(self, checkpoint: Checkpoint, now: datetime) -> None:
        """See model.AuditRows."""
        hour = to_microseconds(now) // _HOUR_US
        with self._writer.transaction() as connection:
            # A clock that was set back must not hide the newest behind an older one.
            newest = connection.execute(select(func.max(checkpoints.c.hour))).scalar()
            hour = max(hour, newest or 0)
            connection.execute(checkpoints.delete().where(checkpoints.c.hour == hour))
            connection.execute(
                checkpoints.insert().values(
                    hour=hour,
                    size=checkpoint.size,
                    origin=checkpoint.origin,
                    root_hash=checkpoint.root_hash,
                    note=checkpoint.note,
                )
            )

    def checkpoints(self) -> list[Checkpoint]:
        """See model.AuditRows."""
        rows = self._read(
            lambda c: c.execute(select(checkpoints).order_by(checkpoints.c.size)).all()
        )
        return [Checkpoint(row.origin, row.size, row.root_hash, row.note) for row in rows]

    def get_flag(self, name: str) -> str | None:
        """See model.AuditRows."""
        return self.registry.snapshot.flags.get(name)

    def free_bytes(self) -> int:
        """See model.AuditRows."""
        return shutil.disk_usage(self._state_dir).free

    # -- readers for the event loop

    async def find_signatures(
        self, wanted: Sequence[SignatureKey]
    ) -> dict[SignatureKey, StoredSignature]:
        """See model.SignatureLookup."""
        seen, mark = self._seen, entry_rows.mark_of
        maybe = [key for key in wanted if seen.may_hold(mark(key.digest.value))]
        if not maybe:
            return {}
        return await self._on_thread(lambda c: entry_rows.find_signatures(c, maybe))

    async def list_entries(
        self, wanted: EntryFilter, *, page_size: int = 100, after: int | None = None
    ) -> EntryPage:
        """One page of the entries that match all set fields.

        Raises:
            InvalidRequestError: the page size is not 1 to 10 000, or a hash is no hex.
        """
        if not 1 <= page_size <= MAX_PAGE:
            raise InvalidRequestError("page_size", f"{page_size} is not 1 to {MAX_PAGE}")
        return await self._on_thread(lambda c: entry_rows.list_entries(c, wanted, page_size, after))

    async def _on_thread(self, read: Callable[[Connection], _Answer]) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, read)

    def _show(self, held: _Held) -> None:
        self.registry.swap(held.snapshot)
        self.marks.load(held.marks)
        self.approvals.load(held.approvals)
        self.ceremonies.load(held.ceremonies)

    def _load_seen(self) -> None:
        """Fill the filter beside the start; requests ask the database meanwhile."""

        def fill(connection: Connection) -> None:
            for marks in entry_rows.all_kept_marks(connection):
                if self._closing:
                    return
                self._seen.add(marks)
            self._seen.loaded = True

        with suppress(AuditUnavailableError):
            self._read(fill)

    def _read(self, read: Callable[[Connection], _Answer]) -> _Answer:
        try:
            with self._readers.connect() as connection:
                return read(connection)
        except SQLAlchemyError as error:
            raise AuditUnavailableError(
                f"the database cannot be read: {getattr(error, 'orig', None) or error}",
                retry_after_s=1.0,
            ) from error
