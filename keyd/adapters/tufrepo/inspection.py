"""Looking, without a lock and without changing: what a file says, how a repository stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from keyd.adapters.tufrepo import published
from keyd.adapters.tufrepo.folder import Folder, file_name
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.adapters.tufrepo.published import Delegator
from keyd.errors import RepositoryError


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature, or one that is missing. ``state``: valid, invalid, missing, or unknown key
    (nobody lists that key for the role)."""

    keyid: str
    who: str
    state: str


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One metadata file. ``valid``: how many of ``threshold`` signatures count.
    ``where``: published or staged."""

    role: str
    version: int
    expires: datetime
    where: str
    threshold: int
    valid: int
    signatures: tuple[SignatureLine, ...]
    path: str

    @property
    def is_complete(self) -> bool:
        """True when clients accept it, expiry aside."""
        return self.valid >= self.threshold

    def days_left(self, now: datetime) -> float:
        """Days until it expires; negative when it has."""
        return (self.expires - now).total_seconds() / 86_400


def status(folder: Folder, ring: KeyRing) -> list[RoleStatus]:
    """Every role that is published or staged, with its signatures and who misses.

    Raises:
        RepositoryError: something published does not verify.
    """
    state = published.read(folder)
    found = []
    if state is not None:
        everything: dict[str, Metadata[Any]] = {
            "root": state.root,
            "targets": state.targets["targets"],
            "snapshot": state.snapshot,
            "timestamp": state.timestamp,
            **state.targets,
        }
        for role, metadata in everything.items():
            judge = published.delegator_of(state.root.signed, state.targets, role)
            path = folder.metadata / file_name(role, metadata.signed.version)
            found.append(_role_status(role, metadata, [judge], "published", path, ring))
    for role, path in folder.staged_files().items():
        staged = parse_any(path)
        found.append(
            _role_status(role, staged, _judges(folder, role, staged), "staged", path, ring)
        )
    return found


def _judges(folder: Folder, role: str, staged: Metadata[Any]) -> list[Delegator | None]:
    """Whose key lists decide about staged metadata: a root's predecessor and itself, else the
    delegator as it will be."""
    if role == "root":
        path = folder.metadata / file_name("root", staged.signed.version - 1)
        before: list[Delegator | None] = []
        if path.exists():
            before = [published.parse(path, Root).signed]
        return [*before, staged.signed]
    state = published.read(folder)
    files = folder.staged_files()
    root = published.parse(files.pop("root"), Root) if "root" in files else None
    root = root or (state.root if state else None)
    if root is None:
        return [None]
    targets = dict(state.targets) if state else {}
    targets |= {name: published.parse(path, Targets) for name, path in files.items()}
    return [published.delegator_of(root.signed, targets, role)]


def _role_status(
    role: str,
    metadata: Metadata[Any],
    judges: list[Delegator | None],
    where: str,
    path: Path,
    ring: KeyRing,
) -> RoleStatus:
    lines: dict[str, SignatureLine] = {}
    threshold, valid = 0, 0
    worst = None
    for judge in judges:
        if judge is None:
            continue
        result = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if worst is None or result.missing > worst:
            worst = result.missing
            threshold, valid = result.threshold, len(result.signed)
        for keyid, key in {**result.signed, **result.unsigned}.items():
            state = "valid" if keyid in result.signed else "missing"
            if state == "missing" and keyid in metadata.signatures:
                state = "invalid"
            lines[keyid] = SignatureLine(keyid, ring.who(key), state)
    for keyid in metadata.signatures:
        lines.setdefault(keyid, SignatureLine(keyid, "", "unknown key"))
    signed = metadata.signed
    return RoleStatus(
        role,
        signed.version,
        signed.expires,
        where,
        threshold,
        valid,
        tuple(lines.values()),
        str(path),
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """What one metadata file says. ``signatures``: judged by ``judged_by``, which is empty when
    nobody here knows the role's keys."""

    kind: str
    role: str
    version: int
    expires: datetime
    facts: tuple[tuple[str, str], ...]
    signatures: tuple[SignatureLine, ...]
    judged_by: str


def show(path: Path, ring: KeyRing, folder: Folder | None) -> Shown:
    """Say what a file says and who signed it; ``folder``: the repository that knows the keys.

    Raises:
        RepositoryError: not TUF metadata.
    """
    metadata = parse_any(path)
    role = role_of(path, metadata)
    judges = judges_of(path, metadata, folder)
    shown = _role_status(role, metadata, judges, "", path, ring)
    known = [j for j in judges if j is not None]
    return Shown(
        metadata.signed.type,
        role,
        metadata.signed.version,
        metadata.signed.expires,
        tuple(_facts(metadata.signed, ring)),
        shown.signatures,
        ", ".join(f"{j.type} {j.version}" for j in known),
    )


def judges_of(path: Path, metadata: Metadata[Any], folder: Folder | None) -> list[Delegator | None]:
    """Whose key lists decide about a file; a root alone is judged by itself."""
    if folder is not None:
        return _judges(folder, role_of(path, metadata), metadata)
    return [metadata.signed] if isinstance(metadata.signed, Root) else []


def parse_any(path: Path) -> Metadata[Any]:
    """Parse metadata of any type.

    Raises:
        RepositoryError: absent, or not metadata.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    except (DeserializationError, OSError) as e:
        raise RepositoryError(f"{path} cannot be read as TUF metadata: {e}", file=path) from e
    return metadata


def role_of(path: Path, metadata: Metadata[Any]) -> str:
    """The role a file is for: its type, except for delegated targets, whose name says it."""
    if metadata.signed.type != "targets":
        return str(metadata.signed.type)
    stem = path.name.removesuffix(".json")
    number, dot, rest = stem.partition(".")
    return unquote(rest if dot and number.isdigit() else stem)


def _facts(signed: Any, ring: KeyRing) -> Iterator[tuple[str, str]]:
    if isinstance(signed, Root):
        yield "consistent snapshots", "yes" if signed.consistent_snapshot else "no"
        for name, role in signed.roles.items():
            names = ", ".join(ring.who(signed.keys[keyid]) for keyid in role.keyids)
            yield f"{name} keys", f"{role.threshold} of {len(role.keyids)}: {names}"
    elif isinstance(signed, Timestamp):
        yield "snapshot", str(signed.snapshot_meta.version)
    elif isinstance(signed, Snapshot):
        for name, meta in sorted(signed.meta.items()):
            yield name, str(meta.version)
    elif isinstance(signed, Targets):
        for path, target in sorted(signed.targets.items()):
            hashes = ", ".join(f"{name}:{value}" for name, value in target.hashes.items())
            yield path, f"{target.length} bytes, {hashes}"
        for name in published.delegated_names(signed):
            role = signed.get_delegated_role(name)
            names = ", ".join(
                ring.who(signed.delegations.keys[keyid])  # type: ignore[union-attr]
                for keyid in role.keyids
            )
            paths = ", ".join(getattr(role, "paths", None) or ["by hash"])
            yield (
                f"delegates to {name}",
                f"{role.threshold} of {len(role.keyids)}: {names}; {paths}",
            )
