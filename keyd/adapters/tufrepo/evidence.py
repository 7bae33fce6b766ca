"""What daemons are shown of a published repository, so that they need not take anybody's word.

A daemon that signed only some of a root's signatures, or none of the versions that others made,
refuses what follows. The published files prove it: their signatures meet the thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyd.adapters.tufrepo.folder import TIMESTAMP, Folder, file_name
from keyd.adapters.tufrepo.published import Published, delegator_of
from keyd.errors import KeydError, RoleNotFoundError, RuleRefusedError

if TYPE_CHECKING:
    from keyd.client import Client

_HELPED = ("no-history", "root-incomplete", "root-step", "version-step")
_VERSIONED = re.compile(r"[0-9]+\.(.+)\.json")

Files = list[tuple[str, bytes]]
"""Role and bytes of published metadata files, roots first."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that was asked for signatures, and what it calls the repository."""

    client: Client
    repository: str


@dataclass(slots=True)
class Evidence:
    """Shows a published repository to daemons. ``state``: what clients see now, if anything."""

    folder: Folder
    state: Callable[[], Published | None]
    reason: str = ""
    _shown: set[tuple[int, str, str]] = field(default_factory=set)

    def helps(self, daemon: Daemon, role: str, refusal: RuleRefusedError) -> bool:
        """Show the daemon what is published of a role; True when the refused call is worth
        repeating.

        Once for each daemon and role: a daemon that still refuses knows something else.
        """
        about = (id(daemon.client), daemon.repository, role)
        if refusal.facts.get("rule") not in _HELPED or about in self._shown:
            return False
        self._shown.add(about)
        try:
            files = self._unknown(daemon, self._published(role))
            return bool(files) and self._show(daemon, files)
        except KeydError:
            return False  # The refusal itself says what a person can do.

    def tell(self, daemons: Sequence[Daemon], names: Sequence[str]) -> list[str]:
        """Tell daemons what was just published; what went wrong, in words.

        Nobody depends on it: a daemon that was not told asks for evidence when it needs some.
        """
        files = self._read(names)
        notes = []
        for daemon in daemons if files else ():
            try:
                self._show(daemon, files)
            except KeydError as e:
                # An older daemon does not know the call; one that holds a delegated key alone may
                # know no root to judge by.
                if e.reason != KeydError.reason and e.facts.get("rule") != "no-history":
                    notes.append(f"the daemon was not told what is published: {e.message}")
        return notes

    def hand_over(self, daemon: Daemon) -> bool:
        """Have a daemon that knows nothing of the repository start from its oldest root here; True
        when it did. Only on the word of a person: nobody else vouches for that root.

        Raises:
            KeydError: the daemon refuses it.
        """
        from keyd.client import RoleFile

        versions = self.folder.root_versions()
        if not versions:
            return False
        try:
            daemon.client.get_role(daemon.repository, "root")
        except RoleNotFoundError:
            pass
        except KeydError as e:
            if e.reason == KeydError.reason:
                return False  # A daemon without rules has no use for history.
            raise
        else:
            return False
        root, *files = self._everything()
        daemon.client.import_role(
            daemon.repository, root[1], [RoleFile(*file) for file in files], reason=self.reason
        )
        return True

    def _show(self, daemon: Daemon, files: Files) -> bool:
        """Show files, with all roots in front where no complete root is known there yet; True when
        they changed something.

        A daemon that signed the first root itself takes the others' signatures on it then."""
        try:
            return self._advance(daemon, files)
        except RuleRefusedError as e:
            roots = [("root", self._root(version)) for version in self.folder.root_versions()]
            if e.facts.get("rule") != "no-history" or all(root in files for root in roots):
                raise
        return self._advance(daemon, roots + [file for file in files if file[0] != "root"])

    def _advance(self, daemon: Daemon, files: Files) -> bool:
        from keyd.client import RoleFile

        shown = [RoleFile(*file) for file in files]
        done = daemon.client.advance_role(
            daemon.repository, shown, published=True, reason=self.reason
        )
        return bool(done.roles)

    def _unknown(self, daemon: Daemon, files: Files) -> Files:
        """Without the roots below the one that is complete there."""
        try:
            known = daemon.client.get_role(daemon.repository, "root").complete_version
        except KeydError:
            return files
        old = {self._root(version) for version in self.folder.root_versions() if version < known}
        return [(role, data) for role, data in files if data not in old]

    def _published(self, role: str) -> Files:
        """What proves where a role stands: all roots, its file, and those of its delegators."""
        state = self.state()
        roots = [("root", self._root(version)) for version in self.folder.root_versions()]
        if state is None or role == "root":
            return roots
        lineage = {role}
        while role and role not in state.root.signed.roles:
            delegator = delegator_of(state.root.signed, state.targets, role)
            role = next((n for n, m in state.targets.items() if m.signed is delegator), "")
            lineage.add(role)
        return roots + [file for file in self._everything() if file[0] in lineage]

    def _everything(self) -> Files:
        """All that clients see now, and all roots."""
        files = [("root", self._root(version)) for version in self.folder.root_versions()]
        state = self.state()
        if state is None:
            return files
        prefixed = state.root.signed.consistent_snapshot
        below = [(role, m.signed.version) for role, m in state.targets.items()]
        below.append(("snapshot", state.snapshot.signed.version))
        for role, version in below:
            name = file_name(role, version) if prefixed else f"{role}.json"
            files.append((role, (self.folder.metadata / name).read_bytes()))
        return [*files, ("timestamp", (self.folder.metadata / TIMESTAMP).read_bytes())]

    def _root(self, version: int) -> bytes:
        return (self.folder.metadata / file_name("root", version)).read_bytes()

    def _read(self, names: Sequence[str]) -> Files:
        files = []
        for name in names:
            match = _VERSIONED.fullmatch(name)
            role = "timestamp" if name == TIMESTAMP else match[1] if match else ""
            if role:
                files.append((role, (self.folder.metadata / name).read_bytes()))
        return sorted(files, key=lambda file: file[0] != "root")
