"""A registry that was lost, and two cards that are all that is left: key adopt reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyd.model import KeyAlgorithm, Pin, Slot, TokenState
from tests.yubikey import by_ykman
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import Model
from tests.yubikey.site import PIN, PUK, Site, a_site
from tests.yubikey.worker import Worker

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


def lose_registry(site: Site) -> None:
    """The disk is gone; the configuration was elsewhere."""
    site.daemon.stop()
    folder = site.folder / "d"
    for file in (folder / "state").glob("*"):
        file.unlink()
    (folder / "checkpoint").unlink(missing_ok=True)
    site.daemon.start()
    with site.client() as keyd:
        for token in ("yubi", "spare"):
            keyd.unlock(token, Pin(PIN))


def create(site: Site, name: str, token: str, slot: str) -> None:
    with site.client() as keyd:
        keyd.create_key(name, KeyAlgorithm.ECDSA_P256, token=token, slot=Slot.parse(slot))


def test_a_lost_registry_is_rebuilt_from_the_cards_and_rotation_goes_on_where_it_was(
    bench: Bench, key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    spare = bench.add(Model(7654321), slot=1)
    with a_site(bench, ykcs11, key, more={"spare": spare.serial}) as site:
        with site.client() as keyd:
            for token in ("yubi", "spare"):
                keyd.init_yubikey(token, Pin(PIN), Pin(PUK), factory=True)
                keyd.unlock(token, Pin(PIN))
        # On one card two versions of a key and another key, what ykman made, and what is damaged.
        create(site, "acme/ci", "yubi", "9a")
        with site.client() as keyd:
            keyd.rotate("acme/ci")
        create(site, "acme/root", "yubi", "9c")
        create(site, "acme/hurt", "yubi", "9d")
        worker.call(by_ykman.generate, key.serial, PIN, 0x95)
        worker.call(by_ykman.damage_certificate, key.serial, PIN, 0x9D)
        lose_registry(site)
        # On the other one the same name and number, from another life.
        create(site, "acme/ci", "spare", "82")
        lose_registry(site)

        adopted = site.do("key", "adopt", "--all", "--token", "yubi")

        found = {k["name"]: [v["number"] for v in k["versions"]] for k in adopted["keys"]}
        assert found == {"acme/ci": [1, 2], "acme/root": [1]}
        assert all(v["origin"] == "attested" for k in adopted["keys"] for v in k["versions"])
        left = " ".join(adopted["skipped"])
        assert "slot 95: the label is not NAME/N" in left
        assert "slot 9d: the label is not NAME/N" in left

        # Two cards claim to be acme/ci/1: the second is not believed, and nothing is overwritten.
        other = site.do("key", "adopt", "--all", "--token", "spare")
        assert other["keys"] == []
        (why,) = other["skipped"]
        assert why.startswith("acme/ci/1: ")
        ours = {v["attestation"]["serial"] for v in site.do("key", "show", "acme/ci")["versions"]}
        assert ours == {str(key.serial)}
        site.do("key", "adopt", "acme/ci-spare", "--token", "spare", "--slot", "82")

        for name, slot in (("acme/by-ykman", "95"), ("acme/hurt", "9d")):
            words = ("key", "adopt", name, "--token", "yubi", "--slot", slot)
            (one,) = site.do(*words)["keys"]
            assert [(v["number"], v["origin"]) for v in one["versions"]] == [(1, "attested")]
        again = site.do("key", "adopt", "--all", "--token", "yubi")
        assert again["keys"] == []

        rotated = site.do("key", "rotate", "acme/ci")
        assert [v["number"] for v in rotated["versions"]] == [1, 2, 3]
        slots = [v["attestation"]["slot"] for v in rotated["versions"]]
        assert slots == ["9a", "82", "83"]
        (looked,) = site.do("yubikey", "list", "yubi")
        registered = {s["slot"]: s["registered_as"] for s in looked["slots"]}
        assert registered == {
            "9a": "acme/ci/versions/1",
            "82": "acme/ci/versions/2",
            "83": "acme/ci/versions/3",
            "9c": "acme/root/versions/1",
            "9d": "acme/hurt/versions/1",
            "95": "acme/by-ykman/versions/1",
        }


def test_a_slot_whose_key_is_gone_is_not_used_again_before_somebody_gave_that_key_up(
    bench: Bench, key: EmulatedKey, ykcs11: Path
) -> None:
    with a_site(bench, ykcs11, key) as site:
        with site.client() as keyd:
            keyd.init_yubikey("yubi", Pin(PIN), Pin(PUK), factory=True)
            keyd.unlock("yubi", Pin(PIN))
        create(site, "acme/old", "yubi", "82")
        key.remove()
        key.factory_reset()
        offered = key.state.pins_offered
        key.insert(0)
        with site.client() as keyd:
            strange = next(t for t in keyd.watch_tokens("yubi") if t.state is TokenState.LOCKED)
            assert "none of the keys that are registered" in strange.detail
            assert key.state.pins_offered == offered
            keyd.init_yubikey("yubi", Pin(PIN), Pin(PUK), factory=True)
            keyd.unlock("yubi", Pin(PIN))

        words = ("key", "create", "acme/new", "--token", "yubi", "--slot", "82")
        refused = site.do(*words, code=1)

        assert "acme/old/versions/1 is registered as lying there" in refused["error"]["message"]
        assert "keydctl key destroy acme/old 1" in refused["error"]["hint"]
        (looked,) = site.do("yubikey", "list", "yubi")
        assert looked["slots"] == [], "nothing was made for it"
        create(site, "acme/new", "yubi", "83")


def test_a_key_that_ykman_makes_while_keyd_is_logged_in_is_adopted_at_once(
    bench: Bench, key: EmulatedKey, worker: Worker, ykcs11: Path
) -> None:
    """libykcs11 remembers what lay in the slots when it connected."""
    with a_site(bench, ykcs11, key) as site:
        with site.client() as keyd:
            keyd.init_yubikey("yubi", Pin(PIN), Pin(PUK), factory=True)
            keyd.unlock("yubi", Pin(PIN))
        create(site, "acme/ci", "yubi", "9a")
        worker.call(by_ykman.generate, key.serial, PIN, 0x95)

        shown = site.do("token", "objects", "yubi")
        adopted = site.do("key", "adopt", "acme/by-ykman", "--token", "yubi", "--slot", "95")
        empty = site.do("key", "adopt", "acme/none", "--token", "yubi", "--slot", "94", code=1)

        assert [found["object_id"] for found in shown] == ["01", "18"]
        assert adopted["keys"][0]["versions"][0]["origin"] == "attested"
        assert "slot 94 of token yubi holds no key" in empty["error"]["message"]
        assert "keydctl yubikey list yubi" in empty["error"]["hint"]
        assert (site.state(), key.state.pin_tries) == ("READY", 3)
