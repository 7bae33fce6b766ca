"""keydctl yubikey change-pin, unblock and init where somebody mistypes, or is cut off."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.client import SignRequest
from keyd.model import Encoding, KeyAlgorithm, Pin, Slot
from tests.yubikey.bench import Bench
from tests.yubikey.model import FACTORY_PIN, FACTORY_PUK, Model
from tests.yubikey.pause import Moment
from tests.yubikey.site import FDS, OTHER, PIN, PUK, Site, a_site

WRONG = "11992288"
CHANGE = ("yubikey", "change-pin", "yubi", "--old-pin-fd", "0", "--new-pin-fd", "0")
UNBLOCK = ("yubikey", "unblock", "yubi", "--puk-fd", "0", "--new-pin-fd", "0")


@pytest.fixture(scope="module")
def daemon(ykcs11: Path) -> Iterator[Site]:
    with Bench.start() as bench, a_site(bench, ykcs11, bench.add(Model(1234567))) as started:
        yield started


@pytest.fixture
def fresh(daemon: Site) -> Site:
    """As from the factory."""
    with daemon.client() as keyd:
        keyd.lock("yubi")
    daemon.key.factory_reset()
    return daemon


@pytest.fixture
def site(fresh: Site) -> Site:
    """Set up and READY, with a key in a slot that no test had before."""
    with fresh.client() as keyd:
        keyd.init_yubikey("yubi", Pin(PIN), Pin(PUK), factory=True)
        keyd.unlock("yubi", Pin(PIN))
        slot = Slot(0x82 + len(list(keyd.list_keys())))
        keyd.create_key(f"acme/{slot}", KeyAlgorithm.ECDSA_P256, token="yubi", slot=slot)
    return fresh


def signs(site: Site) -> None:
    """The card does, with what its host holds."""
    before = site.key.state.signatures
    # Another message each time: the same one would be answered from the log.
    message = f"message {before}".encode()
    with site.client() as keyd:
        (found,) = keyd.list_yubikeys("yubi")
        name = found.slots[0].registered_as.split("/versions/")[0]
        keyd.sign_one(SignRequest(name, message, encoding=Encoding.DER))
    assert site.key.state.signatures == before + 1


def test_a_wrong_old_pin_costs_one_try_and_the_token_stays_ready_and_signs(site: Site) -> None:
    offered = site.key.state.pins_offered
    wrong = site.do(*CHANGE, secrets=f"{WRONG}\n{OTHER}\n", code=3)

    assert wrong["error"]["reason"] == "PIN_REFUSED"
    assert "2 tries are left" in wrong["error"]["message"]
    assert "locked" not in json.dumps(wrong)
    assert site.key.state.pins_offered == offered + 1, "it is sent once"
    assert site.key.state.pin_tries == 2
    assert site.state() == "READY"
    signs(site)
    assert site.key.state.pin_tries == 3, "the PIN that the host holds sets the count back"
    assert WRONG not in json.dumps(wrong) + site.entries() + site.daemon.tail(1_000_000)

    changed = site.do(*CHANGE, secrets=f"{PIN}\n{OTHER}\n")
    assert changed["state"] == "READY"
    signs(site)
    assert site.key.state.pin_tries == 3


def test_a_wrong_old_pin_on_the_last_try_blocks_it_and_says_what_unblocks(site: Site) -> None:
    site.key.tries_left(pin=1)

    careful = site.do(*CHANGE, secrets=f"{WRONG}\n{OTHER}\n", code=3)
    assert "change-pin yubi --spend-last-try" in careful["error"]["hint"]
    assert (site.key.state.pin_tries, site.state()) == (1, "READY"), "nothing was tried"

    blocked = site.do(*CHANGE, "--spend-last-try", secrets=f"{WRONG}\n{OTHER}\n", code=3)

    assert blocked["error"]["reason"] == "TOKEN_LOCKED"
    assert "keydctl yubikey unblock yubi" in blocked["error"]["hint"]
    until = time.monotonic() + 10
    while site.state() != "PIN_LOCKED":
        assert time.monotonic() < until
        time.sleep(0.05)
    offered = site.key.state.pins_offered
    refused = site.do("token", "unlock", "yubi", "--pin-stdin", secrets=f"{PIN}\n", code=3)
    assert "unblock" in refused["error"]["hint"]
    assert site.key.state.pins_offered == offered, "a blocked card is sent no PIN"

    site.do(*UNBLOCK, secrets=f"{PUK}\n{OTHER}\n")
    site.unlock(OTHER)
    signs(site)


def test_wrong_puks_count_and_the_last_one_says_what_is_lost(site: Site) -> None:
    site.key.tries_left(pin=0)
    for left in ("2 tries are", "1 try is"):
        wrong = site.do(*UNBLOCK, secrets=f"{WRONG}\n{OTHER}\n", code=3)
        assert f"refused the PUK: {left} left" in wrong["error"]["message"]
    careful = site.do(*UNBLOCK, secrets=f"{WRONG}\n{OTHER}\n", code=3)
    assert "unblock yubi --spend-last-try" in careful["error"]["hint"]
    assert site.key.state.puk_tries == 1
    lost = site.do(*UNBLOCK, "--spend-last-try", secrets=f"{WRONG}\n{OTHER}\n", code=3)
    assert "can only be reset, which destroys its keys" in lost["error"]["hint"]
    assert site.key.state.puk_tries == 0
    (looked,) = site.do("yubikey", "list", "yubi")
    assert (looked["pin_tries"], looked["puk_tries"]) == (0, 0)


def test_a_wrong_puk_for_a_token_that_was_ready_locks_it_and_says_so(site: Site) -> None:
    wrong = site.do(*UNBLOCK, secrets=f"{WRONG}\n{OTHER}\n", code=3)
    assert "locked meanwhile: keydctl token unlock yubi" in wrong["error"]["hint"]
    assert site.key.state.puk_tries == 2
    site.unlock()
    signs(site)


def test_weak_secrets_are_refused_by_every_command_before_the_card_is_asked(fresh: Site) -> None:
    offered = fresh.key.state.pins_offered
    init = ("yubikey", "init", "yubi", "--factory", "--yes", *FDS)
    for words, good, weak in (
        (init, "", FACTORY_PIN),
        (init, PIN, FACTORY_PUK),
        (init, PIN, PIN),
        (CHANGE, PIN, "12121212"),
        (CHANGE, PIN, "98765432"),
        (UNBLOCK, PUK, "password"),
        (UNBLOCK, PUK, "123456789"),
    ):
        secrets = f"{good}\n{weak}\n" if good else f"{weak}\n{PUK}\n"
        refused = fresh.do(*words, secrets=secrets, code=2)
        assert refused["error"]["reason"] == "INVALID_REQUEST"
        assert weak not in json.dumps(refused)
    assert fresh.key.state.pins_offered == offered
    assert fresh.key.state.puk_tries == 3


def test_a_keydctl_that_is_killed_leaves_an_init_that_the_daemon_finishes(fresh: Site) -> None:
    before = fresh.entries("--action", "provision").count("initialised")
    fresh.key.stop_at(Moment.SET_MANAGEMENT_KEY)
    running = fresh.begin("yubikey", "init", "yubi", "--factory", "--yes", *FDS)
    try:
        assert running.stdin is not None
        running.stdin.write(f"{PIN}\n{PUK}\n")
        running.stdin.flush()
        fresh.key.wait_until_stopped()
    finally:
        running.kill()
        running.communicate(timeout=10)
    fresh.key.go_on()

    until = time.monotonic() + 10
    while (looked := fresh.do("yubikey", "list", "yubi")[0])["factory"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert looked["management_protected"]
    fresh.unlock()
    entries = fresh.entries("--action", "provision")
    assert entries.count("initialised") == before + 2, "what was to be done, and that it is"
