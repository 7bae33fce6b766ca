"""The machine under the daemon: its clock and folders, and how many files may be open."""

from __future__ import annotations

import resource
from datetime import UTC, datetime
from pathlib import Path

from keyd.errors import ConfigError

_MAX_OPEN_FILES = 65_536


class SystemClock:
    """model.Clock: the machine's."""

    def now(self) -> datetime:
        """Now, UTC."""
        return datetime.now(UTC)


def make_folder(folder: Path) -> None:
    """Make a folder only this user can enter, unless it is there (systemd makes its own).

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be made: {e.strerror}", file=folder) from e


def raise_open_files() -> None:
    """Raise the soft limit on open files: connections, token hosts and the database share it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
