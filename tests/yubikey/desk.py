"""A YubiKey with keys in it and a pool of keyd's token hosts that is configured for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keyd.device.events import EventKind, KnownKeys, TokenEvent
from keyd.device.pool import DevicePool
from keyd.device.settings import TokenConfig
from keyd.errors import KeydError
from keyd.model import KeyAlgorithm, Scheme, SignJob, TokenState, TokenStatus
from tests.fakes import FakePinAttempts
from tests.yubikey import by_yubikit
from tests.yubikey.bench import EmulatedKey
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN
from tests.yubikey.worker import Worker

SLOT, OBJECT_ID = 0x82, b"\x05"
_LOOK_S = 0.01
DIGEST = hashlib.sha256(b"message").digest()


class Desk:
    """A YubiKey with keys in it, and a pool that is configured for it."""

    def __init__(self, key: EmulatedKey, worker: Worker, module: Path, folder: Path) -> None:
        self.key = key
        self.worker = worker
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

    def make(
        self,
        kind: str = "ECCP256",
        touch: str = "NEVER",
        slot: int = SLOT,
        pin: str = "ONCE",
        serial: int = 0,
    ) -> bytes:
        """A key in this slot, of another YubiKey where a serial is given: its public half."""
        order = (serial or self.key.serial, FACTORY_MANAGEMENT_KEY, slot, kind, pin, touch)
        return self.worker.call(by_yubikit.generate, *order)

    def config(self, **changes: Any) -> TokenConfig:
        """The token's configuration; ``changes`` replace fields."""
        return TokenConfig(**(self._fields | changes))

    def kinds(self) -> list[EventKind]:
        """What the pool has told, in order."""
        return [event.kind for event in self.events]

    @contextlib.asynccontextmanager
    async def running(
        self,
        more: Sequence[TokenConfig] = (),
        *,
        known_keys: KnownKeys | None = None,
        **changes: Any,
    ) -> AsyncIterator[DevicePool]:
        """A pool that keeps this token, and ``more``."""
        pool = DevicePool(
            [self.config(**changes), *more],
            FakePinAttempts(),
            run_dir=self._folder,
            on_event=self.events.append,
            known_keys=known_keys,
        )
        await pool.start()
        try:
            yield pool
        finally:
            await pool.stop()


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
    """Wait until it holds: the seconds that took, counted in looks. A machine that is too busy to
    look so often counts slower, as all else goes slower there."""
    looks = 0
    while not condition():
        assert looks * _LOOK_S < within_s, "it did not come to pass in time"
        await asyncio.sleep(_LOOK_S)
        looks += 1
    return looks * _LOOK_S


def is_state(pool: DevicePool, state: TokenState) -> Callable[[], bool]:
    return lambda: pool.tokens()[0].state is state


def status(pool: DevicePool) -> TokenStatus:
    """The first token as it stands."""
    return pool.tokens()[0]
