"""keydctl yubikey and key create --slot, through a real daemon, libykcs11 and yubikit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyd.cli.server_dev import make_folder
from tests.e2e.daemon_process import DaemonProcess
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN
from tests.yubikey.touch import Person
from tests.yubikey.worker import Worker

ROOT = Path(__file__).parents[2]
PIN, PUK, OTHER = "73910462", "58203971", "40961738"
_RULE = """
[[rule]]
name = "on hardware"
keys = ["acme/*"]
actions = ["sign"]
origin = "attested"
touch = true
"""


class Site:
    """A daemon with one YubiKey beside its SoftHSM token, and keydctl for its admin."""

    def __init__(self, daemon: DaemonProcess, key: EmulatedKey, home: Path) -> None:
        self.daemon = daemon
        self.key = key
        self._home = home

    def run(self, *words: str, secrets: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "keyd.cli.keydctl", *words],
            env={
                **os.environ,
                "KEYD_ENDPOINT": self.daemon.endpoint,
                "XDG_STATE_HOME": str(self._home),
                "PYTHONPATH": str(ROOT),
            },
            input=secrets,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def do(self, *words: str, secrets: str = "", code: int = 0) -> Any:
        """Run with --json: the answer, or with another code the error."""
        done = self.run(*words, "--json", secrets=secrets)
        assert done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout or done.stderr.splitlines()[-1])

    def init(self) -> Any:
        fds = ("--pin-fd", "0", "--puk-fd", "0")
        return self.do(
            "yubikey", "init", "yubi", "--factory", "--yes", *fds, secrets=f"{PIN}\n{PUK}\n"
        )

    def unlock(self, pin: str = PIN) -> None:
        self.do("token", "unlock", "yubi", "--pin-stdin", secrets=f"{pin}\n")

    def touched(self, *words: str) -> Any:
        """Run what waits for one touch."""
        running = subprocess.Popen(
            [sys.executable, "-m", "keyd.cli.keydctl", *words, "--json"],
            env={
                **os.environ,
                "KEYD_ENDPOINT": self.daemon.endpoint,
                "XDG_STATE_HOME": str(self._home),
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.key.wait_for_blinking(15)
            assert self.key.touch()
            out, err = running.communicate(timeout=30)
        finally:
            running.kill()
            running.wait(10)
        assert running.returncode == 0, err
        return json.loads(out)

    def entries(self, *words: str) -> str:
        done = self.run("audit", "list", *words, "--json")
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def site(bench: Bench, key: EmulatedKey, ykcs11: Path, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    made = make_folder(folder, tcp=None, hosts=1, now=datetime.now(UTC))
    roots = tmp_path / "bench.pem"
    roots.write_text(bench.call("describe")["root"])
    config = made.config.read_text().replace(
        "[server]", f'[server]\nattestation_roots = ["{roots}"]', 1
    )
    config += f"""
[[token]]
name = "yubi"
module = "{ykcs11}"
serial = "{key.serial}"
pin = "prompt"
"""
    site_config = folder / "site.toml"
    site_config.write_text(config)
    with (folder / "policy.toml").open("a") as policy:
        policy.write(_RULE)
    arguments = ("--config", str(site_config))
    daemon = DaemonProcess(folder, *arguments, command=("run",), env=bench.environment)
    with daemon:
        yield Site(daemon, key, tmp_path / "home")


def test_a_new_yubikey_comes_to_sign_with_an_attested_key_that_wants_a_touch(
    site: Site, tmp_path: Path
) -> None:
    (looked,) = site.do("yubikey", "list")
    assert looked["factory"] == ["management-key", "pin", "puk"]
    site.init()
    site.unlock()
    create = ("key", "create", "acme/root", "--token", "yubi", "--slot", "9c", "--touch", "always")
    made = site.touched(*create)

    (version,) = made["versions"]
    assert (version["origin"], version["object_id"]) == ("attested", "02")
    proven = version["attestation"]
    assert (proven["serial"], proven["slot"]) == (str(site.key.serial), "9c")
    assert (proven["touch_policy"], proven["firmware"]) == ("always", "5.4.3")
    assert "made in slot 9c of YubiKey 1234567" in site.run("key", "show", "acme/root").stdout
    (looked,) = site.do("yubikey", "list", "yubi")
    (slot,) = looked["slots"]
    assert (slot["slot"], slot["registered_as"]) == ("9c", "acme/root/versions/1")
    assert (looked["factory"], looked["management_protected"]) == ([], True)

    site.do("key", "create", "acme/soft", "--token", "dev")
    (tmp_path / "file").write_text("content")
    refused = site.do("sign", "--key", "acme/soft", str(tmp_path / "file"), code=1)
    assert "rule on hardware demands an attested key" in json.dumps(refused)
    signed = site.touched("sign", "--key", "acme/root", "--encoding", "der", str(tmp_path / "file"))
    assert signed["key_version"] == "acme/root/versions/1"

    entries = site.entries()
    assert proven["chain_sha256"][0] in entries
    for secret in (PIN, PUK, FACTORY_MANAGEMENT_KEY.hex()):
        assert secret not in entries + site.daemon.tail(1_000_000)


def test_a_yubikey_in_use_is_not_set_up_anew_and_its_keys_are_adopted_attested(
    site: Site, worker: Worker
) -> None:
    order = (site.key.serial, FACTORY_MANAGEMENT_KEY, 0x9A, "ECCP256", "ONCE", "NEVER")
    worker.call(by_yubikit.generate, *order)
    offered = site.key.state.pins_offered
    refused = site.do(
        "yubikey",
        "init",
        "yubi",
        "--factory",
        "--yes",
        "--pin-fd",
        "0",
        "--puk-fd",
        "0",
        secrets=f"{PIN}\n{PUK}\n",
        code=1,
    )
    assert "holds keys" in json.dumps(refused)
    assert "key adopt" in json.dumps(refused)
    assert site.key.state.pins_offered == offered

    site.unlock(FACTORY_PIN)
    adopted = site.do("key", "adopt", "acme/old", "--token", "yubi", "--slot", "9a")
    (found,) = adopted["keys"]
    assert found["versions"][0]["origin"] == "attested"


def test_slots_are_never_overwritten_rotation_takes_the_next_and_a_lost_registry_is_rebuilt(
    site: Site, tmp_path: Path
) -> None:
    site.init()
    site.unlock()
    site.do("key", "create", "acme/ci", "--token", "yubi", "--slot", "82", "--pin", "once")
    create = ("key", "create", "acme/other", "--token", "yubi", "--slot", "82")
    refused = site.do(*create, code=1)
    assert "occupied" in json.dumps(refused)
    assert "acme/ci/1" in json.dumps(refused)
    without = site.do("key", "create", "acme/other", "--token", "yubi", code=2)
    assert "in which slot" in json.dumps(without)

    rotated = site.do("key", "rotate", "acme/ci")

    assert [v["attestation"]["slot"] for v in rotated["versions"]] == ["82", "83"]
    assert [v["attestation"]["pin_policy"] for v in rotated["versions"]] == ["once", "once"]

    site.daemon.stop()
    state = tmp_path / "site" / "state"
    for file in state.glob("*"):
        file.unlink()
    (tmp_path / "site" / "checkpoint").unlink(missing_ok=True)
    site.daemon.start()
    site.unlock()

    adopted = site.do("key", "adopt", "--all", "--token", "yubi")

    (key,) = adopted["keys"]
    assert key["name"] == "acme/ci"
    assert [(v["number"], v["origin"]) for v in key["versions"]] == [
        (1, "attested"),
        (2, "attested"),
    ]


def test_the_pin_is_changed_unblocked_and_never_guessed(site: Site) -> None:
    site.init()
    site.unlock()
    change = ("yubikey", "change-pin", "yubi", "--old-pin-fd", "0", "--new-pin-fd", "0")
    weak = site.do(*change, secrets=f"{PIN}\n{FACTORY_PIN}\n", code=2)
    assert FACTORY_PIN not in json.dumps(weak)
    changed = site.do(*change, secrets=f"{PIN}\n{OTHER}\n")
    assert changed["state"] == "READY"
    wrong = site.do(*change, secrets=f"11992288\n{PIN}\n", code=3)
    assert "2 tries are left" in json.dumps(wrong)
    assert "11992288" not in json.dumps(wrong) + site.entries()

    site.key.tries_left(pin=0)
    unblock = ("yubikey", "unblock", "yubi", "--puk-fd", "0", "--new-pin-fd", "0")
    site.do(*unblock, secrets=f"{PUK}\n{PIN}\n")
    site.unlock()
    assert site.key.state.pin_tries == 3


def test_what_is_missing_or_odd_is_told_before_anything_is_tried(site: Site) -> None:
    assert site.run("yubikey", "init", "yubi").returncode == 2
    done = site.run("yubikey", "init", "yubi", "--factory", "--yes")
    assert (done.returncode, "--pin-fd" in done.stderr) == (2, True)
    no_yubikey = site.do("yubikey", "attest", "dev", "9c", code=2)
    assert "is no YubiKey" in json.dumps(no_yubikey)
    assert site.run("yubikey", "attest", "yubi", "f9").returncode == 2
    assert "attests no key" in json.dumps(site.do("yubikey", "attest", "yubi", "9c", code=1))
    assert site.run("yubikey", "certificate", "yubi", "9c").returncode == 1
    assert site.key.state.pins_offered == 0


def test_a_key_whose_touch_did_not_come_is_finished_at_the_next_login(site: Site) -> None:
    site.init()
    site.unlock()
    site.key.person(Person.SLEEPS, window_s=0.5)
    create = ("key", "create", "acme/root", "--token", "yubi", "--slot", "9c", "--touch", "always")
    refused = site.do(*create, code=4)
    assert "not touched in time" in json.dumps(refused)
    (left,) = site.do("key", "show", "acme/root")["versions"]
    assert left["state"] == "PENDING"

    site.key.person(Person.TOUCHES)
    site.do("token", "lock", "yubi")
    site.unlock()
    give_up = time.monotonic() + 10
    while left["state"] != "ENABLED" and time.monotonic() < give_up:
        time.sleep(0.2)
        (left,) = site.do("key", "show", "acme/root")["versions"]
    assert (left["state"], left["origin"]) == ("ENABLED", "generated")
    assert site.do("yubikey", "attest", "yubi", "9c")["registered_as"] == left["name"]
    (attested,) = site.do("key", "show", "acme/root")["versions"]
    assert attested["origin"] == "attested"
