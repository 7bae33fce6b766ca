"""Backup of a running daemon's database, and restoring one. SQLite's online backup.

A backup is one file with everything keyd knows; the keys themselves stay on their tokens. A
restored log may lack the newest entries, so the database is marked: the daemon then signs with no
bound key until a person has accepted (``keyd-server checkpoint accept``). Approvals that were open
in the backup have expired in it: people are asked again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from keyd.durable import sync_folder
from keyd.errors import ConfigError
from keyd.model import ApprovalState
from keyd.store import schema
from keyd.store.state_folder import DATABASE, LOCK, StateLock, create_private

RESTORED = "restored"
"""Flag of a restored database; JSON: ``at`` (ISO 8601), ``size`` (entries in the backup)."""


def backup(state_dir: Path, file: Path) -> int:
    """Write the database of a state folder, also a running daemon's, to a new file (mode 0600).

    Returns the number of log entries in it. Nothing stands under the name before it is whole
    and on the disk.

    Raises:
        ConfigError: the file exists, or the folder has no database.
    """
    source = state_dir / DATABASE
    if not source.exists():
        raise ConfigError(f"{state_dir} holds no database of keyd", file=source)
    copy_database(source, file)
    return _check(file)


def restore(file: Path, state_dir: Path, now: datetime) -> int:
    """Put a backup into an empty state folder, marked as restored; return its log's size.

    Raises:
        ConfigError: the folder is not empty, or the file is no sound backup of this version or
            an older one.
    """
    size = _check(file)
    lock = StateLock.acquire(state_dir)
    try:
        if any(path.name != LOCK for path in state_dir.iterdir()):
            raise ConfigError(
                f"the state folder {state_dir} is not empty",
                hint="restore into a new folder, or move the old one away first",
                file=state_dir,
            )
        partial = state_dir / f"{DATABASE}.restoring"
        try:
            copy_database(file, partial)
            with closing(sqlite3.connect(partial)) as connection, connection:
                connection.execute(
                    "INSERT INTO flags (name, value) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    (RESTORED, json.dumps({"at": now.isoformat(), "size": size})),
                )
                _end_approvals(connection)
            _sync(partial)
            partial.rename(state_dir / DATABASE)
            sync_folder(state_dir)
        finally:
            partial.unlink(missing_ok=True)
    finally:
        lock.release()
    return size


def _end_approvals(connection: sqlite3.Connection) -> None:
    """No consent comes back to life: what is open in the backup may be used up, rejected or taken
    back by now. Older backups have none."""
    tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'approvals'"
    if connection.execute(tables).fetchone() is None:
        return
    connection.executemany(
        "UPDATE approvals SET state = ? WHERE state = ?",
        [(str(ApprovalState.EXPIRED), str(state)) for state in ApprovalState if state.is_open],
    )


def copy_database(source: Path, target: Path) -> None:
    """Copy a database, in use or not, to a new single file.

    Raises:
        ConfigError: the target exists, or either file cannot be used.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        create_private(partial)
        try:
            with (
                closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reader,
                closing(sqlite3.connect(partial)) as writer,
            ):
                reader.execute("PRAGMA busy_timeout=5000")
                reader.backup(writer)
                # One file, without a WAL beside it that somebody forgets to copy.
                writer.execute("PRAGMA journal_mode=DELETE")
            _sync(partial)
            # Unlike rename, link never replaces what somebody put there meanwhile.
            os.link(partial, target)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigError(
            f"{target} exists already", hint="name a file that does not exist", file=target
        ) from error
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"cannot copy {source} to {target}: {error}", file=target) from error


def _check(file: Path) -> int:
    """Refuse what is damaged, newer or not ours; return the size of the log."""
    if not file.exists():
        raise ConfigError(f"{file} does not exist", file=file)
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as connection:
            problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if problem != "ok":
                raise ConfigError(f"{file} is damaged: {problem}", file=file)
            if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
                raise ConfigError(f"{file} is damaged: rows refer to missing keys", file=file)
            version = connection.execute("SELECT version FROM schema_version").fetchone()[0]
            size, count = connection.execute(
                "SELECT (SELECT size FROM tree), (SELECT coalesce(max(idx) + 1, 0) FROM entries)"
            ).fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise ConfigError(f"{file} is no backup of keyd: {error}", file=file) from error
    if version > schema.SCHEMA_VERSION:
        raise ConfigError(f"{file} was written by a newer keyd (schema {version})", file=file)
    if size != count:
        raise ConfigError(f"{file} is damaged: {count} entries for a tree of {size}", file=file)
    return int(size)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
