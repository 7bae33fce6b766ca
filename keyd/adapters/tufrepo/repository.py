"""The operations people ask for, one method each; every one of them may be run again.

A method takes the folder's lock, stages what shall change, and lets :mod:`change` finish it.
What a former run left unfinished is finished on the way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key as TufKey
from tuf.api.metadata import Metadata, Root, Targets

from keyd.adapters.tufrepo import edits, published
from keyd.adapters.tufrepo.change import Change
from keyd.adapters.tufrepo.folder import Folder, check_target_path, names_in
from keyd.adapters.tufrepo.keyring import KeyRing, SigningKey
from keyd.adapters.tufrepo.report import Report
from keyd.adapters.tufrepo.settings import Settings
from keyd.errors import RepositoryError, VersionTakenError

_HASHES = ("sha256",)


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Which keys sign for a role, and how many of them have to."""

    keys: tuple[SigningKey, ...]
    threshold: int = 1

    @property
    def public(self) -> dict[str, TufKey]:
        """The public parts by keyid."""
        return {key.public.keyid: key.public for key in self.keys}


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on disk. ``now``: aware, UTC."""

    folder: Folder
    settings: Settings
    ring: KeyRing
    now: Callable[[], datetime]

    @contextmanager
    def changing(self, *, taking_over: bool = False) -> Iterator[Change]:
        """Hold the lock and read what is published; see :class:`Change`."""
        with self.folder.locked():
            yield Change(self.folder, self.settings, self.ring, self.now, taking_over=taking_over)

    def remember(self, keys: Sequence[SigningKey]) -> None:
        """Keep the URIs of keys, so that later commands need not be told."""
        self.settings.signers.update({k.public.keyid: k.uri for k in keys if k.uri})
        self.settings.save(self.folder)

    def check_new(self) -> None:
        """Refuse a folder in which no new repository can be made.

        Raises:
            RepositoryError: it holds a repository, or files keyd does not know.
        """
        begun = "root" in self.folder.staged_files() and not self.folder.root_versions()
        if not begun and names_in(self.folder.metadata):
            raise RepositoryError(
                f"{self.folder.metadata} is not empty: a new repository is made in a new folder",
                hint=f"an existing one is taken over with: keydctl tuf migrate {self.folder.path}",
            )

    def create(self, roles: Mapping[str, RoleKeys]) -> Report:
        """Make a new repository: root 1 with these keys, empty targets, snapshot, timestamp.

        ``roles``: all four top-level ones. Run again after a crash, or when root waited for
        signatures, it goes on where it stopped.

        Raises:
            RepositoryError: the folder holds a repository, or files keyd does not know.
        """

        def first_root(root: Root) -> None:
            for role in edits.TOP_LEVEL:
                edits.set_role_keys(root, role, roles[role].public.values(), roles[role].threshold)

        for role, keys in roles.items():
            edits.check_threshold(role, keys.threshold, len(keys.public))
        self.check_new()
        with self.folder.locked():
            self.remember([key for role in roles.values() for key in role.keys])
        with self.changing() as change:
            change.stage_root(first_root)
            try:
                report = change.finish()
            except VersionTakenError as e:
                raise self._is_known(e) from e
            self.folder.targets.mkdir(exist_ok=True)
            return report

    def _is_known(self, taken: VersionTakenError) -> VersionTakenError:
        """What to do where the daemon knows another repository of this name."""
        name = self.settings.repository
        error = VersionTakenError(
            taken.message,
            hint=f"a draft that was never published: keydctl role supersede {name} root; a "
            f"repository that begins again: keydctl role reset {name}; another one: give it "
            "another name with --repository",
        )
        error.facts = taken.facts
        return error

    def add(
        self,
        files: Mapping[str, Path],
        *,
        role: str = "targets",
        custom: Mapping[str, Any] | None = None,
    ) -> Report:
        """Add or replace target files: target path -> file. ``custom``: for each of them.

        Raises:
            RepositoryError: a file cannot be read, a path is not safe, or the delegation chain
                does not let the role sign for it; no metadata was changed.
        """
        for path in files:
            check_target_path(path)
        with self.changing() as change:
            self._check_allowed(change, role, files)
            entries = []
            for path, source in files.items():
                hashes = self._hashes_of(change, role, path)
                entry = self.folder.add_target(source, path, hashes)
                if custom is not None:
                    entry.unrecognized_fields["custom"] = copy.deepcopy(dict(custom))
                entries.append(entry)
            change.stage_targets(role, lambda targets: edits.put_targets(targets, entries))
            return change.finish()

    def _hashes_of(self, change: Change, role: str, path: str) -> Sequence[str]:
        """The hash algorithms a target had before, so that no client loses one it wants."""
        known = change.published.targets.get(role) if change.published else None
        before = known.signed.targets.get(path) if known else None
        return tuple(before.hashes) if before else _HASHES

    def _check_allowed(self, change: Change, role: str, files: Mapping[str, Path]) -> None:
        if role == "targets" or change.published is None:
            return
        delegator = published.delegator_of(
            change.published.root.signed, change.published.targets, role
        )
        if not isinstance(delegator, Targets) or delegator.delegations is None:
            raise RepositoryError(f"there is no targets role {role}", role=role)
        for path in files:
            allowed = {name for name, _ in delegator.delegations.get_roles_for_target(path)}
            if role not in allowed:
                raise RepositoryError(f"{role} may not sign for {path}", role=role, path=path)

    def remove(self, paths: Sequence[str], *, role: str = "targets") -> Report:
        """Take targets out of the metadata; the files stay, for clients that are under way.

        Raises:
            RepositoryError: one of them is not listed; nothing was changed.
        """
        with self.changing() as change:
            change.stage_targets(role, lambda targets: edits.remove_targets(targets, paths))
            return change.finish()

    def refresh(self, roles: Sequence[str] = (), *, if_due: bool = False) -> Report:
        """Publish staged metadata that has its signatures, and renew snapshot and timestamp.

        ``roles``: also give these (root, targets, delegated ones) a new version and expiry.
        ``if_due``: renew nothing that still has more than half of its time.
        """
        with self.changing() as change:
            wanted = [r for r in roles if not if_due or self._is_due(change, r)]
            for role in wanted:
                if role not in ("snapshot", "timestamp"):
                    change.renew(role)
            online = not if_due or any(
                self._is_due(change, role) for role in ("snapshot", "timestamp")
            )
            return change.finish(refresh=online)

    def _is_due(self, change: Change, role: str) -> bool:
        state = change.published
        if state is None:
            return True
        everything: dict[str, Metadata[Any]] = {
            "root": state.root,
            "snapshot": state.snapshot,
            "timestamp": state.timestamp,
            **state.targets,
        }
        metadata = everything.get(role)
        if metadata is None:
            raise RepositoryError(f"there is no role {role}", role=role)
        left_s: float = (metadata.signed.expires - self.now()).total_seconds()
        return left_s < self.settings.days(role) * 86_400 / 2

    def delegate(
        self,
        role: str,
        keys: RoleKeys,
        *,
        paths: Sequence[str],
        delegator: str = "targets",
        terminating: bool = False,
        expiry_days: int = 0,
    ) -> Report:
        """Let a role with keys of its own sign for some path patterns.

        A role that has published nothing yet gets an empty first version. Run again, it changes
        keys, threshold and patterns.
        """
        with self.folder.locked():
            if expiry_days:
                self.settings.expiry_days[role] = expiry_days
            self.remember(keys.keys)
        with self.changing() as change:
            change.stage_targets(
                delegator,
                lambda targets: edits.delegate(
                    targets,
                    role,
                    keys.public,
                    threshold=keys.threshold,
                    paths=paths,
                    terminating=terminating,
                ),
            )
            if change.published is None or role not in change.published.targets:
                change.stage_targets(role, lambda _: None, new=True)
            return change.finish()
