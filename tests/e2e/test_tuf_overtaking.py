"""Targets that a daemon has signed, and whose files are gone: the next command signs above them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.client import Client
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import ROLES, StockClient

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("d") / "d", forked=True) as running:
        yield running


def a_site_that_lost_its_newest_targets(ctl: Keydctl, folder: Path, name: str) -> Path:
    """Targets 2 and a snapshot that lists them are signed; here nothing is left of them."""
    path, lost = folder / "repo", folder / "lost"
    (folder / "hello").write_text("hello")
    ctl.create(*(f"{name}/{role}" for role in ROLES))
    ctl("tuf", "init", path, "--repository", name)
    shutil.copytree(path, lost)
    ctl("tuf", "add", lost, folder / "hello")
    return path


def open_approvals(daemon: DaemonProcess) -> list[str]:
    with Client(daemon.endpoint, keep_checkpoints=False) as keyd:
        return [a.subject for a in keyd.list_approvals()]


def test_a_refresh_signs_above_targets_that_were_never_published(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ctl = Keydctl(daemon.endpoint, tmp_path)
    path = a_site_that_lost_its_newest_targets(ctl, tmp_path, "lost")

    refreshed = ctl("tuf", "refresh", path)

    assert "3.targets.json" in refreshed["published"]
    told = "targets became version 3: version 2 was signed and never published"
    assert told in refreshed["notes"]
    assert len(refreshed["notes"]) == len(set(refreshed["notes"]))
    assert open_approvals(daemon) == []
    assert StockClient(tmp_path / "client", path).update().get_targetinfo("hello") is None
    assert ctl("tuf", "refresh", path)["notes"] == []
    assert "4.targets.json" in ctl("tuf", "add", path, tmp_path / "hello")["published"]


def test_where_nobody_can_sign_the_targets_the_way_out_is_named(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ctl = Keydctl(daemon.endpoint, tmp_path)
    path = a_site_that_lost_its_newest_targets(ctl, tmp_path, "held")
    ctl("key", "disable", "held/targets", "1")

    error = ctl("tuf", "refresh", path, code=3)["error"]
    again = ctl("tuf", "refresh", path, code=3)["error"]

    assert error["reason"] == again["reason"] == "APPROVAL_NEEDED"
    assert error["facts"]["approval"] == again["facts"]["approval"]
    assert f"keydctl tuf refresh {path} --role targets" in error["hint"]
    assert f"keydctl approve {error['facts']['approval']}" in error["hint"]
    ctl("key", "enable", "held/targets", "1")
    assert "3.targets.json" in ctl("tuf", "refresh", path)["published"]
    StockClient(tmp_path / "client", path).update()
