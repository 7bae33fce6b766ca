"""What a requester, an approver and a group try with approvals, on a real daemon."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from keyd.client.types import EntryFilter, Signature
from keyd.errors import (
    ApprovalNeededError,
    ApprovalNotFoundError,
    ApprovalStateError,
    InvalidRequestError,
    KeydError,
)
from keyd.model import ApprovalState
from tests.attack_stage import CREW, Site, Stage, a_stage, targets

pytestmark = pytest.mark.softhsm

KEY = "gated/targets"
PLAIN = targets(1, "app")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with a_stage() as made:
        yield made


@pytest.fixture
def site(stage: Stage) -> Site:
    return stage.site()


def asked(site: Site, message: bytes = PLAIN, key: str = KEY) -> str:
    """The id under which a signature waits."""
    with pytest.raises(ApprovalNeededError) as e:
        site.sign("targets", message, key)
    return e.value.facts["approval"]


def consent(site: Site, id: str, *people: str) -> None:
    """Each looks at what is shown, and consents to that."""
    for who in people:
        content = site.stage.client(who).get_approval(id).content
        site.stage.client(who).approve(id, hashlib.sha256(content).digest())


def approved(site: Site, message: bytes = PLAIN) -> str:
    id = asked(site, message)
    consent(site, id, site.alice, site.bob)
    return id


def state(site: Site, id: str) -> ApprovalState:
    return site.stage.client(site.alice).get_approval(id).state


def last_refusal(stage: Stage, principal: str) -> tuple[object, object]:
    entry = stage.refusals(principal)[-1]
    return entry["reason_code"], entry["action"]


def test_two_people_see_the_bytes_and_the_requester_gets_one_signature(site: Site) -> None:
    """What all these attacks are about."""
    id = approved(site)

    signed = site.sign("targets", PLAIN, KEY)

    entry = next(iter(site.stage.admin.list_entries(EntryFilter(start_index=signed.log_index))))
    assert entry.fields["details"] == {
        "approval": id,
        "approvers": f"{site.alice}, {site.bob}",
        "mark": "new",
    }
    assert state(site, id) is ApprovalState.USED


def test_a_stolen_approval_is_not_replayed_on_other_bytes(site: Site) -> None:
    id = approved(site)

    other = asked(site, targets(1, "malware"))

    assert other != id
    assert state(site, id) is ApprovalState.APPROVED
    refused = site.stage.refusals(site.principal)[-1]
    assert (refused["reason_code"], refused["details"]) == ("APPROVAL_NEEDED", {"approval": id})


def test_a_stolen_approval_is_not_used_by_another_requester(site: Site) -> None:
    id = approved(site)
    thief = replace(site, principal="uri:spiffe://acme/thief")

    assert asked(thief) != id
    assert state(site, id) is ApprovalState.APPROVED
    assert site.sign("targets", PLAIN, KEY).signature


def test_an_approval_for_one_key_is_not_used_with_another(site: Site) -> None:
    id = approved(site)

    assert asked(site, key="gated/targets-2") != id
    assert state(site, id) is ApprovalState.APPROVED


def test_an_approval_for_one_repository_is_not_used_for_another(site: Site) -> None:
    id = approved(site)
    other = replace(site, repository=site.stage.site().repository)

    assert asked(other) != id
    assert state(site, id) is ApprovalState.APPROVED


def test_an_approval_is_not_used_twice(site: Site) -> None:
    id = approved(site)
    site.sign("targets", PLAIN, KEY)
    digest = hashlib.sha256(PLAIN).digest()
    site.keeper.reset_role(site.repository, "targets", digest, reason="a server was restored")

    assert asked(site) != id
    with pytest.raises(ApprovalStateError):
        site.stage.client(site.alice).approve(id, digest)
    assert last_refusal(site.stage, site.alice) == ("APPROVAL_STATE", "approve")


def test_of_two_uses_at_once_one_is_refused_and_says_so_in_the_log(site: Site) -> None:
    approved(site)

    results = site.ci.sign_batch([site.request("targets", PLAIN, KEY)] * 2)

    assert len([r for r in results if isinstance(r, Signature)]) == 1
    (refused,) = [r for r in results if isinstance(r, KeydError)]
    assert isinstance(refused, ApprovalStateError)
    assert last_refusal(site.stage, site.principal) == ("APPROVAL_STATE", "sign")


def test_an_approval_is_not_used_after_its_time(site: Site) -> None:
    """The time is over while the daemon is away."""
    id = approved(site)
    with (
        site.stage.stopped() as folder,
        closing(sqlite3.connect(folder / "state/keyd.db")) as database,
        database,
    ):
        database.execute("UPDATE approvals SET expires_at = created_at + 1 WHERE id = ?", (id,))

    assert asked(site) != id
    assert state(site, id) is ApprovalState.EXPIRED
    ended = EntryFilter(action="approval-expire")
    assert [e.fields["details"] for e in site.stage.admin.list_entries(ended)][-1]["approval"] == id  # type: ignore[index]
    with pytest.raises(ApprovalStateError):
        site.stage.client(site.bob).approve(id, hashlib.sha256(PLAIN).digest())


def test_consent_that_was_taken_back_does_not_count(site: Site) -> None:
    id = approved(site)
    site.stage.client(site.bob).revoke(id, reason="I misread it")

    with pytest.raises(ApprovalNeededError) as e:
        site.sign("targets", PLAIN, KEY)

    assert (e.value.facts["approval"], e.value.facts["have"]) == (id, "1")


def test_what_one_person_rejected_is_over(site: Site) -> None:
    id = asked(site)
    consent(site, id, site.alice)
    site.stage.client(site.bob).reject(id, reason="not today")

    with pytest.raises(ApprovalStateError):
        site.stage.client(site.alice).approve(id, hashlib.sha256(PLAIN).digest())
    assert asked(site) != id


def test_one_person_is_not_two(site: Site) -> None:
    id = asked(site)
    consent(site, id, site.alice)

    with pytest.raises(ApprovalStateError, match="already"):
        consent(site, id, site.alice)
    with pytest.raises(ApprovalNeededError):
        site.sign("targets", PLAIN, KEY)


def test_who_asks_does_not_consent(site: Site) -> None:
    alices = replace(site, principal=site.alice)
    id = asked(alices)

    with pytest.raises(ApprovalStateError, match="asked for it"):
        consent(site, id, site.alice)

    assert last_refusal(site.stage, site.alice) == ("APPROVAL_STATE", "approve")


def test_a_socket_of_a_group_asks_and_never_consents(site: Site) -> None:
    crews = replace(site, principal=CREW)
    for id in (asked(crews), asked(site)):
        with pytest.raises(ApprovalStateError, match="group"):
            consent(site, id, CREW)

    assert last_refusal(site.stage, CREW) == ("APPROVAL_STATE", "approve")


def test_consent_to_something_else_than_was_shown_is_refused(site: Site) -> None:
    id = asked(site)

    with pytest.raises(InvalidRequestError) as e:
        site.stage.client(site.alice).approve(id, hashlib.sha256(b"shown by a liar").digest())

    assert e.value.facts["field"] == "digest"
    assert last_refusal(site.stage, site.alice) == ("INVALID_REQUEST", "approve")


def test_a_stranger_who_knows_the_id_finds_nothing(site: Site) -> None:
    id = asked(site)
    stranger = site.stage.client("dns:stranger.example")

    for attempt in (stranger.get_approval, stranger.reject, stranger.revoke):
        with pytest.raises(ApprovalNotFoundError):
            attempt(id)
    with pytest.raises(ApprovalNotFoundError):
        stranger.approve(id, hashlib.sha256(PLAIN).digest())
    assert state(site, id) is ApprovalState.PENDING


def test_a_dry_run_uses_up_no_consent_and_asks_for_none(site: Site) -> None:
    would = site.sign("targets", PLAIN, KEY, dry_run=True)
    assert would.needs
    assert not would.signature
    assert not site.ci.list_approvals(open=True)

    id = approved(site)
    assert not site.sign("targets", PLAIN, KEY, dry_run=True).needs
    assert state(site, id) is ApprovalState.APPROVED
