"""A real daemon that prepares rotations: status, metrics and log tell of it, a restart does nothing
twice, and people take the ceremony to its end."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyd.client import Client, EntryFilter
from keyd.model import Phase
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import StockClient

pytestmark = pytest.mark.softhsm

REPOSITORY = "acme"
ROLES = ("root", "targets", "snapshot", "timestamp")
TIMEOUT_S = 45.0


class Place:
    """A folder of `keyd-server dev`, its daemon under a configuration that prepares."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repo"
        self.keydctl = Keydctl(f"unix:{folder}/d/run/keyd.sock", folder / "home")
        with DaemonProcess(folder / "d", forked=True):
            self.keydctl.create(*(f"{REPOSITORY}/{role}" for role in ROLES))
            self.keydctl("tuf", "init", self.repository, "--repository", REPOSITORY)
        config = folder / "d" / "preparing.toml"
        config.write_text(
            (folder / "d" / "keyd.toml").read_text()
            + '\n[rotation]\nprepare = true\n\n[metrics]\naddress = "127.0.0.1:0"\n'
        )
        self.daemon = DaemonProcess(
            folder / "o", command=("run", "--config", str(config)), forked=True
        )

    def client(self) -> Client:
        return Client(self.keydctl.endpoint, keep_checkpoints=False)

    def metrics(self) -> str:
        address = re.findall(r"http://[^\s\"]+/metrics", self.daemon.tail(200_000))[-1]
        with urllib.request.urlopen(address, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def entries(self, action: str) -> int:
        with self.client() as keyd:
            return len(list(keyd.list_entries(EntryFilter(action=action))))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    with made.daemon:
        yield made


def wait_for(check: Callable[[], bool], place: Place) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, place.daemon.tail()
        time.sleep(0.2)


def test_a_due_rotation_prepares_itself_once_and_waits_for_people(place: Place) -> None:
    key = f"{REPOSITORY}/targets"
    keydctl = place.keydctl
    wait_for(lambda: "keyd_health 2.0" in place.metrics(), place)
    before = place.metrics()
    assert "keyd_keys_overdue 0.0" in before
    assert f'keyd_role_expires_in_seconds{{repository="{REPOSITORY}",role="timestamp"}}' in before
    soonest = keydctl("status")["expiring_roles"][0]
    assert (soonest["role"], soonest["version"]) == ("timestamp", 1)

    keydctl("key", "update", key, "--rotate-every", "1s")

    def prepared() -> bool:
        with place.client() as keyd:
            return any("waits for people" in due.note for due in keyd.status().due_rotations)

    wait_for(prepared, place)
    with place.client() as keyd:
        (ceremony,) = keyd.list_ceremonies(REPOSITORY)
        held = keyd.get_key(key)
    assert (ceremony.phase, ceremony.started_by) == (Phase.CONSENT, "system:keyd")
    assert (held.active_version, len(held.versions)) == (1, 2)
    wait_for(lambda: "keyd_health 2.0" in place.metrics(), place)
    told = keydctl("status")
    (due,) = told["due_rotations"]
    assert (due["key"], due["overdue"], told["overdue_keys"]) == (key, True, 1)
    assert ceremony.id in keydctl.run("status").stdout
    page = place.metrics()
    assert "keyd_keys_overdue 1.0" in page
    assert re.search(rf'keyd_key_rotation_due_in_seconds{{key="{key}"}} -', page)
    wait_for(lambda: place.entries("rotation-due") == 1, place)

    place.daemon.kill()
    place.daemon.start()
    wait_for(prepared, place)

    with place.client() as keyd:
        assert keyd.list_ceremonies(REPOSITORY) == [ceremony]
        assert len(keyd.get_key(key).versions) == 2
    assert (place.entries("rotation-due"), place.entries("ceremony-start")) == (1, 1)

    keydctl("key", "update", key, "--rotate-every", "90d")
    client = StockClient(place.repository.parent / "client", place.repository)
    client.update()
    keydctl("tuf", "ceremony", "resume", place.repository)

    client.update()
    with place.client() as keyd:
        (done,) = keyd.list_ceremonies(REPOSITORY)
        held = keyd.get_key(key)
    assert done.phase is Phase.DONE and held.active_version == 2
    with place.client() as keyd:
        assert keyd.status().due_rotations == ()
