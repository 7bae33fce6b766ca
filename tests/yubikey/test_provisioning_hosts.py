"""YubiKeys through keyd's token hosts: yubikit and a live libykcs11 session on one card."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from keyd.attestation import Trust, verify
from keyd.device.pluggedin import find_plugged_in
from keyd.device.pool import DevicePool
from keyd.device.settings import TokenConfig
from keyd.device.yubikeys import PoolYubiKeys
from keyd.errors import (
    DeviceGoneError,
    KeydError,
    MechanismMissingError,
    PinRefusedError,
    TokenLockedError,
    TokenObjectError,
)
from keyd.model import (
    KeyAlgorithm,
    Pin,
    PinPolicy,
    Scheme,
    SignJob,
    Slot,
    SlotOrder,
    TokenState,
    TouchPolicy,
)
from tests.fakes import FakePinAttempts
from tests.waiting import eventually
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN, FIRMWARE_5_7, Model
from tests.yubikey.worker import Worker

PIN, PUK = Pin("73910462"), Pin("58203971")
SIGNATURE = Slot.parse("9c")
RETIRED = Slot.parse("82")
DIGEST = hashlib.sha256(b"message").digest()
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def order(slot: Slot = RETIRED, touch: TouchPolicy = TouchPolicy.NEVER) -> SlotOrder:
    return SlotOrder(slot, KeyAlgorithm.ECDSA_P256, PinPolicy.ONCE, touch, "acme/root/1")


class Desk:
    """Daemon side of one YubiKey whose PIN a person gives."""

    def __init__(self, key: EmulatedKey, module: Path, folder: Path) -> None:
        self.key = key
        self.pin_file = folder / "pin"
        self._config = TokenConfig(name="yubi", module=module, serial=str(key.serial))
        self._folder = folder
        self.attempts = FakePinAttempts()

    @contextlib.asynccontextmanager
    async def running(self, pin_source: str = "prompt", hosts: int = 1) -> AsyncIterator[Daemon]:
        config = TokenConfig(
            name="yubi",
            module=self._config.module,
            serial=self._config.serial,
            pin_source=pin_source,
            hosts=hosts,
        )
        pool = DevicePool([config], self.attempts, run_dir=self._folder)
        await pool.start()
        try:
            yield Daemon(pool, PoolYubiKeys(pool, self.attempts, lambda: NOW))
        finally:
            await pool.stop()


class Daemon:
    """The two doors to the token."""

    def __init__(self, pool: DevicePool, yubikeys: PoolYubiKeys) -> None:
        self.pool = pool
        self.yubikeys = yubikeys

    def is_(self, state: TokenState) -> bool:
        return self.pool.tokens()[0].state is state

    async def ready(self) -> None:
        """As a person makes it."""
        await self.yubikeys.init("yubi", PIN, PUK)
        await self.pool.unlock("yubi", PIN)

    async def sign(self, public_key: bytes, slot: Slot = RETIRED) -> bytes | KeydError:
        job = SignJob(
            slot.object_id, public_key, KeyAlgorithm.ECDSA_P256, Scheme.ECDSA_P256_SHA256, DIGEST
        )
        async with asyncio.timeout(20):
            (made,) = await self.pool.sign("yubi", [job])
            return made


@pytest.fixture
def surroundings(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    return bench


@pytest.fixture
def desk(surroundings: Bench, key: EmulatedKey, ykcs11: Path, tmp_path: Path) -> Desk:
    return Desk(key, ykcs11, tmp_path)


async def test_a_new_yubikey_is_set_up_and_makes_a_key_that_signs_beside_a_live_session(
    desk: Desk, surroundings: Bench
) -> None:
    async with desk.running() as daemon:
        before = await daemon.yubikeys.look("yubi")
        assert before.factory == {"pin", "puk", "management-key"}
        assert (before.serial, before.slots) == (str(desk.key.serial), ())

        await daemon.ready()
        made = await daemon.yubikeys.generate("yubi", order())
        found = await daemon.pool.objects("yubi")
        assert {o.object_id: o.public_key for o in found}[RETIRED.object_id] == made.public_key
        assert isinstance(await daemon.sign(made.public_key), bytes)

        after = await daemon.yubikeys.look("yubi")
        assert isinstance(await daemon.sign(made.public_key), bytes)
    assert after.factory == frozenset()
    assert after.management_protected
    assert (after.pin_tries, after.puk_tries) == (3, 3)
    (content,) = after.slots
    assert (content.slot, content.algorithm, content.origin) == (RETIRED, "ecdsa-p256", "generated")
    assert (content.pin, content.touch) == (PinPolicy.ONCE, TouchPolicy.NEVER)
    certificate = x509.load_der_x509_certificate(content.certificate)
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.rfc4514_string() == "O=keyd,CN=acme/root/1"
    proven = verify(
        made.statement,
        made.public_key,
        str(desk.key.serial),
        RETIRED,
        Trust([surroundings.attestation_root]),
        NOW,
    )
    assert (proven.firmware, proven.touch) == ("5.4.3", TouchPolicy.NEVER)


async def test_an_occupied_slot_is_never_overwritten(desk: Desk) -> None:
    async with desk.running() as daemon:
        await daemon.ready()
        made = await daemon.yubikeys.generate("yubi", order())
        with pytest.raises(TokenObjectError) as refused:
            await daemon.yubikeys.generate("yubi", order())
        assert "slot 82" in refused.value.message
        assert "acme/root/1" in refused.value.message
        assert isinstance(await daemon.sign(made.public_key), bytes)


async def test_a_key_with_touch_signs_its_certificate_with_one_touch(desk: Desk) -> None:
    async with desk.running() as daemon:
        await daemon.ready()
        making = asyncio.ensure_future(
            daemon.yubikeys.generate("yubi", order(SIGNATURE, TouchPolicy.ALWAYS))
        )
        await asyncio.to_thread(desk.key.wait_for_blinking)
        desk.key.touch()
        made = await making
    assert desk.key.state.touches == 1
    certificate = x509.load_der_x509_certificate(made.certificate)
    certificate.verify_directly_issued_by(certificate)


async def test_a_changed_pin_costs_no_try_and_the_token_goes_on_with_it(desk: Desk) -> None:
    new = Pin("40961738")
    async with desk.running(hosts=2) as daemon:
        await daemon.ready()
        made = await daemon.yubikeys.generate("yubi", order())
        try:
            await daemon.yubikeys.change_pin("yubi", PIN, new)
        except DeviceGoneError:
            # The card was reset to make the key. While the second host looks at it anew the
            # token can be away for a moment; nothing was tried, and a person asks again.
            await eventually(lambda: daemon.is_(TokenState.READY))
            await daemon.yubikeys.change_pin("yubi", PIN, new)
        assert daemon.is_(TokenState.READY)
        assert isinstance(await daemon.sign(made.public_key), bytes)
        await asyncio.sleep(1.0)
    assert desk.key.state.pin_tries == 3


async def test_a_configured_pin_that_became_the_old_one_is_not_tried(
    desk: Desk, tmp_path: Path
) -> None:
    file = tmp_path / "pin"
    file.touch(mode=0o600)
    file.write_text(FACTORY_PIN)
    async with desk.running(pin_source=f"file:{file}") as daemon:
        assert daemon.is_(TokenState.READY)
        await daemon.yubikeys.init("yubi", PIN, PUK)
        await asyncio.sleep(1.0)
        assert daemon.is_(TokenState.LOCKED)
    async with desk.running(pin_source=f"file:{file}") as daemon:
        assert daemon.is_(TokenState.LOCKED)
    assert desk.key.state.pin_tries == 3


async def test_a_wrong_old_pin_is_sent_once_and_all_hosts_go_on_with_the_pin_they_hold(
    desk: Desk,
) -> None:
    async with desk.running(hosts=2) as daemon:
        await daemon.ready()
        made = await daemon.yubikeys.generate("yubi", order())
        async with asyncio.timeout(10):
            while daemon.pool.tokens()[0].hosts < 2:
                await asyncio.sleep(0.02)
        offered = desk.key.state.pins_offered
        with pytest.raises(PinRefusedError) as refused:
            await daemon.yubikeys.change_pin("yubi", Pin("11223399"), Pin("40961738"))
        assert desk.key.state.pins_offered == offered + 1
        assert desk.key.state.pin_tries == 2
        assert (daemon.is_(TokenState.READY), daemon.pool.tokens()[0].hosts) == (True, 2)
        signed = await asyncio.gather(*(daemon.sign(made.public_key) for _ in range(8)))
        assert all(isinstance(one, bytes) for one in signed)
    assert "2 tries are left" in refused.value.message
    assert "11223399" not in repr(refused.value)
    assert desk.key.state.pin_tries == 3


async def test_a_blocked_pin_is_unblocked_with_the_puk_and_a_blocked_puk_is_told(
    desk: Desk,
) -> None:
    async with desk.running() as daemon:
        await daemon.ready()
        desk.key.tries_left(pin=0, puk=2)
        with pytest.raises(PinRefusedError, match="PUK: 1 try is left"):
            await daemon.yubikeys.unblock("yubi", Pin("99887766"), Pin("40961738"))
        await daemon.yubikeys.unblock("yubi", PUK, Pin("40961738"))
        await daemon.pool.unlock("yubi", Pin("40961738"))
        assert daemon.is_(TokenState.READY)
        desk.key.tries_left(pin=0, puk=1)
        with pytest.raises(TokenLockedError, match="PUK of YubiKey 1234567 is blocked"):
            await daemon.yubikeys.unblock("yubi", Pin("99887766"), PIN)


async def test_a_key_that_was_imported_is_not_attested(desk: Desk, worker: Worker) -> None:
    worker.call(
        by_yubikit.import_p256, desk.key.serial, FACTORY_MANAGEMENT_KEY, RETIRED.number, 12345
    )
    async with desk.running() as daemon:
        with pytest.raises(TokenObjectError, match="made elsewhere and imported"):
            await daemon.yubikeys.attest("yubi", RETIRED)


async def test_firmware_5_7_with_its_aes_management_key_makes_keys(
    surroundings: Bench, ykcs11: Path, tmp_path: Path
) -> None:
    desk = Desk(surroundings.add(Model(2345678, FIRMWARE_5_7)), ykcs11, tmp_path)
    async with desk.running() as daemon:
        await daemon.ready()
        made = await daemon.yubikeys.generate("yubi", order())
        assert isinstance(await daemon.sign(made.public_key), bytes)
        with pytest.raises(MechanismMissingError) as refused:
            await daemon.yubikeys.generate(
                "yubi",
                SlotOrder(
                    SIGNATURE, KeyAlgorithm.ED25519, PinPolicy.ONCE, TouchPolicy.NEVER, "acme/x/1"
                ),
            )
        assert "2.6.0" in refused.value.hint
        looked = await daemon.yubikeys.look("yubi")
    assert looked.management_algorithm == "AES192"
    assert [content.slot for content in looked.slots] == [RETIRED]


async def test_looking_for_new_yubikeys_waits_for_none_that_is_silent_and_says_so(
    surroundings: Bench, key: EmulatedKey
) -> None:
    (found,), problem = await find_plugged_in(set(), None)
    assert (found.serial, found.module.rpartition("/")[2][:9], problem) == (
        str(key.serial),
        "libykcs11",
        "",
    )
    assert await find_plugged_in({str(key.serial)}, None) == ([], "")

    key.latency(command_s=5, key_s=0)
    assert await find_plugged_in(set(), None, patience_s=1) == (
        [],
        "a YubiKey did not answer within 1 s; is it being touched?",
    )
    surroundings.kill_pcscd()
    none, problem = await find_plugged_in(set(), None)
    assert (none, problem.startswith("pcscd does not answer")) == ([], True)
    assert key.state.pins_offered == 0
