"""Which signatures may wait for a touch, what travels beside them, and what a person is asked."""

from __future__ import annotations

import asyncio

import pytest

from keyd.device.touch import TouchDesk
from keyd.model import KeyAlgorithm, Purpose, Scheme, SignJob

PURPOSE = Purpose("acme/root", "root 7", "ci@acme")


def job(key: bytes) -> SignJob:
    return SignJob(
        key, b"spki", KeyAlgorithm.ECDSA_P256, Scheme.ECDSA_P256_SHA256, bytes(32), purpose=PURPOSE
    )


NEVER, ALWAYS, CACHED, UNKNOWN = job(b"n"), job(b"a"), job(b"c"), job(b"u")


@pytest.fixture
def desk() -> TouchDesk:
    made = TouchDesk()
    made.policies = {b"a": "always", b"c": "cached", b"u": "unknown"}
    return made


def test_a_signature_that_may_wait_travels_alone_through_an_idle_token(desk: TouchDesk) -> None:
    for waits in (ALWAYS, CACHED, UNKNOWN):
        assert not desk.frame_rule(0.0, is_idle=False)(waits, 0)
        alone = desk.frame_rule(0.0, is_idle=True)
        assert [alone(waits, 0), alone(waits, 1), alone(NEVER, 1)] == [True, False, False]
    others = desk.frame_rule(0.0, is_idle=False)
    assert [others(NEVER, 0), others(NEVER, 7), others(ALWAYS, 8)] == [True, True, False]


def test_a_cached_touch_counts_for_its_key_until_shortly_before_its_end(desk: TouchDesk) -> None:
    desk.begin(CACHED)
    desk.end(100.0)

    assert not desk.needs_touch(CACHED, 112.9)
    assert desk.needs_touch(CACHED, 113.1)
    assert desk.needs_touch(ALWAYS, 101.0)
    desk.forget()
    assert desk.needs_touch(CACHED, 101.0)


def test_a_touch_that_is_wanted_always_counts_for_nothing_after(desk: TouchDesk) -> None:
    desk.begin(ALWAYS)
    desk.end(100.0)

    assert desk.needs_touch(ALWAYS, 100.0)
    assert desk.counts_for is None


async def test_a_token_that_does_not_tell_is_taken_to_blink_when_it_is_silent(
    desk: TouchDesk,
) -> None:
    desk.light_up(PURPOSE, 15.0, certain=False)
    at_once = desk.request("1")
    await asyncio.sleep(1.1)
    later = desk.request("1")
    desk.go_out()
    over = desk.request("1")

    assert (at_once, over) == (None, None)
    assert later is not None and 13 < later.left_s < 14


async def test_a_quick_signature_of_a_token_that_does_not_tell_asks_nobody(
    desk: TouchDesk,
) -> None:
    desk.light_up(PURPOSE, 15.0, certain=False)
    desk.end(0.0)
    await asyncio.sleep(1.1)

    assert desk.request("1") is None
