"""docs/recovery.md where keyd itself stands in the way, or came back from a backup; see
tests/e2e/test_recovery.py.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from keyd.adapters.tuf import KeydSigner
from keyd.model import MarkState
from tests.e2e.recovery_place import Place, Site, a_place, waiting
from tests.tuf_repositories import ROLES
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


# ------------------------------------------------------------------------------ blocked


def test_a_draft_with_a_mistake_is_given_up_and_signed_anew(place: Place) -> None:
    site = place.site("root-a", "root-b", threshold=2)
    client = site.client()
    client.update()
    site.ctl("freeze", f"{site.name}/root-b", "--reason", "a holder is away")
    site.ctl("tuf", "refresh", site.repo, "--role", "root", code=3)
    wrong = (site.repo / "staged/2.root.json").read_bytes()
    site.ctl("unfreeze", f"{site.name}/root-b")

    explained = site.does("explain")
    time.sleep(1.1)  # another expiry, to the second
    site.does("supersede", types=f"{site.name}\n")

    assert "root" in explained
    assert site.root(2).signed.expires > Metadata[Root].from_bytes(wrong).signed.expires
    client.update()


def test_an_approval_of_somebody_who_left_goes_to_who_is_there_now(place: Place) -> None:
    site = place.site()
    client = site.client()
    client.update()
    rule = f'[[rule]]\nname = "{site.name}"\nkeys = ["{site.name}/targets"]\nactions = ["sign"]\n'
    place.adds_to_policy(f'{rule}approvals = 1\napprovers = ["socket:dave"]\n')
    (site.home / "two").write_text("two")
    add = ("tuf", "add", site.repo, site.home / "two")
    site.ctl(*add, code=3)
    (approval,) = waiting(site)

    shown = site.does("approval", names={"k3v6": approval})
    assert "socket:dave" in shown
    text = (place.daemon.folder / "policy.toml").read_text()
    (place.daemon.folder / "policy.toml").write_text(text.replace("socket:dave", "socket:bob"))
    place.adds_to_policy("")
    site.does("drop-consent", who="bob", types="yes\n", names={"k3v6": approval})
    site.ctl(*add)
    assert client.download("two") == b"two"

    site.ctl("tuf", "refresh", site.repo, "--role", "targets", code=3)
    (another,) = waiting(site)
    site.does("approval-revoke", names={"k3v6": another})
    assert waiting(site) == []


def test_a_ceremony_that_died_goes_on_or_is_given_up(place: Place) -> None:
    site = place.site()
    client = site.client()
    client.update()
    start = ("tuf", "ceremony", "start", site.repo, "--rotate", "root", "--yes")
    began = site.ctl.start(*start, "--until", "retire")
    try:
        until(lambda: open_ceremonies(site), "it begins")
    finally:
        began.kill()
        began.wait(10)

    status = site.ctl.run("tuf", "ceremony", "status", site.repo)
    site.does("ceremony")
    assert "keydctl tuf ceremony resume" in status.stdout
    assert len(site.root(2).signatures) == 2
    client.update()

    site.ctl(*start, "--until", "sign")
    site.does("ceremony-abort", types=f"{site.name}\n")

    assert open_ceremonies(site) == []
    assert not list((site.repo / "staged").glob("*.root.json"))
    client.update()
    site.ctl(*start)
    client.update()
    assert len(site.root(3).signatures) == 2


def open_ceremonies(site: Site) -> list[Any]:
    with site.place.client() as keyd:
        return list(keyd.list_ceremonies(site.name, open=True))


# ------------------------------------------------------------------------------ restored


def test_a_daemon_with_a_restored_backup_goes_on_above_what_it_forgot(own_place: Place) -> None:
    site = own_place.site()
    client = site.client()
    client.update()
    own_place.server("backup", own_place.folder / "friday.db")
    site.ctl("tuf", "rotate", site.repo, "targets")
    site.add("two")
    assert client.download("two") == b"two"
    with own_place.client() as keyd:
        keyd.checkpoint(fresh=True)
    own_place.daemon.stop()
    shutil.rmtree(own_place.daemon.folder / "state")
    own_place.server("restore", own_place.folder / "friday.db")
    own_place.daemon.start()
    blocked = site.ctl.run("tuf", "refresh", site.repo)
    status = site.ctl.run("status")

    site.does("restored", types="accept\n", names={"release": "dev"})

    assert blocked.returncode != 0
    assert status.returncode == 1
    assert "entries" in status.stdout
    site.add("three")
    assert client.download("three") == b"three"
    with own_place.client() as keyd:
        assert {keyd.get_role(site.name, role).state for role in ROLES} == {MarkState.PUBLISHED}


def test_a_folder_that_came_back_old_is_published_above_what_clients_saw(place: Place) -> None:
    site = place.site()
    client = site.client()
    shutil.copytree(site.repo, site.home / "old")
    site.add("two")
    site.add("three")
    client.update()
    shutil.rmtree(site.repo)
    shutil.copytree(site.home / "old", site.repo)

    site.does("folder-restored")

    assert client.download("one") == b"one"
    site.add("three")
    assert client.download("three") == b"three"


def test_a_server_that_numbers_by_itself_goes_on_once_the_role_was_reset(place: Place) -> None:
    site = place.site()
    key = site.root(1).signed.keys[site.keyid("targets")]
    where = f"repository={site.name}&role=targets&endpoint={place.daemon.endpoint}"
    signer = KeydSigner.from_priv_key_uri(f"keyd:{site.name}/targets?{where}", key)
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=80)

    def publish(version: int, path: str) -> None:
        made = Metadata(Targets(version, expires=expires))
        made.signed.targets[path] = TargetFile(4, {"sha256": "07" * 32}, path)
        made.sign(signer)

    publish(3, "before")
    with pytest.raises(UnsignedMetadataError, match="other bytes"):
        publish(3, "after")

    site.does("server-restored", types=f"{site.name}\n")

    publish(3, "after")
