"""Repositories for tests: file keys where no daemon is needed, and python-tuf's client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from keyd.adapters.tufrepo import settings
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing, SigningKey
from keyd.adapters.tufrepo.repository import Repository, RoleKeys

ROLES = ("root", "targets", "snapshot", "timestamp")


def utc_now() -> datetime:
    """Now: python-tuf's client looks at the real clock too."""
    return datetime.now(UTC)


def file_key(folder: Path, name: str, *, reachable: bool = True) -> SigningKey:
    """A P-256 key in a file; unreachable: its URI is not given to anybody."""
    signer = CryptoSigner.generate_ecdsa()
    path = folder / f"{name}.pem"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(signer.private_bytes)
    assert isinstance(signer.public_key, SSlibKey)
    return SigningKey(signer.public_key, f"file2:{path}" if reachable else "")


def file_roles(folder: Path) -> dict[str, RoleKeys]:
    """One file key for each top-level role."""
    return {role: RoleKeys((file_key(folder, role),)) for role in ROLES}


def a_repository(path: Path, *, name: str = "acme", ring: KeyRing | None = None) -> Repository:
    """The repository in a folder, as a command would open it."""
    folder = Folder(path)
    found = ring.settings if ring else settings.find(folder) or settings.Settings(name)
    return Repository(folder, found, ring or KeyRing(found), utc_now)


def a_published_repository(path: Path, keys: Path) -> tuple[Repository, dict[str, RoleKeys]]:
    """A new repository with file keys and one target, app/hello.txt."""
    roles = file_roles(keys)
    repository = a_repository(path)
    repository.create(roles)
    hello = keys / "hello.txt"
    hello.write_text("hello, world\n")
    repository.add({"app/hello.txt": hello})
    return repository, roles


class FolderFetcher(FetcherInterface):
    """Serves a folder to the client as a plain web server would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.folder / url.removeprefix("test:")
        if not path.is_file():
            raise DownloadHTTPError("missing", 404)
        return iter([path.read_bytes()])


class StockClient:
    """python-tuf's client with a memory of its own, as an installed program has it."""

    def __init__(self, state: Path, repository: Path, trusted_root: bytes | None = None) -> None:
        """``trusted_root`` None: the first root of the repository, as if shipped with it."""
        self.state = state
        self.repository = repository
        self.trusted_root = trusted_root or (repository / "metadata/1.root.json").read_bytes()

    def update(self) -> Updater:
        """Refresh as a new run of the program would; raises what the client refuses."""
        (self.state / "targets").mkdir(parents=True, exist_ok=True)
        known = self.state / "metadata/root.json"
        updater = Updater(
            str(self.state / "metadata"),
            "test:metadata/",
            str(self.state / "targets"),
            "test:targets/",
            fetcher=FolderFetcher(self.repository),
            bootstrap=None if known.exists() else self.trusted_root,
        )
        updater.refresh()
        return updater

    def download(self, target: str) -> bytes:
        """Fetch and verify one target."""
        updater = self.update()
        info = updater.get_targetinfo(target)
        assert info is not None, f"{target} is not in the repository"
        path = Path(updater.download_target(info))
        data = path.read_bytes()
        path.unlink()
        return data

    def copy(self, state: Path) -> StockClient:
        """Another client that remembers the same."""
        shutil.copytree(self.state, state, symlinks=True)
        return StockClient(state, self.repository, self.trusted_root)
