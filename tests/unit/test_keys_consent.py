"""Changes of keys that wait for people: each is bound to all it would do, and done once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from keyd.approvals import Shown
from keyd.errors import (
    ApprovalNeededError,
    AuditUnavailableError,
    CheckpointBehindError,
    MechanismMissingError,
)
from keyd.keyfields import NewKey
from keyd.model import (
    Binding,
    Caller,
    KeyAlgorithm,
    Origin,
    Principal,
    VersionState,
)
from keyd.policy import parse_policy
from tests.domain import ADMIN, POLICY, Domain, a_domain

P256 = KeyAlgorithm.ECDSA_P256
ALICE = Caller(Principal("email:alice@example.org", "mtls"), "req-alice")
APPROVERS = """
[[grant]]
name = "people"
principals = ["email:*@example.org"]
actions = ["approver"]
keys = ["*"]
"""
EVERYTHING = """
[[rule]]
name = "not alone"
keys = ["acme/*"]
actions = ["admin"]
approvals = 1
tokens = ["*"]
"""
FREEZE = EVERYTHING.replace('"admin"', '"freeze"').replace('tokens = ["*"]', "")

Change = Callable[[Domain], Awaitable[Any]]


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY + APPROVERS + EVERYTHING, "policy.toml")) as made:
        yield made


async def asked(attempt: Awaitable[Any]) -> str:
    with pytest.raises(ApprovalNeededError) as e:
        await attempt
    return e.value.facts["approval"]


async def approve(domain: Domain, id: str) -> Shown:
    shown = await domain.approvals.get(ALICE, id)
    await domain.approvals.approve(ALICE, id, shown.approval.digest)
    return shown


async def through(domain: Domain, change: Change) -> dict[str, Any]:
    """Have a change approved and done; what was consented to."""
    shown = await approve(domain, await asked(change(domain)))
    await change(domain)
    told: dict[str, Any] = json.loads(shown.contents.content)
    return told


async def a_key(domain: Domain, name: str = "acme/root") -> str:
    """The fingerprint of version 1 of a key."""
    await through(domain, lambda d: d.keys.create(ADMIN, NewKey(name, "main", P256)))
    key = domain.keys.get(ADMIN, name)
    return key.versions[0].fingerprint


async def test_a_new_key_is_made_when_people_have_seen_all_of_it(domain: Domain) -> None:
    new = NewKey(
        "acme/root",
        "",
        P256,
        bindings=frozenset({Binding("acme", "root")}),
        labels={"team": "release"},
        rotation_period_s=86_400,
    )
    told = await through(domain, lambda d: d.keys.create(ADMIN, new))

    assert told == {
        "action": "create",
        "algorithm": "ecdsa-p256",
        "bindings": [{"repository": "acme", "role": "root"}],
        "key": "acme/root",
        "labels": {"team": "release"},
        "rotation_period_s": 86_400,
        "scheme": "ecdsa-sha2-nistp256",
        "token": "main",
    }
    intent = next(d for d in domain.audit.drafts if d.action == "create" and d.version)
    assert intent.details["approval"] == "ap1"
    assert intent.details["approvers"] == "email:alice@example.org"


async def test_nothing_is_made_on_a_token_before_people_consent(domain: Domain) -> None:
    await asked(domain.keys.create(ADMIN, NewKey("acme/root", "main", P256)))

    assert not domain.token.keys
    assert domain.audit.find("acme/root") is None


async def test_an_approval_of_a_restored_backup_is_not_used_before_the_loss_is_accepted(
    domain: Domain,
) -> None:
    """What is lost may have said that it was used up, or taken back."""
    new = NewKey("acme/root", "main", P256)
    id = await asked(domain.keys.create(ADMIN, new))
    await approve(domain, id)
    domain.audit.stop_signing = CheckpointBehindError("covers 7 entries, the log has 3")

    with pytest.raises(CheckpointBehindError, match="covers 7 entries"):
        await domain.keys.create(ADMIN, new)

    assert not domain.token.keys
    assert domain.audit.refused[-1].reason_code == "CHECKPOINT_BEHIND"
    domain.audit.stop_signing = None
    await domain.keys.create(ADMIN, new)
    assert domain.audit.find("acme/root") is not None


async def test_a_log_key_that_is_away_keeps_nobody_from_consent(domain: Domain) -> None:
    """To unlock its token may wait for people too."""
    domain.audit.stop_signing = AuditUnavailableError("9 entries have no checkpoint")

    await a_key(domain)

    assert domain.audit.find("acme/root") is not None


async def test_a_generation_that_fails_has_used_its_approval_up(domain: Domain) -> None:
    new = NewKey("acme/root", "main", P256)
    id = await asked(domain.keys.create(ADMIN, new))
    await approve(domain, id)
    domain.token.lacks = frozenset({P256})

    with pytest.raises(MechanismMissingError):
        await domain.keys.create(ADMIN, new)
    assert await asked(domain.keys.create(ADMIN, new)) != id


async def test_rotation_names_the_version_and_whether_it_is_at_once(domain: Domain) -> None:
    await a_key(domain)
    told = await through(domain, lambda d: d.keys.rotate(ADMIN, "acme/root", at_once=True))

    assert told == {"action": "rotate", "at_once": True, "key": "acme/root", "version": 2}
    assert domain.keys.get(ADMIN, "acme/root").active_version == 2
    staged = await asked(domain.keys.rotate(ADMIN, "acme/root", at_once=False))
    at_once = await asked(domain.keys.rotate(ADMIN, "acme/root", at_once=True))
    assert staged != at_once


async def test_versions_change_state_by_consent_to_that_very_key_pair(domain: Domain) -> None:
    fingerprint = await a_key(domain)
    about = {"fingerprint": fingerprint, "key": "acme/root", "version": 1}

    disabled = await through(domain, lambda d: d.keys.disable(ADMIN, "acme/root", 1))
    enabled = await through(domain, lambda d: d.keys.enable(ADMIN, "acme/root", 1))
    await through(domain, lambda d: d.keys.rotate(ADMIN, "acme/root", at_once=False))
    await through(domain, lambda d: d.keys.activate(ADMIN, "acme/root", 2))

    assert disabled == {"action": "disable", **about}
    assert enabled == {"action": "enable", **about}
    assert domain.keys.get(ADMIN, "acme/root").active_version == 2
    assert domain.audit.drafts[-1].details["approvers"] == "email:alice@example.org"


async def test_scheduling_and_destroying_are_two_consents_and_the_way_back_needs_none(
    domain: Domain,
) -> None:
    await a_key(domain)
    day = 86_400
    scheduled = await through(
        domain, lambda d: d.keys.schedule_destroy(ADMIN, "acme/root", 1, wait_s=2 * day)
    )
    await domain.keys.cancel_destroy(ADMIN, "acme/root", 1)
    await through(domain, lambda d: d.keys.schedule_destroy(ADMIN, "acme/root", 1))
    domain.clock.advance(timedelta(days=8))
    destroyed = await through(domain, lambda d: d.keys.destroy(ADMIN, "acme/root", 1))

    assert (scheduled["step"], scheduled["wait_s"]) == ("schedule", 2 * day)
    assert destroyed["step"] == "destroy"
    assert not domain.token.keys
    assert domain.keys.get(ADMIN, "acme/root").versions[0].state is VersionState.DESTROYED


async def test_of_two_destructions_with_one_approval_one_reaches_the_token(domain: Domain) -> None:
    await a_key(domain)
    await through(domain, lambda d: d.keys.schedule_destroy(ADMIN, "acme/root", 1))
    domain.clock.advance(timedelta(days=8))
    await approve(domain, await asked(domain.keys.destroy(ADMIN, "acme/root", 1)))

    results = await asyncio.gather(
        domain.keys.destroy(ADMIN, "acme/root", 1),
        domain.keys.destroy(ADMIN, "acme/root", 1),
        return_exceptions=True,
    )

    assert sum(isinstance(r, Exception) for r in results) == 1
    assert [d.message for d in domain.audit.drafts].count("about to be destroyed") == 1


async def test_consent_to_one_destruction_is_not_consent_to_another(domain: Domain) -> None:
    await a_key(domain)
    await a_key(domain, "acme/other")
    await approve(domain, await asked(domain.keys.disable(ADMIN, "acme/root", 1)))

    await asked(domain.keys.disable(ADMIN, "acme/other", 1))
    await asked(domain.keys.schedule_destroy(ADMIN, "acme/root", 1))


async def test_an_update_names_the_new_fields_and_no_others(domain: Domain) -> None:
    await a_key(domain)
    binding = frozenset({Binding("acme", "root")})
    told = await through(domain, lambda d: d.keys.update(ADMIN, "acme/root", bindings=binding))
    unbound = await through(
        domain, lambda d: d.keys.update(ADMIN, "acme/root", bindings=frozenset(), labels={"a": "b"})
    )

    assert told == {
        "action": "bind",
        "bindings": [{"repository": "acme", "role": "root"}],
        "key": "acme/root",
    }
    assert (unbound["bindings"], unbound["labels"]) == ([], {"a": "b"})
    assert domain.audit.drafts[-1].details["approval"]


async def test_adoption_names_the_key_pair_on_the_token(domain: Domain) -> None:
    found = await domain.device.generate("main", P256, b"\1\2", "acme/old/1")
    told = await through(domain, lambda d: d.keys.adopt(ADMIN, "main", "acme/old", b"\1\2"))

    (version,) = domain.keys.get(ADMIN, "acme/old").versions
    assert version.origin is Origin.ADOPTED
    assert version.public_key == found.public_key
    assert (told["object_id"], told["fingerprint"]) == ("0102", version.fingerprint)


async def test_adopting_all_that_is_labelled_says_what_waits_for_whom(domain: Domain) -> None:
    await domain.device.generate("main", P256, b"\1\2", "acme/old/1")
    keys, skipped = await domain.keys.adopt_labelled(ADMIN, "main")
    (approval,) = domain.audit.open_approvals()
    await approve(domain, approval.id)
    adopted, _ = await domain.keys.adopt_labelled(ADMIN, "main")

    assert not keys
    assert "needs 1 approval," in skipped[0]
    assert [key.name for key in adopted] == ["acme/old"]


async def test_freezing_waits_for_nobody_where_a_set_of_actions_waits(domain: Domain) -> None:
    await a_key(domain)
    await domain.keys.freeze(ADMIN, "acme/root", said="leaked")

    assert domain.keys.frozen("acme/root") is not None


async def test_freezing_waits_for_people_where_a_rule_names_it() -> None:
    with a_domain(parse_policy(POLICY + APPROVERS + FREEZE, "policy.toml")) as domain:
        await domain.a_key("acme/root")
        frozen = await through(domain, lambda d: d.keys.freeze(ADMIN, "acme/root"))
        thawed = await through(domain, lambda d: d.keys.unfreeze(ADMIN, "acme/root"))

    assert (frozen["frozen"], thawed["frozen"]) == (True, False)
    assert domain.keys.frozen("acme/root") is None


async def test_a_log_that_cannot_be_written_leaves_the_approval_for_another_try(
    domain: Domain,
) -> None:
    await a_key(domain)
    await approve(domain, await asked(domain.keys.disable(ADMIN, "acme/root", 1)))
    domain.audit.unavailable = "the disk is full"
    with pytest.raises(AuditUnavailableError):
        await domain.keys.disable(ADMIN, "acme/root", 1)
    domain.audit.unavailable = ""

    key = await domain.keys.disable(ADMIN, "acme/root", 1)

    assert key.versions[0].state is VersionState.DISABLED
    assert domain.audit.open_approvals() == ()
