"""Tokens as callers see them: grants, entries, and nothing told to strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from keyd.errors import (
    ApprovalNeededError,
    ApprovalStateError,
    PinRefusedError,
    PolicyDeniedError,
    TokenNotFoundError,
)
from keyd.model import (
    Caller,
    Effect,
    EntryDraft,
    Outcome,
    Pin,
    Principal,
    Receipt,
    TokenState,
)
from keyd.policy import parse_policy
from tests.domain import ADMIN, STRANGER, Domain, a_domain

POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "remote operators"
principals = ["uri:spiffe://acme/operator"]
actions = ["unlock", "lock", "tokens"]
tokens = ["*"]
"""
OPERATOR = Caller(Principal("uri:spiffe://acme/operator", "mtls"), "req-op")


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY, "policy.toml")) as made:
        yield made


async def test_a_person_unlocks_and_the_entry_has_no_pin(domain: Domain) -> None:
    domain.token.state = TokenState.LOCKED

    status = await domain.tokens.unlock(ADMIN, "main", Pin("31415926"))

    assert status.state is TokenState.READY
    assert b"31415926" not in b"".join(e.body for e in domain.audit.entries)


async def test_a_pin_for_a_token_that_is_ready_already_is_not_tried_and_the_log_says_so(
    domain: Domain,
) -> None:
    status = await domain.tokens.unlock(ADMIN, "main", Pin("00000000"))

    assert status.state is TokenState.READY
    assert domain.audit.drafts[-1].message == "it was READY already; no PIN was tried"
    await domain.tokens.lock(ADMIN, "main")
    await domain.tokens.unlock(ADMIN, "main", Pin("31415926"))
    assert domain.audit.drafts[-1].message == "with a PIN given by the caller"


async def test_a_refused_pin_is_an_alert_and_is_not_tried_again(domain: Domain) -> None:
    domain.token.state = TokenState.LOCKED

    with pytest.raises(PinRefusedError):
        await domain.tokens.unlock(ADMIN, "main", Pin("00000000"))

    last = domain.audit.drafts[-1]
    assert (last.outcome, last.reason_code, last.alert) == (Outcome.FAILED, "PIN_REFUSED", True)
    assert domain.token.wrong_pins == 1


async def test_unlock_over_tcp_needs_a_policy_that_says_so(domain: Domain) -> None:
    domain.token.state = TokenState.LOCKED

    with pytest.raises(PolicyDeniedError):
        await domain.tokens.unlock(OPERATOR, "main", Pin("31415926"))

    assert domain.token.state is TokenState.LOCKED
    await domain.tokens.lock(OPERATOR, "main")


async def test_the_pin_of_a_yubikey_is_refused_over_tcp_whatever_the_policy_says() -> None:
    policy = POLICY.replace(
        'actions = ["unlock", "lock"', 'remote_unlock = true\nactions = ["unlock"'
    )
    with a_domain(parse_policy(policy, "policy.toml")) as domain:
        domain.token.state = TokenState.LOCKED
        domain.token.model = "YubiKey YK5"
        with pytest.raises(PolicyDeniedError, match="unix sockets only"):
            await domain.tokens.unlock(OPERATOR, "main", Pin("31415926"))
        assert domain.token.state == "LOCKED"
        assert [refused.action for refused in domain.audit.refused] == ["unlock"]

        domain.token.model = ""  # not seen since the start: it may be one
        with pytest.raises(PolicyDeniedError, match="unix sockets only"):
            await domain.tokens.unlock(OPERATOR, "main", Pin("31415926"))
        assert [refused.action for refused in domain.audit.refused] == ["unlock", "unlock"]

        domain.token.model = "SoftHSM v2"
        await domain.tokens.unlock(OPERATOR, "main", Pin("31415926"))
        assert domain.token.state is TokenState.READY


async def test_a_locked_token_stays_locked_until_somebody_unlocks_it(domain: Domain) -> None:
    status = await domain.tokens.lock(ADMIN, "main", said="lunch")

    assert status.state is TokenState.LOCKED
    assert domain.audit.drafts[-1].said == "lunch"


async def test_strangers_see_no_token_and_touch_none(domain: Domain) -> None:
    assert domain.tokens.list(STRANGER) == []
    for attempt in (
        lambda: domain.tokens.unlock(STRANGER, "main", None),
        lambda: domain.tokens.lock(STRANGER, "main"),
        lambda: domain.tokens.objects(STRANGER, "main"),
    ):
        with pytest.raises(PolicyDeniedError):
            await attempt()


async def test_an_unknown_token_is_named_to_those_who_may_ask(domain: Domain) -> None:
    with pytest.raises(TokenNotFoundError):
        await domain.tokens.lock(ADMIN, "other")


async def test_objects_name_keys_only_to_those_who_may_see_them(domain: Domain) -> None:
    await domain.a_key("acme/root")
    await domain.device.generate("main", domain.audit.keys()[0].algorithm, b"\x09", "foreign")

    ours = {o.label: name for o, name in await domain.tokens.objects(ADMIN, "main")}
    theirs = {o.label: name for o, name in await domain.tokens.objects(OPERATOR, "main")}

    assert ours == {"acme/root/1": "acme/root/versions/1", "foreign": ""}
    # keyd writes the key's name into the label, so that is not shown either.
    assert theirs == {"": "(a key you may not see)", "foreign": ""}


async def test_pins_tried_with_short_deadlines_are_all_in_the_log(domain: Domain) -> None:
    domain.token.state = TokenState.LOCKED
    unlock = domain.device.unlock
    tried = asyncio.Event()
    answered = asyncio.Event()

    async def slowly(token: str, pin: Pin | None, *, spend_last_try: bool = False) -> bool:
        tried.set()
        await answered.wait()
        return await unlock(token, pin, spend_last_try=spend_last_try)

    domain.device.unlock = slowly  # type: ignore[method-assign]
    call = asyncio.create_task(domain.tokens.unlock(ADMIN, "main", Pin("00000000")))
    async with asyncio.timeout(5):
        await tried.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        answered.set()
        await domain.tokens.drain()

    last = domain.audit.drafts[-1]
    assert (last.action, last.reason_code, last.alert) == ("unlock", "PIN_REFUSED", True)


async def test_a_lock_that_is_in_the_log_happens_though_its_caller_left(domain: Domain) -> None:
    record = domain.audit.record
    recording = asyncio.Event()
    committed = asyncio.Event()

    async def slowly(draft: EntryDraft, effects: Sequence[Effect] = ()) -> Receipt:
        recording.set()
        await committed.wait()
        return await record(draft, effects)

    domain.audit.record = slowly  # type: ignore[method-assign]
    call = asyncio.create_task(domain.tokens.lock(ADMIN, "main"))
    async with asyncio.timeout(5):
        await recording.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        committed.set()
        await domain.tokens.drain()

    assert domain.token.state is TokenState.LOCKED


CONSENT = """
[[grant]]
name = "people"
principals = ["email:*@example.org"]
actions = ["approver"]
keys = ["*"]

[[rule]]
name = "not alone"
tokens = ["main"]
actions = ["unlock"]
approvals = 1
"""


async def test_an_unlock_that_waits_for_people_never_shows_them_the_pin() -> None:
    alice = Caller(Principal("email:alice@example.org", "mtls"), "req-alice")
    with a_domain(parse_policy(POLICY + CONSENT, "policy.toml")) as domain:
        domain.token.state = TokenState.LOCKED
        with pytest.raises(ApprovalNeededError) as e:
            await domain.tokens.unlock(ADMIN, "main", Pin("31415926"))
        waiting = domain.token.state
        shown = await domain.approvals.get(alice, e.value.facts["approval"])
        await domain.approvals.approve(alice, shown.approval.id, shown.approval.digest)
        await domain.tokens.unlock(ADMIN, "main", Pin("31415926"))

        assert waiting is TokenState.LOCKED
        assert b"31415926" not in shown.contents.content
        assert "31415926" not in repr(domain.audit.drafts)
        assert domain.token.state is TokenState.READY
        assert domain.audit.drafts[-2].details["approval"] == shown.approval.id


async def test_of_two_unlocks_with_one_approval_one_tries_its_pin() -> None:
    alice = Caller(Principal("email:alice@example.org", "mtls"), "req-alice")
    with a_domain(parse_policy(POLICY + CONSENT, "policy.toml")) as domain:
        domain.token.state = TokenState.LOCKED
        with pytest.raises(ApprovalNeededError) as e:
            await domain.tokens.unlock(ADMIN, "main", Pin("00000000"))
        shown = await domain.approvals.get(alice, e.value.facts["approval"])
        await domain.approvals.approve(alice, shown.approval.id, shown.approval.digest)
        results = await asyncio.gather(
            domain.tokens.unlock(ADMIN, "main", Pin("00000000")),
            domain.tokens.unlock(ADMIN, "main", Pin("00000000")),
            return_exceptions=True,
        )

        assert {type(r) for r in results} == {PinRefusedError, ApprovalStateError}
        assert domain.token.wrong_pins == 1
