"""What can befall a YubiKey (Fault), what keyd may be doing with it then (Moment), and the stage
on which each meets each: two tokens of one daemon, a stranger beside the reader, another program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from keyd.device.pool import DevicePool
from keyd.device.yubikeys import PoolYubiKeys
from keyd.errors import DeviceGoneError, KeydError
from keyd.model import (
    KeyAlgorithm,
    Pin,
    PinPolicy,
    SignJob,
    Slot,
    SlotOrder,
    TokenState,
    TokenStatus,
    TouchPolicy,
)
from tests.fakes import FakePinAttempts
from tests.yubikey import by_pcsc, by_yubikit
from tests.yubikey.bench import Bench
from tests.yubikey.cycles import host_pids
from tests.yubikey.desk import Desk, check, eventually, job
from tests.yubikey.model import Model
from tests.yubikey.pause import Moment as CardMoment
from tests.yubikey.worker import Worker

T = TypeVar("T")

PUK = Pin("58203971")
PINS = (Pin("73910462"), Pin("40961738"))
PLAIN, TOUCHED = Slot.parse("82"), Slot.parse("83")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
PATIENCE_S = 20.0
"""For what two busy cores may take; what is asserted of time stands in test_device_absence.py."""


class Stage:
    """All of it, and what is true of the card: ``pin`` is the one that opens it."""

    def __init__(self, bench: Bench, worker: Worker, module: Path, folder: Path) -> None:
        self.bench = bench
        self.worker = worker
        self.key = bench.add(Model(1234567), 0)
        self.other = bench.add(Model(2345678), 1)
        self.stranger = bench.add(Model(7654321), None)
        self._desk = Desk(self.key, worker, module, folder)
        self._other_desk = Desk(self.other, worker, module, folder)
        self._folder = folder
        self.attempts = FakePinAttempts()
        self.pin = PINS[0]
        self.made = 0
        self.slot = 0
        self.is_spent = False
        self.pool: DevicePool
        self.yubikeys: PoolYubiKeys

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """With keys in both YubiKeys, the pool running and both tokens READY."""
        other = self._desk.make(serial=self.other.serial)
        self.write_pin(self.pin)
        other_pin = self._folder / "other-pin"
        other_pin.touch(mode=0o600)
        other_pin.write_text("123456")
        tokens = [
            self._desk.config(pin_source=f"file:{self._desk.pin_file}"),
            self._desk.config(
                name="other", serial=str(self.other.serial), pin_source=f"file:{other_pin}"
            ),
        ]
        self._desk.pin_file.unlink()
        self.pool = DevicePool(tokens, self.attempts, run_dir=self._folder)
        self.yubikeys = PoolYubiKeys(self.pool, self.attempts, lambda: NOW)
        await self.pool.start()
        try:
            await self.yubikeys.init("yubi", self.pin, PUK)
            await self.pool.unlock("yubi", self.pin)
            self.write_pin(self.pin)
            self.plain = await self.generate(PLAIN)
            touching = asyncio.ensure_future(self.generate(TOUCHED, TouchPolicy.ALWAYS))
            await asyncio.to_thread(self.key.wait_for_blinking)
            self.key.touch()
            self.touched = await touching
            self.other_plain = other
            self.hosts = host_pids()
            yield self
        finally:
            await self.pool.stop()

    def write_pin(self, pin: Pin) -> None:
        """Into the file that keyd reads."""
        self._desk.pin_file.touch(mode=0o600)
        self._desk.pin_file.write_text(pin.reveal())

    async def generate(self, slot: Slot, touch: TouchPolicy = TouchPolicy.NEVER) -> bytes:
        """A key in this slot: its public half."""
        name = f"acme/key/{slot.number}"
        order = SlotOrder(slot, KeyAlgorithm.ECDSA_P256, PinPolicy.ONCE, touch, name)
        return (await self.yubikeys.generate("yubi", order)).public_key

    async def sign(self, public_key: bytes, slot: Slot = PLAIN) -> bytes:
        """A signature of token yubi."""
        return await self._sign("yubi", job(public_key, slot.object_id))

    async def sign_with_other(self) -> None:
        """The other token goes on; raises unless it does."""
        async with asyncio.timeout(PATIENCE_S):
            made = await self._sign("other", self._other_job())
        check(self.other_plain, made)

    async def sign_as_clients_do(self) -> None:
        """With both tokens, and once more where the error says so."""
        for token, order in (("yubi", job(self.plain)), ("other", self._other_job())):
            made = await _until_there(partial(self._sign, token, order))
            check(order.public_key, made)

    async def unlock_as_people_do(self) -> None:
        """With the PIN that opens it, and once more where the error says that it was away."""
        await _until_there(partial(self.pool.unlock, "yubi", self.pin))

    def _other_job(self) -> SignJob:
        return job(self.other_plain, serial=str(self.other.serial))

    async def _sign(self, token: str, order: SignJob) -> bytes:
        (made,) = await self.pool.sign(token, [order])
        if isinstance(made, KeydError):
            raise made
        return made

    @property
    def status(self) -> TokenStatus:
        """Of token yubi."""
        return self.pool.tokens()[0]

    async def reaches(self, *states: TokenState) -> TokenState:
        """Wait until token yubi is in one of these."""
        await eventually(lambda: self.status.state in states, PATIENCE_S)
        return self.status.state

    async def by_program(self, function: Callable[..., Any], *args: object, **more: object) -> Any:
        """The other program does this, when its turn comes."""
        return await asyncio.to_thread(lambda: self.worker.call(function, *args, **more))


async def _until_there(work: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await work()
            except DeviceGoneError as error:
                assert error.retry_after_s is not None
                await asyncio.sleep(0.1)


# -- moments -------------------------------------------------------------------------------------

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
        await stage.yubikeys.change_pin("yubi", stage.pin, new)
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


# -- faults --------------------------------------------------------------------------------------


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


async def _until_silent(stage: Stage) -> None:
    """A signature waits as long as nothing answers."""
    await eventually(lambda: "not answered for a second" in stage.status.detail, PATIENCE_S)


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
