"""What a power cut does not take back: bytes and renames that have reached the disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def sync(stream: IO[bytes]) -> None:
    """Bring what was written to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's renames and new names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(file: Path, *, prefix: str, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A stream whose content takes the place of ``file`` when the block ends well: readers see
    the old one or the whole new one. ``prefix``: of the unfinished file beside it."""
    descriptor, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=prefix)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            yield stream
            sync(stream)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
