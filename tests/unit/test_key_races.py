"""Keys that two people change at once, callers who leave, tokens that are swapped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from keyd.errors import (
    ConflictError,
    DeviceGoneError,
    KeyExistsError,
    KeyStateError,
    PolicyDeniedError,
    RotationConflictError,
    TokenLockedError,
    TokenNotFoundError,
    WrongTokenError,
)
from keyd.model import (
    Binding,
    Caller,
    Key,
    KeyAlgorithm,
    Outcome,
    Principal,
    TokenState,
    VersionState,
)
from keyd.policy import parse_policy
from tests.domain import ADMIN, POLICY, STRANGER, Domain, a_domain
from tests.fakes import FakeToken

P256 = KeyAlgorithm.ECDSA_P256
BOUND = Binding("acme", "targets")
HALF = Caller(Principal("uri:spiffe://acme/half", "mtls"), "req-half")
HALF_GRANTS = """
[[grant]]
name = "one key of many"
principals = ["uri:spiffe://acme/half"]
actions = ["list", "adopt", "freeze"]
keys = ["half/*"]
"""


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY + HALF_GRANTS, "policy.toml")) as made:
        yield made


class Held:
    """One method of the device that waits until it is let go; ``before``: what it waits with."""

    def __init__(self, domain: Domain, method: str, *, after_the_deed: bool = False) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        real: Callable[..., Awaitable[Any]] = getattr(domain.device, method)

        async def held(*args: Any, **kwargs: Any) -> Any:
            if after_the_deed:
                answer = await real(*args, **kwargs)
            self.begun.set()
            async with asyncio.timeout(5):
                await self.go_on.wait()
            return answer if after_the_deed else await real(*args, **kwargs)

        setattr(domain.device, method, held)


async def _doomed(domain: Domain) -> None:
    await domain.a_key()
    await domain.keys.schedule_destroy(ADMIN, "acme/targets", 1)
    domain.clock.advance(timedelta(days=8))


# ----------------------------------------------------------------------------------- destroy


async def test_a_destruction_under_way_cannot_be_cancelled(domain: Domain) -> None:
    await _doomed(domain)
    held = Held(domain, "destroy")
    destroying = asyncio.create_task(domain.keys.destroy(ADMIN, "acme/targets", 1))
    await asyncio.wait_for(held.begun.wait(), 5)

    for attempt in (domain.keys.cancel_destroy, domain.keys.destroy):
        with pytest.raises(KeyStateError, match="is being destroyed"):
            await attempt(ADMIN, "acme/targets", 1)
    held.go_on.set()
    key = await destroying

    assert key.versions[0].state is VersionState.DESTROYED


async def test_a_cancellation_that_comes_first_saves_the_key_pair(domain: Domain) -> None:
    await _doomed(domain)
    record = domain.audit.record

    async def cancelled_first(*args: Any, **kwargs: Any) -> Any:
        domain.audit.record = record  # type: ignore[method-assign]
        domain.keys._doomed.clear()  # the cancellation was checked before the destruction
        await domain.keys.cancel_destroy(ADMIN, "acme/targets", 1)
        return await record(*args, **kwargs)

    domain.audit.record = cancelled_first  # type: ignore[method-assign]
    with pytest.raises(ConflictError):
        await domain.keys.destroy(ADMIN, "acme/targets", 1)

    assert len(domain.token.keys) == 1
    assert domain.keys.get(ADMIN, "acme/targets").versions[0].state is VersionState.DISABLED


async def test_a_destruction_whose_caller_left_is_finished_and_logged(domain: Domain) -> None:
    await _doomed(domain)
    held = Held(domain, "destroy", after_the_deed=True)
    call = asyncio.create_task(domain.keys.destroy(ADMIN, "acme/targets", 1))
    await asyncio.wait_for(held.begun.wait(), 5)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    held.go_on.set()
    await domain.keys.drain()

    assert domain.keys.get(ADMIN, "acme/targets").versions[0].state is VersionState.DESTROYED
    assert domain.audit.drafts[-1].message == "destroyed on the token"


async def test_another_token_in_its_place_does_not_make_a_key_destroyed(domain: Domain) -> None:
    await _doomed(domain)
    domain.token.serial = "another"
    domain.token.keys.clear()

    with pytest.raises(WrongTokenError):
        await domain.keys.destroy(ADMIN, "acme/targets", 1)

    version = domain.keys.get(ADMIN, "acme/targets").versions[0]
    assert version.state is VersionState.DESTROY_SCHEDULED


async def test_a_destruction_the_token_refuses_is_an_entry(domain: Domain) -> None:
    await _doomed(domain)
    domain.token.state = TokenState.LOCKED

    with pytest.raises(TokenLockedError):
        await domain.keys.destroy(ADMIN, "acme/targets", 1)

    assert domain.audit.drafts[-1].outcome is Outcome.FAILED
    domain.token.state = TokenState.READY
    await domain.keys.destroy(ADMIN, "acme/targets", 1)


# ----------------------------------------------------------------------------------- generate


async def test_a_second_creation_of_a_name_does_not_have_the_first_one_undone(
    domain: Domain,
) -> None:
    held = Held(domain, "generate")
    first = asyncio.create_task(domain.a_key())
    await asyncio.wait_for(held.begun.wait(), 5)
    domain.audit.find = lambda name: None  # type: ignore[method-assign]
    with pytest.raises(KeyExistsError):  # it was checked before the first one's intent
        await domain.a_key()
    del domain.audit.find

    told = await domain.enrolment.settle("main")
    held.go_on.set()
    key = await first

    assert not told
    assert key.versions[0].state is VersionState.ENABLED


async def test_a_token_that_is_away_takes_no_name(domain: Domain) -> None:
    domain.token.state = TokenState.ABSENT

    with pytest.raises(DeviceGoneError):
        await domain.a_key()

    assert domain.audit.find("acme/targets") is None
    assert domain.actions() == ["create failed"]


async def test_a_swapped_token_does_not_have_a_key_pair_forgotten(domain: Domain) -> None:
    generate = domain.device.generate

    async def lost(*args: Any) -> Any:
        await generate(*args)
        domain.token.state = TokenState.ABSENT
        raise DeviceGoneError("pulled", token="main")

    domain.device.generate = lost  # type: ignore[method-assign, assignment]
    with pytest.raises(DeviceGoneError):
        await domain.a_key()
    domain.token.state, domain.token.serial = TokenState.READY, "another"
    keys = dict(domain.token.keys)
    domain.token.keys.clear()

    (told,) = await domain.enrolment.settle("main")

    assert "stays PENDING" in told
    domain.token.serial = FakeToken("main", "fa4e000000000001", "").serial
    domain.token.keys.update(keys)
    await domain.enrolment.settle("main")
    assert domain.keys.get(ADMIN, "acme/targets").versions[0].state is VersionState.ENABLED


async def test_two_rotations_at_once_give_one_version_and_one_conflict(domain: Domain) -> None:
    await domain.a_key()

    results = await asyncio.gather(
        *(domain.keys.rotate(ADMIN, "acme/targets", at_once=True) for _ in range(2)),
        return_exceptions=True,
    )

    assert {type(r) for r in results} == {Key, RotationConflictError}
    assert len(domain.keys.get(ADMIN, "acme/targets").versions) == 2


async def test_a_key_bound_while_it_rotates_at_once_is_only_staged(domain: Domain) -> None:
    await domain.a_key()
    held = Held(domain, "generate")
    rotating = asyncio.create_task(domain.keys.rotate(ADMIN, "acme/targets", at_once=True))
    await asyncio.wait_for(held.begun.wait(), 5)

    await domain.keys.update(ADMIN, "acme/targets", bindings=frozenset({BOUND}))
    held.go_on.set()
    key = await rotating

    assert key.active_version == 1
    assert key.versions[1].state is VersionState.ENABLED


async def test_a_key_of_a_token_taken_from_the_configuration_does_not_rotate(
    domain: Domain,
) -> None:
    await domain.a_key()
    domain.device._tokens.clear()

    with pytest.raises(TokenNotFoundError):
        await domain.keys.rotate(ADMIN, "acme/targets", at_once=True)


async def test_a_version_disabled_meanwhile_is_not_activated(domain: Domain) -> None:
    await domain.a_key("acme/targets", P256, BOUND)
    await domain.keys.rotate(ADMIN, "acme/targets", at_once=False)
    record = domain.audit.record

    async def disabled_first(*args: Any, **kwargs: Any) -> Any:
        domain.audit.record = record  # type: ignore[method-assign]
        await domain.keys.disable(ADMIN, "acme/targets", 2)
        return await record(*args, **kwargs)

    domain.audit.record = disabled_first  # type: ignore[method-assign]
    with pytest.raises(ConflictError):
        await domain.keys.activate(ADMIN, "acme/targets", 2)

    assert domain.keys.get(ADMIN, "acme/targets").active_version == 1


# ----------------------------------------------------------------------------------- grants


async def test_an_adopted_version_of_a_bound_key_is_only_staged(domain: Domain) -> None:
    await domain.a_key("acme/targets", P256, BOUND)
    await domain.device.generate("main", P256, b"\x09", "acme/targets/2")

    (key,), _ = await domain.keys.adopt_labelled(ADMIN, "main")

    assert (key.active_version, len(key.versions)) == (1, 2)


@pytest.mark.parametrize("token", ["main", "", "nope"])
async def test_a_stranger_does_not_learn_from_adoption_what_lies_on_a_token(
    domain: Domain, token: str
) -> None:
    await domain.a_key("acme/root")

    with pytest.raises(PolicyDeniedError) as e:
        await domain.keys.adopt_labelled(STRANGER, token)

    assert "acme/root" not in str(e.value)


async def test_adoption_does_not_name_a_key_the_caller_may_not_see(domain: Domain) -> None:
    await domain.a_key("acme/root")
    (object_id,) = domain.token.keys

    with pytest.raises(KeyExistsError) as e:
        await domain.keys.adopt(HALF, "main", "half/mine", object_id)

    assert "acme/root" not in f"{e.value.message} {e.value.facts} {e.value.hint}"
    with pytest.raises(KeyExistsError, match="registered as acme/root"):
        await domain.keys.adopt(ADMIN, "main", "half/mine", object_id)


async def test_a_freeze_does_not_tell_of_freezes_on_keys_the_caller_may_not_see(
    domain: Domain,
) -> None:
    await domain.a_key("acme/root")
    await domain.a_key("half/mine")
    await domain.keys.freeze(ADMIN, "acme/root", said="leak suspected")

    theirs = await domain.keys.freeze(HALF, "half/mine")
    all_of_them = await domain.keys.freeze(ADMIN, "")

    assert [f.key for f in theirs] == ["half/mine"]
    assert [f.key for f in all_of_them] == ["", "acme/root", "half/mine"]


async def test_the_log_keys_object_is_nobodys_to_adopt(domain: Domain) -> None:
    made = await domain.device.generate("main", P256, b"\x0b", "keyd/log/1")

    keys, skipped = await domain.keys.adopt_labelled(ADMIN, "main")

    assert not keys
    assert len(skipped) == 1
    assert domain.audit.find_public_key(made.public_key) is None
