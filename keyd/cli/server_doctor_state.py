"""What `keyd-server doctor` reads of a daemon's state. It only reads, running or not."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from keyd.audit.note import VerifierKey
from keyd.audit.origins import ORIGINS, Origins, under_all
from keyd.cli.server_doctor_findings import Area, Finding
from keyd.cli.server_state import owned_by_service
from keyd.content import parse_document
from keyd.content.documents import Root
from keyd.errors import ContentError
from keyd.logkey import log_keys, log_public_keys
from keyd.model import Checkpoint, Key, VersionState
from keyd.store import mark_rows, schema
from keyd.store.database import sqlite_engine
from keyd.store.key_rows import load_snapshot
from keyd.store.registry import KeyRegistry
from keyd.store.schema import from_microseconds
from keyd.store.state_folder import DATABASE

_SOUND_WITHIN_S = 10.0
"""A large database takes longer to read whole; then what was read was sound."""
_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class State:
    """The database at one commit.

    ``roots``: the newest complete root of each repository. ``unreadable``: repositories whose
    stored root cannot be read. ``keys``: without log keys. ``log_keys``: under all names of the
    log. ``pin_attempts``: serial -> PIN source of automatic logins that did not succeed.
    """

    size: int
    last_time: datetime | None
    flags: Mapping[str, str]
    keys: tuple[Key, ...]
    log_keys: tuple[VerifierKey, ...]
    newest_checkpoint: Checkpoint | None
    roots: Mapping[str, Root]
    unreadable: tuple[str, ...]
    pin_attempts: Mapping[str, str]

    @property
    def newest_key(self) -> datetime | None:
        """When the newest key version was made, or None."""
        return max((v.created_at for key in self.keys for v in key.versions), default=None)


def read_state(state_dir: Path, origin: str) -> State:
    """Read a database of this version. ``origin``: the configured one.

    Raises:
        SQLAlchemyError: it cannot be read.
    """
    # The last reader folds the WAL: what that leaves must stay the service's.
    with owned_by_service(state_dir):
        engine = sqlite_engine(state_dir / DATABASE, read_only=True)
        try:
            with engine.connect() as connection, connection.begin():
                return _read(connection, origin)
        finally:
            engine.dispose()


def _read(connection: Connection, origin: str) -> State:
    snapshot = load_snapshot(connection)
    registry = KeyRegistry(snapshot)
    own = log_keys(registry)
    size, last_time = connection.execute(select(schema.tree.c.size, schema.tree.c.last_time)).one()
    newest = connection.execute(
        select(schema.checkpoints).order_by(schema.checkpoints.c.hour.desc()).limit(1)
    ).first()
    roots, unreadable = _roots(connection)
    return State(
        size=size,
        last_time=None if last_time is None else from_microseconds(last_time),
        flags=snapshot.flags,
        keys=tuple(key for key in snapshot.keys.values() if key not in own),
        log_keys=under_all(
            [VerifierKey.from_public_key(origin, key) for key in log_public_keys(registry)],
            Origins.read(origin, snapshot.flags.get(ORIGINS)).names,
        ),
        newest_checkpoint=None
        if newest is None
        else Checkpoint(newest.origin, newest.size, newest.root_hash, newest.note),
        roots=roots,
        unreadable=unreadable,
        pin_attempts={
            row.serial: row.source for row in connection.execute(select(schema.pin_attempts))
        },
    )


def _roots(connection: Connection) -> tuple[dict[str, Root], tuple[str, ...]]:
    """What clients go by: the root that was complete last; where none was yet, the newest."""
    found: dict[str, Root] = {}
    unreadable: list[str] = []
    for repository, role in mark_rows.load_all(connection):
        if role != "root":
            continue
        contents = mark_rows.load_contents(connection, repository, role)
        payload = contents.complete or contents.newest
        if not payload:
            continue  # given up, or shown without its bytes
        try:
            document = parse_document(payload)
        except ContentError:
            unreadable.append(repository)
            continue
        if isinstance(document, Root):
            found[repository] = document
    return found, tuple(unreadable)


def check_database(state_dir: Path, origin: str) -> tuple[Finding, State | None]:
    """Is the database there, sound and of this version? And what it holds, if so."""
    file = state_dir / DATABASE
    try:
        is_there = file.exists()
    except OSError as e:
        return _unreadable(file, str(e.strerror)), None
    if not is_there:
        return Finding(
            Area.DATABASE,
            f"{file} is not there",
            "without it nothing is signed; the daemon makes it at its first start",
            "systemctl start keyd-server; or, where there was one: keyd-server restore FILE",
        ), None
    try:
        with owned_by_service(state_dir), closing(_open(file)) as connection:
            version = connection.execute("SELECT version FROM schema_version").fetchone()[0]
            problem, whole = _damage(connection)
    except (sqlite3.Error, TypeError) as e:
        return _unreadable(file, str(e)), None
    if problem:
        return Finding(
            Area.DATABASE,
            f"{file} is damaged: {problem}",
            "what is in it, and what is written to it, cannot be relied on",
            "stop the daemon, keep the file, check the disk, and restore the last backup: "
            "keyd-server restore FILE",
        ), None
    if version != schema.SCHEMA_VERSION:
        older = version < schema.SCHEMA_VERSION
        return Finding(
            Area.DATABASE,
            f"{file} has schema {version}, this keyd has {schema.SCHEMA_VERSION}",
            "it is migrated at the next start" if older else "this keyd is older and refuses it",
            "stop the daemon, then: keyd-server migrate"
            if older
            else "install the keyd that wrote it, or restore the copy it made beside the database",
        ), None
    try:
        state = read_state(state_dir, origin)
    except SQLAlchemyError as e:
        return _unreadable(file, str(getattr(e, "orig", None) or e)), None
    how = "sound" if whole else f"sound as far as {_SOUND_WITHIN_S:.0f} s showed"
    what = f"{file}: {how}, schema {version}, {state.size} entries, {len(state.keys)} keys"
    return Finding(Area.DATABASE, what), state


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA busy_timeout=5000")
    connection.execute("PRAGMA query_only=ON")
    return connection


def _damage(connection: sqlite3.Connection) -> tuple[str, bool]:
    """What is wrong with the file, and whether all of it was looked at."""
    give_up = time.monotonic() + _SOUND_WITHIN_S
    connection.set_progress_handler(lambda: time.monotonic() > give_up, _STEPS)
    try:
        answer = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as e:
        if "interrupted" in str(e):
            return "", False
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return ("" if answer == "ok" else answer), True


def _unreadable(file: Path, why: str) -> Finding:
    return Finding(
        Area.DATABASE,
        f"{file} cannot be read: {why}",
        "the daemon cannot start on it, or this user may not see it",
        "run this as root or as the service's user: runuser -u keyd-server -- keyd-server doctor",
    )


def living_versions(key: Key) -> int:
    """How many versions of a key are not destroyed."""
    return sum(1 for v in key.versions if v.state is not VersionState.DESTROYED)
