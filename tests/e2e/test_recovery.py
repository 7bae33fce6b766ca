"""docs/recovery.md, word for word: its commands are run against a real daemon, and python-tuf's own
client, which trusts the root from before, judges what came of it.

The page marks its blocks (```sh lost); this file reads them from there, so that page and program
cannot drift apart. Only names are exchanged: acme, keyids, ids of approvals.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import ExpiredMetadataError, UnsignedMetadataError
from tuf.api.metadata import Metadata, TargetFile, Targets

from keyd.adapters.tuf import KeydSigner
from keyd.model import TokenState
from tests.e2e.recovery_place import PAGE, Place, a_place, block, waiting
from tests.waiting import until

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with a_place() as made:
        yield made


@pytest.fixture
def own_place() -> Iterator[Place]:
    """For what the daemon itself has to suffer."""
    with a_place() as made:
        yield made


def test_every_block_of_the_page_is_run_here() -> None:
    marked = re.findall(r"^```([a-z-]+ ?[a-z-]*)$", PAGE, re.MULTILINE)
    source = "".join(file.read_text() for file in Path(__file__).parent.glob("test_recovery*.py"))
    run = {f"sh {mark}" for mark in re.findall(r'\bdoes\("([a-z-]+)"', source)}

    assert {mark for mark in marked if mark != "toml own"} == run
    assert PAGE.count("```") == 2 * len(marked), "a block without a mark is not run"


# ------------------------------------------------------------------------------ lost, stolen


def test_a_key_that_is_lost_with_its_token_gets_a_successor(own_place: Place) -> None:
    site = own_place.site(token="release")
    client = site.client()
    assert client.download("one") == b"one"
    own_place.daemon.stop()
    shutil.rmtree(own_place.tokens["release"])
    own_place.daemon.start()
    assert own_place.state("release") is TokenState.ABSENT

    site.does("lost")

    site.add("two")
    assert client.download("two") == b"two"
    assert site.keyid("targets") not in site.root(3).signed.keys
    assert site.client("new").download("one") == b"one"


def test_a_stolen_token_stays_locked_and_its_key_is_replaced(place: Place) -> None:
    site = place.site(token="release")
    client = site.client()
    client.update()
    try:
        site.does("stolen")

        assert place.state("release") is TokenState.LOCKED
        client.update()
        assert site.root(3).signed.roles["targets"].keyids == [site.keyid("targets-2")]
        site.add("two")
        assert client.download("two") == b"two"
    finally:
        with place.client() as keyd:
            keyd.unlock("release")


def test_a_lost_root_key_is_replaced_by_the_rest_without_anybody_s_consent(place: Place) -> None:
    site = place.site("root-a", "root-b", "root-c", threshold=2)
    client = site.client()
    client.update()
    site.ctl("key", "disable", f"{site.name}/root-a", "1")

    site.does("lost-root")

    client.update()
    newest = site.root(max(int(p.name.split(".")[0]) for p in site.repo.glob("metadata/*.root*")))
    assert set(newest.signed.roles["root"].keyids) == {
        site.keyid(key) for key in ("root-b", "root-c", "root-d")
    }
    assert waiting(site) == []


def test_a_lost_root_key_is_dropped_by_two_people(place: Place) -> None:
    site = place.site("root-a", "root-b", "root-c", threshold=2)
    client = site.client()
    client.update()
    site.ctl("key", "disable", f"{site.name}/root-a", "1")
    lost = site.keyid("root-a")
    drop = {"3c5b7d0e": lost[:8]}

    told = site.does("drop", code=3, names=drop)
    asked = waiting(site)
    assert len(asked) == 2
    for approval in asked:
        assert f"keydctl approve {approval}" in told
        shown = site.does("drop-consent", who="bob", types="yes\n", names={"k3v6": approval})
        assert f"! - key root: {lost}" in shown
    assert not (site.repo / "metadata/2.root.json").exists()
    site.does("drop", names=drop)

    client.update()
    assert set(site.root(2).signed.roles["root"].keyids) == {
        site.keyid(key) for key in ("root-b", "root-c")
    }


def test_a_lost_root_key_is_dropped_by_one_person_whose_policy_allows_it(place: Place) -> None:
    site = place.site("root-a", "root-b", "root-c", threshold=2)
    client = site.client()
    client.update()
    drop = {"3c5b7d0e": site.keyid("root-a")[:8]}
    site.does("drop", code=3, names=drop)
    refused = site.ctl.run("approve", waiting(site)[0], "--digest", "0" * 64, "--yes")
    assert refused.returncode == 1
    own = block("toml own").replace("acme", site.name)
    own = own.replace("email:alice@example.org", "socket:dev")
    place.adds_to_policy(own.replace("my own consent", f"own consent {site.name}"))

    for approval in waiting(site):
        site.does("drop-consent", types="yes\n", names={"k3v6": approval})
    site.does("drop", names=drop)

    client.update()
    assert site.keyid("root-a") not in site.root(2).signed.keys


def test_a_root_key_that_was_copied_and_that_the_threshold_needs_signs_its_own_end(
    place: Place,
) -> None:
    site = place.site("root-a", "root-b", threshold=2)
    client = site.client()
    client.update()
    told = site.does("drop", code=1, names={"3c5b7d0e": site.keyid("root-a")[:8]})
    place.create(f"{site.name}/root-d", "spare")
    rotate = "keydctl tuf rotate repo root --key acme/root-a --to acme/root-d"
    assert f"`{rotate}`" in PAGE
    assert "docs/recovery.md" in told

    site.run(rotate)

    client.update()
    keyids = {site.keyid(key) for key in ("root-b", "root-d")}
    assert set(site.root(2).signed.roles["root"].keyids) == keyids


# ------------------------------------------------------------------------------ PINs


def test_a_pin_that_was_reset_is_tried_again_once_a_person_says_so(own_place: Place) -> None:
    site = own_place.site(token="release")
    file = own_place.daemon.folder / "pin-release"
    right = file.read_text()
    own_place.daemon.stop()
    file.write_text("999999\n")
    own_place.daemon.start()
    until(lambda: own_place.state("release") is not TokenState.READY, "locked")
    file.write_text(right)

    listed = site.does("pin")

    assert own_place.state("release") is TokenState.READY
    assert "unlock" in listed
    site.add("two")
    assert site.client().download("two") == b"two"


# ------------------------------------------------------------------------------ compromised


def test_what_a_thief_signed_with_a_targets_key_is_dropped_by_clients(place: Place) -> None:
    """A leaked CI credential had the daemon sign mallory's next targets."""
    site = place.site()
    client = site.client()
    assert client.download("one") == b"one"
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=80)
    evil = Metadata(Targets(3, expires=expires))
    evil.signed.targets["evil"] = TargetFile(4, {"sha256": "66" * 32}, "evil")
    key = site.root(1).signed.keys[site.keyid("targets")]
    where = f"repository={site.name}&role=targets&endpoint={place.daemon.endpoint}"
    evil.sign(KeydSigner.from_priv_key_uri(f"keyd:{site.name}/targets?{where}", key))
    site.root(1).signed.verify_delegate("targets", evil.signed_bytes, evil.signatures)

    frozen = site.does("first") + site.does("compromised")
    stopped = site.ctl("tuf", "refresh", site.repo, "--role", "targets", code=3)
    site.does("compromised-key")

    assert "v3" in frozen, "the entry that nobody can explain"
    assert stopped
    newest = site.root(max(int(p.name.split(".")[0]) for p in site.repo.glob("metadata/*.root*")))
    with pytest.raises(UnsignedMetadataError):
        newest.signed.verify_delegate("targets", evil.signed_bytes, evil.signatures)
    updater = client.update()
    assert updater.get_targetinfo("evil") is None
    assert client.download("one") == b"one"
    published = json.loads((site.repo / "metadata/timestamp.json").read_bytes())
    assert published["signed"]["version"] > 2
    site.does("afterwards", types=f"{site.name}/targets/versions/1\n")
    assert (site.home / "incident.jsonl").stat().st_size > 0


# ------------------------------------------------------------------------------ expired


def test_clients_follow_an_expired_root_to_its_successor(place: Place) -> None:
    site = place.site()
    root = site.root(1)
    root.signed.version, root.signatures = 2, {}
    root.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    key = root.signed.keys[site.keyid("root")]
    where = f"repository={site.name}&role=root&endpoint={place.daemon.endpoint}"
    root.sign(KeydSigner.from_priv_key_uri(f"keyd:{site.name}/root?{where}", key))
    root.to_file(str(site.repo / "metadata/2.root.json"))
    client = site.client()
    until(lambda: datetime.now(UTC) > root.signed.expires, "it expires")
    with pytest.raises(ExpiredMetadataError):
        client.update()

    site.does("expired")

    assert client.update().get_targetinfo("one") is not None
    assert site.root(3).signed.expires > datetime.now(UTC)
