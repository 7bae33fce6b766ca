"""When the last backup was made: a file in the state folder, written by `keyd-server backup`.

It is not part of a backup: a restored state has none yet, until one is made of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from keyd.cli.server_doctor_findings import Area, Finding
from keyd.durable import sync_folder

RECORD = "last-backup.json"
TOO_OLD = timedelta(days=2)
"""Backups are made daily; one that was missed is no alarm yet."""


@dataclass(frozen=True, slots=True)
class Backup:
    """``size``: entries of the log in it."""

    at: datetime
    size: int
    file: str


def record_backup(state_dir: Path, made: Backup) -> None:
    """Remember the backup, durably: the old record or the new one, never half.

    Raises:
        OSError: the folder cannot be written.
    """
    text = json.dumps({"at": made.at.isoformat(), "size": made.size, "file": made.file})
    partial = state_dir / f".{RECORD}.partial"
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o600)
    try:
        if os.geteuid() == 0:  # root's own would be closed to the service's user
            owner = state_dir.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.write(descriptor, f"{text}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(state_dir / RECORD)
    sync_folder(state_dir)


def find_backup(state_dir: Path) -> Backup | None:
    """The last one; None where none is known of, or the record cannot be read."""
    try:
        record = json.loads((state_dir / RECORD).read_text(encoding="utf-8"))
        at = datetime.fromisoformat(record["at"])
        return Backup(at, int(record["size"]), str(record["file"])) if at.tzinfo else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_backup(
    last: Backup | None, size: int, newest_key: datetime | None, now: datetime
) -> Finding:
    """Is there a backup of what matters? ``size``: entries of the log now; ``newest_key``: when
    the newest key version was made, or None."""
    if size == 0:
        return Finding(Area.BACKUP, "there is nothing to back up yet")
    if last is None:
        what = "no backup of this state was ever made"
    elif newest_key is not None and newest_key > last.at:
        what = f"keys were made after the last backup ({last.at:%F %H:%M} UTC)"
    elif size > last.size and now - last.at > TOO_OLD:
        new = size - last.size
        what = f"the last backup is {(now - last.at).days} days old and lacks {new} entries"
    else:
        return Finding(Area.BACKUP, f"{last.file}, {last.at:%F %H:%M} UTC, {last.size} entries")
    return Finding(
        Area.BACKUP,
        what,
        "if this disk dies, so does the knowledge of which key is what and who signed what",
        "keyd-server backup FILE, daily, and keep FILE on another machine",
    )
