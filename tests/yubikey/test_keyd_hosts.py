"""keyd's own token hosts on the real libykcs11 with an emulated YubiKey."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from keyd.errors import DeviceGoneError, KeydError, PinRefusedError, TokenLockedError
from keyd.model import KeyAlgorithm, Pin, Scheme, TokenState
from tests.yubikey.bench import Bench
from tests.yubikey.desk import SLOT, Desk, check, eventually, is_state, job, sign
from tests.yubikey.model import FACTORY_PIN, Model
from tests.yubikey.touch import Person


async def test_a_host_logs_in_and_signs_with_every_curve_libykcs11_knows(desk: Desk) -> None:
    p256, p384 = desk.make(), desk.make("ECCP384", slot=SLOT + 1)
    digest = hashlib.sha384(b"message").digest()
    order = job(
        p384,
        b"\x06",
        algorithm=KeyAlgorithm.ECDSA_P384,
        scheme=Scheme.ECDSA_P384_SHA384,
        payload=digest,
    )
    async with desk.running() as pool:
        assert pool.tokens()[0].state is TokenState.READY
        assert pool.tokens()[0].serial == str(desk.key.serial)
        first, second = await sign(pool, job(p256), order)
    check(p256, first)
    assert isinstance(second, bytes)
    assert len(second) == 96


async def test_a_wrong_configured_pin_is_offered_once_and_leaves_two_tries(desk: Desk) -> None:
    desk.pin_file.write_text("999999")
    async with desk.running() as pool:
        assert pool.tokens()[0].state is TokenState.LOCKED
        await asyncio.sleep(1.0)
    state = desk.key.state
    assert (state.pins_offered, state.pin_tries) == (1, 2)


async def test_a_person_is_told_that_the_pin_is_wrong_and_the_right_one_opens(desk: Desk) -> None:
    public_key = desk.make()
    async with desk.running(pin_source="prompt") as pool:
        with pytest.raises(PinRefusedError):
            await pool.unlock("yubi", Pin("999999"))
        await pool.unlock("yubi", Pin(FACTORY_PIN))
        check(public_key, (await sign(pool, job(public_key)))[0])


async def test_a_blocked_pin_is_never_tried(desk: Desk) -> None:
    desk.key.tries_left(pin=0)
    offered = desk.key.state.pins_offered
    async with desk.running() as pool:
        assert pool.tokens()[0].state is TokenState.PIN_LOCKED
        with pytest.raises(TokenLockedError):
            await pool.unlock("yubi", Pin(FACTORY_PIN))
    assert desk.key.state.pins_offered == offered


async def test_a_touch_lets_the_signature_out_of_the_host(desk: Desk) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        signing = asyncio.ensure_future(sign(pool, job(public_key)))
        await asyncio.to_thread(desk.key.wait_for_blinking)
        assert desk.key.touch()
        check(public_key, (await signing)[0])
    assert desk.key.state.touches == 1


async def test_a_key_pulled_while_it_blinks_is_absent_at_once_and_signs_when_back(
    desk: Desk,
) -> None:
    public_key = desk.make(touch="ALWAYS")
    async with desk.running() as pool:
        signing = asyncio.ensure_future(sign(pool, job(public_key)))
        await asyncio.to_thread(desk.key.wait_for_blinking)
        desk.key.remove()
        assert isinstance((await signing)[0], DeviceGoneError)
        assert await eventually(is_state(pool, TokenState.ABSENT)) < 1.0
        await asyncio.to_thread(desk.key.insert)
        await eventually(is_state(pool, TokenState.READY))
        desk.key.person(Person.TOUCHES)
        check(public_key, (await sign(pool, job(public_key)))[0])


async def test_another_yubikey_in_the_reader_gets_no_pin_and_signs_nothing(
    desk: Desk, bench: Bench
) -> None:
    public_key = desk.make()
    other = bench.add(Model(7654321), slot=None)
    async with desk.running() as pool:
        await asyncio.to_thread(desk.key.swap_for, other)
        assert isinstance((await sign(pool, job(public_key)))[0], KeydError)
        assert await eventually(is_state(pool, TokenState.ABSENT)) < 1.0
        await asyncio.sleep(0.5)
        await asyncio.to_thread(desk.key.insert, 1)
        await eventually(is_state(pool, TokenState.READY))
        check(public_key, (await sign(pool, job(public_key)))[0])
    assert (other.state.pins_offered, other.state.signatures) == (0, 0)


async def test_pcscd_dies_and_the_next_signature_after_its_return_succeeds(
    desk: Desk, bench: Bench
) -> None:
    public_key = desk.make()
    async with desk.running() as pool:
        bench.kill_pcscd()
        assert isinstance((await sign(pool, job(public_key)))[0], DeviceGoneError)
        await asyncio.to_thread(bench.start_pcscd)
        await eventually(is_state(pool, TokenState.READY))
        check(public_key, (await sign(pool, job(public_key)))[0])
