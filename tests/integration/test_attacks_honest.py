"""Honest repositories, on real daemons: what goes wrong every week, and goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyd.client.types import RoleFile
from keyd.errors import (
    ApprovalNeededError,
    CheckpointBehindError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import Encoding, MarkState
from keyd.store.backup import backup, restore
from tests.attack_cases import BOTH, held_by_two, published
from tests.attack_stage import Site, Stage, a_stage, snapshot, targets, timestamp

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with a_stage() as made:
        yield made


@pytest.fixture
def site(stage: Stage) -> Site:
    return stage.site()


def sha256(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


@pytest.mark.parametrize("order", [BOTH, BOTH[::-1]], ids=["as named", "the other way round"])
def test_holders_sign_in_any_order(site: Site, order: tuple[str, str]) -> None:
    held_by_two(site)
    following = site.root(2, BOTH, threshold=2)

    for key in order:
        site.sign("root", following, key)

    assert site.ci.get_role(site.repository, "root").state is MarkState.COMPLETE


def test_a_root_draft_is_corrected_after_one_of_two_has_signed_it(site: Site) -> None:
    held_by_two(site)
    draft = site.root(2, BOTH, threshold=2, x_typo="yes")
    corrected = site.root(2, BOTH, threshold=2)
    site.sign("root", draft)
    with pytest.raises(VersionTakenError) as e:
        site.sign("root", corrected)
    assert e.value.facts["next_version"] == "2"

    site.keeper.supersede_role(site.repository, "root", sha256(draft), reason="a typo")
    for key in BOTH:
        site.sign("root", corrected, key)

    role = site.ci.get_role(site.repository, "root")
    assert (role.version, role.state, role.digest) == (2, MarkState.COMPLETE, sha256(corrected))


def test_a_job_that_was_killed_before_it_published_gets_the_same_signature(site: Site) -> None:
    """And so it does after the daemon was killed too."""
    published(site)
    first = site.sign("targets", targets(6, "app"))

    site.stage.hang_up()
    again = site.sign("targets", targets(6, "app"))
    site.stage.hang_up()
    site.stage.daemon.kill()
    site.stage.start()
    later = site.sign("targets", targets(6, "app"))

    assert again.replayed
    assert later.replayed
    assert first.signature == again.signature == later.signature
    assert first.log_index == later.log_index


def test_a_publish_that_failed_after_signing_is_renumbered_by_the_error_alone(site: Site) -> None:
    published(site)
    site.sign("targets", targets(6, "app"))

    with pytest.raises(VersionTakenError) as e:
        site.sign("targets", targets(6, "app", "forgotten"))
    facts = e.value.facts
    renumbered = site.sign("targets", targets(int(facts["next_version"]), "app", "forgotten"))

    assert facts["signed_digest"] == sha256(targets(6, "app")).hex()
    assert facts["digest"] == sha256(targets(6, "app", "forgotten")).hex()
    assert (facts["last_version"], facts["next_version"]) == ("6", "7")
    assert renumbered.signature


def test_a_snapshot_that_was_not_published_is_made_anew_at_its_version(site: Site) -> None:
    published(site)
    site.sign("snapshot", snapshot(8, targets=6, team=3))

    other = site.sign("snapshot", snapshot(8, targets=7, team=3))

    assert other.reissued
    assert site.ci.get_role(site.repository, "snapshot").reissued == 1


def test_metadata_that_has_expired_is_signed_again_under_the_next_version(site: Site) -> None:
    published(site)
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    old = site.file("timestamp", timestamp(10, 7, expires=soon))
    time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()) + 0.1)
    with pytest.raises(RuleRefusedError) as e:
        site.sign("timestamp", timestamp(11, 7, expires=soon))

    site.publish([old])
    site.sign("timestamp", timestamp(11, 7))

    assert e.value.facts["rule"] == "expired"
    assert site.ci.get_role(site.repository, "timestamp").version == 11


def test_a_new_snapshot_key_may_go_back_behind_what_a_thief_ran_up(site: Site) -> None:
    published(site)
    site.sign("snapshot", snapshot(8, targets=5000, team=3))
    repaired = snapshot(9, targets=5, team=3)
    with pytest.raises(ApprovalNeededError):
        site.sign("snapshot", repaired, "case/online-2")

    site.publish([site.file("root", site.root(2, snapshot=("case/online-2",)))])

    assert site.sign("snapshot", repaired, "case/online-2").signature


def test_two_publishers_on_two_daemons_follow_each_other_by_what_is_published(
    stage: Stage, site: Site
) -> None:
    with a_stage() as second:
        theirs = Site(second, site.repository, site.principal)
        key = second.versions["case/targets"]
        stage.versions["their/targets"] = key
        root = site.file("root", site.root(targets=("case/targets", "their/targets")))
        site.publish([root])
        theirs.keeper.import_role(site.repository, root.content, [], reason="we publish too")

        ours = site.file("targets", targets(1, "ours"))
        site.publish([ours])
        with pytest.raises(RuleRefusedError) as e:
            theirs.publish([RoleFile("targets", forged(ours.content))])
        theirs.publish([ours])
        with pytest.raises(VersionTakenError):
            theirs.sign("targets", targets(1, "theirs"))
        next_one = theirs.file("targets", targets(2, "ours", "theirs"))
        site.publish([next_one])
        with pytest.raises(VersionTakenError):
            site.sign("targets", targets(2, "ours again"))
        last = site.sign("targets", targets(3, "ours again"))

    assert e.value.facts["rule"] == "evidence-signatures"
    assert last.signature


def forged(file: bytes) -> bytes:
    """Other content under the same signature."""
    return file.replace(b"ours", b"evil")


def test_a_restored_backup_gives_no_version_and_no_consent_twice(
    stage: Stage, site: Site, tmp_path: Path
) -> None:
    published(site)
    stage.create("free/tool")
    gated = stage.site()
    waiting = approved(gated)
    backup(stage.daemon.folder / "state", tmp_path / "backup")
    lost = site.file("targets", targets(6, "app"))
    gated.sign("targets", targets(1, "app"), "gated/targets")

    with stage.stopped() as folder:
        (folder / "state").rename(tmp_path / "lost")
        (folder / "state").mkdir(mode=0o700)
        restore(tmp_path / "backup", folder / "state", datetime.now(UTC))

    with pytest.raises(CheckpointBehindError):
        site.sign("targets", targets(6, "other"))
    assert stage.refusals(site.principal)[-1]["reason_code"] == "CHECKPOINT_BEHIND"
    assert site.ci.sign("free/tool", b"anything", encoding=Encoding.DER).signature
    stage.admin.accept_loss(reason="the disk died; we compared with the mirror")
    with pytest.raises(ApprovalNeededError) as e:
        gated.sign("targets", targets(1, "app"), "gated/targets")
    site.publish([lost])
    with pytest.raises(VersionTakenError):
        site.sign("targets", targets(6, "other"))

    assert site.sign("targets", targets(7, "app")).signature
    assert e.value.facts["approval"] != waiting


def approved(site: Site) -> str:
    """A signature of a gated key, to which two people have consented."""
    message = targets(1, "app")
    with pytest.raises(ApprovalNeededError) as e:
        site.sign("targets", message, "gated/targets")
    id = e.value.facts["approval"]
    for who in (site.alice, site.bob):
        site.stage.client(who).approve(id, sha256(message))
    return id
