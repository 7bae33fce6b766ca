"""A published repository as files from a folder, verified before anybody is asked to trust it.

For TUF by python-tuf's TrustedMetadataSet, the state machine inside its client; for Notary by
keyd's own reading of Notary's rules, which no Python library knows. Expiry is not judged: history
may have expired, and a repository that has is the one that needs help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Root, Targets
from tuf.api.serialization import DeserializationError
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from keyd.adapters.tufrepo.folder import ROOT_COPY, TIMESTAMP, file_name
from keyd.adapters.tufrepo.published import delegated_names, parse_any
from keyd.content.envelope import parse
from keyd.errors import RepositoryError
from keyd.rules.evidence import RoleFile, verify_import

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_NOTARY_ROLES = ("targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class Found:
    """One file of the chain: what it says of itself."""

    role: str
    version: int
    expires: datetime
    path: Path


@dataclass(slots=True)
class Chain:
    """Files that follow from the root a person trusts. ``files``: role and bytes, without that
    root; ``found``: the same and the root, for people; ``notes``: what they should know."""

    root: bytes
    files: list[tuple[str, bytes]] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def _add(self, role: str, path: Path, data: bytes, version: int, expires: datetime) -> None:
        self.files.append((role, data))
        self.found.append(Found(role, version, expires, path))


def read_tuf(root: Path, folder: Path) -> Chain:
    """What a client that ships with ``root`` finds in a metadata folder: later roots, timestamp,
    snapshot, targets and delegated targets. Only the roots where there is no timestamp.

    Raises:
        RepositoryError: a client would not follow it.
    """
    data = _read(root)
    chain = Chain(data)
    try:
        trusted = TrustedMetadataSet(data, EnvelopeType.METADATA)
        trusted.reference_time = _LONG_AGO
        chain.found.append(Found("root", trusted.root.version, trusted.root.expires, root))
        following = folder / file_name("root", trusted.root.version + 1)
        while following.exists():
            data = _read(following)
            made = trusted.update_root(data)
            chain._add("root", following, data, made.version, made.expires)
            following = folder / file_name("root", made.version + 1)
        _check_copy(folder, trusted.root)
        if (folder / TIMESTAMP).exists():
            _follow(chain, trusted, folder)
    except (TufError, DeserializationError, StorageError) as e:
        raise RepositoryError(
            f"a client that trusts {root} does not follow {folder}: {e}",
            hint="name the root your clients ship with, and the folder they read",
            file=folder,
        ) from e
    return chain


def _check_copy(folder: Path, last: Root) -> None:
    """A root.json beside the chain has to be its end: else roots in between are missing."""
    path = folder / ROOT_COPY
    if path.exists():
        signed = parse_any(path).signed
        if signed.version > last.version:
            raise RepositoryError(
                f"{path} is version {signed.version}, and the roots that lead there end with "
                f"{last.version}",
                hint=f"put {file_name('root', last.version + 1)} and those after it into {folder}",
                file=path,
            )


def _follow(chain: Chain, trusted: TrustedMetadataSet, folder: Path) -> None:
    def take(role: str, version: int) -> tuple[Path, bytes]:
        name = f"{role}.json"
        if trusted.root.consistent_snapshot and role != "timestamp":
            name = file_name(role, version)
        return folder / name, _read(folder / name)

    path, data = take("timestamp", 0)
    timestamp = trusted.update_timestamp(data)
    chain._add("timestamp", path, data, timestamp.version, timestamp.expires)
    path, data = take("snapshot", timestamp.snapshot_meta.version)
    snapshot = trusted.update_snapshot(data)
    chain._add("snapshot", path, data, snapshot.version, snapshot.expires)
    unread = [("targets", "root")]
    seen: set[str] = set()
    while unread:
        role, delegator = unread.pop(0)
        listed = snapshot.meta.get(f"{role}.json")
        if role in seen or listed is None:
            continue  # Delegated to, and nothing published yet.
        seen.add(role)
        path, data = take(role, listed.version)
        targets: Targets = trusted.update_delegated_targets(data, role, delegator)
        chain._add(role, path, data, targets.version, targets.expires)
        unread += [(name, role) for name in delegated_names(targets)]


def read_notary(gun: str, root: Path, folder: Path, now: datetime) -> Chain:
    """What a Notary client has of a collection: root.json or N.root.json, targets.json,
    snapshot.json, timestamp.json, and targets/NAME.json of its delegations.

    Raises:
        KeydError: it does not follow from the root by Notary's rules, or is for another GUN.
    """
    chain = Chain(_read(root))
    chain.found.append(_found("root", root, chain.root))
    first = chain.found[0].version
    roots = {path: _read(path) for path in folder.glob("*.root.json")}
    if (folder / ROOT_COPY).exists():
        roots[folder / ROOT_COPY] = _read(folder / ROOT_COPY)
    later: dict[int, tuple[Path, bytes]] = {}
    for path, data in roots.items():
        version = _found("root", path, data).version
        if version > first:
            later.setdefault(version, (path, data))
    files = [("root", path, data) for _, (path, data) in sorted(later.items())]
    for role in _NOTARY_ROLES:
        path = folder / f"{role}.json"
        if path.exists():
            files.append((role, path, _read(path)))
    for path in sorted((folder / "targets").rglob("*.json")):
        role = path.relative_to(folder).with_suffix("").as_posix()
        files.append((role, path, _read(path)))
    for role, path, data in files:
        found = _found(role, path, data)
        chain._add(role, path, data, found.version, found.expires)
    shown = [RoleFile(role, data) for role, data in chain.files]
    chain.notes = list(verify_import(gun, chain.root, shown, {}, now).notes)
    return chain


def read_files(given: Sequence[str]) -> list[tuple[str, bytes]]:
    """Files to show to a daemon, as ``[ROLE=]FILE`` or a metadata folder; roots first, in their
    order.

    Raises:
        RepositoryError: a file cannot be read, or its name does not say which role it is of.
    """
    found: list[Found] = []
    contents: dict[Path, bytes] = {}
    for text in given:
        role, equals, name = text.partition("=")
        path = Path(name if equals else text)
        for each in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            contents[each] = _read(each)
            below = each.relative_to(path) if path.is_dir() else Path(each.name)
            found.append(_found(role if equals else _role_of(below), each, contents[each]))
    found.sort(key=lambda f: (f.role != "root", f.version if f.role == "root" else 0))
    return [(f.role, contents[f.path]) for f in found]


def _role_of(path: Path) -> str:
    """From the name a file is published under: 4.root.json, timestamp.json, targets/NAME.json."""
    version, _, rest = path.name.partition(".")
    name = rest if version.isascii() and version.isdigit() else path.name
    role = name.removesuffix(".json")
    if role == name or not role:
        raise RepositoryError(
            f"{path}: the name does not say which role it is of", hint="write it as ROLE=FILE"
        )
    return path.with_name(role).as_posix()


def _found(role: str, path: Path, data: bytes) -> Found:
    document = parse(data).document
    return Found(role, document.version, document.expires, path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise RepositoryError(f"{path} cannot be read: {e.strerror}", file=path) from e
