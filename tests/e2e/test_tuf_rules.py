"""Honest repositories meet the rules of bound keys: whatever happens, the next run goes on.

Two daemons: alice's, with bob at a socket of his own who consents where rules or grave changes want
somebody; and carol's, which lets versions go up by one at a time, so that it wants evidence often.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root

from keyd.adapters.tufrepo import settings
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.adapters.tufrepo.repository import Repository
from keyd.client import Client
from keyd.model import MarkState
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import ROLES, StockClient, utc_now

pytestmark = pytest.mark.softhsm

POLICY = """\
[[grant]]
name = "developer"
principals = ["socket:dev"]
actions = ["admin", "signer"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "bob"
principals = ["socket:bob"]
actions = ["approver"]
keys = ["*"]

[[rule]]
name = "seen-by-two"
keys = ["gated*/targets", "gated*/snapshot"]
actions = ["sign"]
approvals = 1
"""
STEP = '\n[[limit]]\nname = "one-at-a-time"\nmax_step = 1\n'


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("a") / "d"
    folder.mkdir(mode=0o700)
    (folder / "policy.toml").write_text(POLICY)
    with DaemonProcess(folder, "--person", "bob", forked=True) as running:
        yield running


@pytest.fixture(scope="module")
def carol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("c") / "d"
    folder.mkdir(mode=0o700)
    (folder / "policy.toml").write_text(POLICY + STEP)
    with DaemonProcess(folder, forked=True) as running:
        yield running


@pytest.fixture(scope="module")
def ctl(alice: DaemonProcess, tmp_path_factory: pytest.TempPathFactory) -> Keydctl:
    return Keydctl(alice.endpoint, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def carols(carol: DaemonProcess, tmp_path_factory: pytest.TempPathFactory) -> Keydctl:
    return Keydctl(carol.endpoint, tmp_path_factory.mktemp("home"))


@dataclass(frozen=True)
class Site:
    """A published repository and a client of it."""

    name: str
    path: Path
    client: StockClient

    def staged(self) -> list[str]:
        return sorted(p.name for p in (self.path / "staged").glob("*"))


def a_site(ctl: Keydctl, folder: Path, *, prefix: str = "site", init: tuple[str, ...] = ()) -> Site:
    name = f"{prefix}{time.monotonic_ns()}"
    ctl.create(*(f"{name}/{role}" for role in ROLES))
    path = folder / "repo"
    ctl("tuf", "init", path, "--repository", name, *(w.format(name=name) for w in init))
    return Site(name, path, StockClient(folder / "client", path))


def a_file(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(name)
    return path


def approve(alice: DaemonProcess, report: dict[str, Any]) -> list[str]:
    """Bob consents to all that waits in a report or an error."""
    if "error" in report:
        ids = [report["error"]["facts"]["approval"]]
    else:
        ids = [m["approval"] for w in report["waiting"] for m in w["missing"] if m["approval"]]
    bob = f"unix:{alice.socket.with_name('bob.sock')}"
    with Client(bob, keep_checkpoints=False) as keyd:
        for approval in ids:
            shown = keyd.get_approval(approval)
            assert hashlib.sha256(shown.content).digest() == shown.digest
            keyd.approve(approval, shown.digest)
    return ids


def role_of(daemon: DaemonProcess, site: Site, role: str) -> Any:
    with Client(daemon.endpoint, keep_checkpoints=False) as keyd:
        return keyd.get_role(site.name, role)


# ------------------------------------------------------------------------------ what is published


def test_the_daemon_is_told_what_is_published(
    ctl: Keydctl, alice: DaemonProcess, tmp_path: Path
) -> None:
    site = a_site(ctl, tmp_path)

    ctl("tuf", "add", site.path, a_file(tmp_path, "one"))

    assert {role: role_of(alice, site, role).state for role in ROLES} == dict.fromkeys(
        ROLES, MarkState.PUBLISHED
    )
    assert role_of(alice, site, "targets").version == 2


# ------------------------------------------------------------------------------ jobs that died


class PowerLossError(Exception):
    """Power goes."""


class DyingFolder(Folder):
    """A folder whose power goes when something is to be published."""

    def publish(self, files: Any) -> None:
        raise PowerLossError


def opened(daemon: DaemonProcess, site: Site, folder: type[Folder], client: Client) -> Repository:
    where = folder(site.path)
    found = settings.read(where)
    return Repository(where, found, KeyRing(found, lambda: client, reason="test"), utc_now)


def test_a_job_killed_between_signing_and_publishing_goes_on_with_the_same_bytes(
    ctl: Keydctl, alice: DaemonProcess, tmp_path: Path
) -> None:
    site = a_site(ctl, tmp_path)
    file = a_file(tmp_path, "one")
    with Client(alice.endpoint, keep_checkpoints=False) as keyd:
        with pytest.raises(PowerLossError):
            opened(alice, site, DyingFolder, keyd).add({"one": file})
        signed = role_of(alice, site, "targets")

        report = opened(alice, site, Folder, keyd).add({"one": file})

    assert report.notes == []
    after = role_of(alice, site, "targets")
    assert (after.version, after.digest) == (signed.version, signed.digest) == (2, signed.digest)
    assert site.client.download("one") == b"one"


def test_a_job_that_lost_everything_but_the_repository_renumbers_its_targets(
    ctl: Keydctl, alice: DaemonProcess, tmp_path: Path
) -> None:
    """Several times, as a CI that begins with a fresh checkout whenever its upload fails."""
    site = a_site(ctl, tmp_path)
    for attempt in ("one", "two"):
        lost = tmp_path / attempt
        shutil.copytree(site.path, lost / "repo")
        ctl("tuf", "add", lost / "repo", a_file(lost, attempt))

    added = ctl("tuf", "add", site.path, a_file(tmp_path, "three"))

    assert "4.targets.json" in added["published"]
    assert any(n.startswith("targets became version 4: version 2") for n in added["notes"])
    assert site.client.download("three") == b"three"
    assert ctl("tuf", "refresh", site.path)["notes"] == []


def test_expired_metadata_is_signed_again(ctl: Keydctl, tmp_path: Path) -> None:
    site = a_site(ctl, tmp_path, init=("--expiry", "timestamp=1"))
    timestamp = site.path / "metadata/timestamp.json"
    before = json.loads(timestamp.read_bytes())["signed"]

    for _ in range(3):
        ctl("tuf", "refresh", site.path)

    after = json.loads(timestamp.read_bytes())["signed"]
    assert (before["version"], after["version"]) == (1, 4)
    site.client.update()


# ------------------------------------------------------------------------------ two daemons


def test_a_root_of_two_holders_on_two_daemons_goes_on_from_version_to_version(
    ctl: Keydctl, carols: Keydctl, alice: DaemonProcess, carol: DaemonProcess, tmp_path: Path
) -> None:
    """Carol is handed a file each time, and her daemon never saw what was published."""
    name = f"pair{time.monotonic_ns()}"
    ctl.create(*(f"{name}/{role}" for role in ROLES))
    carols.create(f"{name}/root")
    carols("key", "update", f"{name}/root", "--bind", f"{name}:root")
    pem = tmp_path / "carol.pem"
    pem.write_text(carols.run("key", "show", f"{name}/root", "--format", "pem").stdout)
    path = tmp_path / "repo"
    init = ("tuf", "init", path, "--repository", name, "--root", f"{name}/root")
    ctl(*init, "--root", f"@{pem}", "--root-threshold", "2", code=3)
    site = Site(name, path, StockClient.__new__(StockClient))

    for version in (1, 2, 3):
        carols("tuf", "sign", path / f"staged/{version}.root.json", "--yes")
        published = ctl("tuf", "refresh", path)["published"]
        assert f"{version}.root.json" in published
        assert role_of(alice, site, "root").complete_version == version
        if version < 3:
            ctl("tuf", "refresh", path, "--role", "root", code=3)

    StockClient(tmp_path / "client", path).update()
    seen = role_of(carol, site, "root")
    assert (seen.version, seen.complete_version) == (3, 2)


def test_two_publishers_on_two_daemons_take_turns(
    ctl: Keydctl, carols: Keydctl, carol: DaemonProcess, tmp_path: Path
) -> None:
    """Either may publish; carol's daemon sees three versions at once and wants evidence."""
    name = f"turns{time.monotonic_ns()}"
    ctl.create(*(f"{name}/{role}" for role in ROLES))
    carols.create(*(f"{name}/{role}" for role in ROLES))
    words = [
        word
        for role in ROLES
        for word in (
            f"--{role}",
            f"{name}/{role}",
            f"--{role}",
            f"keyd:{name}/{role}?endpoint={carol.endpoint}",
        )
    ]
    path = tmp_path / "repo"
    ctl("tuf", "init", path, "--repository", name, *words)
    client = StockClient(tmp_path / "client", path)
    held = json.loads((path / ".keyd-tuf.json").read_bytes())

    def only(carols_turn: bool) -> None:
        """Each publisher's settings name its own keys; the other daemon is out of reach."""
        signers = {k: u for k, u in held["signers"].items() if ("endpoint" in u) == carols_turn}
        (path / ".keyd-tuf.json").write_text(json.dumps({**held, "signers": signers}))

    for number, turn in enumerate((False, False, False, True, False, True)):
        only(turn)
        publisher = carols if turn else ctl
        publisher("tuf", "add", path, a_file(tmp_path, f"file{number}"))
        assert client.download(f"file{number}")


# ------------------------------------------------------------------------------ consent


def test_targets_and_snapshot_wait_for_consent_and_the_same_command_finishes_them(
    ctl: Keydctl, alice: DaemonProcess, tmp_path: Path
) -> None:
    name = f"gated{time.monotonic_ns()}"
    ctl.create(*(f"{name}/{role}" for role in ROLES))
    path = tmp_path / "repo"
    site = Site(name, path, StockClient.__new__(StockClient))
    init = ("tuf", "init", path, "--repository", name)

    waiting = ctl(*init, code=3)
    assert site.staged() == ["1.targets.json"] or "1.root.json" in site.staged()
    assert ctl(*init, code=3) == waiting, "asking again is the same request"
    said = ctl.run(*init).stdout
    (approval,) = approve(alice, waiting)
    assert f"keydctl approve {approval}" in said
    error = ctl(*init, code=3)
    assert error["error"]["reason"] == "APPROVAL_NEEDED"
    assert "1.snapshot.json" in site.staged()
    approve(alice, error)
    published = ctl(*init)["published"]

    assert "timestamp.json" in published
    assert site.staged() == []
    StockClient(tmp_path / "client", path).update()


def test_a_lost_root_key_is_dropped_once_somebody_consents(
    ctl: Keydctl, alice: DaemonProcess, tmp_path: Path
) -> None:
    name = f"drop{time.monotonic_ns()}"
    roots = [f"{name}/root-{letter}" for letter in "abc"]
    ctl.create(*roots, *(f"{name}/{role}" for role in ROLES[1:]))
    path = tmp_path / "repo"
    given = [word for root in roots for word in ("--root", root)]
    ctl("tuf", "init", path, "--repository", name, *given, "--root-threshold", "2")
    client = StockClient(tmp_path / "client", path)
    client.update()
    before: Metadata[Root] = Metadata.from_file(str(path / "metadata/1.root.json"))
    lost = before.signed.roles["root"].keyids[0]

    drop = ("tuf", "rotate", path, "root", "--drop", lost)
    waiting = ctl(*drop, code=3)
    assert len(approve(alice, waiting)) == 2
    ctl(*drop)

    client.update()
    after: Metadata[Root] = Metadata.from_file(str(path / "metadata/2.root.json"))
    assert after.signed.roles["root"].keyids == before.signed.roles["root"].keyids[1:]
    assert lost not in after.signatures
    again = ctl(*drop, code=1)["error"]
    assert "has 0 keys called" in again["message"]


def test_a_root_key_that_the_threshold_needs_is_not_dropped(ctl: Keydctl, tmp_path: Path) -> None:
    site = a_site(ctl, tmp_path)
    root: Metadata[Root] = Metadata.from_file(str(site.path / "metadata/1.root.json"))

    error = ctl(
        "tuf", "rotate", site.path, "root", "--drop", root.signed.roles["root"].keyids[0], code=1
    )["error"]

    assert "needs 1 signature(s)" in error["message"]
    assert "clients follow no root that this key does not sign" in error["hint"]
    assert "--to KEY" in error["hint"]
    assert "--without-old" not in error["hint"]
    assert site.staged() == []
