"""Writing TLS files: never over an existing one, and a key is private from its first byte."""

from __future__ import annotations

import os
from pathlib import Path

from keyd.errors import ConfigError


def write_new_file(path: Path, data: bytes, *, mode: int) -> None:
    """Create a file with exactly this mode and make it durable.

    Raises:
        ConfigError: it exists, or its folder cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigError(
            f"{path} exists and is not overwritten",
            hint="choose another name, or move the file away",
            file=path,
        ) from None
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written: {e.strerror}", file=path) from e
