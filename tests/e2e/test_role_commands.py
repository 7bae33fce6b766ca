"""keydctl role and tuf expiring: the ways out, against a real daemon."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.integration.test_tuf_migration import ForeignRepository
from tests.tuf_repositories import ROLES, StockClient

pytestmark = pytest.mark.softhsm
WHY = ("--reason", "a test")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("d") / "d", forked=True) as running:
        yield running


@pytest.fixture(scope="module")
def ctl(daemon: DaemonProcess, tmp_path_factory: pytest.TempPathFactory) -> Keydctl:
    return Keydctl(daemon.endpoint, tmp_path_factory.mktemp("home"))


@dataclass(frozen=True)
class Site:
    name: str
    path: Path


@pytest.fixture
def site(ctl: Keydctl, tmp_path: Path) -> Site:
    name = f"site{time.monotonic_ns()}"
    ctl.create(*(f"{name}/{role}" for role in ROLES))
    ctl("tuf", "init", tmp_path / "repo", "--repository", name)
    return Site(name, tmp_path / "repo")


def bound(ctl: Keydctl) -> str:
    """A repository's name with bound keys, of which nothing was signed yet."""
    name = f"bound{time.monotonic_ns()}"
    for role in ROLES:
        ctl("key", "create", f"{name}/{role}", "--bind", f"{name}:{role}")
    return name


def test_roles_are_listed_and_shown_with_who_signed(ctl: Keydctl, site: Site) -> None:
    listed = ctl("role", "list", site.name)
    shown = ctl("role", "show", site.name, "root")
    text = ctl.run("role", "list", site.name).stdout
    raw = ctl.run("role", "show", site.name, "root", "--content").stdout

    assert {(r["role"], r["version"], r["state"]) for r in listed} == {
        (role, 1, "PUBLISHED") for role in ROLES
    }
    assert [s["key_version"] for s in shown["signers"]] == [f"{site.name}/root/versions/1"]
    assert text.splitlines()[0].split() == [
        *("REPOSITORY", "ROLE", "VERSION", "STATE", "COMPLETE", "EXPIRES", "LEFT")
    ]
    root = Metadata[Root].from_file(str(site.path / "metadata/1.root.json"))
    assert raw.encode() == root.signed_bytes


def test_a_role_nobody_signed_is_not_found(ctl: Keydctl, site: Site) -> None:
    error = ctl("role", "show", site.name, "nothing", code=1)["error"]

    assert error["reason"] == "ROLE_NOT_FOUND"


def test_what_expires_soon_is_told_by_the_exit_code(ctl: Keydctl, site: Site) -> None:
    """Snapshot lives for 7 days here, timestamp for one."""
    soon = ctl("tuf", "expiring", site.name, "--within", "2d", code=1)
    later = ctl("tuf", "expiring", site.name, "--within", "30d", code=1)
    never = ctl("tuf", "expiring", site.name, "--within", "1h")

    assert [r["role"] for r in soon] == ["timestamp"]
    assert {r["role"] for r in later} == {"timestamp", "snapshot"}
    assert never == []
    assert "nothing expires" in ctl.run("tuf", "expiring", site.name, "--within", "1h").stdout


# ------------------------------------------------------------------------------ import


def test_a_published_repository_is_imported_from_the_root_that_clients_ship_with(
    ctl: Keydctl, tmp_path: Path
) -> None:
    foreign = ForeignRepository(tmp_path / "repo", tmp_path / "old", consistent=False)
    shutil.copy(foreign.path / "metadata/1.root.json", tmp_path / "shipped.json")
    name = bound(ctl)

    imported = (
        *("role", "import", name, "--root", tmp_path / "shipped.json"),
        *("--metadata", foreign.path / "metadata", *WHY),
    )
    tried = ctl(*imported, "--dry-run")["roles"]
    asked = ctl.run(*imported)
    nothing = ctl("role", "list", name)
    roles = ctl(*imported, "--yes")["roles"]

    assert asked.returncode == 2
    assert "Without a terminal this needs --yes" in asked.stderr
    assert nothing == []
    assert roles == ctl("role", "list", name)
    assert {r["role"] for r in tried} == set(ROLES)
    versions = {r["role"]: (r["version"], r["state"]) for r in roles}
    assert versions == {
        "root": (1, "PUBLISHED"),
        "targets": (4, "PUBLISHED"),
        "snapshot": (7, "PUBLISHED"),
        "timestamp": (9, "PUBLISHED"),
    }


def test_a_chain_that_clients_would_not_follow_is_refused_before_anything_is_sent(
    ctl: Keydctl, site: Site, tmp_path: Path
) -> None:
    """Mallory's root 2 behind the real root 1."""
    other = ForeignRepository(tmp_path / "evil", tmp_path / "evil-keys", consistent=True)
    root: Metadata[Root] = Metadata.from_file(str(other.path / "metadata/1.root.json"))
    root.signed.version = 2
    root.sign(other.keys["root"])
    copy = tmp_path / "copy"
    shutil.copytree(site.path / "metadata", copy)
    root.to_file(str(copy / "2.root.json"))

    error = ctl(
        *("role", "import", bound(ctl), "--root", copy / "1.root.json", "--yes", *WHY), code=1
    )["error"]

    assert error["reason"] == "REPOSITORY"
    assert "does not follow" in error["message"]


def test_a_gap_in_the_chain_is_named(ctl: Keydctl, site: Site, tmp_path: Path) -> None:
    for _ in range(2):
        ctl("tuf", "refresh", site.path, "--role", "root")
    copy = tmp_path / "copy"
    shutil.copytree(site.path / "metadata", copy)
    shutil.copy(copy / "3.root.json", copy / "root.json")
    (copy / "2.root.json").unlink()

    error = ctl(
        *("role", "import", bound(ctl), "--root", copy / "1.root.json", "--yes", *WHY), code=1
    )["error"]

    assert "root.json is version 3" in error["message"]
    assert "2.root.json" in error["hint"]


# ------------------------------------------------------------------------------ other ways


def test_published_files_advance_what_is_known(ctl: Keydctl, tmp_path: Path) -> None:
    foreign = ForeignRepository(tmp_path / "repo", tmp_path / "old", consistent=True)
    metadata = foreign.path / "metadata"
    name = bound(ctl)
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(metadata / "1.root.json", only)
    ctl("role", "import", name, "--root", only / "1.root.json", "--yes", *WHY)

    advanced = ctl("role", "advance", name, metadata / "4.targets.json", "--published")
    by_name = ctl("role", "advance", name, f"snapshot={metadata / '7.snapshot.json'}")
    again = ctl("role", "advance", name, metadata / "4.targets.json", "--published")

    assert [(r["role"], r["version"], r["state"]) for r in advanced["roles"]] == [
        ("targets", 4, "PUBLISHED")
    ]
    assert [(r["role"], r["state"]) for r in by_name["roles"]] == [("snapshot", "COMPLETE")]
    assert again["roles"] == []
    assert again["notes"] == ["targets v4 shows nothing new"]


def test_a_forged_file_advances_nothing(ctl: Keydctl, site: Site, tmp_path: Path) -> None:
    forged = tmp_path / "2.targets.json"
    content = json.loads((site.path / "metadata/1.targets.json").read_bytes())
    content["signed"]["version"] = 2
    forged.write_text(json.dumps(content))

    error = ctl("role", "advance", site.name, forged, "--published", code=1)["error"]

    assert error["facts"]["rule"] == "evidence-signatures"
    assert ctl("role", "show", site.name, "targets")["version"] == 1


def test_a_file_whose_name_says_no_role_has_to_be_named(ctl: Keydctl, tmp_path: Path) -> None:
    (tmp_path / "metadata").write_text("{}")

    error = ctl("role", "advance", "acme", tmp_path / "metadata", code=1)["error"]

    assert error["hint"] == "write it as ROLE=FILE"


def test_a_draft_is_corrected_after_one_of_two_signed_it(ctl: Keydctl, tmp_path: Path) -> None:
    name = f"draft{time.monotonic_ns()}"
    ctl.create(*(f"{name}/{role}" for role in ROLES))
    pem = tmp_path / "away.pem"
    ctl.create(f"{name}/away")
    pem.write_text(ctl.run("key", "show", f"{name}/away", "--format", "pem").stdout)
    repo = tmp_path / "repo"
    init = ("tuf", "init", repo, "--repository", name, "--root", f"{name}/root")
    ctl("key", "disable", f"{name}/away", "1")
    ctl(*init, "--root", f"@{pem}", "--root-threshold", "2", "--expiry", "root=300", code=3)
    (repo / "staged/1.root.json").unlink()
    (repo / ".keyd-tuf.json").unlink()

    corrected = (*init, "--root", f"@{pem}", "--root-threshold", "2", "--expiry", "root=200")
    error = ctl(*corrected, code=1)["error"]
    assert error["reason"] == "VERSION_TAKEN"
    assert f"keydctl role supersede {name} root" in error["hint"]
    ctl("role", "supersede", name, "root", "--yes", *WHY)
    ctl(*corrected, code=3)
    ctl("key", "enable", f"{name}/away", "1")

    assert "1.root.json" in ctl("tuf", "refresh", repo)["published"]
    StockClient(tmp_path / "client", repo).update()


def test_a_repository_that_begins_again_is_reset_first(ctl: Keydctl, site: Site) -> None:
    shutil.rmtree(site.path)
    init = ("tuf", "init", site.path, "--repository", site.name, "--expiry", "root=100")

    error = ctl(*init, code=1)["error"]
    forgotten = ctl("role", "reset", site.name, "--yes", *WHY)["forgotten"]
    ctl(*init)

    assert error["reason"] == "VERSION_TAKEN"
    assert f"keydctl role reset {site.name}" in error["hint"]
    assert {r["role"] for r in forgotten} == set(ROLES)
    assert ctl("role", "reset", "unknown", "--yes", *WHY, code=1)["error"]["hint"]


def test_where_nothing_is_lost_nothing_is_changed(ctl: Keydctl) -> None:
    entries = ctl("audit", "list", "--limit", "1")[0]["index"]

    accepted = ctl("role", "accept", "--yes", *WHY)
    said = ctl.run("role", "accept", "--yes", *WHY).stdout

    assert (accepted["loss"], accepted["log_index"]) == ("", -1)
    assert "nothing was changed" in said
    assert ctl("audit", "list", "--limit", "1")[0]["index"] == entries
