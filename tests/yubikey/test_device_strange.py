"""A YubiKey with the right serial and other keys: set up anew, or made to look like it."""

from __future__ import annotations

import asyncio

import pytest

from keyd.errors import TokenLockedError
from keyd.model import Pin, TokenState
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench
from tests.yubikey.desk import OBJECT_ID, SLOT, Desk, check, eventually, is_state, job, sign, status
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN, FIRMWARE_5_7, Model


@pytest.mark.parametrize("kind", ["ECCP256", "ECCP384", "RSA2048"])
async def test_one_with_another_key_in_the_slot_is_offered_no_pin_before_a_person_says_so(
    desk: Desk, kind: str
) -> None:
    lies_there, registered = desk.make(kind), desk.make(kind, slot=SLOT + 1)
    known = {OBJECT_ID: lies_there}
    async with desk.running(known_keys=lambda _: known) as pool:
        assert status(pool).state is TokenState.READY

    known = {OBJECT_ID: registered}
    offered = desk.key.state.pins_offered
    async with desk.running(known_keys=lambda _: known) as pool:
        assert status(pool).state is TokenState.LOCKED
        (answer,) = await sign(pool, job(registered))
        assert isinstance(answer, TokenLockedError)
        assert f"another key in slot {SLOT:02x} than is registered" in answer.message
        assert "keydctl token unlock yubi" in answer.hint
        assert desk.key.state.pins_offered == offered

        # Whoever unlocks it has answered for what it holds now.
        await pool.unlock("yubi", Pin(FACTORY_PIN))
        desk.key.remove()
        await eventually(is_state(pool, TokenState.ABSENT))
        desk.key.insert(0)
        await eventually(is_state(pool, TokenState.READY))


async def test_one_that_was_reset_is_offered_no_pin(desk: Desk) -> None:
    registered = desk.make()
    async with desk.running(known_keys=lambda _: {OBJECT_ID: registered}) as pool:
        desk.key.remove()
        await eventually(is_state(pool, TokenState.ABSENT))
        desk.key.factory_reset()
        offered = desk.key.state.pins_offered
        desk.key.insert(0)
        await eventually(is_state(pool, TokenState.LOCKED))
        assert "holds none of the keys that are registered" in status(pool).detail
        assert (desk.key.state.pins_offered, desk.key.state.pin_tries) == (offered, 3)


async def test_one_that_lost_a_key_of_several_is_logged_in_as_ever(
    desk: Desk, bench: Bench
) -> None:
    """Somebody gave a key up, as docs say, before the registry knows it."""
    key = await asyncio.to_thread(bench.add, Model(7654321, FIRMWARE_5_7), 1)
    kept, doomed = (desk.make(slot=SLOT + n, serial=key.serial) for n in (0, 1))
    known = {OBJECT_ID: kept, b"\x06": doomed}
    await asyncio.to_thread(
        desk.worker.call, by_yubikit.delete, key.serial, FACTORY_MANAGEMENT_KEY, SLOT + 1
    )
    async with desk.running(serial=str(key.serial), known_keys=lambda _: known) as pool:
        check(kept, (await sign(pool, job(kept)))[0])
