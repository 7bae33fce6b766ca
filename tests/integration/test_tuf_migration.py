"""Repositories of other tools that keyd takes over, while their clients follow."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.adapters.tufrepo.migration import migrate
from keyd.adapters.tufrepo.report import Report
from keyd.adapters.tufrepo.repository import RoleKeys
from keyd.adapters.tufrepo.settings import Settings, find
from keyd.errors import RepositoryError
from tests.tuf_repositories import ROLES, StockClient, a_repository, file_key, file_roles, utc_now


class ForeignRepository:
    """A repository made with python-tuf alone; each role has its own file key."""

    def __init__(self, path: Path, keys: Path, *, consistent: bool) -> None:
        self.path = path
        self.keys = {role: CryptoSigner.generate_ed25519() for role in ROLES}
        self.uris = {}
        keys.mkdir()
        for role, signer in self.keys.items():
            (keys / f"{role}.pem").write_bytes(signer.private_bytes)
            self.uris[role] = f"file2:{keys / role}.pem"
        expires = utc_now().replace(microsecond=0) + timedelta(days=30)
        root = Root(expires=expires, consistent_snapshot=consistent)
        root.unrecognized_fields["x-made-by"] = "somebody else"
        for role, signer in self.keys.items():
            root.add_key(signer.public_key, role)
        target = TargetFile.from_data("app/hello.txt", b"hello, world\n", ["sha512", "sha256"])
        data = path / "targets/app"
        data.mkdir(parents=True)
        (path / "metadata").mkdir()
        names = target.get_prefixed_paths() if consistent else ["app/hello.txt"]
        for name in names:
            (path / "targets" / name).write_bytes(b"hello, world\n")
        for role, version, signed in (
            ("root", 1, root),
            ("targets", 4, Targets(4, expires=expires, targets={"app/hello.txt": target})),
            ("snapshot", 7, Snapshot(7, expires=expires, meta={"targets.json": MetaFile(4)})),
            ("timestamp", 9, Timestamp(9, expires=expires, snapshot_meta=MetaFile(7))),
        ):
            metadata: Metadata[Any] = Metadata(signed)
            metadata.sign(self.keys[role])
            prefix = f"{version}." if role == "root" or (consistent and role != "timestamp") else ""
            metadata.to_file(str(path / "metadata" / f"{prefix}{role}.json"))
        shutil.copy(path / "metadata/1.root.json", path / "metadata/root.json")

    def migrate(self, roles: dict[str, RoleKeys], uris: list[str]) -> Report:
        """As `keydctl tuf migrate DIR --signer URI ...` would."""
        settings = find(Folder(self.path)) or Settings("acme")
        ring = KeyRing(settings, extra={"": uris})
        return migrate(a_repository(self.path, ring=ring), roles)


@pytest.fixture(params=[True, False], ids=["consistent snapshots", "plain names"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> ForeignRepository:
    return ForeignRepository(tmp_path / "repo", tmp_path / "old", consistent=request.param)


def test_an_old_client_follows_and_a_fresh_one_begins_with_the_old_root(
    foreign: ForeignRepository, tmp_path: Path
) -> None:
    old = StockClient(tmp_path / "client", foreign.path)
    old.update()
    roles = file_roles(tmp_path / "new")

    report = foreign.migrate(roles, [foreign.uris["root"]])

    assert report.waiting == []
    assert old.download("app/hello.txt") == b"hello, world\n"
    fresh = StockClient(tmp_path / "fresh", foreign.path)
    assert fresh.download("app/hello.txt") == b"hello, world\n"
    root: Metadata[Root] = Metadata.from_file(str(foreign.path / "metadata/3.root.json"))
    assert {r: root.signed.roles[r].keyids for r in ROLES} == {
        r: list(roles[r].public) for r in ROLES
    }
    assert root.signed.unrecognized_fields["x-made-by"] == "somebody else"
    assert (foreign.path / "metadata/root.json").read_bytes() == (
        foreign.path / "metadata/3.root.json"
    ).read_bytes()


def test_root_n_plus_1_carries_both_thresholds(foreign: ForeignRepository, tmp_path: Path) -> None:
    pair = (file_key(tmp_path / "new", "a"), file_key(tmp_path / "new", "b"))
    roles = {**file_roles(tmp_path / "new"), "root": RoleKeys(pair, 2)}

    foreign.migrate(roles, [foreign.uris["root"]])

    before: Metadata[Root] = Metadata.from_file(str(foreign.path / "metadata/1.root.json"))
    after: Metadata[Root] = Metadata.from_file(str(foreign.path / "metadata/2.root.json"))
    result = after.signed.get_root_verification_result(
        before.signed, after.signed_bytes, after.signatures
    )
    assert result.verified
    assert result.second.threshold == 2


def test_without_the_old_root_key_it_waits_and_clients_notice_nothing(
    foreign: ForeignRepository, tmp_path: Path
) -> None:
    client = StockClient(tmp_path / "client", foreign.path)
    roles = file_roles(tmp_path / "new")

    report = foreign.migrate(roles, [foreign.uris["targets"]])

    (waiting,) = report.waiting
    assert waiting.missing[0].keyid == foreign.keys["root"].public_key.keyid
    assert client.update().get_targetinfo("app/hello.txt") is not None
    assert not (foreign.path / "metadata/2.root.json").exists()

    foreign.migrate(roles, [foreign.uris["root"]])
    assert client.download("app/hello.txt") == b"hello, world\n"
    assert (foreign.path / "metadata/3.root.json").exists()


def test_migrating_twice_changes_nothing_more(foreign: ForeignRepository, tmp_path: Path) -> None:
    roles = file_roles(tmp_path / "new")
    foreign.migrate(roles, [foreign.uris["root"]])

    assert foreign.migrate(roles, [foreign.uris["root"]]).published == []


def test_a_migrated_repository_can_be_changed_without_the_old_keys(
    foreign: ForeignRepository, tmp_path: Path
) -> None:
    foreign.migrate(file_roles(tmp_path / "new"), [foreign.uris["root"]])
    shutil.rmtree(tmp_path / "old")
    (tmp_path / "more.txt").write_text("more")
    repository = a_repository(foreign.path)

    repository.add({"more.txt": tmp_path / "more.txt", "app/hello.txt": tmp_path / "more.txt"})

    client = StockClient(tmp_path / "client", foreign.path)
    assert client.download("more.txt") == b"more"
    info = client.update().get_targetinfo("app/hello.txt")
    assert info is not None
    assert set(info.hashes) == {"sha512", "sha256"}


def test_a_target_that_is_not_what_the_metadata_says_stops_the_migration(tmp_path: Path) -> None:
    foreign = ForeignRepository(tmp_path / "repo", tmp_path / "old", consistent=False)
    (foreign.path / "targets/app/hello.txt").write_bytes(b"tampered\n")

    with pytest.raises(RepositoryError, match="is not the file"):
        foreign.migrate(file_roles(tmp_path / "new"), [foreign.uris["root"]])

    assert not (foreign.path / "metadata/2.root.json").exists()


def test_other_commands_refuse_a_repository_without_consistent_snapshots(tmp_path: Path) -> None:
    foreign = ForeignRepository(tmp_path / "repo", tmp_path / "old", consistent=False)

    with pytest.raises(RepositoryError, match="consistent snapshots") as e:
        a_repository(foreign.path).refresh()

    assert "migrate" in e.value.hint
