"""The folder of a repository: names, the lock, and writes that are whole or absent.

DIR/metadata/        what clients fetch: N.root.json, N.targets.json, ..., timestamp.json
DIR/targets/         target files, names prefixed with their hash
DIR/staged/          metadata that still waits for signatures
DIR/.keyd-tuf.json   settings; DIR/.keyd-tuf.lock: held while something changes
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tuf.api.metadata import TargetFile

from keyd.durable import sync, sync_folder
from keyd.errors import RepositoryError

_TEMP_PREFIX = ".keyd-tmp-"
_VERSIONED = re.compile(r"([0-9]+)\.(.+)\.json")
TIMESTAMP = "timestamp.json"
ROOT_COPY = "root.json"


def file_name(role: str, version: int) -> str:
    """The name of a role's metadata file, as clients ask for it (consistent snapshots)."""
    return TIMESTAMP if role == "timestamp" else f"{version}.{role}.json"


def check_target_path(path: str) -> str:
    """Return a target path that is safe as a relative path on every side.

    Raises:
        RepositoryError: absolute, with empty, ``.`` or ``..`` parts, backslash or control
            characters.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\x00-\x1f\x7f\\]", path):
        raise RepositoryError(
            f"{path!r} is no target path: use a relative path such as app/app-1.0.tar.gz"
        )
    return path


class Folder:
    """One repository's folder; nothing here knows what metadata means."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = path / "metadata"
        self.targets = path / "targets"
        self.staged = path / "staged"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; leftovers of a run that died are removed first.

        Raises:
            RepositoryError: another run holds it; try again when that one is done.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / ".keyd-tuf.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise RepositoryError(
                    f"{self.path} is in use by another keydctl tuf", retry_after_s=2
                ) from e
            for leftover in [*self.path.glob(f"{_TEMP_PREFIX}*"), *self._nested_leftovers()]:
                leftover.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    def _nested_leftovers(self) -> Iterator[Path]:
        for folder in (self.metadata, self.staged, self.targets):
            yield from folder.rglob(f"{_TEMP_PREFIX}*")

    def highest_version(self, role: str, *, staged: bool = True) -> int:
        """The highest version of a role that has a file here, published, left over or ``staged``.

        A number that ever had a file is not used again: a daemon that has signed it would
        refuse other bytes at it.
        """
        found = 0
        for folder in (self.metadata, self.staged) if staged else (self.metadata,):
            for name in names_in(folder):
                match = _VERSIONED.fullmatch(name)
                if match and match[2] == role:
                    found = max(found, int(match[1]))
        return found

    def root_versions(self) -> list[int]:
        """The versions of all published roots, ascending."""
        matches = (_VERSIONED.fullmatch(name) for name in names_in(self.metadata))
        return sorted(int(m[1]) for m in matches if m and m[2] == "root")

    def staged_files(self) -> dict[str, Path]:
        """Role -> the metadata that waits for signatures.

        Raises:
            RepositoryError: a file that is not staged metadata, or two for one role.
        """
        found: dict[str, Path] = {}
        for name in names_in(self.staged):
            match = _VERSIONED.fullmatch(name)
            if match is None or match[2] in found:
                raise RepositoryError(
                    f"{self.staged / name}: not expected here",
                    hint="move it away; staged/ holds one N.ROLE.json per role",
                    file=self.staged / name,
                )
            found[match[2]] = self.staged / name
        return found

    def stage(self, role: str, version: int, data: bytes) -> None:
        """Keep metadata that waits for signatures, durably; replaces the role's former one."""
        former = self.staged_files().get(role)
        self._write_all(self.staged, [(f"{version}.{role}.json", data)])
        if former is not None and former.name != f"{version}.{role}.json":
            former.unlink()

    def unstage(self, role: str) -> None:
        """Forget a role's staged metadata; nothing happens when there is none."""
        path = self.staged_files().get(role)
        if path is not None:
            path.unlink()

    def publish(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Put metadata files where clients see them, in exactly this order.

        All are written and synced under temporary names first; the renames follow one by one,
        so that a crash leaves a prefix of the list. The caller orders them so that every prefix
        is a valid repository.

        Raises:
            RepositoryError: a versioned file exists with other content; nothing was changed.
        """
        for name, data in files:
            there = self.metadata / name
            if name not in (TIMESTAMP, ROOT_COPY) and there.exists() and there.read_bytes() != data:
                raise RepositoryError(
                    f"{there} exists with other content; published versions never change",
                    file=there,
                )
        self._write_all(self.metadata, files)

    def write_settings(self, data: bytes) -> None:
        """Replace .keyd-tuf.json."""
        self._write_all(self.path, [(".keyd-tuf.json", data)])

    def add_target(self, source: Path, target_path: str, algorithms: Sequence[str]) -> TargetFile:
        """Copy a file into targets/ under its hash-prefixed names; what was copied is hashed.

        Raises:
            RepositoryError: the source cannot be read, or the path is not safe.
        """
        check_target_path(target_path)
        final = self.targets / target_path
        final.parent.mkdir(parents=True, exist_ok=True)
        with _temp_file(final.parent) as (temp, stream):
            try:
                with source.open("rb") as original:
                    shutil.copyfileobj(original, stream)
            except OSError as e:
                raise RepositoryError(f"{source}: {e.strerror}", file=source) from e
            sync(stream)
            target = TargetFile.from_file(target_path, str(temp), list(algorithms))
            prefixed = [self.targets / path for path in target.get_prefixed_paths()]
            for path in prefixed[1:]:
                with _temp_file(final.parent) as (copy, copy_stream), temp.open("rb") as first:
                    shutil.copyfileobj(first, copy_stream)
                    sync(copy_stream)
                    copy.replace(path)
            temp.replace(prefixed[0])
        sync_folder(final.parent)
        return target

    def _write_all(self, folder: Path, files: Sequence[tuple[str, bytes]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            written: list[tuple[Path, Path]] = []
            for name, data in files:
                temp, stream = stack.enter_context(_temp_file(folder))
                stream.write(data)
                sync(stream)
                written.append((temp, folder / name))
            for temp, final in written:
                temp.replace(final)
                # Renames may reach the disk in another order than made, unless each is synced.
                sync_folder(folder)


def names_in(folder: Path) -> list[str]:
    """The file names in a folder, sorted, without temporary ones; empty when it is absent."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(_TEMP_PREFIX))


@contextlib.contextmanager
def _temp_file(folder: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    descriptor, name = tempfile.mkstemp(prefix=_TEMP_PREFIX, dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), 0o644)  # Published files are for everybody; mkstemp's not.
            yield path, stream
    finally:
        path.unlink(missing_ok=True)
