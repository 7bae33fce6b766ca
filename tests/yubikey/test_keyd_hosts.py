"""keyd's own token hosts on the real libykcs11 with an emulated YubiKey."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keyd.device.events import TokenEvent
from keyd.device.pool import DevicePool
from keyd.device.settings import TokenConfig
from keyd.errors import DeviceGoneError, KeydError, PinRefusedError, TokenLockedError
from keyd.model import KeyAlgorithm, Pin, Scheme, SignJob, TokenState
from tests.fakes import FakePinAttempts
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN, Model
from tests.yubikey.touch import Person
from tests.yubikey.worker import Worker

SLOT, OBJECT_ID = 0x82, b"\x05"
DIGEST = hashlib.sha256(b"message").digest()


class Desk:
    """A YubiKey with keys in it, and a pool that is configured for it."""

    def __init__(self, key: EmulatedKey, worker: Worker, module: Path, folder: Path) -> None:
        self.key = key
        self._worker = worker
        self._folder = folder
        self.pin_file = folder / "pin"
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(FACTORY_PIN)
        self.events: list[TokenEvent] = []
        self._fields: dict[str, Any] = {
            "name": "yubi",
            "module": module,
            "serial": str(key.serial),
            "pin_source": f"file:{self.pin_file}",
        }

    def make(self, kind: str = "ECCP256", touch: str = "NEVER", slot: int = SLOT) -> bytes:
        """A key in this slot: its public half."""
        return self._worker.call(
            by_yubikit.generate,
            self.key.serial,
            FACTORY_MANAGEMENT_KEY,
            slot,
            kind,
            "ONCE",
            touch,
        )

    @contextlib.asynccontextmanager
    async def running(self, **changes: Any) -> AsyncIterator[DevicePool]:
        pool = DevicePool(
            [TokenConfig(**(self._fields | changes))],
            FakePinAttempts(),
            run_dir=self._folder,
            on_event=self.events.append,
        )
        await pool.start()
        try:
            yield pool
        finally:
            await pool.stop()


@pytest.fixture
def desk(
    bench: Bench,
    key: EmulatedKey,
    worker: Worker,
    ykcs11: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    return Desk(key, worker, ykcs11, tmp_path)


def job(public_key: bytes, object_id: bytes = OBJECT_ID, **changes: Any) -> SignJob:
    fields: dict[str, Any] = {
        "object_id": object_id,
        "public_key": public_key,
        "algorithm": KeyAlgorithm.ECDSA_P256,
        "scheme": Scheme.ECDSA_P256_SHA256,
        "payload": DIGEST,
    }
    return SignJob(**(fields | changes))


async def sign(pool: DevicePool, *jobs: SignJob) -> list[bytes | KeydError]:
    """What came of each, also where the token does not sign at all."""
    try:
        async with asyncio.timeout(20):
            return await pool.sign("yubi", jobs)
    except KeydError as error:
        return [error] * len(jobs)


def check(public_key: bytes, made: bytes | KeydError) -> None:
    """Raises unless it is a P-256 signature of DIGEST."""
    assert isinstance(made, bytes), repr(made)
    public = serialization.load_der_public_key(public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    der = utils.encode_dss_signature(
        int.from_bytes(made[:32], "big"), int.from_bytes(made[32:], "big")
    )
    public.verify(der, DIGEST, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


async def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, "it did not come to pass in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


def is_state(pool: DevicePool, state: TokenState) -> Callable[[], bool]:
    return lambda: pool.tokens()[0].state is state


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
