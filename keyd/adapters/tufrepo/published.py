"""What clients see: read from the folder and verified by the rules of TUF 1.0, section 5.

Expiry is not looked at here: expired metadata must be readable, or nobody could renew it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from keyd.adapters.tufrepo.folder import TIMESTAMP, Folder, file_name
from keyd.errors import RepositoryError

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)
Delegator = Root | Targets


@dataclass(slots=True)
class Published:
    """One consistent state. ``targets``: the top-level role and all delegated ones, by name,
    delegators before those they delegate to."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: dict[str, Metadata[Targets]] = field(default_factory=dict)


def parse(path: Path, kind: type[T]) -> Metadata[T]:
    """Parse one metadata file.

    Raises:
        RepositoryError: absent, not metadata, or of another type.
    """
    metadata = parse_any(path)
    if not isinstance(metadata.signed, kind):
        raise RepositoryError(f"{path} holds {metadata.signed.type}, not {kind.type}", file=path)
    return metadata


def parse_any(path: Path) -> Metadata[Any]:
    """Parse one metadata file of whatever type.

    Raises:
        RepositoryError: absent, or not metadata.
    """
    try:
        return Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError as e:
        raise RepositoryError(f"{path} is missing", file=path) from e
    except (DeserializationError, OSError) as e:
        raise RepositoryError(f"{path} cannot be read as TUF metadata: {e}", file=path) from e


def verifies(delegator: Delegator, role: str, metadata: Metadata[Any]) -> bool:
    """True when enough keys of the role, as the delegator lists them, have signed."""
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except ValueError:  # The delegator does not know the role.
        return False
    return result.verified


def delegated_names(targets: Targets) -> Iterator[str]:
    """The roles a targets role delegates to, in order."""
    if targets.delegations is None:
        return
    if targets.delegations.roles is not None:
        yield from targets.delegations.roles
    if targets.delegations.succinct_roles is not None:
        yield from targets.delegations.succinct_roles.get_roles()


def delegator_of(root: Root, targets: dict[str, Metadata[Targets]], role: str) -> Delegator | None:
    """Who lists the keys of a role: the root, the first targets role that delegates to it, or
    None."""
    if role in root.roles:
        return root
    for metadata in targets.values():
        if role in delegated_names(metadata.signed):
            return metadata.signed
    return None


def read_root(folder: Folder) -> Metadata[Root] | None:
    """The newest root, its whole chain verified; None when nothing was published.

    Raises:
        RepositoryError: a gap in the versions, or a root its predecessor does not vouch for.
    """
    versions = folder.root_versions()
    before: Metadata[Root] | None = None
    for version in versions:
        path = folder.metadata / file_name("root", version)
        root = parse(path, Root)
        if root.signed.version != version or (before and version != before.signed.version + 1):
            raise RepositoryError(
                f"{path}: version {root.signed.version} breaks the chain", file=path
            )
        for judge in (before or root, root):
            if not verifies(judge.signed, "root", root):
                raise RepositoryError(
                    f"{path}: not signed as root {judge.signed.version} demands", file=path
                )
        before = root
    return before


def read(folder: Folder) -> Published | None:
    """Read and verify what is published; None for a folder without any root.

    Raises:
        RepositoryError: something is there that no client would accept, expiry aside.
    """
    root = read_root(folder)
    if root is None:
        begun = "root" in folder.staged_files()  # A first publication that was cut short.
        if not begun and folder.metadata.is_dir() and any(folder.metadata.iterdir()):
            raise RepositoryError(
                f"{folder.metadata} holds files but no N.root.json: not touching it",
                file=folder.metadata,
            )
        return None
    prefix = root.signed.consistent_snapshot
    timestamp = _vouched(folder, TIMESTAMP, Timestamp, root.signed, "timestamp")
    about = timestamp.signed.snapshot_meta
    name = file_name("snapshot", about.version) if prefix else "snapshot.json"
    snapshot = _vouched(folder, name, Snapshot, root.signed, "snapshot")
    _check_meta(folder, name, about, snapshot)
    state = Published(root, timestamp, snapshot)
    unread: list[tuple[Delegator, str]] = [(root.signed, "targets")]
    while unread:
        delegator, role = unread.pop(0)
        listed = snapshot.signed.meta.get(f"{role}.json")
        if role in state.targets or (listed is None and role != "targets"):
            continue  # A role that is delegated to and has published nothing yet is no error.
        if listed is None:
            raise RepositoryError("the snapshot does not list targets.json", role="snapshot")
        name = file_name(role, listed.version) if prefix else f"{role}.json"
        targets = _vouched(folder, name, Targets, delegator, role)
        _check_meta(folder, name, listed, targets)
        state.targets[role] = targets
        unread.extend((targets.signed, child) for child in delegated_names(targets.signed))
    return state


def _vouched(
    folder: Folder, name: str, kind: type[T], delegator: Delegator, role: str
) -> Metadata[T]:
    path = folder.metadata / name
    if not path.resolve().is_relative_to(folder.metadata.resolve()):
        raise RepositoryError(f"{path} lies outside of {folder.metadata}", file=path)
    metadata = parse(path, kind)
    if not verifies(delegator, role, metadata):
        raise RepositoryError(f"{path}: not signed by enough keys of {role}", file=path, role=role)
    return metadata


def _check_meta(folder: Folder, name: str, listed: Any, metadata: Metadata[Any]) -> None:
    path = folder.metadata / name
    try:
        listed.verify_length_and_hashes(path.read_bytes())
    except TufError as e:
        raise RepositoryError(f"{path}: {e}", file=path) from e
    if metadata.signed.version != listed.version:
        raise RepositoryError(
            f"{path}: version {metadata.signed.version}, listed as {listed.version}", file=path
        )
