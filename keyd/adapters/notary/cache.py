"""A collection's folder in the trust directory: what was seen last, and what is staged.

TRUST/tuf/GUN/metadata/ROLE.json   what was verified last, in notary's own places: its clients and
                                   keydctl believe the same roots
TRUST/tuf/GUN/.keyd/changes.json   what people staged
TRUST/tuf/GUN/.keyd/ROLE.json      versions that are being signed, until they are published
TRUST/tuf/GUN/.keyd/uploads.json   uploads that may have overtaken others', until that is looked at
TRUST/tuf/GUN/.keyd/lock           held while something changes
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from keyd.durable import replacing, sync_folder
from keyd.errors import ConflictError, RepositoryError

_PREFIX = ".keyd-tmp-"
_CHANGES = "changes.json"
_UPLOADS = "uploads.json"
_TURN_S = 0.05
_OTHERS = r"metadata/(?:root|snapshot|timestamp|targets)(?:/|$)"
_ROLE = re.compile(rf"root|snapshot|timestamp|targets(?:/(?!{_OTHERS})[-a-z0-9_]+)*", re.ASCII)
"""A delegated role ``targets/metadata/root`` would lie where the root of the collection
``GUN/metadata/targets`` does; neither shall touch the other, so such roles are not kept."""


class Cache:
    """One collection's folder. ``gun`` was checked by names.py: no part of it is ``..``."""

    def __init__(self, trust_dir: Path, gun: str) -> None:
        self.path = trust_dir / "tuf" / PurePosixPath(gun)
        self.metadata = self.path / "metadata"
        self.staging = self.path / ".keyd"

    @contextlib.contextmanager
    def locked(self, wait_s: float = 10.0) -> Iterator[None]:
        """Hold the collection; readers side by side take turns.

        Raises:
            ConflictError: another run holds it for longer; try again when that one is done.
            RepositoryError: the folder cannot be written, here or later.
        """
        lock, flags = self.staging / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with _writing(lock):
            self.staging.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(lock, flags, 0o600)
        try:
            until = time.monotonic() + wait_s
            while not _take(descriptor):
                if time.monotonic() >= until:
                    raise ConflictError(
                        f"another keydctl trust is working on {self.path}", retry_after_s=2
                    )
                time.sleep(_TURN_S)
            self._tidy()
            yield
        finally:
            os.close(descriptor)

    def _tidy(self) -> None:
        """Take away what a run that died was writing. Other collections may lie below this one, and
        somebody may be writing there at this moment."""
        for folder in (self.metadata, self.staging):
            for leftover in folder.rglob(f"{_PREFIX}*"):
                if not {"metadata", ".keyd"} & set(leftover.relative_to(folder).parts):
                    leftover.unlink(missing_ok=True)

    def read(self) -> dict[str, bytes]:
        """Role -> the file that was verified last; empty for a collection never seen."""
        return _files(self.metadata)

    def write(self, files: Mapping[str, bytes], delegated: Collection[str] = ()) -> None:
        """Keep what was verified, the root first: whatever follows is judged by it. What was seen
        of other roles is forgotten, but of those ``delegated`` to: hidden for a while, they shall
        not come back older."""
        there = self.read()
        for role in sorted(files, key=lambda r: (r != "root", r)):
            if there.get(role) != files[role] and _ROLE.fullmatch(role):
                _write(self.metadata / f"{role}.json", files[role])
        for role in there.keys() - files.keys() - set(delegated):
            (self.metadata / f"{role}.json").unlink(missing_ok=True)

    def read_changes(self) -> bytes | None:
        """What people staged, as it was written; None for nothing."""
        return self._read(_CHANGES)

    def write_changes(self, content: bytes | None) -> None:
        """Replace it, durably; None takes it away."""
        self._write(_CHANGES, content)

    def read_uploads(self) -> bytes | None:
        """The uploads to look at, as they were written; None for none."""
        return self._read(_UPLOADS)

    def write_uploads(self, content: bytes | None) -> None:
        """Replace them, durably; None takes them away."""
        self._write(_UPLOADS, content)

    def _read(self, name: str) -> bytes | None:
        file = self.staging / name
        return file.read_bytes() if file.exists() else None

    def _write(self, name: str, content: bytes | None) -> None:
        if content is None:
            (self.staging / name).unlink(missing_ok=True)
        else:
            _write(self.staging / name, content)

    def pending(self) -> dict[str, bytes]:
        """Role -> a version that is being signed and not known to be published."""
        return _files(self.staging)

    def keep_pending(self, role: str, file: bytes) -> None:
        """Keep a version before anybody is asked to sign it: its bytes must not change after."""
        _write(self.staging / f"{role}.json", file)

    def drop_pending(self, *roles: str) -> None:
        """Forget versions; all of them when none is named."""
        for role in roles or tuple(self.pending()):
            (self.staging / f"{role}.json").unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove everything that is known of the collection here."""
        self.write_changes(None)
        self.write_uploads(None)
        self.drop_pending()
        for role in self.read():
            (self.metadata / f"{role}.json").unlink(missing_ok=True)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _files(folder: Path) -> dict[str, bytes]:
    """Files of roles; collections whose names go on below this one have others beside them."""
    found = {}
    for file in sorted(folder.rglob("*.json")) if folder.is_dir() else ():
        role = file.relative_to(folder).as_posix().removesuffix(".json")
        if _ROLE.fullmatch(role):
            found[role] = file.read_bytes()
    return found


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise RepositoryError(
            f"the trust directory cannot be written: {file}: {e.strerror}",
            hint="make room, or see that you may write there, or name another one (-d DIR); then "
            "run the same command again: it goes on from what is kept and served",
        ) from e


def _write(file: Path, content: bytes) -> None:
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(file, prefix=_PREFIX, mode=0o644) as stream:
            stream.write(content)
        sync_folder(file.parent)
