"""What a server serves of a collection, verified from the root down as notary's clients do it.

The root comes from the trust directory, or is trusted at first sight where nothing pins another
one, and is followed version by version. Nothing older than what was seen before is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from keyd.adapters.notary import served as served_files
from keyd.adapters.notary.pinning import Pinning
from keyd.adapters.notary.served import Served
from keyd.adapters.notary.server import NotaryServer
from keyd.content import envelope
from keyd.content.documents import (
    Document,
    MetaFile,
    PublicKeyInfo,
    RoleKeys,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from keyd.content.verification import verify_threshold
from keyd.errors import RepositoryError

D = TypeVar("D", bound=Document)

MAX_ROOTS = 1024
"""More roots than this between the one that is trusted and the newest are refused."""

MAX_ROLES = 256
"""More delegated roles than this are refused."""

_LOOKS = 4


@dataclass(slots=True)
class Trusted:
    """A collection as it is served now.

    ``roots``: all files from the one that was trusted before, or the newest at first sight, up to
    ``root``. ``targets``: role -> file, the delegated ones that verify too. ``problems``: delegated
    role -> why its file does not count. ``is_first_sight``: nothing was known of it before.
    """

    gun: str
    root: Served
    timestamp: Served
    snapshot: Served
    targets: dict[str, Served]
    roots: list[bytes]
    problems: dict[str, str] = field(default_factory=dict)
    is_first_sight: bool = False

    @property
    def root_document(self) -> Root:
        """The root, read."""
        document = self.root.envelope.document
        assert isinstance(document, Root)
        return document

    def targets_document(self, role: str = "targets") -> Targets:
        """A targets role's content.

        Raises:
            RepositoryError: nothing is published of it.
        """
        found = self.targets.get(role)
        if found is None:
            why = self.problems.get(role, "nothing is published of it")
            raise RepositoryError(f"{self.gun} {role}: {why}", role=role)
        document = found.envelope.document
        assert isinstance(document, Targets)
        return document

    def files(self) -> dict[str, bytes]:
        """Role -> file, as the trust directory keeps them."""
        tops = (self.root, self.timestamp, self.snapshot)
        return {served.role: served.file for served in (*tops, *self.targets.values())}

    def holders(self, role: str) -> tuple[RoleKeys, Mapping[str, PublicKeyInfo]] | None:
        """Who may sign a role, and their keys; None for a role that nobody delegates to."""
        root = self.root_document
        if role in root.roles:
            return root.roles[role], root.keys
        for served in self.targets.values():
            document = served.envelope.document
            assert isinstance(document, Targets)
            if document.delegations is not None and role.rpartition("/")[0] == served.role:
                for delegated in document.delegations.roles:
                    if delegated.name == role:
                        return delegated, document.delegations.keys
        return None


@dataclass(slots=True)
class Reading:
    """One look at a server. ``cached``: what was verified last. ``is_expired_taken``: for who is
    going to sign anew what has expired."""

    server: NotaryServer
    cached: Mapping[str, bytes]
    pinning: Pinning
    now: datetime
    is_expired_taken: bool = False
    _seen: tuple[int, bytes | None] = (0, None)

    def find(self) -> Trusted | None:
        """The collection, verified; None where the server has none of that name.

        Somebody may publish between two of its files: what does not verify is looked at again
        where something else is served by then.

        Raises:
            RepositoryError: something does not verify, is older than what was seen, or expired.
            ServerGoneError, PolicyDeniedError: the server does not answer.
        """
        for _ in range(_LOOKS - 1):
            try:
                return self._look()
            except RepositoryError:
                if not self._has_moved():
                    raise
        return self._look()

    def _has_moved(self) -> bool:
        """True where the last look saw another root or timestamp than is served now."""
        version, timestamp = self._seen
        if not version:
            return False
        following = self.server.find(f"{version + 1}.root")
        return following is not None or self.server.find("timestamp") != timestamp

    def _look(self) -> Trusted | None:
        gun = self.server.gun
        roots = self._roots()
        if roots is None:
            return None
        root = served_files.read("root", roots[-1], Root)
        self._check_root(root)
        timestamp_file = self.server.find("timestamp")
        self._seen = root.version, timestamp_file
        if timestamp_file is None:
            return self._gone()
        timestamp = self._verified("timestamp", timestamp_file, root, Timestamp)
        said = served_files.document(timestamp, Timestamp).snapshot
        snapshot = self._verified("snapshot", self._fetch("snapshot", said), root, Snapshot)
        self._check_rollback(root, timestamp, snapshot)
        meta = served_files.document(snapshot, Snapshot).meta
        if "root" in meta and not served_files.matches(roots[-1], meta["root"]):
            raise RepositoryError(
                f"{gun}: the snapshot speaks of another root than the one that is served",
                hint="it may just be changing: try again; where it stays so, a root was published "
                "in a form that the server does not hash as it is",
                retry_after_s=1,
                gun=gun,
            )
        found = Trusted(
            gun,
            root,
            timestamp,
            snapshot,
            {},
            roots,
            is_first_sight="root" not in self.cached,
        )
        self._read_targets(found, meta)
        return found

    def _roots(self) -> list[bytes] | None:
        """From the trusted root to the newest one, each signed by the one before."""
        trusted = self.cached.get("root")
        if trusted is None:
            first = self.server.find("root")
            if first is None:
                return None
            self.pinning.check_first_use(self.server.gun)
            return [first]
        roots = [trusted]
        for _ in range(MAX_ROOTS):
            before = served_files.read("root", roots[-1], Root)
            following = self.server.find(f"{before.version + 1}.root")
            if following is None:
                return roots
            after = served_files.read("root", following, Root)
            old, new = served_files.document(before, Root), served_files.document(after, Root)
            if after.version != before.version + 1:
                raise self._refuse("root", f"version {after.version} came for the next one")
            for judge in (old, new):
                self._check_threshold(after, judge.roles["root"], judge.keys)
            roots.append(following)
        raise self._refuse("root", f"more than {MAX_ROOTS} new roots")

    def _gone(self) -> Trusted | None:
        if "root" not in self.cached:
            return None
        raise RepositoryError(
            f"the server has nothing of {self.server.gun}, which was seen there before",
            hint="check the server's address; where it was deleted on purpose, forget it here: "
            f"keydctl trust delete {self.server.gun}",
            gun=self.server.gun,
        )

    def _check_root(self, root: Served) -> None:
        document = served_files.document(root, Root)
        trusted = self.pinning.trusted_keys(self.server.gun, document, self.now)
        role = document.roles["root"]
        self._check_threshold(root, role, {key.keyid: key for key in trusted})
        self._check_expiry(root)

    def _verified(self, role: str, file: bytes, root: Served, kind: type[D]) -> Served:
        served = served_files.read(role, file, kind)
        document = served_files.document(root, Root)
        self._check_threshold(served, document.roles[role], document.keys)
        self._check_expiry(served)
        return served

    def _fetch(self, role: str, said: MetaFile) -> bytes:
        digest = said.hashes.get("sha256")
        if digest is None:
            raise self._refuse(role, "it is named without its SHA-256")
        file = self.server.find(f"{role}.{digest.hex()}") or self.server.find(role)
        if file is None:
            raise self._refuse(role, "its file is missing")
        if not served_files.matches(file, said):
            raise RepositoryError(
                f"{self.server.gun} {role}: the file that is served is not the one that its "
                "snapshot or timestamp names",
                hint="it may just be changing: try again; where it stays so, it was published in "
                "a form that the server does not hash as it is, and has to be published anew: "
                f"keydctl trust refresh {self.server.gun} {role}",
                retry_after_s=1,
                gun=self.server.gun,
                role=role,
            )
        return file

    def _check_rollback(self, root: Served, *fresh: Served) -> None:
        """Versions only go up, unless the root gave the role other keys since."""
        old_root = self.cached.get("root")
        if old_root is None:
            return
        before = served_files.document(served_files.read("root", old_root, Root), Root)
        now = served_files.document(root, Root)
        for served in fresh:
            known = self.cached.get(served.role)
            if known is None:
                continue
            if before.roles[served.role].keyids == now.roles[served.role].keyids:
                self._check_not_below(served, known)

    def _check_not_below(self, served: Served, known: bytes) -> None:
        version = envelope.parse(known).document.version
        if served.version < version:
            raise RepositoryError(
                f"{self.server.gun} {served.role}: the server serves version {served.version}, "
                f"version {version} was seen here before",
                hint="somebody hides newer files, or the server was set back; where that is known "
                f"and right, forget what was seen: keydctl trust delete {self.server.gun}",
                gun=self.server.gun,
                role=served.role,
            )

    def _read_targets(self, found: Trusted, meta: Mapping[str, MetaFile]) -> None:
        waiting = ["targets"]
        while waiting:
            role = waiting.pop(0)
            holders = found.holders(role)
            if holders is None or role in found.targets or role in found.problems:
                continue
            if len(found.targets) > MAX_ROLES:
                raise self._refuse(role, f"more than {MAX_ROLES} delegated roles")
            if role not in meta:
                if role == "targets":
                    raise self._refuse(role, "the snapshot does not name it")
                if role in self.cached:
                    found.problems[role] = "it was seen before, and the snapshot names it no more"
                continue
            served = self._targets_file(found, role, meta[role], *holders)
            if served is None:
                continue
            found.targets[role] = served
            delegations = found.targets_document(role).delegations
            waiting += [r.name for r in delegations.roles] if delegations else []

    def _targets_file(
        self,
        found: Trusted,
        role: str,
        said: MetaFile,
        role_keys: RoleKeys,
        keys: Mapping[str, PublicKeyInfo],
    ) -> Served | None:
        served = served_files.read(role, self._fetch(role, said), Targets)
        try:
            self._check_threshold(served, role_keys, keys)
            self._check_expiry(served)
        except RepositoryError as e:
            if role == "targets":
                raise
            # Clients leave out a delegated role that does not verify, and so do we.
            found.problems[role] = e.message
            return None
        known = self.cached.get(role)
        if known is not None:
            self._check_not_below(served, known)
        return served

    def _check_threshold(
        self, served: Served, role: RoleKeys, keys: Mapping[str, PublicKeyInfo]
    ) -> None:
        result = verify_threshold(served.envelope.payload, served.envelope.signatures, role, keys)
        if not result.is_met:
            raise self._refuse(
                served.role,
                f"version {served.version} has {result.signers} valid signatures of its keys, "
                f"{result.threshold} are needed",
            )

    def _check_expiry(self, served: Served) -> None:
        document = served.envelope.document
        if document.expires <= self.now and not self.is_expired_taken:
            raise RepositoryError(
                f"{self.server.gun} {served.role}: version {served.version} expired at "
                f"{document.expires_text}",
                hint="whoever signs it can renew it: "
                f"keydctl trust refresh {self.server.gun}"
                + (f" {served.role}" if served.role not in ("snapshot", "timestamp") else ""),
                gun=self.server.gun,
                role=served.role,
            )

    def _refuse(self, role: str, why: str) -> RepositoryError:
        return RepositoryError(
            f"{self.server.gun} {role}: {why}",
            hint="what the server serves is not trusted; nothing was changed",
            gun=self.server.gun,
            role=role,
        )
