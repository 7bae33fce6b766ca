"""PINs and what a YubiKey tells of them; keys that want the PIN each time; kinds of keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keyd.errors import (
    KeydError,
    MechanismMissingError,
    PinRefusedError,
    TokenLockedError,
    TokenObjectError,
)
from keyd.model import KeyAlgorithm, Pin, Scheme, TokenState
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench
from tests.yubikey.desk import SLOT, Desk, check, eventually, is_state, job, sign, status
from tests.yubikey.model import FACTORY_PIN, FIRMWARE_5_7, Model
from tests.yubikey.touch import Person

SLOT_9C, ID_9C = 0x9C, b"\x02"


async def test_a_wrong_pin_says_how_many_tries_are_left_and_is_not_repeated(desk: Desk) -> None:
    async with desk.running(pin_source="prompt") as pool:
        with pytest.raises(PinRefusedError) as first:
            await pool.unlock("yubi", Pin("999999"))
        await asyncio.sleep(0.6)
        state = status(pool).pin_state
        with pytest.raises(PinRefusedError) as second:
            await pool.unlock("yubi", Pin("999999"))
        await asyncio.sleep(0.6)
        offered = desk.key.state.pins_offered
        with pytest.raises(TokenLockedError) as last:
            await pool.unlock("yubi", Pin("999999"))
        kept = desk.key.state.pins_offered

    assert "2 tries are left" in first.value.message
    assert first.value.facts["tries_left"] == "2"
    assert state == "count-low"
    assert "1 try is left" in second.value.message
    assert "--spend-last-try" in last.value.hint
    assert kept == offered == 2


async def test_a_pin_blocked_by_the_last_try_is_never_called_ok_and_says_how_to_unblock(
    desk: Desk,
) -> None:
    desk.key.tries_left(pin=1)
    async with desk.running(pin_source="prompt") as pool:
        assert status(pool).pin_state == "final-try"
        with pytest.raises(KeydError):
            await pool.unlock("yubi", Pin("999999"), spend_last_try=True)
        await eventually(is_state(pool, TokenState.PIN_LOCKED), within_s=1.0)
        shown = status(pool)

    assert shown.pin_state == "locked"
    assert "keydctl yubikey unblock yubi" in shown.detail


async def test_a_pin_that_is_blocked_while_locked_by_hand_says_how_to_unblock(desk: Desk) -> None:
    async with desk.running() as pool:
        await pool.lock("yubi")
        by_hand = status(pool).detail
        desk.key.tries_left(pin=0)
        await eventually(is_state(pool, TokenState.PIN_LOCKED), within_s=3.0)
        blocked = status(pool).detail
        desk.key.tries_left(pin=3)
        await eventually(is_state(pool, TokenState.LOCKED), within_s=3.0)
        again = status(pool).detail

    assert "was locked by hand" in by_hand
    assert "keydctl yubikey unblock yubi" in blocked
    # Nobody unlocked it: unblocked is not unlocked.
    assert again == by_hand


async def test_a_good_pin_resets_the_count_that_is_shown(desk: Desk) -> None:
    desk.key.tries_left(pin=2)
    async with desk.running(pin_source="prompt") as pool:
        before = status(pool).pin_state
        await pool.unlock("yubi", Pin(FACTORY_PIN))
        after = status(pool).pin_state
    assert (before, after) == ("count-low", "ok")


async def test_a_pin_that_another_program_blocks_is_seen_while_locked_and_while_ready(
    desk: Desk,
) -> None:
    public_key = desk.make()
    async with desk.running(pin_source="prompt") as pool:
        desk.key.tries_left(pin=0)
        await eventually(is_state(pool, TokenState.PIN_LOCKED), within_s=3.0)
        desk.key.tries_left(pin=3)
        await eventually(is_state(pool, TokenState.LOCKED), within_s=3.0)
        await pool.unlock("yubi", Pin(FACTORY_PIN))
        desk.key.tries_left(pin=0)
        await eventually(lambda: status(pool).pin_state == "locked", within_s=3.0)
        # Who is logged in stays it.
        check(public_key, (await sign(pool, job(public_key)))[0])


async def test_five_signatures_of_a_key_that_wants_the_pin_each_time_in_one_call(
    desk: Desk,
) -> None:
    public_key = desk.make(slot=SLOT_9C, pin="ALWAYS")
    async with desk.running() as pool:
        answers = await sign(pool, *[job(public_key, ID_9C)] * 5)
        offered = desk.key.state.pins_offered
    for answer in answers:
        check(public_key, answer)
    # The login, and one for each signature: no session was started anew.
    assert offered == 1 + 5
    assert desk.kinds() == ["unlocked"]


async def test_a_key_in_9c_that_wants_the_pin_once_is_not_asked_for_more(desk: Desk) -> None:
    public_key = desk.make(slot=SLOT_9C, pin="ONCE")
    async with desk.running() as pool:
        for answer in await sign(pool, *[job(public_key, ID_9C)] * 3):
            check(public_key, answer)
        assert desk.key.state.pins_offered == 1


async def test_a_key_elsewhere_that_wants_the_pin_each_time_gets_it(desk: Desk) -> None:
    """libykcs11 takes slot 9C alone for such a key."""
    public_key = desk.make(pin="ALWAYS", touch="ALWAYS")
    desk.key.person(Person.TOUCHES)
    async with desk.running() as pool:
        for answer in await sign(pool, *[job(public_key)] * 2):
            check(public_key, answer)
    assert desk.key.state.touch_requests == 2


async def test_the_policies_of_an_rsa_key_are_known_though_the_card_tells_them_in_two_parts(
    desk: Desk,
) -> None:
    public_key = desk.make("RSA2048", pin="ALWAYS", touch="ALWAYS")
    rsa: dict[str, Any] = {"algorithm": KeyAlgorithm.RSA_2048, "scheme": Scheme.RSA_PSS_SHA256}
    async with desk.running() as pool:
        signing = asyncio.create_task(sign(pool, *[job(public_key, **rsa)] * 2))
        for _ in range(2):
            await asyncio.to_thread(desk.key.wait_for_blinking)
            # Told at once: a key of unknown policy is taken to blink after a second of silence.
            await eventually(lambda: status(pool).touch is not None, 0.5)
            assert await asyncio.to_thread(desk.key.touch)
        answers = await signing
    # Each took the PIN: slot 82 is none that libykcs11 offers it in by itself.
    assert [type(answer) for answer in answers] == [bytes, bytes], answers


async def test_a_pin_changed_by_another_program_is_offered_once_and_then_a_person_is_asked(
    desk: Desk,
) -> None:
    public_key = desk.make(slot=SLOT_9C, pin="ALWAYS")
    async with desk.running() as pool:
        check(public_key, (await sign(pool, job(public_key, ID_9C)))[0])
        await asyncio.to_thread(
            desk.worker.call, by_yubikit.change_pin, desk.key.serial, FACTORY_PIN, "24681357"
        )
        (answer,) = await sign(pool, job(public_key, ID_9C))
        await eventually(is_state(pool, TokenState.LOCKED))
        await asyncio.sleep(0.6)
        tries = desk.key.state.pin_tries
        await pool.unlock("yubi", Pin("24681357"))
        check(public_key, (await sign(pool, job(public_key, ID_9C)))[0])
    assert isinstance(answer, KeydError)
    assert tries == 2


async def test_the_firmware_is_shown_as_it_is(desk: Desk) -> None:
    async with desk.running() as pool:
        assert status(pool).firmware == "5.4.3"


async def test_the_attestation_key_is_not_offered_and_not_signed_with(desk: Desk) -> None:
    public_key = desk.make()
    async with desk.running() as pool:
        objects = await pool.objects("yubi")
        (answer,) = await sign(pool, job(public_key, b"\x19"))
    assert [found.public_key for found in objects] == [public_key]
    assert isinstance(answer, TokenObjectError)
    assert "attestation key" in answer.message


async def test_making_and_destroying_keys_say_where_that_is_done(desk: Desk) -> None:
    public_key = desk.make()
    async with desk.running() as pool:
        with pytest.raises(MechanismMissingError) as made:
            await pool.generate("yubi", KeyAlgorithm.ECDSA_P256, b"\x07", "acme/root/1")
        with pytest.raises(MechanismMissingError) as destroyed:
            await pool.destroy("yubi", b"\x05", public_key)
        check(public_key, (await sign(pool, job(public_key)))[0])
    assert "--slot 9c --touch always" in made.value.hint
    assert "management key" in destroyed.value.message and "ykman piv keys delete" in (
        destroyed.value.hint
    )


@pytest.mark.parametrize(
    ("kind", "algorithm", "scheme", "since"),
    [
        ("ED25519", KeyAlgorithm.ED25519, Scheme.ED25519, "2.6.0"),
        ("RSA3072", KeyAlgorithm.RSA_3072, Scheme.RSA_PSS_SHA256, "2.5.0"),
    ],
)
async def test_a_key_that_this_libykcs11_does_not_know_names_the_version_that_does(
    desk: Desk, bench: Bench, kind: str, algorithm: KeyAlgorithm, scheme: Scheme, since: str
) -> None:
    key = await asyncio.to_thread(bench.add, Model(7654321, FIRMWARE_5_7), 1)
    unknown = desk.make(kind, serial=key.serial)
    known = desk.make(slot=SLOT + 1, serial=key.serial)
    strange = job(unknown, algorithm=algorithm, scheme=scheme)
    async with desk.running(serial=str(key.serial)) as pool:
        refused, made = await sign(pool, strange, job(known, b"\x06"))
        firmware = status(pool).firmware
    if isinstance(refused, bytes):
        pytest.skip("this libykcs11 knows it")
    assert isinstance(refused, MechanismMissingError)
    assert f"version {since} and newer can" in refused.message
    assert refused.message.startswith("token yubi: libykcs11 2.")
    check(known, made)
    assert firmware == "5.7.1"
    assert key.state.pins_offered == 1
    assert desk.kinds() == ["unlocked"]
