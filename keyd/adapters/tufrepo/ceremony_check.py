"""What python-tuf's own client, which trusts the old root, thinks of what shall be published."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface, Updater

from keyd.adapters.tufrepo.folder import Folder, file_name
from keyd.adapters.tufrepo.published import Published, verifies
from keyd.errors import RepositoryError

_METADATA_URL = "draft:metadata/"


class _OverlayFetcher(FetcherInterface):
    """Serves files that are not published yet, and below them the folder."""

    def __init__(self, folder: Folder, files: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.removeprefix(_METADATA_URL))
        path = self._folder.metadata / name
        if name in self._files:
            return iter([self._files[name]])
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is missing", 404)
        return iter([path.read_bytes()])


def check_root(folder: Folder, published: Published, new: Metadata[Root]) -> None:
    """Check that clients who trust the published root, or the oldest one here, follow to ``new``.

    Roles whose keys changed are signed anew only when they are published; until then the roots
    alone are checked.

    Raises:
        RepositoryError: they would not.
    """
    try:
        published.root.signed.verify_delegate("root", new.signed_bytes, new.signatures)
        new.signed.verify_delegate("root", new.signed_bytes, new.signatures)
    except TufError as e:
        raise RepositoryError(f"no client follows to root {new.signed.version}: {e}") from e
    stays = (
        verifies(new.signed, "targets", published.targets["targets"])
        and verifies(new.signed, "snapshot", published.snapshot)
        and verifies(new.signed, "timestamp", published.timestamp)
    )
    if stays:
        _run_clients(folder, {file_name("root", new.signed.version): new.to_bytes()}, published)


def check_state(folder: Folder, before: Published, after: Published) -> None:
    """Check that clients of the published repository accept the whole new state.

    Raises:
        RepositoryError: they would not; nothing has been published.
    """
    files = {
        file_name("root", after.root.signed.version): after.root.to_bytes(),
        file_name("snapshot", after.snapshot.signed.version): after.snapshot.to_bytes(),
        file_name("timestamp", 0): after.timestamp.to_bytes(),
    }
    for role, metadata in after.targets.items():
        files[file_name(role, metadata.signed.version)] = metadata.to_bytes()
    _run_clients(folder, files, before)


def _run_clients(folder: Folder, files: Mapping[str, bytes], published: Published) -> None:
    newest = published.root.signed.version
    for version in dict.fromkeys((folder.root_versions()[0], newest)):
        trusted = (folder.metadata / file_name("root", version)).read_bytes()
        with tempfile.TemporaryDirectory(prefix="keyd-tuf-") as temp:
            try:
                Updater(
                    temp,
                    _METADATA_URL,
                    fetcher=_OverlayFetcher(folder, files),
                    bootstrap=trusted,
                ).refresh()
            except ExpiredMetadataError:
                # Expiry stops no rotation: it may be the very thing that is being mended.
                continue
            except (TufError, DownloadError) as e:
                raise RepositoryError(
                    f"a client that trusts root {version} refuses what would be published: {e}"
                ) from e
