"""Verification by python-tuf's own client, so that nobody has to believe our reading of TUF."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from keyd.adapters.tufrepo import published
from keyd.adapters.tufrepo.folder import Folder, file_name
from keyd.adapters.tufrepo.published import Published
from keyd.errors import RepositoryError

_METADATA_URL = "folder:metadata/"
_TARGETS_URL = "folder:targets/"
_BLOCK_BYTES = 1 << 20


class _FolderFetcher(FetcherInterface):
    """Serves the folder to python-tuf's client the way a plain HTTP server would."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        if url.startswith(_METADATA_URL):
            path = self._folder.metadata / unquote(url.removeprefix(_METADATA_URL))
        else:
            path = self._folder.targets / url.removeprefix(_TARGETS_URL)
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is missing", 404)
        return _blocks(path)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


@dataclass(frozen=True, slots=True)
class Verified:
    """What python-tuf's client accepted. ``trusted``: version of the root it began with.
    ``targets``: paths whose files were checked too."""

    trusted: int
    root: int
    timestamp: int
    targets: tuple[str, ...]


def verify(folder: Folder, trusted_root: bytes | None = None) -> Verified:
    """Run python-tuf's own client over the folder and check every target file.

    ``trusted_root``: the root metadata clients ship with; None for the oldest one here, which
    proves the chain but not who began it.

    Raises:
        RepositoryError: what the client refused.
    """
    if trusted_root is None:
        versions = folder.root_versions()
        if not versions:
            raise RepositoryError(f"{folder.metadata} holds no root")
        trusted_root = (folder.metadata / file_name("root", versions[0])).read_bytes()
    with tempfile.TemporaryDirectory(prefix="keyd-tuf-") as temp:
        try:
            updater = Updater(
                f"{temp}/metadata",
                _METADATA_URL,
                f"{temp}/targets",
                _TARGETS_URL,
                fetcher=_FolderFetcher(folder),
                bootstrap=trusted_root,
            )
            updater.refresh()
            state = published.read(folder)
            assert state is not None
            checked = _check_targets(updater, state, Path(temp) / "target")
            begun: Metadata[Root] = Metadata.from_bytes(trusted_root)
        except (TufError, DownloadError, DeserializationError) as e:
            raise RepositoryError(f"a client refuses this repository: {e}") from e
    return Verified(
        begun.signed.version,
        state.root.signed.version,
        state.timestamp.signed.version,
        tuple(checked),
    )


def _check_targets(updater: Updater, state: Published, scratch: Path) -> list[str]:
    checked = []
    for role, metadata in state.targets.items():
        for path in metadata.signed.targets:
            info = updater.get_targetinfo(path)
            if info is None:
                raise RepositoryError(
                    f"{path}: {role} lists it, but no delegation leads a client there", role=role
                )
            updater.download_target(info, str(scratch))
            checked.append(path)
    return checked
