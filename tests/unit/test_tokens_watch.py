"""Watching tokens: what blinks, for whom, and who may know the names of keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

import pytest

from keyd.errors import PolicyDeniedError
from keyd.model import Caller, Principal, Purpose, TokenState, TokenStatus, TouchRequest, Waiting
from keyd.policy import parse_policy
from keyd.tokens import Tokens
from tests.domain import ADMIN, STRANGER, Domain, a_domain
from tests.fakes import FakeDevice

POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "desk"
principals = ["uri:spiffe://acme/desk"]
actions = ["tokens"]
tokens = ["*"]
"""
DESK = Caller(Principal("uri:spiffe://acme/desk", "mtls"), "req-desk")
MINE = Purpose("acme/root", "root 7", STRANGER.principal.id, "req-1")
NOT_MINE = Purpose("acme/targets", "targets 3", "uri:spiffe://acme/ci", "req-2")


class BlinkingDevice(FakeDevice):
    """Shows what the test says."""

    touch: TouchRequest | None = None
    waiting: tuple[Waiting, ...] = ()

    def tokens(self) -> list[TokenStatus]:
        """See model.Device."""
        return [replace(t, touch=self.touch, waiting=self.waiting) for t in super().tokens()]

    def blink(self, purpose: Purpose, left_s: float = 11.3) -> None:
        """It waits for a touch."""
        self.touch = TouchRequest("fa4e", purpose, left_s, 15.0)


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain(parse_policy(POLICY, "policy.toml")) as made:
        yield made


@pytest.fixture
def device() -> BlinkingDevice:
    device = BlinkingDevice.with_token()
    assert isinstance(device, BlinkingDevice)
    return device


@pytest.fixture
def tokens(domain: Domain, device: BlinkingDevice) -> Tokens:
    return Tokens(
        gate=domain.gate,
        device=device,
        audit=domain.audit,
        registry=domain.audit,
        approvals=domain.approvals,
    )


async def following(changes: AsyncGenerator[TokenStatus, None]) -> TokenStatus:
    async with asyncio.timeout(5):
        return await anext(changes)


async def silence(changes: AsyncGenerator[TokenStatus, None]) -> None:
    """Nothing is told for longer than a look takes; the stream is over after that."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await anext(changes)


async def test_a_watcher_sees_the_tokens_and_each_change_once(
    tokens: Tokens, device: BlinkingDevice
) -> None:
    changes = tokens.watch(ADMIN)
    first = await following(changes)
    device.blink(MINE)
    lit = await following(changes)
    device.touch = None
    dark = await following(changes)
    await silence(changes)

    assert (first.state, first.touch) == (TokenState.READY, None)
    assert lit.touch is not None
    assert str(lit.touch).endswith("12 s left")
    assert dark.touch is None


async def test_who_asked_sees_what_blinks_for_it_without_a_grant_for_tokens(
    tokens: Tokens, device: BlinkingDevice
) -> None:
    device.waiting = (Waiting(NOT_MINE, 1), Waiting(MINE, 2))
    changes = tokens.watch(STRANGER, asked="req-1")
    queued = await following(changes)
    device.waiting = ()
    device.blink(MINE)
    lit = await following(changes)
    device.touch = None
    over = await following(changes)
    await silence(changes)

    # Who is first in the queue is no business of the second.
    assert queued.waiting == (Waiting(Purpose(), 1), Waiting(MINE, 2))
    assert lit.touch is not None and lit.touch.purpose == MINE
    assert over.touch is None
    assert (queued.before, lit.before, over.before) == (1, 0, 0)


async def test_whoever_asked_is_told_how_many_signatures_come_first(
    tokens: Tokens, device: BlinkingDevice
) -> None:
    device.blink(NOT_MINE)
    device.waiting = (Waiting(NOT_MINE, 3), Waiting(MINE, 2), Waiting(NOT_MINE, 9))
    changes = tokens.watch(STRANGER, asked="req-1")
    behind = await following(changes)
    device.waiting = (Waiting(MINE, 2),)
    next_one = await following(changes)
    await changes.aclose()
    others = await following(tokens.watch(ADMIN))

    assert behind.before == 1 + 3
    assert behind.touch is not None and behind.touch.purpose == Purpose()
    assert next_one.before == 1
    # Who watches all tokens waits for nothing.
    assert others.before == 0


@pytest.mark.parametrize("asked", ["req-2", "req-3"])
async def test_a_request_of_somebody_else_cannot_be_watched_by_its_id(
    tokens: Tokens, device: BlinkingDevice, asked: str
) -> None:
    device.blink(NOT_MINE)

    await silence(tokens.watch(STRANGER, asked=asked))


async def test_names_of_keys_are_told_only_to_those_who_may_see_them(
    tokens: Tokens, device: BlinkingDevice
) -> None:
    device.blink(NOT_MINE)
    changes = tokens.watch(DESK)
    shown = await following(changes)
    await changes.aclose()
    (listed,) = tokens.list(DESK)

    for status in (shown, listed):
        assert status.touch is not None
        assert status.touch.purpose == Purpose()
    assert shown.touch is not None
    assert str(shown.touch) == "touch token fa4e, 12 s left"


async def test_a_stranger_watches_no_token(tokens: Tokens) -> None:
    with pytest.raises(PolicyDeniedError):
        await following(tokens.watch(STRANGER, "main"))
    await silence(tokens.watch(STRANGER))


async def test_a_touch_for_no_registered_key_is_told_as_it_is(
    tokens: Tokens, device: BlinkingDevice
) -> None:
    device.blink(Purpose(what="to prove that a key signs"))
    shown = await following(tokens.watch(DESK))

    assert str(shown.touch) == "touch token fa4e (to prove that a key signs), 12 s left"
