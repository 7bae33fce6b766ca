"""keyd-server doctor where keyd signs with a YubiKey: what may be wrong between daemon and card."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import run_to_end
from tests.waiting import until
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.site import Site, a_site

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


@pytest.fixture
def site(bench: Bench, key: EmulatedKey, ykcs11: Path) -> Iterator[Site]:
    """Its daemon was never started."""
    with a_site(bench, ykcs11, key, starts=False) as made:
        yield made


class Doctor:
    """Looks at a site."""

    def __init__(self, site: Site, bench: Bench) -> None:
        self._site = site
        self._env = {**os.environ, **bench.environment}
        self._config = site.folder / "d/keyd.toml"
        self._text = self._config.read_text()

    def writes(self, old: str = "", new: str = "") -> None:
        """Somebody edits the configuration."""
        assert old in self._text
        self._config.write_text(self._text.replace(old, new))

    def finds(self, *areas: str) -> dict[str, str]:
        """What has to be done in these areas: what is wrong and what to do, by area."""
        command = (sys.executable, "-m", "keyd.cli.server", "doctor", "--json")
        done = run_to_end(*command, "--config", self._config, env=self._env)
        found = json.loads(done.stdout)["findings"]
        seen = {f["area"] for f in found}
        assert seen >= set(areas), done.stdout
        return {
            f["area"]: f"{f['what']} -- {f['todo']}"
            for f in found
            if f["area"] in areas and not f["ok"]
        }


def test_each_thing_that_keeps_a_stopped_daemon_from_its_yubikey_is_found_and_then_well(
    site: Site, bench: Bench, ykcs11: Path
) -> None:
    doctor = Doctor(site, bench)
    assert doctor.finds("pcscd", "reader", "token", "module") == {}

    site.key.remove()
    found = doctor.finds("reader", "token")
    assert "0 cards are in readers, for 1 tokens; empty: Yubico" in found["reader"]
    assert "plug it in" in found["reader"]
    assert "0 tokens fit yubi" in found["token"]
    site.key.insert()

    doctor.writes(f'serial = "{site.key.serial}"', 'serial = "7654321"')
    found = doctor.finds("token")
    assert f"the module shows: YubiKey PIV #{site.key.serial} {site.key.serial}" in found["token"]
    assert "correct label and serial of yubi in keyd.toml" in found["token"]

    doctor.writes(str(ykcs11), str(site.folder / "libykcs11.so.2"))
    found = doctor.finds("configuration")
    assert (
        "no such file or directory; install the package that has it (on Debian ykcs11"
        in (found["configuration"])
    )
    doctor.writes()

    site.key.tries_left(pin=0)
    found = doctor.finds("token", "pin")
    assert (
        "the PIN is blocked -- a YubiKey, with its PUK: keydctl yubikey unblock yubi"
        in (found["pin"])
    )
    site.key.tries_left(pin=1)
    assert "--spend-last-try" in doctor.finds("pin")["pin"]
    site.key.tries_left(pin=3)

    bench.kill_pcscd()
    found = doctor.finds("pcscd", "module")
    assert "pcscd does not answer" in found["pcscd"]
    assert "systemctl enable --now pcscd.socket" in found["pcscd"]
    assert set(found) == {"pcscd"}, "one cause is one finding"
    bench.start_pcscd()
    assert doctor.finds("pcscd", "reader", "token") == {}
    assert site.key.state.pins_offered == 0


def test_a_service_user_whom_pcscd_does_not_let_in_is_found(site: Site, bench: Bench) -> None:
    if os.geteuid() != 0:
        pytest.skip("asking in the name of another user takes root")
    nobody = pwd.getpwnam("nobody")
    state = site.folder / "d/state"
    state.mkdir(exist_ok=True)
    os.chown(state, nobody.pw_uid, nobody.pw_gid)
    # As a pcscd that asks polkit answers: the socket is there, and not for this user.
    bench.socket_path.chmod(0o600)

    found = Doctor(site, bench).finds("pcscd")

    assert "pcscd does not answer the service's user" in found["pcscd"]
    assert "50-keyd-server.rules" in found["pcscd"]


def test_a_running_daemon_tells_what_its_yubikey_lacks(site: Site, bench: Bench) -> None:
    site.daemon.start()
    doctor = Doctor(site, bench)
    assert "yubi is LOCKED" in doctor.finds("token")["token"]
    assert "keydctl token unlock yubi" in doctor.finds("token")["token"]

    # The daemon looks at its tokens again and again; the doctor tells what it saw last.
    site.key.tries_left(pin=0)
    until(lambda: "pin" in doctor.finds("pin"), "a finding about the PIN")
    assert "keydctl yubikey unblock yubi" in doctor.finds("pin")["pin"]

    site.key.remove()
    until(lambda: "ABSENT" in doctor.finds("token").get("token", ""), "an absent token")
    found = doctor.finds("token", "reader")
    assert "yubi is ABSENT" in found["token"]
    assert "plug it in" in found["reader"]
    assert site.key.state.pins_offered == 0

    site.key.insert()
    bench.kill_pcscd()
    until(lambda: site.state() in ("ABSENT", "FAULTED"), "a token that is cut off")
    assert set(doctor.finds("pcscd", "daemon", "token")) == {"pcscd"}, "one cause is one finding"
