"""Approvals by the words of those who would get around them, and their honest twins."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from keyd.approvals import Approvals, Operation, new_approval_id
from keyd.consents import Shown
from keyd.errors import (
    ApprovalNeededError,
    ApprovalNotFoundError,
    ApprovalStateError,
    AuditUnavailableError,
    ClockError,
    InvalidRequestError,
    KeydError,
    RateLimitedError,
)
from keyd.gate import Gate
from keyd.model import (
    Action,
    Approval,
    ApprovalState,
    Caller,
    CloseApproval,
    Context,
    Decision,
    Effect,
    EntryDraft,
    KeyDemand,
    Limits,
    Outcome,
    Policy,
    Principal,
    Requirement,
    Statement,
)
from keyd.policy import parse_policy
from keyd.rules import Grave
from tests.fakes import FakeClock
from tests.fakes_audit import MemoryAudit
from tests.fakes_consent import sign_fake_consent, verify_fake_consent


def _caller(principal: str, method: str = "mtls", *, is_group: bool = False) -> Caller:
    return Caller(Principal(principal, method, is_group=is_group), f"req-{principal}")


CI = _caller("uri:spiffe://acme/ci")
OTHER_CI = _caller("uri:spiffe://acme/other")
ALICE = _caller("email:alice@example.org")
BOB = _caller("email:bob@example.org")
CAROL = _caller("email:carol@example.org")
MALLORY = _caller("email:mallory@evil.example")
STAFF = _caller("socket:staff", "unix", is_group=True)

ALICE_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB a"
NEW_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC a"

GRANTS = """
[[grant]]
name = "ci"
principals = ["uri:spiffe://acme/*"]
actions = ["signer", "rotate"]
keys = ["acme/*"]

[[grant]]
name = "people"
principals = ["email:*@example.org", "socket:staff"]
actions = ["approver", "signer", "rotate"]
keys = ["acme/*"]
"""

TWO_PEOPLE = """
[[rule]]
name = "two people"
keys = ["acme/root"]
actions = ["sign", "rotate"]
approvals = 2
approvers = ["email:*"]
expires_h = 1
"""

ONE_PERSON = TWO_PEOPLE.replace("approvals = 2", "approvals = 1")
PAYLOAD = b'{"_type":"root","version":2}'
NEEDS_TWO = GRANTS + TWO_PEOPLE
NEEDS_ONE = GRANTS + ONE_PERSON


class ReloadedPolicy:
    """The policy in force, which tests replace while things wait for people."""

    def __init__(self, text: str) -> None:
        self._policy: Policy = parse_policy(text, "policy.toml")

    def reload(self, text: str) -> None:
        self._policy = parse_policy(text, "policy.toml")

    @property
    def hash(self) -> str:
        return self._policy.hash

    def decide(
        self,
        principal: Principal,
        action: Action,
        key: str,
        *,
        statement: Statement | None = None,
        context: Context | None = None,
    ) -> Decision:
        return self._policy.decide(principal, action, key, statement=statement, context=context)

    def grants_of(self, principal: Principal) -> list[str]:
        return self._policy.grants_of(principal)

    def requirements(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[Requirement, ...]:
        return self._policy.requirements(principal, action, key, context)

    def counts_for(self, requirement: Requirement, principal: Principal) -> bool:
        return self._policy.counts_for(requirement, principal)

    def demands(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[KeyDemand, ...]:
        return self._policy.demands(principal, action, key, context)

    def limits(self, repository: str, role: str, dialect: str) -> Limits:
        return self._policy.limits(repository, role, dialect)

    def approver_keys(self, principal: str) -> tuple[str, ...]:
        return self._policy.approver_keys(principal)


@dataclass
class House:
    """Approvals over a log in memory."""

    audit: MemoryAudit
    clock: FakeClock
    policy: ReloadedPolicy
    approvals: Approvals
    clock_suspect: bool = False

    async def ask(self, operation: Operation | None = None) -> str:
        """The id of the approval that is needed."""
        with pytest.raises(ApprovalNeededError) as e:
            await self.approvals.consent(operation or root())
        return e.value.facts["approval"]

    async def asked(self, operation: Operation | None = None) -> ApprovalNeededError:
        with pytest.raises(ApprovalNeededError) as e:
            await self.approvals.consent(operation or root())
        return e.value

    async def approve(self, caller: Caller, approval_id: str, **how: Any) -> Shown:
        digest = how.pop("digest", hashlib.sha256(PAYLOAD).digest())
        return await self.approvals.approve(caller, approval_id, digest, **how)

    async def use(self, consent: Sequence[Effect], caller: Caller = CI) -> None:
        """What the consent allows happens, in one transaction with its effects."""
        entry = EntryDraft(
            action="sign",
            outcome=Outcome.ALLOWED,
            caller=caller,
            details=self.approvals.details(consent),
        )
        await self.audit.record(entry, consent)

    async def stored(self, approval_id: str) -> Approval:
        found = await self.audit.load_approval(approval_id)
        assert found is not None
        return found[0]

    def actions(self) -> list[str]:
        return [f"{d.action} {d.outcome}" for d in self.audit.drafts]


def a_house(policy: str = NEEDS_TWO) -> House:
    clock = FakeClock()
    audit = MemoryAudit(clock)
    loaded = ReloadedPolicy(policy)
    numbers = count(1)

    def check_clock() -> None:
        if house.clock_suspect:
            raise ClockError("the clock jumped")

    approvals = Approvals(
        gate=Gate(loaded, audit, audit),
        policy=loaded,
        approvals=audit,
        audit=audit,
        clock=clock,
        check_clock=check_clock,
        new_id=lambda: f"ap{next(numbers)}",
        verify_signature=verify_fake_consent,
        look_s=0.01,
    )
    house = House(audit, clock, loaded, approvals)
    return house


def root(caller: Caller = CI, payload: bytes = PAYLOAD, **changes: Any) -> Operation:
    """A root's signature that somebody wants."""
    operation = Operation(
        caller=caller,
        action=Action.SIGN,
        subject="acme/root",
        content=payload,
        digest=hashlib.sha256(payload).digest(),
        summary="root 2",
        key_version=1,
        context=Context("acme", "root"),
        metadata_version=2,
        said="release 2",
    )
    return replace(operation, **changes)


# --------------------------------------------------------------------------------- the way through


async def test_two_people_consent_and_the_requester_comes_back_once() -> None:
    house = a_house()
    id = await house.ask()
    await house.approve(ALICE, id)
    still = await house.asked()
    shown = await house.approve(BOB, id, said="looked at it")

    consent = await house.approvals.consent(root())
    await house.use(consent)

    assert (still.facts["approval"], still.facts["have"], still.facts["need"]) == (id, "1", "2")
    assert shown.approval.state is ApprovalState.APPROVED
    assert consent == (CloseApproval(id, ApprovalState.USED),)
    assert (await house.stored(id)).state is ApprovalState.USED
    assert house.actions() == [
        "approval-request allowed",
        "approve allowed",
        "approve allowed",
        "sign allowed",
    ]
    assert house.audit.drafts[-1].details == {
        "approval": id,
        "approvers": "email:alice@example.org, email:bob@example.org",
    }


async def test_entries_say_what_an_approval_is_bound_to() -> None:
    house = a_house()
    id = await house.ask()

    (entry,) = house.audit.drafts
    assert (entry.key, entry.version, entry.said, entry.message) == (
        "acme/root",
        1,
        "release 2",
        "root 2",
    )
    assert entry.context == Context("acme", "root")
    assert entry.digest is not None
    assert entry.digest.value == hashlib.sha256(PAYLOAD).digest()
    assert entry.details == {
        "approval": id,
        "asked": "sign",
        "requester": "uri:spiffe://acme/ci",
        "expires": "2030-01-02T04:04:05Z",
        "metadata_version": "2",
        "needs": "rule two people: 2 of email:*",
        "why": "",
    }


async def test_without_a_rule_nothing_is_asked_for() -> None:
    house = a_house(GRANTS)
    house.clock_suspect = True

    assert await house.approvals.consent(root()) == ()
    assert await house.approvals.consent_to(CI, Action.ROTATE, "acme/root", {}) == ()
    assert house.approvals.details(()) == {}
    assert house.audit.drafts == []


async def test_asking_twice_finds_the_same_approval_with_its_progress() -> None:
    house = a_house()
    first, second = await asyncio.gather(
        house.approvals.consent(root()), house.approvals.consent(root()), return_exceptions=True
    )

    assert isinstance(first, ApprovalNeededError)
    assert isinstance(second, ApprovalNeededError)
    assert first.facts["approval"] == second.facts["approval"]
    assert house.actions() == ["approval-request allowed"]


async def test_the_error_says_whom_to_ask_and_what_to_do_then() -> None:
    error = await a_house().asked()

    assert "needs 2 approvals, has 0: rule two people: 2 of email:*" in error.message
    assert "keydctl approve ap1" in error.hint
    assert "repeat" in error.hint


async def test_what_is_no_signature_is_consented_to_by_its_parameters() -> None:
    house = a_house(NEEDS_ONE)
    how = {"version": 3, "at_once": False}
    with pytest.raises(ApprovalNeededError) as e:
        await house.approvals.consent_to(CI, Action.ROTATE, "acme/root", how)
    id = e.value.facts["approval"]
    shown = await house.approvals.get(ALICE, id)
    await house.approve(ALICE, id, digest=hashlib.sha256(shown.contents.content).digest())

    consent = await house.approvals.consent_to(CI, Action.ROTATE, "acme/root", how)

    assert json.loads(shown.contents.content) == {"action": "rotate", "key": "acme/root", **how}
    assert shown.approval.summary == "rotate acme/root: version 3, at_once False"
    assert consent == (CloseApproval(id, ApprovalState.USED),)
    assert house.actions()[:2] == ["approval-request allowed", "rotate refused"]
    with pytest.raises(ApprovalNeededError):
        await house.approvals.consent_to(CI, Action.ROTATE, "acme/root", {**how, "at_once": True})


async def test_what_keyd_itself_objects_to_takes_one_approver_who_did_not_ask() -> None:
    house = a_house(GRANTS)
    grave = root(ALICE, grave=(Grave("threshold-lowered", "root: threshold 2 -> 1"),))
    error = await house.asked(grave)
    id = error.facts["approval"]
    with pytest.raises(ApprovalStateError, match="asked for it"):
        await house.approve(ALICE, id)
    await house.approve(BOB, id)

    assert error.facts["why"] == "keyd: root: threshold 2 -> 1"
    assert await house.approvals.consent(grave) == (CloseApproval(id, ApprovalState.USED),)


async def test_a_rule_that_asks_anyway_is_enough_for_what_keyd_objects_to() -> None:
    house = a_house(GRANTS + ONE_PERSON + "own = true\n")
    grave = root(ALICE, grave=(Grave("threshold-lowered", "root: threshold 2 -> 1"),))
    id = await house.ask(grave)

    shown = await house.approve(ALICE, id)

    assert "keyd: root: threshold 2 -> 1" in shown.approval.why
    assert await house.approvals.consent(grave) == (CloseApproval(id, ApprovalState.USED),)


async def test_a_dry_run_says_what_is_needed_and_changes_nothing() -> None:
    house = a_house()
    before = house.approvals.needs(root())
    entries = list(house.audit.drafts)
    id = await house.ask()
    await house.approve(ALICE, id)
    between = house.approvals.needs(root())
    await house.approve(BOB, id)

    assert before == ("rule two people: 2 of email:*",)
    assert entries == []
    assert between == (*before, f"approval {id} is open: 1 of 2 so far")
    assert house.approvals.needs(root()) == ()


async def test_every_requirement_has_to_be_met_and_one_person_counts_for_each() -> None:
    bob_too = """
[[rule]]
name = "bob sees roots"
keys = ["acme/*"]
actions = ["sign"]
approvals = 1
approvers = ["email:bob@example.org"]
"""
    house = a_house(NEEDS_TWO + bob_too)
    id = await house.ask()
    await house.approve(ALICE, id)
    await house.approve(CAROL, id)
    error = await house.asked()
    shown = await house.approve(BOB, id)

    assert (error.facts["have"], error.facts["need"]) == ("2", "3")
    assert [s.have for s in shown.standing] == [3, 1]
    assert await house.approvals.consent(root())


# --------------------------------------------------------------------------------- the attacks


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"caller": OTHER_CI}, id="stolen by another principal"),
        pytest.param({"payload": b'{"_type":"root","version":3}'}, id="replayed on other bytes"),
        pytest.param({"key_version": 2}, id="replayed on another key version"),
        pytest.param({"context": Context("evil", "root")}, id="replayed on another repository"),
        pytest.param({"context": Context("acme", "targets")}, id="replayed on another role"),
        pytest.param({"action": Action.ROTATE}, id="replayed on another action"),
    ],
)
async def test_an_approval_is_good_for_what_was_approved_alone(other: dict[str, Any]) -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)

    assert await house.ask(root(**other)) != id
    assert await house.approvals.consent(root())


async def test_an_approval_cannot_be_used_a_second_time() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)
    await house.use(await house.approvals.consent(root()))

    assert await house.ask() != id


async def test_of_two_uses_at_once_one_wins() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)
    first, second = await asyncio.gather(
        house.approvals.consent(root()), house.approvals.consent(root())
    )
    await house.use(first)

    with pytest.raises(ApprovalStateError, match="USED"):
        await house.use(second)
    assert house.actions()[-2:] == ["sign allowed", "sign refused"]


async def test_an_approval_that_expired_is_ended_and_asked_for_anew() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)
    house.clock.advance(timedelta(hours=1))

    assert await house.ask() != id
    assert (await house.stored(id)).state is ApprovalState.EXPIRED
    assert "approval-expire allowed" in house.actions()


async def test_an_approval_that_expires_between_consent_and_use_allows_nothing() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)
    consent = await house.approvals.consent(root())
    house.clock.advance(timedelta(hours=1))

    with pytest.raises(ApprovalStateError, match="was good until"):
        await house.use(consent)
    assert house.actions()[-1] == "sign refused"
    assert (await house.stored(id)).state is ApprovalState.APPROVED


async def test_a_late_consent_is_refused() -> None:
    house = a_house()
    id = await house.ask()
    house.clock.advance(timedelta(hours=1))

    with pytest.raises(ApprovalStateError, match="EXPIRED") as e:
        await house.approve(ALICE, id)
    assert "ask again" in e.value.hint
    assert (await house.approvals.get(ALICE, id)).approval.state is ApprovalState.EXPIRED


async def test_nobody_approves_for_himself_unless_the_rule_says_so() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask(root(ALICE))

    with pytest.raises(ApprovalStateError, match="asked for it"):
        await house.approve(ALICE, id)
    house.policy.reload(NEEDS_ONE + "own = true\n")
    await house.approve(ALICE, id)

    assert await house.approvals.consent(root(ALICE))
    house.policy.reload(NEEDS_ONE)
    assert await house.ask(root(ALICE)) == id


async def test_who_asked_and_says_no_is_told_to_take_it_back() -> None:
    house = a_house()
    id = await house.ask()

    with pytest.raises(ApprovalStateError) as refused:
        await house.approvals.reject(CI, id)

    assert refused.value.hint == f"take your request back with: keydctl approvals revoke {id}"


async def test_a_socket_open_to_a_group_is_no_person() -> None:
    house = a_house(NEEDS_ONE.replace('approvers = ["email:*"]', ""))
    id = await house.ask()

    with pytest.raises(ApprovalStateError, match="open to a group"):
        await house.approve(STAFF, id)
    with pytest.raises(ApprovalStateError, match="open to a group"):
        await house.approvals.reject(STAFF, id)
    assert await house.ask() == id
    assert not (await house.approvals.get(STAFF, id)).waits_for_me


async def test_one_person_does_not_count_twice() -> None:
    house = a_house()
    id = await house.ask()
    results = await asyncio.gather(
        house.approve(ALICE, id), house.approve(ALICE, id), return_exceptions=True
    )

    assert sum(isinstance(r, ApprovalStateError) for r in results) == 1
    assert (await house.asked()).facts["have"] == "1"


async def test_two_people_who_consent_at_once_both_count() -> None:
    house = a_house()
    id = await house.ask()
    await asyncio.gather(house.approve(ALICE, id), house.approve(BOB, id))

    assert await house.approvals.consent(root())


async def test_consent_that_was_taken_back_allows_nothing() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)
    consent = await house.approvals.consent(root())
    shown = await house.approvals.revoke(ALICE, id, said="wrong file")

    with pytest.raises(ApprovalStateError):
        await house.use(consent)
    assert shown.approval.state is ApprovalState.PENDING
    assert await house.ask() == id
    await house.approve(ALICE, id)
    assert await house.approvals.consent(root())


async def test_nobody_takes_back_what_is_somebody_elses() -> None:
    house = a_house()
    id = await house.ask()
    await house.approve(ALICE, id)

    with pytest.raises(ApprovalStateError, match="neither asked for"):
        await house.approvals.revoke(BOB, id)
    assert len((await house.stored(id)).votes) == 1


async def test_a_requester_withdraws_and_nobody_can_consent_any_more() -> None:
    house = a_house()
    id = await house.ask()
    await house.approvals.revoke(CI, id)

    with pytest.raises(ApprovalStateError, match="WITHDRAWN"):
        await house.approve(ALICE, id)
    assert await house.ask() != id


async def test_one_no_ends_it_until_somebody_asks_again() -> None:
    house = a_house()
    id = await house.ask()
    await house.approve(ALICE, id)
    shown = await house.approvals.reject(BOB, id, said="not on a Friday")

    with pytest.raises(ApprovalStateError, match="REJECTED"):
        await house.approve(CAROL, id)
    again = await house.asked()
    assert shown.approval.state is ApprovalState.REJECTED
    assert again.facts["approval"] != id
    assert again.facts["have"] == "0"
    assert house.audit.drafts[2].action == "approval-reject"
    assert house.audit.drafts[2].said == "not on a Friday"


async def test_consent_to_other_bytes_than_were_looked_at_is_refused() -> None:
    house = a_house()
    id = await house.ask()

    with pytest.raises(InvalidRequestError, match="is not what approval"):
        await house.approve(ALICE, id, digest=bytes(32))
    assert (await house.stored(id)).votes == ()
    assert house.audit.refused[-1].action == "approve"


# --------------------------------------------------------------------------------- another policy


async def test_a_policy_that_now_demands_more_is_not_satisfied_with_less() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)
    house.policy.reload(NEEDS_TWO)
    error = await house.asked()
    await house.approve(BOB, id)

    assert (error.facts["approval"], error.facts["have"], error.facts["need"]) == (id, "1", "2")
    assert await house.approvals.consent(root())


async def test_a_policy_that_now_demands_less_needs_no_further_consent() -> None:
    house = a_house(NEEDS_TWO)
    id = await house.ask()
    await house.approve(ALICE, id)
    house.policy.reload(NEEDS_ONE)

    await house.use(await house.approvals.consent(root()))

    stored = await house.stored(id)
    assert stored.state is ApprovalState.USED
    assert [v.principal for v in stored.votes] == ["email:alice@example.org"]


async def test_whoever_lost_the_grant_no_longer_counts() -> None:
    house = a_house()
    id = await house.ask()
    await house.approve(ALICE, id)
    await house.approve(BOB, id)
    house.policy.reload(NEEDS_TWO.replace('"email:*@example.org"', '"email:alice@example.org"'))
    error = await house.asked()
    house.policy.reload(NEEDS_TWO)

    assert (error.facts["approval"], error.facts["have"]) == (id, "1")
    assert await house.approvals.consent(root())


async def test_a_rule_that_came_later_does_not_take_old_consent_of_the_wrong_people() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    await house.approve(ALICE, id)
    house.policy.reload(NEEDS_ONE.replace('"email:*"', '"email:bob@example.org"'))

    assert (await house.asked()).facts["have"] == "0"
    with pytest.raises(ApprovalStateError, match="the consent of email:carol") as e:
        await house.approve(CAROL, id)
    assert e.value.hint == "asked for are two people: email:bob@example.org"


# --------------------------------------------------------------------------------- signed consent

SIGNED = (
    NEEDS_ONE
    + "signed = true\n"
    + f'[[approver]]\nprincipal = "email:alice@example.org"\nssh_keys = ["{ALICE_KEY}"]\n'
)


async def test_signed_consent_is_kept_whole_in_the_log() -> None:
    house = a_house(SIGNED)
    long = root(context=Context("acme/" + "x" * 1200, "root"))
    id = await house.ask(long)
    text = (await house.stored(id)).consent_text(ALICE.principal.id)
    shown = await house.approve(ALICE, id, signature=sign_fake_consent(text, ALICE_KEY))

    details = house.audit.drafts[-1].details
    assert details["consent_text"] + details["consent_text_2"] == text.decode()
    assert details["consent_signature_1"] == shown.approval.votes[0].signature
    assert details["consent_signer"].startswith("SHA256:")
    assert max(map(len, details.values())) <= 1000
    assert await house.approvals.consent(long)


@pytest.mark.parametrize("case", ["none", "of another person", "over another approval"])
async def test_consent_without_the_persons_own_signature_is_refused(case: str) -> None:
    house = a_house(SIGNED)
    id = await house.ask()
    text = (await house.stored(id)).consent_text(ALICE.principal.id)
    signature = {
        "none": "",
        "of another person": sign_fake_consent(text, NEW_KEY),
        "over another approval": sign_fake_consent(text.replace(b"ap1", b"ap2"), ALICE_KEY),
    }[case]

    with pytest.raises(InvalidRequestError, match="signature"):
        await house.approve(ALICE, id, signature=signature)
    assert (await house.stored(id)).votes == ()


async def test_a_signature_nobody_asked_for_is_checked_all_the_same() -> None:
    house = a_house(SIGNED.replace("signed = true", ""))
    id = await house.ask()

    with pytest.raises(InvalidRequestError, match="not by a key of"):
        await house.approve(ALICE, id, signature="signed by me")
    with pytest.raises(InvalidRequestError, match="knows no key of"):
        await house.approve(BOB, id, signature="signed by me")


async def test_a_consent_by_a_key_that_was_taken_from_the_policy_no_longer_counts() -> None:
    house = a_house(SIGNED)
    id = await house.ask()
    text = (await house.stored(id)).consent_text(ALICE.principal.id)
    await house.approve(ALICE, id, signature=sign_fake_consent(text, ALICE_KEY))
    house.policy.reload(SIGNED.replace(ALICE_KEY, NEW_KEY))

    assert (await house.asked()).facts["have"] == "0"


# --------------------------------------------------------------------------------- who sees what


@pytest.mark.parametrize("stranger", [MALLORY, OTHER_CI])
async def test_a_stranger_finds_no_approval_and_lists_none(stranger: Caller) -> None:
    house = a_house()
    id = await house.ask()

    for attempt in (
        house.approvals.get(stranger, id),
        house.approve(stranger, id),
        house.approvals.reject(stranger, id),
        house.approvals.revoke(stranger, id),
    ):
        with pytest.raises(ApprovalNotFoundError, match="no approval ap1, or it is not yours"):
            await attempt
    with pytest.raises(ApprovalNotFoundError, match="no approval nothing, or it is not yours"):
        await house.approvals.get(stranger, "nothing")
    assert await house.approvals.list(stranger, limit=100) == []
    assert all(refused.key == "" for refused in house.audit.refused)


async def test_lists_show_what_is_open_and_what_waits_for_whom() -> None:
    house = a_house()
    old = await house.ask()
    await house.approvals.reject(ALICE, old)
    house.clock.advance(timedelta(minutes=1))
    id = await house.ask()
    await house.approve(ALICE, id)

    async def ids(caller: Caller, **wanted: bool) -> list[str]:
        return [s.approval.id for s in await house.approvals.list(caller, limit=100, **wanted)]

    assert await ids(CI) == [id, old]
    assert await ids(CI, only_open=True) == [id]
    assert await ids(CI, waits_for_me=True) == []
    assert await ids(ALICE, waits_for_me=True) == []
    assert await ids(BOB, waits_for_me=True) == [id]
    assert len(await house.approvals.list(CI, limit=1)) == 1


async def test_watching_one_tells_each_change_and_ends_with_it() -> None:
    house = a_house()
    id = await house.ask()
    seen: list[tuple[ApprovalState, int]] = []

    async def watch() -> None:
        async for shown in house.approvals.watch(CI, id):
            seen.append((shown.approval.state, len(shown.approval.votes)))
            match len(seen):
                case 1:
                    await house.approve(ALICE, id)
                case 2:
                    await house.approve(BOB, id)
                case 3:  # nobody tells the watcher of this one
                    await house.use(await house.approvals.consent(root()))

    await asyncio.wait_for(watch(), 5)

    assert seen == [
        (ApprovalState.PENDING, 0),
        (ApprovalState.PENDING, 1),
        (ApprovalState.APPROVED, 2),
        (ApprovalState.USED, 2),
    ]


async def test_watching_all_tells_of_new_ones_of_other_policies_and_of_the_end_of_time() -> None:
    house = a_house()
    async with aclosing(house.approvals.watch(BOB)) as changes:

        async def following() -> Shown:
            return await asyncio.wait_for(anext(changes), 5)

        id = await house.ask()
        asked = await following()
        await house.approve(ALICE, id)
        half = await following()
        house.policy.reload(NEEDS_ONE)
        enough = await following()
        house.clock.advance(timedelta(hours=1))
        late = await following()

    assert (asked.approval.id, asked.waits_for_me) == (id, True)
    assert half.approval.state is ApprovalState.PENDING
    assert enough.approval.state is ApprovalState.APPROVED
    assert late.approval.state is ApprovalState.EXPIRED


async def test_a_watcher_who_loses_the_grant_is_told_nothing_more() -> None:
    house = a_house()
    id = await house.ask()
    async with aclosing(house.approvals.watch(BOB, id)) as changes:
        await asyncio.wait_for(anext(changes), 5)
        house.policy.reload(NEEDS_TWO.replace('"email:*@example.org"', '"email:alice@example.org"'))
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(changes), 5)


async def test_a_stranger_watches_nothing() -> None:
    house = a_house()
    id = await house.ask()

    with pytest.raises(ApprovalNotFoundError):
        await anext(house.approvals.watch(MALLORY, id))


# -------------------------------------------------------------------------------- limits and faults


async def test_one_requester_cannot_bury_the_approvers() -> None:
    house = a_house()
    for number in range(100):
        await house.ask(root(payload=b"%d" % number))

    with pytest.raises(RateLimitedError, match="100 of uri:spiffe://acme/ci"):
        await house.approvals.consent(root())
    await house.ask(root(OTHER_CI))
    house.clock.advance(timedelta(hours=1))
    await house.ask()


async def test_content_beyond_what_is_ever_signed_is_not_kept() -> None:
    house = a_house()

    with pytest.raises(InvalidRequestError, match="at most"):
        await house.approvals.consent(root(payload=bytes(8 * 1024 * 1024 + 1)))
    assert house.audit.open_approvals() == ()


async def test_a_clock_that_jumped_neither_asks_nor_approves_nor_expires() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    house.clock_suspect = True
    house.clock.advance(timedelta(days=30))

    assert await house.approvals.sweep() == 0
    house.clock.advance(timedelta(days=-30))
    for attempt in (house.approvals.consent(root()), house.approve(ALICE, id)):
        with pytest.raises(ClockError):
            await attempt
    house.clock_suspect = False
    await house.approve(ALICE, id)


async def test_the_sweep_ends_what_nobody_came_back_for() -> None:
    house = a_house()
    id = await house.ask()
    assert await house.approvals.sweep() == 0
    house.clock.advance(timedelta(hours=1))

    assert await house.approvals.sweep() == 1
    assert await house.approvals.sweep() == 0
    assert (await house.stored(id)).state is ApprovalState.EXPIRED
    assert house.audit.drafts[-1].caller.principal.id == "system:keyd"


async def test_a_log_that_cannot_be_written_leaves_no_consent_behind() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    house.audit.unavailable = "the disk is full"

    attempts: list[KeydError] = []
    for attempt in (house.approve(ALICE, id), house.approvals.consent(root(payload=b"other"))):
        with pytest.raises(AuditUnavailableError) as e:
            await attempt
        attempts.append(e.value)
    house.audit.unavailable = ""
    assert len(attempts) == 2
    assert (await house.stored(id)).votes == ()
    assert len(house.audit.open_approvals()) == 1


async def test_a_consent_whose_caller_left_is_kept() -> None:
    house = a_house(NEEDS_ONE)
    id = await house.ask()
    approving = asyncio.create_task(house.approve(ALICE, id))
    await asyncio.sleep(0)
    approving.cancel()
    await house.approvals.drain()

    assert await house.approvals.consent(root())


async def test_an_action_that_takes_several_approvals_names_them_all() -> None:
    house = a_house(NEEDS_ONE)
    used: list[Effect] = []
    for caller, operation in ((ALICE, root()), (BOB, root(payload=b"other"))):
        id = await house.ask(operation)
        await house.approve(caller, id, digest=operation.digest)
        used += await house.approvals.consent(operation)

    assert house.approvals.details(used) == {
        "approval": "ap1, ap2",
        "approvers": "email:alice@example.org, email:bob@example.org",
    }


async def test_the_text_to_sign_is_the_one_that_the_docs_show() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "approvals.md").read_text()
    (shown,) = (line for line in docs.splitlines() if line.startswith('{"action"'))
    house = a_house()
    text = (await house.stored(await house.ask())).consent_text("email:bob@example.org").decode()

    assert list(json.loads(text)) == list(json.loads(shown))
    assert json.dumps(json.loads(shown), separators=(",", ":")) == shown
    assert json.loads(text)["principal"] == json.loads(shown)["principal"]


def test_ids_cannot_be_guessed_and_need_no_quotes() -> None:
    ids = {new_approval_id() for _ in range(100)}

    assert len(ids) == 100
    assert all(len(id) == 26 and id.isalnum() and id == id.lower() for id in ids)
