"""The only way to new metadata: stage, sign, converge, publish.

What people decide (a new root, a new targets) is staged: written to staged/ before anybody is
asked to sign it, and kept there until enough signatures are on it. Everything else converges:
whatever does not verify under its delegator any more is made again, then snapshot and timestamp
(listing.py). Then it is published (publication.py); a run that died is finished by running any
changing command again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp

from keyd.adapters.tufrepo import overtaking
from keyd.adapters.tufrepo import published as reading
from keyd.adapters.tufrepo.evidence import Evidence
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.gathering import Gathering, says
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.adapters.tufrepo.listing import next_snapshot, next_timestamp
from keyd.adapters.tufrepo.publication import accepts, no_order, publish
from keyd.adapters.tufrepo.published import Delegator, Published, delegator_of, verifies
from keyd.adapters.tufrepo.report import Report
from keyd.adapters.tufrepo.settings import Settings
from keyd.errors import ApprovalNeededError, RepositoryError

_ONLINE = ("snapshot", "timestamp")


@dataclass(slots=True)
class Change:
    """One change of one repository; use it while the folder is locked.

    ``skip``: keyids that shall not be asked for signatures (lost or stolen keys).
    ``taking_over``: the repository may lack consistent snapshots, since the change adds them.
    ``check``: sees what is about to be published, and raises when it must not be.
    """

    folder: Folder
    settings: Settings
    ring: KeyRing
    now: Callable[[], datetime]
    skip: Sequence[str] = ()
    taking_over: bool = False
    check: Callable[[Published], None] | None = None
    published: Published | None = None
    gathering: Gathering = field(init=False)
    evidence: Evidence = field(init=False)

    def __post_init__(self) -> None:
        self.gathering = Gathering(self.folder, self.settings, self.ring, self.now)
        self.evidence = Evidence(self.folder, lambda: self.published, self.ring.reason)
        self.ring.evidence = self.evidence
        self.published = reading.read(self.folder)
        consistent = self.published is None or self.published.root.signed.consistent_snapshot
        if not consistent and not self.taking_over:
            raise RepositoryError(
                "this repository has no consistent snapshots, so no change of it can be atomic",
                hint=f"take it over: keydctl tuf migrate {self.folder.path}",
            )

    # ---------------------------------------------------------------- stage

    def stage_root(self, edit: Callable[[Root], None]) -> bool:
        """Stage the next root, edited; True when there is something to publish.

        Raises:
            RepositoryError: another root change is staged.
        """
        before = self.published.root if self.published else None
        signed = copy.deepcopy(before.signed) if before else Root(consistent_snapshot=True)
        edit(signed)
        version = before.signed.version + 1 if before else 1
        return self._stage("root", signed, before.signed if before else None, version)

    def stage_targets(
        self, role: str, edit: Callable[[Targets], None], *, new: bool = False
    ) -> bool:
        """Stage a targets role, edited; ``new`` for a delegated role without metadata.

        Raises:
            RepositoryError: no such role, or another change of it is staged.
        """
        known = self.published.targets if self.published else {}
        if role not in known and not new:
            raise RepositoryError(
                f"there is no targets role {role}", hint=f"there are: {', '.join(known)}", role=role
            )
        before = known[role].signed if role in known else None
        signed = copy.deepcopy(before) if before else Targets()
        edit(signed)
        return self._stage(role, signed, before, self.folder.highest_version(role) + 1)

    def _stage(self, role: str, signed: Signed, before: Signed | None, version: int) -> bool:
        staged = self._staged().get(role)
        if staged is not None:
            if says(staged.signed) == says(signed):
                return True
            raise RepositoryError(
                f"{role} {staged.signed.version} is staged already and says something else",
                hint=f"finish it with `keydctl tuf refresh {self.folder.path}`, or give it up by "
                f"deleting {self.folder.staged_files()[role]}",
                role=role,
            )
        if before is not None and says(before) == says(signed):
            return False
        self.gathering.stage(role, Metadata(signed), version)
        return True

    def renew(self, role: str) -> None:
        """Stage a role as it is, with a new version and expiry."""
        if role in self._staged():
            return
        before: Metadata[Any] | None = None
        if self.published is not None:
            before = self.published.root if role == "root" else self.published.targets.get(role)
        if before is None:
            raise RepositoryError(f"there is no role {role} to renew", role=role)
        version = before.signed.version if role == "root" else self.folder.highest_version(role)
        self.gathering.stage(role, Metadata(copy.deepcopy(before.signed)), version + 1)

    def _staged(self) -> dict[str, Metadata[Any]]:
        """What people decided and still have to sign; see Gathering.collect_online for others."""
        return {
            role: reading.parse(path, Root if role == "root" else Targets)
            for role, path in self.folder.staged_files().items()
            if role not in _ONLINE
        }

    # ---------------------------------------------------------------- finish

    def finish(self, *, refresh: bool = False) -> Report:
        """Sign what is staged, make anew what has to follow, and publish.

        ``refresh``: snapshot and timestamp are made anew even when nothing else changed.

        Raises:
            KeydError: snapshot or timestamp cannot be signed now; nothing was published.
            RepositoryError: what would be published is not what a client accepts.
        """
        self.gathering.skip = self.skip
        report = Report(notes=self.gathering.notes)
        state = self._rehearse(refresh=refresh)
        root = self._complete_root(report)
        if root is None:
            return report
        if state is not None and state.root.signed == root.signed:
            state.root = root
        else:
            state = self._make(root, report, refresh=refresh)
        if state is None:
            return report
        old = self.published
        former = old.targets if old else {}
        changed = [role for role, made in state.targets.items() if made is not former.get(role)]
        if self.check is not None:
            self.check(state)
        report.published = publish(self.folder, old, state, changed)
        self.published = state
        for role in self._done(state):
            self.folder.unstage(role)
        told = self.evidence.tell(self.ring.daemons, report.published)
        report.notes = list(dict.fromkeys([*report.notes, *told]))
        return report

    def _rehearse(self, *, refresh: bool) -> Published | None:
        """All that has to follow a root, before anybody signs a root that takes keys away.

        There may be no order to publish it in, when the old keys cannot sign; a root that is
        signed by then could not be made anew, since its version is taken.

        Raises:
            RepositoryError: there is no order; the staged root is gone.
        """
        old, staged = self.published, self._staged().get("root")
        if old is None or staged is None or staged.signed.version <= old.root.signed.version:
            return None
        if staged.signatures or accepts(staged.signed, old):
            return None
        state = self._make(staged, Report(), refresh=refresh)
        if state is not None and not accepts(old.root.signed, state):
            self.folder.unstage("root")
            raise no_order()
        return state

    def _make(self, root: Metadata[Root], report: Report, *, refresh: bool) -> Published | None:
        """Everything below a root, signed; None while the top-level targets wait for people."""
        old = self.published
        targets = self._converge_targets(root, report)
        if targets is None:
            return None
        former = old.targets if old else {}
        changed = any(made is not former.get(role) for role, made in targets.items())
        if old is None:
            snapshot = self._snapshot(root, targets)
            return Published(root, self._timestamp(root, snapshot), snapshot, targets)
        snapshot, timestamp = old.snapshot, old.timestamp
        if refresh or changed or not verifies(root.signed, "snapshot", snapshot):
            try:
                snapshot = self._snapshot(root, targets)
            except ApprovalNeededError as e:
                targets = self._overtake(e, root, targets, report)
                snapshot = self._snapshot(root, targets)
        if snapshot is not old.snapshot or not verifies(root.signed, "timestamp", timestamp):
            timestamp = self._timestamp(root, snapshot)
        return Published(root, timestamp, snapshot, targets)

    def _overtake(
        self,
        refusal: ApprovalNeededError,
        root: Metadata[Root],
        targets: dict[str, Metadata[Targets]],
        report: Report,
    ) -> dict[str, Metadata[Targets]]:
        """Targets roles above the versions that were signed and never published, where that is why
        people have to consent to the snapshot.

        Raises:
            ApprovalNeededError: it is for something else, or nobody here can sign above them.
        """
        if not overtaking.takes_back(refusal):
            raise refusal
        refusal.hint = (
            "it lists lower versions than one signed before, of targets that were never "
            f"published: sign above them with keydctl tuf refresh {self.folder.path} --role "
            f"targets (or the delegated role); otherwise {refusal.hint}"
        )
        here = {role: m.signed.version for role, m in targets.items()}
        above = overtaking.find_above(self.ring.daemons, here)
        if not above or not above.keys().isdisjoint(self._staged()):
            raise refusal
        for role, version in above.items():
            self.gathering.stage(role, copy.deepcopy(targets[role]), version + 1)
        again = self._converge_targets(root, report)
        if again is None or any(again[role].signed.version <= above[role] for role in above):
            raise refusal
        overtaking.withdraw(self.ring.daemons, refusal)
        report.notes += [
            f"{role} became version {again[role].signed.version}: version {version} was signed and "
            "never published"
            for role, version in above.items()
        ]
        return again

    def _done(self, state: Published) -> set[str]:
        current = {"root": state.root.signed.version}
        current |= {role: m.signed.version for role, m in state.targets.items()}
        done = {
            role
            for role, metadata in self._staged().items()
            if current.get(role, 0) >= metadata.signed.version
        }
        # What waited for consent is published now, or nobody wants it any more.
        return done | {role for role in _ONLINE if role in self.folder.staged_files()}

    def _complete_root(self, report: Report) -> Metadata[Root] | None:
        old = self.published.root if self.published else None
        staged = self._staged().get("root")
        if staged is None:
            if old is None:
                raise RepositoryError(f"{self.folder.path} has no root yet")
            return old
        if old is not None and staged.signed.version <= old.signed.version:
            return old  # It was published by a run that died before it could clean up.
        judges = [staged.signed] if old is None else [old.signed, staged.signed]
        return self._collect("root", staged, judges, report) or old

    def _converge_targets(
        self, root: Metadata[Root], report: Report
    ) -> dict[str, Metadata[Targets]] | None:
        """All targets roles as they shall be; None when the top-level one waits for people."""
        old = self.published
        staged = self._staged()
        current: dict[str, Metadata[Targets]] = {}
        unread: list[tuple[Delegator, str]] = [(root.signed, "targets")]
        while unread:
            delegator, role = unread.pop(0)
            if role in current:
                continue
            before = old.targets.get(role) if old else None
            judges = [delegator]
            former = delegator_of(old.root.signed, old.targets, role) if old else None
            if former is not None and before is not None:
                judges.insert(0, former)
            wanted = staged.get(role)
            made = before
            if wanted and not (before and wanted.signed.version <= before.signed.version):
                made = self._collect(role, wanted, judges, report)
                if made is None and before and verifies(delegator, role, before):
                    made = before  # The staged one waits for people; clients keep this one.
            elif before is None and role == "targets":
                made = self._collect(role, self._new_version(role, Targets()), judges, report)
            elif before and not verifies(delegator, role, before):
                again = self._new_version(role, before.signed)
                made = self._collect(role, again, judges, report)
            if made is not None:
                current[role] = made
                unread.extend(
                    (made.signed, child) for child in reading.delegated_names(made.signed)
                )
            elif role == "targets" or before is not None:
                return None
        return current

    def _new_version(self, role: str, signed: Targets) -> Metadata[Targets]:
        metadata = Metadata(copy.deepcopy(signed))
        self.gathering.stage(role, metadata, self.folder.highest_version(role) + 1)
        return metadata

    def _collect(
        self, role: str, metadata: Metadata[Any], judges: Sequence[Delegator], report: Report
    ) -> Metadata[Any] | None:
        """The metadata once it has its signatures; else None, and a line in the report."""
        waiting = self.gathering.collect(role, metadata, judges)
        if waiting is None:
            return metadata
        report.waiting.append(waiting)
        return None

    # ---------------------------------------------------------------- snapshot and timestamp

    def _snapshot(
        self, root: Metadata[Root], targets: dict[str, Metadata[Targets]]
    ) -> Metadata[Snapshot]:
        old = self.published.snapshot.signed if self.published else None
        version = self.folder.highest_version("snapshot", staged=False) + 1
        signed = next_snapshot(old, targets, version)
        made: Metadata[Snapshot] = self._online("snapshot", Metadata(signed), root)
        return made

    def _timestamp(self, root: Metadata[Root], snapshot: Metadata[Snapshot]) -> Metadata[Timestamp]:
        old = self.published.timestamp.signed if self.published else None
        signed = next_timestamp(old, snapshot)
        made: Metadata[Timestamp] = self._online("timestamp", Metadata(signed), root)
        return made

    def _online(self, role: str, metadata: Metadata[Any], root: Metadata[Root]) -> Metadata[Any]:
        judges: list[Delegator] = [root.signed]
        if self.published is not None and self.published.root is not root:
            judges.insert(0, self.published.root.signed)
        return self.gathering.collect_online(role, metadata, judges)
