"""Publishing when something goes wrong: crashes, other publishers, people who have to consent. The
engine in this process, against the real notary-server and a real keyd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyd.adapters.notary import delegations
from keyd.adapters.notary.changes import Change
from keyd.client import EntryFilter
from keyd.errors import ApprovalNeededError, ConflictError, RepositoryError, ServerGoneError
from tests.trust_servers import Interrupted, add, begun, die, once
from tests.trust_stage import TRUST_POLICY, Stage, a_stage

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("p")) as running:
        yield running


# ------------------------------------------------------------------------------ crashes


def test_a_version_signed_before_a_crash_is_the_one_that_is_sent(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)
    with stage.collection(
        gun, trust_dir=tmp_path, server=Interrupted(stage.server(gun), before=die)
    ) as broken:
        add(broken, "v1")
        with pytest.raises(ServerGoneError):
            broken.publish()
        signed = broken.cache.pending()["targets"]

    with stage.collection(gun, trust_dir=tmp_path) as again:
        report = again.publish()

    assert report.published == {"targets": 2}
    assert stage.server(gun).find("targets") == signed
    assert set(stage.listed(gun)) == {"v1"}


def test_a_collection_whose_first_upload_broke_keeps_its_keys(stage: Stage, tmp_path: Path) -> None:
    gun = stage.gun()
    with stage.collection(
        gun, trust_dir=tmp_path, server=Interrupted(stage.server(gun), before=die)
    ) as broken:
        broken.init(broken.ring.ensure("root"))
        add(broken, "v1")
        with pytest.raises(ServerGoneError):
            broken.publish()
        root = broken.cache.pending()["root"]

    with stage.collection(gun, trust_dir=tmp_path) as again:
        again.publish()

    assert stage.server(gun).find("root") == root
    assert set(stage.listed(gun)) == {"v1"}


def test_what_was_sent_before_the_connection_broke_is_not_sent_twice(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)
    with stage.collection(
        gun, trust_dir=tmp_path, server=Interrupted(stage.server(gun), after=die)
    ) as broken:
        add(broken, "v1")
        with pytest.raises(ServerGoneError):
            broken.publish()

    with stage.collection(gun, trust_dir=tmp_path) as again:
        report = again.publish()

        assert report.published == {}
        assert again.staged() == [] == list(again.cache.pending())
    assert stage.sandbox.version(gun, "targets") == 2


def test_a_server_that_is_down_changes_nothing_and_loses_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)
    with stage.collection(gun, trust_dir=tmp_path) as mine:
        add(mine, "v1")
        mine.server.web.base_url = "https://localhost:1"

        with pytest.raises(ServerGoneError, match="does not answer"):
            mine.publish()

        assert [c.name for c in mine.staged()] == ["v1"]


# ------------------------------------------------------------------------------ others


def test_two_publishers_at_once_lose_nothing(stage: Stage, tmp_path: Path) -> None:
    gun = begun(stage)

    def somebody_else() -> None:
        with stage.collection(gun) as other:
            add(other, "theirs")
            other.publish()

    racing = Interrupted(stage.server(gun), before=once(somebody_else))
    with stage.collection(gun, trust_dir=tmp_path, server=racing) as mine:
        add(mine, "mine")
        with pytest.raises(ConflictError) as conflict:
            mine.publish()
        report = mine.publish()

    assert "+theirs" in conflict.value.message
    assert "--retry" in conflict.value.hint
    assert report.published["targets"] > 2
    assert set(stage.listed(gun)) == {"mine", "theirs"}


def test_a_conflict_is_solved_at_once_where_that_was_asked_for(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)

    def somebody_else() -> None:
        with stage.collection(gun) as other:
            add(other, "theirs")
            other.publish()

    racing = Interrupted(stage.server(gun), before=once(somebody_else))
    with stage.collection(gun, trust_dir=tmp_path, server=racing) as mine:
        add(mine, "mine")
        report = mine.publish(retries=3)

    assert any("+theirs" in note for note in report.notes)
    assert set(stage.listed(gun)) == {"mine", "theirs"}


def test_a_number_that_was_signed_and_never_published_is_skipped(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)
    dead = Interrupted(stage.server(gun), before=die)
    with stage.collection(gun, server=dead) as lost:
        add(lost, "lost")
        with pytest.raises(ServerGoneError):
            lost.publish()

    with stage.collection(gun, trust_dir=tmp_path) as mine:
        add(mine, "mine")
        report = mine.publish()

    assert report.published == {"targets": 3}
    assert set(stage.listed(gun)) == {"mine"}


def test_a_version_published_under_a_skipped_number_is_not_overwritten(
    stage: Stage, tmp_path: Path
) -> None:
    """The other one has signed 2 and sends it only after we took 3 on top of 1."""
    gun = begun(stage)
    dead = Interrupted(stage.server(gun), before=once(die))
    with stage.collection(gun, trust_dir=tmp_path / "slow", server=dead) as slow:
        add(slow, "slow")
        with pytest.raises(ServerGoneError):
            slow.publish()

        with stage.collection(gun, trust_dir=tmp_path / "mine", when_signed=slow.publish) as mine:
            add(mine, "mine")
            with pytest.raises(ConflictError, match="somebody else has published targets 2"):
                mine.publish()

    assert set(stage.listed(gun)) == {"slow"}


def test_what_was_staged_for_a_new_collection_is_not_for_one_of_somebody_else(
    stage: Stage, tmp_path: Path
) -> None:
    gun = stage.gun()
    with stage.collection(gun, trust_dir=tmp_path) as mine:
        key = mine.ring.ensure("root")
        mine.init(key)
        with stage.collection(gun) as other:
            other.init(other.ring.create("root", {key.version.public_key}))
            other.publish()
        add(mine, "mine")

        with pytest.raises(RepositoryError, match="begun by somebody else meanwhile") as error:
            mine.publish()

        assert f"keydctl trust reset {gun} --all" in error.value.hint
        assert len(mine.staged()) == 2
    assert stage.listed(gun) == {}


def test_what_was_published_under_a_skipped_number_in_that_very_moment_is_not_lost(
    stage: Stage, tmp_path: Path
) -> None:
    """The other one has signed 2; after our last look, and before 3 arrives, it sends it."""
    gun = begun(stage)
    dead = Interrupted(stage.server(gun), before=once(die))
    with stage.collection(gun, trust_dir=tmp_path / "slow", server=dead) as slow:
        key = slow.ring.ensure("targets/dev").object
        add(slow, "slow")
        slow.stage(delegations.add("targets/dev", [key], ["dev/"]))
        with pytest.raises(ServerGoneError):
            slow.publish()
        racing = Interrupted(stage.server(gun), before=once(slow.publish))

        with stage.collection(gun, trust_dir=tmp_path / "mine", server=racing) as mine:
            add(mine, "mine")
            report = mine.publish()
            found = delegations.found(mine.get())

    assert report.published == {"targets": 4}
    assert any("slow" in note and "as well" in note for note in report.notes)
    assert set(stage.listed(gun)) == {"slow", "mine"}
    assert [(each.role.name, each.role.paths) for each in found] == [("targets/dev", ("dev/",))]


def overtakes_and_dies(stage: Stage, gun: str, mine: Path) -> None:
    """An upload that overtakes "slow" and "gone" of somebody else, by a run that dies before it has
    looked."""
    dead = Interrupted(stage.server(gun), before=once(die))
    with stage.collection(gun, server=dead) as slow:
        add(slow, "slow", "gone")
        with pytest.raises(ServerGoneError):
            slow.publish()
        racing = Interrupted(stage.server(gun), before=once(slow.publish), after=once(die))
        with stage.collection(gun, trust_dir=mine, server=racing) as dying:
            add(dying, "mine")
            with pytest.raises(ServerGoneError):
                dying.publish()
    assert set(stage.listed(gun)) == {"mine"}


def test_the_next_command_puts_back_what_a_run_overtook_that_died_after_its_upload(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)
    overtakes_and_dies(stage, gun, tmp_path)

    with stage.collection(gun, trust_dir=tmp_path) as again:
        add(again, "more")
        report = again.publish()
        after = again.publish()

    assert any("gone, slow" in note and "as well" in note for note in report.notes)
    assert set(stage.listed(gun)) == {"mine", "slow", "gone", "more"}
    assert (after.published, after.notes) == ({}, [])


def test_what_people_took_back_since_an_upload_overtook_it_stays_away(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)
    overtakes_and_dies(stage, gun, tmp_path)
    with stage.collection(gun) as owner:
        add(owner, "gone")
        owner.publish()
        owner.stage(Change("remove", "targets", "gone"))
        owner.publish()

    with stage.collection(gun, trust_dir=tmp_path) as again:
        again.publish()

    assert set(stage.listed(gun)) == {"mine", "slow"}


def test_a_reset_drops_the_look_at_what_an_upload_overtook(stage: Stage, tmp_path: Path) -> None:
    gun = begun(stage)
    overtakes_and_dies(stage, gun, tmp_path)

    with stage.collection(gun, trust_dir=tmp_path) as again:
        again.unstage()
        assert again.publish().published == {}

    assert set(stage.listed(gun)) == {"mine"}


# ------------------------------------------------------------------------------ policy

CONSENT = (
    TRUST_POLICY
    + """
[[rule]]
name = "roots"
actions = ["sign"]
keys = ["notary/*/root", "notary/*/targets"]
approvals = 1
own = true
[[limit]]
name = "short"
roles = ["targets"]
max_expiry_days = 30
"""
)


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("c"), policy=CONSENT) as running:
        yield running


def test_people_consent_to_all_roles_and_the_same_command_goes_on(
    careful: Stage, tmp_path: Path
) -> None:
    gun = careful.gun()
    with careful.collection(gun, trust_dir=tmp_path) as mine:
        mine.init(mine.ring.ensure("root"))
        add(mine, "v1")
        with pytest.raises(ApprovalNeededError) as error:
            mine.publish()
        ids = error.value.facts["approvals"].split()
        keyd = mine.ring.connect()
        for each in ids:
            keyd.approve(each, keyd.get_approval(each).digest)

        report = mine.publish()

        expires = mine.get().targets_document().expires
    assert len(ids) == 2
    assert all(f"keydctl approve {each}" in error.value.hint for each in ids)
    assert report.published == {"root": 1, "targets": 1}
    assert expires - datetime.now(UTC) < timedelta(days=30)
    assert set(careful.listed(gun)) == {"v1"}


def test_the_log_names_collection_and_role_of_each_signature(stage: Stage, tmp_path: Path) -> None:
    gun = begun(stage)
    with stage.sandbox.admin() as keyd:
        entries = [dict(e.fields) for e in keyd.list_entries(EntryFilter(action="sign"))]

    said = json.dumps([e for e in entries if gun in json.dumps(e)])

    assert '"role": "root"' in said
    assert '"role": "targets"' in said
