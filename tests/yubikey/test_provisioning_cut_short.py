"""An init that is cut short, at every step of it: repeated, it finishes, and nothing is lost. And a
change of PIN whose login with the new one is."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from keyd.device.pool import DevicePool
from keyd.device.yubikeys import PoolYubiKeys
from keyd.errors import TokenError, TokenObjectError
from keyd.model import KeyAlgorithm, Pin, PinPolicy, Slot, SlotOrder, TokenState, TouchPolicy
from keyd.newyubikeys import check_fresh
from tests.fakes import FakePinAttempts
from tests.yubikey import by_yubikit
from tests.yubikey.apdu import tlv
from tests.yubikey.attestation import Maker
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.desk import Desk, eventually, is_state
from tests.yubikey.model import (
    FACTORY_MANAGEMENT_KEY,
    FACTORY_PIN,
    FACTORY_PUK,
    FIRMWARE_5_7,
    Model,
)
from tests.yubikey.pause import Moment
from tests.yubikey.worker import Worker

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PIN, PUK = Pin("73910462"), Pin("58203971")
CERTIFICATE_OF_9A = 0x5FC105
"""The object it lies in (NIST SP 800-73-4, part 1, table 3)."""
ORDER = SlotOrder(
    Slot.parse("82"), KeyAlgorithm.ECDSA_P256, PinPolicy.ONCE, TouchPolicy.NEVER, "acme/root/1"
)
STEPS = [
    (Moment.VERIFY, 0, False),
    (Moment.SIGN, 1, False),
    (Moment.PUT_DATA, 0, False),
    (Moment.PUT_DATA, 1, False),
    (Moment.SET_MANAGEMENT_KEY, 0, False),
    (Moment.CHANGE_PIN, 0, True),
]
"""Each command of an init that proves something to the card or changes it, but for the last, and
whether the PUK is the new one after it."""


class Setting:
    """A pool with one YubiKey, and an init that stops where a test wants to strike."""

    def __init__(self, key: EmulatedKey, pool: DevicePool) -> None:
        self.key = key
        self.pool = pool
        self.yubikeys = PoolYubiKeys(pool, FakePinAttempts(), lambda: NOW)

    async def init(self) -> tuple[str, ...]:
        """As keyd does: only what is as at the factory."""
        check_fresh("yubi", await self.yubikeys.look("yubi"))
        return await self.yubikeys.init("yubi", PIN, PUK)

    async def stopped(self, moment: Moment, skip: int = 0) -> asyncio.Task[tuple[str, ...]]:
        """An init that has done this step and was not told so yet."""
        self.key.stop_at(moment, is_after=True, skip=skip)
        cut = asyncio.ensure_future(self.init())
        await asyncio.to_thread(self.key.wait_until_stopped)
        return cut

    async def is_whole(self) -> None:
        """PIN and management key are its own, and both are there to be used."""
        found = await self.yubikeys.look("yubi")
        assert (found.factory, found.management_protected) == (frozenset(), True)
        assert (found.pin_tries, found.puk_tries) == (3, 3)
        await self.pool.unlock("yubi", PIN)
        made = await self.yubikeys.generate("yubi", ORDER)
        assert made.certificate


async def test_pulled_after_any_step_it_is_as_new_and_a_repeated_init_finishes(desk: Desk) -> None:
    async with desk.running(pin_source="prompt") as pool:
        setting = Setting(desk.key, pool)
        for moment, skip, puk_is_set in STEPS:
            cut = await setting.stopped(moment, skip)
            desk.key.remove()
            with pytest.raises(TokenError):
                await cut
            desk.key.insert()
            await eventually(is_state(pool, TokenState.LOCKED))
            assert "pin" in (await setting.yubikeys.look("yubi")).factory, "changed last"

            notes = await setting.init()

            assert bool(notes) == puk_is_set, (moment, notes)
            await setting.is_whole()
            desk.key.factory_reset()


async def test_once_the_pin_is_changed_it_is_done_though_nobody_was_told(desk: Desk) -> None:
    async with desk.running(pin_source="prompt") as pool:
        setting = Setting(desk.key, pool)
        cut = await setting.stopped(Moment.CHANGE_PIN, 1)
        desk.key.remove()
        with pytest.raises(TokenError):
            await cut
        desk.key.insert()
        await eventually(is_state(pool, TokenState.LOCKED))

        with pytest.raises(TokenObjectError, match="is not the factory's") as refused:
            await setting.init()
        assert "keydctl token unlock yubi" in refused.value.hint
        await setting.is_whole()


async def test_a_token_host_that_is_killed_in_the_middle_costs_a_repetition(desk: Desk) -> None:
    async with desk.running(pin_source="prompt") as pool:
        setting = Setting(desk.key, pool)
        cut = await setting.stopped(Moment.SET_MANAGEMENT_KEY)
        (host,) = hosts()
        os.kill(host, signal.SIGKILL)
        with pytest.raises(TokenError):
            await cut
        desk.key.go_on()

        await setting.init()

        await setting.is_whole()


async def test_a_pcscd_that_is_killed_in_the_middle_costs_a_repetition(
    desk: Desk, bench: Bench
) -> None:
    async with desk.running(pin_source="prompt") as pool:
        setting = Setting(desk.key, pool)
        for moment in (Moment.VERIFY, Moment.SET_MANAGEMENT_KEY):
            cut = await setting.stopped(moment)
            await asyncio.to_thread(bench.kill_pcscd)
            with pytest.raises(TokenError) as told:
                await cut
            assert told.value.hint or told.value.retry_after_s is not None
            await eventually(is_state(pool, TokenState.ABSENT))
            assert "journalctl -u pcscd" in pool.tokens()[0].detail

            await asyncio.to_thread(bench.start_pcscd)
            await eventually(is_state(pool, TokenState.LOCKED))
            await setting.init()

            await setting.is_whole()
            desk.key.factory_reset()


@pytest.mark.parametrize("answered", [False, True], ids=["before-the-login", "after-the-login"])
async def test_a_key_pulled_in_the_login_after_a_change_of_pin_is_told_with_the_pin_that_counts(
    desk: Desk, answered: bool
) -> None:
    new = Pin("40961738")
    async with desk.running(pin_source="prompt") as pool:
        setting = Setting(desk.key, pool)
        await setting.init()
        await pool.unlock("yubi", PIN)
        # The first is the old one, which is proven before anything is changed.
        desk.key.stop_at(Moment.VERIFY, skip=1, is_after=answered)
        change = asyncio.ensure_future(setting.yubikeys.change_pin("yubi", PIN, new))
        await asyncio.to_thread(desk.key.wait_until_stopped)
        desk.key.remove()
        with pytest.raises(TokenError) as told:
            await change
        await eventually(is_state(pool, TokenState.ABSENT))
        desk.key.insert()
        await eventually(is_state(pool, TokenState.LOCKED))

        assert told.value.message.startswith("the PIN is changed, but token yubi is locked: ")
        assert told.value.hint == "keydctl token unlock yubi, with the new PIN"
        assert PIN.reveal() not in repr(told.value) and new.reveal() not in repr(told.value)
        await pool.unlock("yubi", new)
        assert (await setting.yubikeys.generate("yubi", ORDER)).certificate
    assert desk.key.state.pin_tries == 3


async def test_a_puk_that_somebody_changed_is_left_and_said(desk: Desk, worker: Worker) -> None:
    change_secrets(worker, desk.key.serial, puk="40961738")
    async with desk.running(pin_source="prompt") as pool:
        setting = Setting(desk.key, pool)
        (note,) = await setting.init()
        assert "left as it was" in note
        await setting.is_whole()
    assert worker.call(by_yubikit.unblock, desk.key.serial, "40961738", "73910462") is None


@pytest.mark.parametrize("firmware", [(5, 4, 3), FIRMWARE_5_7])
async def test_a_management_key_that_nobody_knows_stops_it_before_anything_is_changed(
    desk: Desk, bench: Bench, worker: Worker, firmware: tuple[int, int, int]
) -> None:
    key = desk.key
    if firmware == FIRMWARE_5_7:
        key = bench.add(Model(7654321, FIRMWARE_5_7), slot=1)
    change_secrets(worker, key.serial, management_key=bytes(range(24)))
    async with desk.running(pin_source="prompt", serial=str(key.serial)) as pool:
        setting = Setting(key, pool)
        with pytest.raises(TokenObjectError, match="another management key than the") as refused:
            await setting.init()
        assert "change-management-key --generate --protect" in refused.value.hint
        found = await setting.yubikeys.look("yubi")
    assert found.factory == {"pin", "puk"}
    assert worker.call(by_yubikit.offer_pin, key.serial, FACTORY_PIN) is None


async def test_a_card_with_nothing_but_a_certificate_is_left_alone_and_says_how_to_be_rid_of_it(
    desk: Desk, worker: Worker
) -> None:
    der = Maker().root.public_bytes(Encoding.DER)
    certificate = tlv(0x70, der) + tlv(0x71, b"\0") + tlv(0xFE)
    order = (desk.key.serial, FACTORY_MANAGEMENT_KEY, CERTIFICATE_OF_9A, certificate)
    worker.call(by_yubikit.write_and_read, *order)
    async with desk.running(pin_source="prompt") as pool:
        setting = Setting(desk.key, pool)
        offered = desk.key.state.pins_offered
        with pytest.raises(TokenObjectError, match="holds certificates, in 9a") as refused:
            await setting.init()
    assert "ykman piv certificates delete" in refused.value.hint
    assert desk.key.state.pins_offered == offered


def change_secrets(
    worker: Worker,
    serial: int,
    puk: str = FACTORY_PUK,
    management_key: bytes = FACTORY_MANAGEMENT_KEY,
) -> None:
    """Somebody has been here; the PIN is the factory's."""
    worker.call(
        by_yubikit.set_secrets,
        serial,
        (FACTORY_PIN, FACTORY_PIN),
        (FACTORY_PUK, puk),
        (FACTORY_MANAGEMENT_KEY, management_key),
        worker.call(by_yubikit.management_cipher, serial),
    )


def hosts() -> list[int]:
    """Token hosts of this process."""
    children = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    return [p for p in pids if b"keyd.device.host" in Path(f"/proc/{p}/cmdline").read_bytes()]
