"""Ceremonies: who may move one, which moves there are, and what the log says of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import count

import pytest

from keyd.ceremonies import MAX_DRAFT_BYTES, MAX_FACTS, MAX_PLAN_BYTES, Ceremonies
from keyd.errors import (
    ApprovalNeededError,
    CeremonyNotFoundError,
    ConflictError,
    ContentError,
    InvalidRequestError,
    PolicyDeniedError,
)
from keyd.model import Action, Binding, Caller, Ceremony, KeyAlgorithm, Outcome, Phase, Principal
from keyd.policy import parse_policy
from keyd.server.wire import ceremonies as wire
from keyd.v1 import ceremonies_pb2 as pb
from tests.domain import ADMIN, POLICY, STRANGER, Domain, a_domain
from tests.tuf_documents import ALICE, a_root, a_targets

ROOT_CI = Caller(Principal("uri:spiffe://acme/root-ci", "mtls"), "req-root")
WATCHER = Caller(Principal("email:bob@example.org", "mtls"), "req-bob")
GRANTS = """
[[grant]]
name = "root ci"
principals = ["uri:spiffe://acme/root-ci"]
actions = ["signer"]
keys = ["acme/root"]

[[grant]]
name = "watchers"
principals = ["email:bob@example.org"]
actions = ["list", "approve"]
keys = ["acme/*"]
"""
RULE = """
[[rule]]
name = "two look"
keys = ["acme/root"]
actions = ["ceremony"]
approvals = 1
"""
PLAN = '{"base":1,"repository":"acme"}'
DRAFT = a_root(2, ALICE.public_key).signed_bytes
OTHER = a_root(2, ALICE.public_key, threshold=1).signed_bytes.replace(b"2030", b"2029")


@dataclass
class Office:
    """A domain with a key bound to acme's root, and its ceremonies."""

    domain: Domain
    ceremonies: Ceremonies

    async def started(self, caller: Caller = ADMIN) -> Ceremony:
        return await self.ceremonies.start(caller, "acme", PLAN, said="yearly")

    async def moved(
        self,
        before: Ceremony,
        phase: Phase,
        *,
        draft: bytes | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> Ceremony:
        return await self.ceremonies.advance(
            ADMIN, before.id, step=before.step, phase=phase, facts=facts, draft=draft
        )


async def an_office(domain: Domain) -> Office:
    await domain.a_key("acme/root", KeyAlgorithm.ECDSA_P256, Binding("acme", "root"))
    ids = count(1)
    ceremonies = Ceremonies(
        gate=domain.gate,
        registry=domain.audit,
        ceremonies=domain.audit,
        approvals=domain.approvals,
        audit=domain.audit,
        clock=domain.clock,
        new_id=lambda: f"c{next(ids)}",
    )
    return Office(domain, ceremonies)


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    with a_domain(parse_policy(POLICY + GRANTS, "policy.toml")) as domain:
        yield await an_office(domain)


# ------------------------------------------------------------------------------- the way


async def test_a_ceremony_goes_through_its_phases_and_each_step_is_an_entry(
    office: Office,
) -> None:
    now = await office.started()
    now = await office.moved(now, Phase.GENERATE)
    now = await office.moved(now, Phase.STAGE, facts={"new 0": "acme/root/versions/2"})
    now = await office.moved(now, Phase.CONSENT, draft=DRAFT)
    for phase in (Phase.SIGN, Phase.CHECK, Phase.PUBLISH, Phase.RETIRE, Phase.DONE):
        now = await office.moved(now, phase)

    assert now == office.ceremonies.get(ADMIN, "c1")
    assert (now.phase, now.step, now.draft) == (Phase.DONE, 9, DRAFT)
    assert now.facts == {"new 0": "acme/root/versions/2"}
    drafts = [d for d in office.domain.audit.drafts if d.action.startswith("ceremony")]
    assert [d.action for d in drafts] == ["ceremony-start", *["ceremony-advance"] * 8]
    assert drafts[0].said == "yearly"
    assert drafts[-1].details == {
        "ceremony": "c1",
        "repository": "acme",
        "phase": "DONE",
        "phase_before": "RETIRE",
        "plan_sha256": hashlib.sha256(PLAN.encode()).hexdigest(),
        "draft_sha256": hashlib.sha256(DRAFT).hexdigest(),
    }
    assert "draft_sha256" not in drafts[0].details


async def test_a_second_ceremony_of_a_repository_waits_for_the_end_of_the_first(
    office: Office,
) -> None:
    first = await office.started()

    with pytest.raises(ConflictError) as error:
        await office.started()
    assert error.value.facts["ceremony"] == first.id
    assert "resume" in error.value.hint

    await office.ceremonies.abort(ADMIN, first.id, said="no")
    assert (await office.started()).id == "c2"


async def test_of_two_that_start_at_once_one_wins(office: Office) -> None:
    results = await asyncio.gather(office.started(), office.started(), return_exceptions=True)

    assert sorted(type(r).__name__ for r in results) == ["Ceremony", "ConflictError"]
    assert len(office.ceremonies.list(ADMIN, "acme", only_open=True)) == 1


async def test_of_two_that_go_on_from_the_same_step_one_is_told_to_look_again(
    office: Office,
) -> None:
    started = await office.started()
    await office.moved(started, Phase.GENERATE)

    with pytest.raises(ConflictError, match="step 2, not 1") as error:
        await office.moved(started, Phase.STAGE)

    assert "status" in error.value.hint
    assert office.ceremonies.get(ADMIN, started.id).phase is Phase.GENERATE


@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.GENERATE])
async def test_no_phase_is_done_twice(office: Office, phase: Phase) -> None:
    now = await office.moved(await office.started(), Phase.STAGE)

    with pytest.raises(InvalidRequestError, match="does not follow"):
        await office.moved(now, phase)


async def test_another_draft_leads_back_to_stage_and_nowhere_else(office: Office) -> None:
    now = await office.moved(await office.started(), Phase.SIGN, draft=DRAFT)

    with pytest.raises(InvalidRequestError, match="draft"):
        await office.moved(now, Phase.CHECK, draft=OTHER)
    with pytest.raises(InvalidRequestError, match="STAGE with another draft"):
        await office.moved(now, Phase.STAGE, draft=DRAFT)
    with pytest.raises(InvalidRequestError, match="STAGE with another draft"):
        await office.moved(now, Phase.CONSENT, draft=OTHER)

    back = await office.moved(now, Phase.STAGE, draft=OTHER)
    assert (back.phase, back.draft) == (Phase.STAGE, OTHER)


async def test_what_is_being_published_does_not_change_any_more(office: Office) -> None:
    now = await office.moved(await office.started(), Phase.PUBLISH, draft=DRAFT)

    for phase in (Phase.STAGE, Phase.PUBLISH, Phase.RETIRE):
        with pytest.raises(InvalidRequestError):
            await office.moved(now, phase, draft=OTHER)


@pytest.mark.parametrize("phase", [Phase.CONSENT, Phase.SIGN, Phase.PUBLISH, Phase.DONE])
async def test_nothing_is_signed_or_published_without_a_draft(office: Office, phase: Phase) -> None:
    with pytest.raises(InvalidRequestError, match="needs a draft"):
        await office.moved(await office.started(), phase)


async def test_a_draft_that_is_no_root_is_refused(office: Office) -> None:
    started = await office.started()

    with pytest.raises(ContentError):
        await office.moved(started, Phase.CONSENT, draft=b'{"_type": "root"}')
    with pytest.raises(InvalidRequestError, match="signed part of a root"):
        await office.moved(started, Phase.CONSENT, draft=a_targets(1).signed_bytes)


async def test_an_end_is_an_end(office: Office) -> None:
    started = await office.started()
    with pytest.raises(InvalidRequestError, match="AbortCeremony"):
        await office.moved(started, Phase.ABORTED)

    ended = await office.ceremonies.abort(ADMIN, started.id, said="no")
    again = await office.ceremonies.abort(ADMIN, started.id, said="no")

    assert again == ended
    assert [d.action for d in office.domain.audit.drafts].count("ceremony-abort") == 1
    assert office.domain.audit.drafts[-1].alert
    with pytest.raises(ConflictError, match="has ended: ABORTED"):
        await office.moved(ended, Phase.GENERATE)
    done = await office.moved(await office.started(), Phase.DONE, draft=DRAFT)
    with pytest.raises(ConflictError, match="has ended: DONE"):
        await office.ceremonies.abort(ADMIN, done.id)


# ------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("plan", ["", "[]", "{ }", '{"b":1,"a":1}', '{"a":1,"a":1}', "{"])
async def test_a_plan_has_one_form(office: Office, plan: str) -> None:
    with pytest.raises(InvalidRequestError, match="canonical JSON"):
        await office.ceremonies.start(ADMIN, "acme", plan)


async def test_plans_and_facts_are_bounded(office: Office) -> None:
    with pytest.raises(InvalidRequestError, match="bytes"):
        await office.ceremonies.start(ADMIN, "acme", "x" * (MAX_PLAN_BYTES + 1))
    started = await office.started()
    for facts in (
        {str(n): "x" for n in range(MAX_FACTS + 1)},
        {"": "x"},
        {"a\nb": "x"},
        {"a": "x" * 4001},
        {"a": "\x1b[2J"},
    ):
        with pytest.raises(InvalidRequestError, match="facts"):
            await office.moved(started, Phase.PLAN, facts=facts)


async def test_an_empty_text_removes_a_fact_and_the_others_stay(office: Office) -> None:
    now = await office.moved(await office.started(), Phase.PLAN, facts={"a": "1", "b": "2"})

    now = await office.moved(now, Phase.PLAN, facts={"a": "", "c": "3"})

    assert now.facts == {"b": "2", "c": "3"}


# ------------------------------------------------------------------------------- who


async def test_the_grant_counts_on_a_key_bound_to_the_root(office: Office) -> None:
    started = await office.started(ROOT_CI)

    for stranger in (STRANGER, WATCHER):
        for call in (
            office.ceremonies.start(stranger, "acme", PLAN),
            office.ceremonies.start(stranger, "no/such", PLAN),
        ):
            with pytest.raises(PolicyDeniedError, match="denied, or no such"):
                await call
    refused = [d for d in office.domain.audit.drafts if d.outcome is Outcome.REFUSED]
    assert {d.action for d in refused} == {Action.CEREMONY}
    with pytest.raises(PolicyDeniedError):
        await office.ceremonies.abort(WATCHER, started.id)


async def test_whoever_may_not_see_the_root_key_does_not_learn_of_its_ceremony(
    office: Office,
) -> None:
    started = await office.started()

    assert office.ceremonies.get(WATCHER, started.id) == started
    assert office.ceremonies.list(STRANGER) == []
    with pytest.raises(CeremonyNotFoundError) as hidden:
        office.ceremonies.get(STRANGER, started.id)
    with pytest.raises(CeremonyNotFoundError) as absent:
        office.ceremonies.get(STRANGER, "c9")
    assert hidden.value.message == absent.value.message.replace("c9", started.id)


async def test_a_rule_can_ask_for_consent_to_the_plan_before_it_begins() -> None:
    with a_domain(parse_policy(POLICY + GRANTS + RULE, "policy.toml")) as domain:
        office = await an_office(domain)
        with pytest.raises(ApprovalNeededError) as error:
            await office.started(ROOT_CI)
        approval = error.value.facts["approval"]
        shown = await domain.approvals.get(WATCHER, approval)
        assert b'"plan"' in shown.contents.content

        await domain.approvals.approve(WATCHER, approval, shown.approval.digest)
        started = await office.started(ROOT_CI)

        assert started.phase is Phase.PLAN
        assert domain.audit.drafts[-1].details["approval"] == approval


# ------------------------------------------------------------------------------- the wire


def test_the_wire_takes_every_phase_and_nothing_else() -> None:
    for phase in Phase:
        number = pb.CeremonyPhase.Value(f"CEREMONY_PHASE_{phase}")
        message = pb.AdvanceCeremonyRequest(id="c1", step=1, phase=number)
        assert wire.advance(message) == wire.Advance("c1", 1, phase, {}, None)
    drafted = pb.AdvanceCeremonyRequest(id="c1", step=1, phase=number, set_draft=True)
    assert wire.advance(drafted).draft == b""
    for message in (
        pb.AdvanceCeremonyRequest(id="c1", step=1),
        pb.AdvanceCeremonyRequest(id="", step=1, phase=number),
        pb.AdvanceCeremonyRequest(id="c1", step=0, phase=number),
        pb.AdvanceCeremonyRequest(id="x" * 65, step=1, phase=number),
    ):
        with pytest.raises(InvalidRequestError):
            wire.advance(message)


async def test_a_draft_that_no_client_would_take_is_refused_unread(office: Office) -> None:
    """Reading megabytes takes as long as hundreds of signatures."""
    started = await office.started()

    with pytest.raises(InvalidRequestError, match="512000 at most") as e:
        await office.moved(started, Phase.STAGE, draft=b"{" * (MAX_DRAFT_BYTES + 1))

    assert e.value.facts["field"] == "draft"
    assert office.ceremonies.get(ADMIN, started.id) == started
