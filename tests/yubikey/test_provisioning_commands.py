"""keydctl yubikey and key create --slot, through a real daemon, libykcs11 and yubikit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN
from tests.yubikey.site import PIN, PUK, Site, a_site
from tests.yubikey.touch import Person
from tests.yubikey.worker import Worker

_RULE = """
[[rule]]
name = "on hardware"
keys = ["acme/*"]
actions = ["sign"]
origin = "attested"
touch = true
"""


@pytest.fixture
def site(bench: Bench, key: EmulatedKey, ykcs11: Path) -> Iterator[Site]:
    with a_site(bench, ykcs11, key, more={"drawer": 9999999}, policy=_RULE) as started:
        yield started


def test_a_new_yubikey_comes_to_sign_with_an_attested_key_that_wants_a_touch(
    site: Site, tmp_path: Path
) -> None:
    (looked,) = site.do("yubikey", "list")
    absent = site.run("yubikey", "list").stderr
    assert "drawer is ABSENT: token drawer is not there: no token has serial 9999999" in absent
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
    refused = site.init(code=1)
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
    folder = site.folder / "d"
    for file in (folder / "state").glob("*"):
        file.unlink()
    (folder / "checkpoint").unlink(missing_ok=True)
    site.daemon.start()
    site.unlock()

    adopted = site.do("key", "adopt", "--all", "--token", "yubi")

    (key,) = adopted["keys"]
    assert key["name"] == "acme/ci"
    assert [(v["number"], v["origin"]) for v in key["versions"]] == [
        (1, "attested"),
        (2, "attested"),
    ]


def test_what_is_missing_or_odd_is_told_before_anything_is_tried(site: Site) -> None:
    assert site.run("yubikey", "init", "yubi").returncode == 2
    done = site.run("yubikey", "init", "yubi", "--factory", "--yes")
    assert (done.returncode, "--pin-fd" in done.stderr) == (2, True)
    for command, option in (("change-pin", "--old-pin-fd"), ("unblock", "--puk-fd")):
        done = site.run("yubikey", command, "yubi")
        assert (done.returncode, option in done.stderr) == (2, True), done.stderr
    no_yubikey = site.do("yubikey", "attest", "dev", "9c", code=2)
    assert "is no YubiKey" in json.dumps(no_yubikey)
    assert site.run("yubikey", "attest", "yubi", "f9").returncode == 2
    assert "attests no key" in json.dumps(site.do("yubikey", "attest", "yubi", "9c", code=1))
    for token, why in (
        ("yubi", "there is no certificate in slot 9c"),
        ("dev", "dev is no YubiKey"),
        ("drawer", "token drawer is not there: no token has serial 9999999"),
    ):
        done = site.run("yubikey", "certificate", token, "9c")
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
        if token != "yubi":
            done = site.run("yubikey", "list", token)
            assert (done.returncode, done.stdout.count(token)) == (1, why.count(token)), done.stdout
            assert "keydctl token list" in done.stdout or "plug it in" in done.stdout
    adopt = site.do("key", "adopt", "acme/old", "--token", "dev", "--slot", "9a", code=2)
    assert "dev is no YubiKey: it says SoftHSM v2" in adopt["error"]["message"]
    create = site.do("key", "create", "acme/a", "--token", "dev", "--touch", "always", code=2)
    assert create["error"]["message"].startswith("touch: token dev is not known as a YubiKey")
    assert "leave out --slot, --touch and --pin" in create["error"]["hint"]
    unseen = site.do("key", "create", "acme/a", "--token", "drawer", "--slot", "9c", code=4)
    assert "token drawer is not there" in unseen["error"]["message"]
    assert "plug it in" in unseen["error"]["hint"]
    slotless = site.do("key", "create", "acme/a", "--token", "yubi", code=2)
    assert "key create acme/a --token yubi --slot 9c" in slotless["error"]["hint"]
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
