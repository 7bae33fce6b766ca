"""What can befall a YubiKey, at any moment (moments.py)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.yubikey import by_pcsc, by_yubikit
from tests.yubikey.stage import PATIENCE_S, PLAIN, Stage


@dataclass(frozen=True)
class Fault:
    """``begin`` and ``end`` it; ``away``: the card is cut off from keyd meanwhile, and a call
    that was with it is answered with an error; ``comes_back``: it is so only for a moment, and the
    call may also be carried out. In all other faults the call succeeds once the card is free."""

    name: str
    begin: Callable[[Stage], Awaitable[None]]
    end: Callable[[Stage], Awaitable[None]]
    away: bool = False
    comes_back: bool = False
    other_goes_on: bool = True


async def _nothing(_: Stage) -> None:
    """It is over already."""


async def _pull(stage: Stage) -> None:
    await asyncio.to_thread(stage.key.remove)


async def _plug(stage: Stage, slot: int = 0) -> None:
    await asyncio.to_thread(stage.key.insert, slot)
    stage.slot = slot


async def _replug(stage: Stage) -> None:
    await _pull(stage)
    await _plug(stage)


async def _move(stage: Stage) -> None:
    await _pull(stage)
    await _plug(stage, 2 - stage.slot)


async def _swap(stage: Stage) -> None:
    await asyncio.to_thread(stage.key.swap_for, stage.stranger, stage.slot)


async def _swap_back(stage: Stage) -> None:
    await asyncio.to_thread(stage.stranger.remove)
    await _plug(stage)


async def _kill_pcscd(stage: Stage) -> None:
    await asyncio.to_thread(stage.bench.kill_pcscd)


async def _start_pcscd(stage: Stage) -> None:
    await asyncio.to_thread(stage.bench.start_pcscd)


async def _restart_pcscd(stage: Stage) -> None:
    await _kill_pcscd(stage)
    await _start_pcscd(stage)


async def _hang_pcscd(stage: Stage) -> None:
    os.kill(stage.bench.pids[1], signal.SIGSTOP)


async def _pcscd_goes_on(stage: Stage) -> None:
    os.kill(stage.bench.pids[1], signal.SIGCONT)


async def _suspend(stage: Stage) -> None:
    stage.bench.suspend()


async def _resume(stage: Stage) -> None:
    stage.bench.resume()


async def let_go_on(stage: Stage) -> None:
    """Whatever hung or blinked gets on: the other program's turn comes after it."""
    await asyncio.to_thread(stage.key.go_on)
    await asyncio.to_thread(stage.key.touch)


async def _by_program(stage: Stage, *steps: Callable[[], Any]) -> None:
    """It wants the card now, and waits for its turn."""
    turn = asyncio.ensure_future(asyncio.to_thread(lambda: [step() for step in steps]))
    await asyncio.sleep(0.05)
    await let_go_on(stage)
    async with asyncio.timeout(PATIENCE_S):
        said = await turn
    assert not any(said), said


def _reader(stage: Stage) -> str:
    return stage.bench.readers[stage.slot]


async def _hold(stage: Stage) -> None:
    call = stage.worker.call
    await _by_program(
        stage, lambda: call(by_pcsc.connect, _reader(stage)), lambda: call(by_pcsc.hold)
    )


async def _release(stage: Stage) -> None:
    await stage.by_program(by_pcsc.leave)


async def _want_alone(stage: Stage) -> None:
    wanting = asyncio.ensure_future(
        stage.by_program(by_pcsc.connect, _reader(stage), exclusive=True)
    )
    await asyncio.sleep(0.05)
    await let_go_on(stage)
    said = await wanting
    assert "haring violation" in said, said


async def _reset(stage: Stage) -> None:
    call = stage.worker.call
    await _by_program(
        stage,
        lambda: call(by_pcsc.connect, _reader(stage)),
        lambda: call(by_pcsc.reset),
        lambda: call(by_pcsc.leave),
    )


async def _select(stage: Stage) -> None:
    call = stage.worker.call
    await _by_program(
        stage,
        lambda: call(by_pcsc.connect, _reader(stage)),
        lambda: call(by_pcsc.select_another_applet) and "",
        lambda: call(by_pcsc.leave),
    )


async def _select_anew(stage: Stage) -> None:
    call = stage.worker.call
    await _by_program(
        stage,
        lambda: call(by_pcsc.connect, _reader(stage)),
        lambda: call(by_pcsc.select_piv) and "",
        lambda: call(by_pcsc.leave),
    )


async def _cut_power(stage: Stage) -> None:
    call = stage.worker.call
    await _by_program(
        stage,
        lambda: call(by_pcsc.connect, _reader(stage)),
        lambda: call(by_pcsc.leave, power_off=True),
    )


async def _use_with_yubikit(stage: Stage) -> None:
    call = stage.worker.call
    await _by_program(
        stage, lambda: call(by_yubikit.metadata, stage.key.serial, PLAIN.number) and ""
    )


async def reset_to_factory(stage: Stage) -> None:
    """`ykman piv reset`, by somebody: what keyd knew of this card is gone."""
    call = stage.worker.call
    await _by_program(stage, lambda: call(by_yubikit.reset, stage.key.serial))


FAULTS = (
    Fault("pulled", _pull, _plug, away=True),
    Fault("replugged", _replug, _nothing, away=True, comes_back=True),
    Fault("moved-to-the-other-reader", _move, _nothing, away=True, comes_back=True),
    Fault("swapped-for-another-serial", _swap, _swap_back, away=True),
    Fault("pcscd-killed", _kill_pcscd, _start_pcscd, away=True, other_goes_on=False),
    Fault(
        "pcscd-restarted", _restart_pcscd, _nothing, away=True, comes_back=True, other_goes_on=False
    ),
    Fault("pcscd-hangs", _hang_pcscd, _pcscd_goes_on, other_goes_on=False),
    Fault("asleep", _suspend, _resume, other_goes_on=False),
    Fault("held-in-a-transaction", _hold, _release),
    Fault("wanted-exclusively", _want_alone, _nothing),
    Fault("reset", _reset, _nothing),
    Fault("another-applet-selected", _select, _nothing),
    Fault("piv-selected-anew", _select_anew, _nothing),
    Fault("powered-off", _cut_power, _nothing),
    Fault("used-with-yubikit", _use_with_yubikit, _nothing),
)
