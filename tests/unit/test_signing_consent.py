"""What Signing promises where people are asked: signed once, for exactly what they saw; and of dry
runs, which tell all that without doing it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from keyd.errors import (
    ApprovalNeededError,
    ApprovalStateError,
    ConflictError,
    DeviceGoneError,
    KeydError,
    PolicyDeniedError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import (
    ApprovalState,
    Binding,
    Caller,
    Digest,
    HashAlgorithm,
    Key,
    KeyAlgorithm,
    MarkState,
    Outcome,
    Principal,
    Signed,
    TokenState,
)
from keyd.policy import parse_policy
from tests.bound_keys import REPOSITORY, ask, root, snapshot, targets
from tests.domain import CI, STRANGER, Domain, a_domain
from tests.reloaded_policy import ReloadedPolicy

ALICE = Caller(Principal("email:alice@example.org", "mtls"), "req-alice")
BOB = Caller(Principal("email:bob@example.org", "mtls"), "req-bob")
KEY, ROOT = "acme/targets", "acme/root"

GRANTS = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin", "signer", "auditor"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "ci signs"
principals = ["uri:spiffe://acme/ci"]
actions = ["sign", "list"]
keys = ["acme/*"]

[[grant]]
name = "people approve"
principals = ["email:*@example.org"]
actions = ["sign", "approver"]
keys = ["*"]
"""
RULE = """
[[rule]]
name = "two people for targets"
keys = ["acme/targets"]
actions = ["sign"]
approvals = 2
"""


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(GRANTS + RULE, "policy.toml")) as made:
        yield made


async def a_bound_key(domain: Domain, name: str = KEY, *roles: str) -> Key:
    bindings = [Binding(REPOSITORY, role) for role in roles or ("targets",)]
    return await domain.a_key(name, KeyAlgorithm.ECDSA_P256, *bindings)


async def ask_for(domain: Domain, message: bytes, key: str = KEY) -> str:
    """The id of the approval that signing asks for."""
    with pytest.raises(ApprovalNeededError) as e:
        await domain.signing.sign(CI, ask(key, message))
    return e.value.facts["approval"]


async def approve(domain: Domain, approval: str, message: bytes, *people: Caller) -> None:
    for who in people:
        await domain.approvals.approve(who, approval, hashlib.sha256(message).digest())


async def test_nothing_is_signed_before_people_consent_and_then_once(domain: Domain) -> None:
    await a_bound_key(domain)
    asked = domain.token.signed

    approval = await ask_for(domain, targets(1))
    assert domain.token.signed == asked
    assert domain.audit.find_mark(REPOSITORY, "targets") is None
    await approve(domain, approval, targets(1), ALICE, BOB)
    signed = await domain.signing.sign(CI, ask(KEY, targets(1)))

    details = domain.audit.entries[signed.log_index].fields["details"]
    assert isinstance(details, dict)
    assert (details["mark"], details["approval"]) == ("new", approval)
    assert details["approvers"].split(" ")[0].startswith("email:alice")
    assert "email:bob" in details["approvers"]
    found = await domain.audit.load_approval(approval)
    assert found is not None
    assert found[0].state is ApprovalState.USED


async def test_consent_to_one_digest_is_none_to_another(domain: Domain) -> None:
    await a_bound_key(domain)
    approval = await ask_for(domain, targets(1, "good"))
    await approve(domain, approval, targets(1, "good"), ALICE, BOB)

    other = await ask_for(domain, targets(1, "evil"))

    assert other != approval
    await domain.signing.sign(CI, ask(KEY, targets(1, "good")))


async def test_what_was_signed_once_needs_no_consent_to_be_given_again(domain: Domain) -> None:
    await a_bound_key(domain)
    await approve(domain, await ask_for(domain, targets(1)), targets(1), ALICE, BOB)
    first = await domain.signing.sign(CI, ask(KEY, targets(1)))

    again = await domain.signing.sign(CI, ask(KEY, targets(1)))

    assert again.replayed
    assert again.log_index == first.log_index


async def test_an_approval_that_two_use_at_once_is_used_by_one(domain: Domain) -> None:
    await a_bound_key(domain)
    await approve(domain, await ask_for(domain, targets(1)), targets(1), ALICE, BOB)

    results = await domain.signing.sign_batch(CI, [ask(KEY, targets(1)), ask(KEY, targets(1))])

    assert sorted(type(r).__name__ for r in results) == ["ApprovalStateError", "Signed"]
    assert isinstance(results[1], ApprovalStateError)


async def test_consent_survives_a_token_that_is_away(domain: Domain) -> None:
    await a_bound_key(domain)
    await approve(domain, await ask_for(domain, targets(1)), targets(1), ALICE, BOB)
    domain.token.gone_after = 0
    with pytest.raises(DeviceGoneError):
        await domain.signing.sign(CI, ask(KEY, targets(1)))
    domain.token.gone_after, domain.token.state = None, TokenState.READY

    assert await domain.signing.sign(CI, ask(KEY, targets(1)))


async def test_people_are_not_asked_for_what_the_rules_refuse_anyway(domain: Domain) -> None:
    await a_bound_key(domain)

    with pytest.raises(RuleRefusedError):
        await domain.signing.sign(CI, ask(KEY, b"opaque"))

    assert not domain.audit.open_approvals()


async def test_a_version_is_free_for_others_while_people_think(domain: Domain) -> None:
    await a_bound_key(domain)
    await a_bound_key(domain, "acme/later")
    approval = await ask_for(domain, targets(1, "slow"))

    await domain.signing.sign(CI, ask("acme/later", targets(1, "fast")))
    await approve(domain, approval, targets(1, "slow"), ALICE, BOB)

    with pytest.raises(VersionTakenError):
        await domain.signing.sign(CI, ask(KEY, targets(1, "slow")))


async def test_a_key_without_bindings_waits_for_people_too_also_for_a_digest(
    domain: Domain,
) -> None:
    await domain.a_key(KEY)
    digest = Digest.of(HashAlgorithm.SHA256, b"anything")

    approval = await ask_for(domain, b"anything")
    with pytest.raises(ApprovalNeededError) as e:
        await domain.signing.sign(CI, ask(KEY, None, digest=digest))
    assert e.value.facts["approval"] == approval, "it is the same thing to sign"
    await approve(domain, approval, b"anything", ALICE, BOB)

    assert await domain.signing.sign(CI, ask(KEY, b"anything"))


async def test_a_refusal_for_want_of_consent_names_the_approval_in_the_log(
    domain: Domain,
) -> None:
    await a_bound_key(domain)

    approval = await ask_for(domain, targets(1))

    refusal = domain.audit.refused[-1]
    assert (refusal.action, refusal.reason_code) == ("sign", "APPROVAL_NEEDED")
    assert refusal.details["approval"] == approval


# ------------------------------------------------------------------------------------- grave


async def test_a_lowered_threshold_waits_for_one_person_who_is_shown_it(domain: Domain) -> None:
    first = await a_bound_key(domain, ROOT, "root")
    second = await a_bound_key(domain, "acme/second", "root")
    both = [first.versions[0], second.versions[0]]
    before, lowered = root(1, *both, threshold=2), root(2, *both, threshold=1)
    await domain.signing.sign(CI, ask(ROOT, before))
    await domain.signing.sign(CI, ask("acme/second", before))

    approval = await ask_for(domain, lowered, ROOT)
    found = await domain.audit.load_approval(approval)
    assert found is not None
    assert any("threshold" in line for line in found[0].why)
    assert found[1].previous == before, "people see what it was"
    await approve(domain, approval, lowered, ALICE)
    signed = await domain.signing.sign(CI, ask(ROOT, lowered))

    details = domain.audit.entries[signed.log_index].fields["details"]
    assert isinstance(details, dict)
    assert details["grave"] == "threshold-lowered"
    mark = domain.audit.find_mark(REPOSITORY, "root")
    assert mark is not None
    assert mark.state is MarkState.SIGNED, "the two of before have to sign as well"


async def test_nothing_is_built_on_a_snapshot_going_back_that_may_still_fail(
    domain: Domain,
) -> None:
    await a_bound_key(domain, "acme/online", "snapshot")
    await domain.signing.sign(CI, ask("acme/online", snapshot(5, targets=9)))
    lowered = snapshot(6, targets=8)
    await approve(domain, await ask_for(domain, lowered, "acme/online"), lowered, ALICE)

    results = await domain.signing.sign_batch(
        CI, [ask("acme/online", lowered), ask("acme/online", snapshot(7, targets=8))]
    )

    assert isinstance(results[0], Signed)
    assert isinstance(results[1], ConflictError)
    await domain.signing.sign(CI, ask("acme/online", snapshot(7, targets=8)))


async def test_a_rule_that_comes_into_force_while_the_token_signs_withholds_the_signature() -> None:
    policy = ReloadedPolicy(GRANTS)
    with a_domain(policy) as domain:
        await a_bound_key(domain)
        sign = domain.device.sign

        async def sign_slowly(*args: Any, **fields: Any) -> list[bytes | KeydError]:
            signed = await sign(*args, **fields)
            policy.now = parse_policy(GRANTS + RULE, "policy.toml")
            return signed

        domain.device.sign = sign_slowly  # type: ignore[method-assign]
        with pytest.raises(ConflictError, match="demands consent"):
            await domain.signing.sign(CI, ask(KEY, targets(1)))

        assert domain.audit.find_mark(REPOSITORY, "targets") is None
        assert domain.audit.drafts[-1].outcome is Outcome.REFUSED


# ----------------------------------------------------------------------------------- dry runs


async def test_a_dry_run_tells_checks_and_needs_and_leaves_nothing(domain: Domain) -> None:
    await a_bound_key(domain)
    entries, asked = len(domain.audit.entries), domain.token.signed

    would = await domain.signing.sign(CI, ask(KEY, targets(1), dry_run=True))

    assert any("version 1" in line for line in would.checks)
    assert any("two people for targets" in line for line in would.needs)
    assert (would.log_index, would.signature) == (-1, b"")
    assert (len(domain.audit.entries), domain.token.signed) == (entries, asked)
    assert not domain.audit.open_approvals()
    assert not domain.audit.marks()


async def test_asking_what_one_may_do_with_a_key_one_sees_is_no_refusal_in_the_log() -> None:
    """keydctl trust sign asks so of every signer's key; whoever probes for names is still seen."""
    looks = GRANTS.replace('["sign", "list"]', '["list"]')
    with a_domain(parse_policy(looks, "policy.toml")) as domain:
        await a_bound_key(domain)
        logged = []
        for caller, is_dry in ((CI, True), (STRANGER, True), (CI, False)):
            before = len(domain.audit.drafts)
            with pytest.raises(PolicyDeniedError):
                await domain.signing.sign(caller, ask(KEY, targets(1), dry_run=is_dry))
            logged.append([draft.outcome for draft in domain.audit.drafts[before:]])

    assert logged == [[], [Outcome.REFUSED], [Outcome.REFUSED]]


async def test_a_dry_run_stands_in_nobodys_way() -> None:
    with a_domain(parse_policy(GRANTS, "policy.toml")) as domain:
        await a_bound_key(domain)

        results = await domain.signing.sign_batch(
            CI,
            [ask(KEY, targets(1, "supposed"), dry_run=True), ask(KEY, targets(1, "real"))],
        )

        assert all(isinstance(result, Signed) for result in results)
        mark = domain.audit.find_mark(REPOSITORY, "targets")
        assert mark is not None
        assert mark.newest.digest == hashlib.sha256(targets(1, "real")).digest()


async def test_dry_runs_of_one_batch_see_each_other_as_signatures_would(domain: Domain) -> None:
    await a_bound_key(domain)
    entries = len(domain.audit.entries)

    results = await domain.signing.sign_batch(
        CI,
        [
            ask(KEY, message, dry_run=True)
            for message in (targets(100), targets(200), targets(200, "other"), targets(150))
        ],
    )

    kinds = [type(result) for result in results]
    assert kinds == [Signed, Signed, VersionTakenError, RuleRefusedError]
    assert len(domain.audit.entries) == entries, "nothing was refused that anybody asked for"


async def test_a_dry_run_of_what_is_signed_says_that_it_would_be_given_again() -> None:
    with a_domain(parse_policy(GRANTS, "policy.toml")) as domain:
        await a_bound_key(domain)
        await domain.signing.sign(CI, ask(KEY, targets(1)))
        await domain.signing.sign(CI, ask(KEY, targets(2)))

        would = await domain.signing.sign(CI, ask(KEY, targets(1), dry_run=True))

        assert would.replayed
        assert would.signature == b""
        assert "given again" in would.checks[0]
