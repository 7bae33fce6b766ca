"""Signing with a person in the loop: touches that come, come late, never, or are refused."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from keyd.device.pool import DevicePool
from keyd.errors import (
    DeadlineError,
    DeviceGoneError,
    KeydError,
    TokenObjectError,
    TouchRefusedError,
)
from keyd.model import KeyAlgorithm, Purpose, SignJob, TokenState, TouchRequest
from tests.softhsm import SoftHsm
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench
from tests.yubikey.desk import SLOT, Desk, check, eventually, is_state, job, sign, status
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FIRMWARE_5_7, Model
from tests.yubikey.touch import Person

PURPOSE = Purpose("acme/root", "root 7", "ci@acme", "req-1")


async def touch_shown(desk: Desk, pool: DevicePool) -> TouchRequest:
    """What a person is asked for, once they are and the key blinks."""
    await eventually(lambda: status(pool).touch is not None)
    shown = status(pool).touch
    assert shown is not None
    await asyncio.to_thread(desk.key.wait_for_blinking)
    return shown


async def start(pool: DevicePool, *jobs: SignJob) -> asyncio.Task[list[bytes | KeydError]]:
    """A call that is under way."""
    call = asyncio.create_task(sign(pool, *jobs))
    await asyncio.sleep(0)
    return call


async def test_while_a_key_blinks_everybody_is_told_for_what_and_for_how_long(desk: Desk) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        before = status(pool).touch
        signing = await start(pool, job(public_key, purpose=PURPOSE))
        shown = await touch_shown(desk, pool)
        await asyncio.sleep(1.1)
        later = status(pool).touch
        desk.key.touch()
        check(public_key, (await signing)[0])
        after = status(pool).touch

    assert (before, after) == (None, None)
    assert shown.serial == str(desk.key.serial)
    assert shown.purpose == PURPOSE
    assert 14 < shown.left_s <= shown.window_s == 15
    assert later is not None and 1 <= shown.left_s - later.left_s < 2
    assert str(later).startswith(
        "touch token 1234567 (acme/root, root 7, asked by ci@acme), 14 s left"
    )


async def test_a_touch_that_never_comes_is_a_deadline_in_words_and_is_asked_for_once(
    desk: Desk,
) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        pins = desk.key.state.pins_offered
        desk.key.person(Person.SLEEPS, window_s=0.5)
        (answer,) = await sign(pool, job(public_key, purpose=PURPOSE))
        await asyncio.sleep(0.6)
        state = desk.key.state
        is_ready = status(pool).state is TokenState.READY
        desk.key.person(Person.TOUCHES)
        check(public_key, (await sign(pool, job(public_key)))[0])

    assert isinstance(answer, DeadlineError)
    assert answer.message.startswith("touch token 1234567: yubi was not touched within 15 s")
    assert "acme/root, root 7, asked by ci@acme" in answer.message
    assert answer.retry_after_s is None
    assert (state.touch_requests, state.pins_offered - pins) == (1, 0)
    assert is_ready
    assert desk.key.state.pins_offered == pins


async def test_a_refused_touch_is_a_clear_refusal_and_is_asked_for_once(desk: Desk) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        pins = desk.key.state.pins_offered
        desk.key.person(Person.REFUSES)
        (answer,) = await sign(pool, job(public_key))
        await asyncio.sleep(0.6)
        state = desk.key.state
        is_ready = status(pool).state is TokenState.READY

    assert isinstance(answer, TouchRefusedError)
    assert "did not accept a touch" in answer.message and "1234567" in answer.message
    assert answer.retry_after_s is None
    assert (state.touch_requests, state.pins_offered - pins) == (1, 0)
    assert is_ready


async def test_five_signatures_of_one_call_are_given_up_after_one_touch_that_never_came(
    desk: Desk,
) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        desk.key.person(Person.SLEEPS, window_s=0.3)
        answers = await sign(pool, *[job(public_key)] * 5)

    assert [type(answer) for answer in answers] == [DeadlineError] * 5
    assert desk.key.state.touch_requests == 1


async def test_an_untouched_key_does_not_fail_a_job_for_another_key(desk: Desk) -> None:
    touched, other = desk.make(touch="ALWAYS"), desk.make(slot=SLOT + 1)
    jobs = [job(touched), job(other, b"\x06"), job(touched), job(other, b"\x06")]
    async with desk.running() as pool:
        desk.key.person(Person.SLEEPS, window_s=0.3)
        first, second, third, fourth = await sign(pool, *jobs)

    assert isinstance(first, DeadlineError) and isinstance(third, DeadlineError)
    check(other, second)
    check(other, fourth)


async def test_a_token_timeout_shorter_than_a_touch_kills_no_host(desk: Desk) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running(token_timeout_s=0.3) as pool:
        signing = await start(pool, job(public_key))
        await touch_shown(desk, pool)
        await asyncio.sleep(1.0)
        desk.key.touch()
        check(public_key, (await signing)[0])

    assert desk.kinds() == ["unlocked"]


async def test_a_caller_that_leaves_the_queue_is_not_touched_for(desk: Desk) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        first = await start(pool, job(public_key))
        await touch_shown(desk, pool)
        left = False
        second = asyncio.create_task(pool.sign("yubi", [job(public_key)], lambda: left))
        await eventually(lambda: status(pool).queued == 1)
        left = True
        desk.key.touch()
        check(public_key, (await first)[0])
        (dropped,) = await second

    assert isinstance(dropped, DeadlineError)
    assert desk.key.state.touch_requests == 1


async def test_requests_for_the_same_token_queue_in_sight(desk: Desk) -> None:
    public_key = desk.make(touch="ALWAYS")
    other = Purpose("acme/targets", "targets 3", "alice@acme", "req-2")
    async with desk.running() as pool:
        first = await start(pool, job(public_key, purpose=PURPOSE))
        await touch_shown(desk, pool)
        second = await start(pool, *[job(public_key, purpose=other)] * 2)
        await eventually(lambda: status(pool).queued == 2)
        (waiting,) = status(pool).waiting
        desk.key.person(Person.TOUCHES)
        desk.key.touch()
        for answer in (*await first, *await second):
            check(public_key, answer)

    assert (waiting.purpose, waiting.signatures) == (other, 2)


async def test_one_who_asks_without_end_keeps_nobody_from_the_next_touch(desk: Desk) -> None:
    public_key = desk.make(touch="ALWAYS")

    def asked_by(who: str, number: int) -> SignJob:
        purpose = Purpose("acme/root", f"file {number}", who, f"{who}-{number}")
        return job(public_key, payload=os.urandom(32), purpose=purpose)

    async with desk.running() as pool:
        flood = [asyncio.create_task(sign(pool, asked_by("mallory", n))) for n in range(6)]
        await asyncio.to_thread(desk.key.wait_for_blinking)
        alice = asyncio.create_task(sign(pool, asked_by("alice", 1)))
        await eventually(lambda: status(pool).queued == 6)
        for _ in range(2):
            await asyncio.to_thread(desk.key.wait_for_blinking)
            assert await asyncio.to_thread(desk.key.touch)
        (made,) = await asyncio.wait_for(alice, 10)
        assert isinstance(made, bytes), repr(made)
        for waiting in flood:
            waiting.cancel()
        results = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1


async def test_a_batch_is_planned_inside_the_time_a_cached_touch_counts(desk: Desk) -> None:
    cached, always = desk.make(touch="CACHED"), desk.make(touch="ALWAYS", slot=SLOT + 1)
    async with desk.running() as pool:
        desk.key.person(Person.TOUCHES, after_s=0.05)
        calls = [
            await start(pool, *[job(cached)] * 20),
            await start(pool, job(always, b"\x06")),
            await start(pool, *[job(cached)] * 20),
        ]
        answers = [await call for call in calls]

    for answer in (*answers[0], *answers[2]):
        check(cached, answer)
    check(always, answers[1][0])
    assert desk.key.state.touch_requests == 2


async def test_a_cached_touch_that_is_old_is_asked_for_again_and_said(desk: Desk) -> None:
    cached = desk.make(touch="CACHED")
    async with desk.running() as pool:
        desk.key.person(Person.TOUCHES)
        check(cached, (await sign(pool, job(cached)))[0])
        desk.key.person(Person.WAITS)
        desk.key.age_touch(16)
        signing = await start(pool, job(cached))
        await asyncio.to_thread(desk.key.wait_for_blinking)
        desk.key.touch()
        check(cached, (await signing)[0])


async def test_other_tokens_sign_while_one_blinks(desk: Desk, tmp_path: Path) -> None:
    # A SoftHSM: the two slots of the virtual reader take turns, other than two YubiKeys.
    hsm = SoftHsm(tmp_path)
    hsm.init_token("second")
    hsm.pin_file(name="pin2")
    other = hsm.config("second", pin_source=f"file:{hsm.folder / 'pin2'}")
    public_key = desk.make(touch="ALWAYS")
    async with desk.running(more=[other]) as pool:
        made = await pool.generate("second", KeyAlgorithm.ECDSA_P256, b"id", "acme/other/1")
        signing = await start(pool, job(public_key))
        await touch_shown(desk, pool)
        async with asyncio.timeout(1):
            (answer,) = await pool.sign("second", [job(made.public_key, b"id")])
        still = status(pool).touch
        desk.key.touch()
        check(public_key, (await signing)[0])

    check(made.public_key, answer)
    assert still is not None


async def test_a_key_pulled_while_it_blinks_is_gone_and_not_called_a_refused_touch(
    desk: Desk,
) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        signing = await start(pool, job(public_key))
        await asyncio.to_thread(desk.key.wait_for_blinking)
        desk.key.remove()
        (answer,) = await signing
        await eventually(is_state(pool, TokenState.ABSENT), within_s=1.0)
        shown = status(pool).touch

    assert isinstance(answer, DeviceGoneError)
    assert answer.retry_after_s is not None
    assert shown is None


async def test_a_key_swapped_while_it_blinks_is_not_signed_with(desk: Desk, bench: Bench) -> None:
    public_key = desk.make(touch="ALWAYS")
    other = bench.add(Model(7654321), slot=None)
    async with desk.running() as pool:
        signing = await start(pool, job(public_key))
        await asyncio.to_thread(desk.key.wait_for_blinking)
        await asyncio.to_thread(desk.key.swap_for, other)
        (answer,) = await signing
        await eventually(is_state(pool, TokenState.ABSENT), within_s=1.0)

    assert isinstance(answer, DeviceGoneError)
    assert (other.state.pins_offered, other.state.signatures) == (0, 0)


@pytest.mark.parametrize("touch", ["ALWAYS", "NEVER"])
async def test_a_key_that_another_program_erased_is_not_called_untouched(
    desk: Desk, touch: str
) -> None:
    public_key = desk.make(touch=touch)
    async with desk.running() as pool:
        desk.key.factory_reset()
        (answer,) = await sign(pool, job(public_key, payload=os.urandom(32)))

    assert isinstance(answer, KeydError)
    assert not isinstance(answer, DeadlineError | TouchRefusedError)
    assert f"no key in slot {SLOT:02x} any more" in answer.message


async def test_a_key_that_another_program_deleted_is_told_so_and_the_others_sign_on(
    desk: Desk, bench: Bench
) -> None:
    """It is no pulled YubiKey: nobody is told to wait, or to plug it in."""
    key = await asyncio.to_thread(bench.add, Model(7654321, FIRMWARE_5_7), 1)
    doomed, kept = (desk.make(slot=SLOT + n, serial=key.serial) for n in (0, 1))
    async with desk.running(serial=str(key.serial)) as pool:
        check(doomed, (await sign(pool, job(doomed)))[0])
        await asyncio.to_thread(
            desk.worker.call, by_yubikit.delete, key.serial, FACTORY_MANAGEMENT_KEY, SLOT
        )
        (answer,) = await sign(pool, job(doomed, payload=os.urandom(32)))
        await eventually(is_state(pool, TokenState.READY))
        check(kept, (await sign(pool, job(kept, b"\x06")))[0])
    assert isinstance(answer, TokenObjectError)
    assert f"no key in slot {SLOT:02x} any more" in answer.message
    assert "keydctl yubikey list yubi" in answer.hint
