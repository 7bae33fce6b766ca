"""The state folder, and the lock that keeps it one daemon's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from keyd.errors import ConfigError

DATABASE = "keyd.db"
LOCK = "lock"


class StateLock:
    """An flock on ``STATE/lock``, held for the daemon's life and released by its death.

    The descriptor is close-on-exec: a token host that outlives the daemon does not keep it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, state_dir: Path) -> StateLock:
        """Take the lock and write our pid into the file.

        Raises:
            ConfigError: another process holds it (fact ``pid``), or the folder cannot be used.
        """
        path = state_dir / LOCK
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"the state folder {state_dir} cannot be used: {error.strerror}", file=state_dir
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                f"the state folder {state_dir} is already used by pid {pid}",
                hint="stop that daemon first, or give this one a state folder of its own",
                file=state_dir,
                pid=pid,
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Give the folder free; the file stays, since removing it would race with a taker."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def create_private(path: Path) -> None:
    """Make an empty file that only its owner can read; leave one that exists as it is."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
