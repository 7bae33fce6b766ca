"""Two tokens of one daemon, a stranger beside the reader, and another program: what faults.py and
moments.py happen on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
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
from tests.yubikey.bench import Bench
from tests.yubikey.cycles import host_pids
from tests.yubikey.desk import Desk, check, eventually, job
from tests.yubikey.model import Model
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
