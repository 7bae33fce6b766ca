"""What keyd may be doing with a YubiKey when something befalls it (faults.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from keyd.errors import KeydError
from keyd.model import Slot, TokenState
from tests.yubikey.desk import eventually
from tests.yubikey.pause import Moment as CardMoment
from tests.yubikey.stage import PATIENCE_S, PINS, PLAIN, TOUCHED, Stage

Call = asyncio.Future[Any] | None


async def _stopped_at(stage: Stage, where: CardMoment, work: Awaitable[Any]) -> Call:
    stage.key.stop_at(where)
    call = asyncio.ensure_future(work)
    await asyncio.to_thread(stage.key.wait_until_stopped)
    return call


async def idle(_: Stage) -> Call:
    """Nobody asks for anything."""
    return None


async def signing(stage: Stage) -> Call:
    """The card computes a signature."""
    return await _stopped_at(stage, CardMoment.SIGN, stage.sign(stage.plain))


async def awaiting_touch(stage: Stage) -> Call:
    """The card blinks."""
    call = asyncio.ensure_future(stage.sign(stage.touched, TOUCHED))
    await asyncio.to_thread(stage.key.wait_for_blinking)
    return call


async def logging_in(stage: Stage) -> Call:
    """keyd logs in by itself, with the PIN that its host knows; a signature waits for it."""
    stage.key.stop_at(CardMoment.VERIFY)
    await stage.pool.keeper("yubi").refresh()
    call = asyncio.ensure_future(stage.sign(stage.plain))
    await asyncio.to_thread(stage.key.wait_until_stopped)
    return call


async def unlocking(stage: Stage) -> Call:
    """A person unlocks the token: the card compares the PIN."""
    await stage.pool.lock("yubi")
    await stage.reaches(TokenState.LOCKED)
    await eventually(lambda: bool(stage.pool.keeper("yubi").status().serial), PATIENCE_S)
    return await _stopped_at(stage, CardMoment.VERIFY, stage.pool.unlock("yubi", stage.pin))


async def generating(stage: Stage) -> Call:
    """`key create --slot`: the card makes a key."""
    stage.made += 1
    slot = Slot(0x84 + stage.made)
    return await _stopped_at(stage, CardMoment.GENERATE, stage.generate(slot))


async def attesting(stage: Stage) -> Call:
    """`yubikey attest`."""
    work = stage.yubikeys.attest("yubi", PLAIN)
    return await _stopped_at(stage, CardMoment.ATTEST, work)


async def changing_pin(stage: Stage) -> Call:
    """`yubikey change-pin`: the card compares the old one."""
    new = PINS[stage.pin == PINS[0]]

    async def change() -> None:
        try:
            await stage.yubikeys.change_pin("yubi", stage.pin, new)
        except KeydError as error:
            # The change came before the fault, and the login with the new PIN after it.
            if error.message.startswith("the PIN is changed, but"):
                stage.pin = new
            raise
        stage.pin = new

    return await _stopped_at(stage, CardMoment.CHANGE_PIN, change())


MOMENTS = (
    idle,
    signing,
    awaiting_touch,
    logging_in,
    unlocking,
    generating,
    attesting,
    changing_pin,
)
