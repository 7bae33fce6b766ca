"""Unplug, replug, swap, share: what keyd sees of it, within a second, and what it never does."""

from __future__ import annotations

import asyncio

import pytest

from keyd.device.events import EventKind
from keyd.errors import DeviceGoneError, WrongTokenError
from keyd.model import Pin, TokenState
from tests.yubikey import by_pcsc, by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.desk import SLOT, Desk, check, eventually, is_state, job, sign, status
from tests.yubikey.model import FACTORY_PIN, Model
from tests.yubikey.pause import Moment


async def pull(key: EmulatedKey) -> None:
    await asyncio.to_thread(key.remove)


async def plug(key: EmulatedKey, slot: int = 0) -> None:
    await asyncio.to_thread(key.insert, slot)


async def test_an_idle_key_that_is_pulled_is_absent_within_a_second(desk: Desk) -> None:
    desk.make()
    async with desk.running() as pool:
        await asyncio.sleep(0.5)
        await pull(desk.key)
        assert await eventually(is_state(pool, TokenState.ABSENT)) < 1.0
        assert "no token has serial 1234567" in status(pool).detail


@pytest.mark.parametrize("slot", [0, 1])
async def test_a_key_that_returns_in_any_reader_signs_within_a_second(
    desk: Desk, slot: int
) -> None:
    public_key = desk.make()
    async with desk.running() as pool:
        await pull(desk.key)
        await eventually(is_state(pool, TokenState.ABSENT))
        await plug(desk.key, slot)
        assert await eventually(is_state(pool, TokenState.READY)) < 1.0
        check(public_key, (await sign(pool, job(public_key)))[0])


async def test_a_key_that_was_out_for_a_moment_signs_with_the_pin_it_was_given(desk: Desk) -> None:
    public_key = desk.make()
    async with desk.running(pin_source="prompt") as pool:
        await pool.unlock("yubi", Pin(FACTORY_PIN))
        await pull(desk.key)
        await plug(desk.key)
        async with asyncio.timeout(5):
            # What clients do: the error says when to ask again.
            while isinstance(answer := (await sign(pool, job(public_key)))[0], DeviceGoneError):
                assert answer.retry_after_s is not None
                await asyncio.sleep(0.1)
        check(public_key, answer)


async def test_an_idle_key_that_is_swapped_is_absent_and_the_other_is_named(
    desk: Desk, bench: Bench
) -> None:
    other = bench.add(Model(7654321), slot=None)
    async with desk.running() as pool:
        await asyncio.to_thread(desk.key.swap_for, other)
        assert await eventually(is_state(pool, TokenState.ABSENT)) < 1.0
        await eventually(lambda: "7654321" in status(pool).detail)
        await asyncio.sleep(0.5)
    assert other.state.pins_offered == 0


async def test_a_key_with_the_right_name_and_another_serial_gets_no_pin(
    desk: Desk, bench: Bench
) -> None:
    """A token that is configured by its label alone keeps to the serial it was unlocked with."""
    other = bench.add(Model(7654321), slot=None)
    desk.make()
    public_key = desk.make(slot=SLOT + 1)
    async with desk.running() as pool:
        # The registry says on which token a key lies; another serial is refused.
        (answer,) = await sign(pool, job(public_key, b"\x06", serial="7654321"))
    assert isinstance(answer, WrongTokenError)
    assert (other.state.pins_offered, other.state.signatures) == (0, 0)


async def test_pcscd_that_dies_is_noticed_while_idle_and_named(desk: Desk, bench: Bench) -> None:
    public_key = desk.make()
    async with desk.running() as pool:
        bench.kill_pcscd()
        assert await eventually(is_state(pool, TokenState.ABSENT)) < 1.0
        assert "smart card service does not answer" in status(pool).detail
        await asyncio.to_thread(bench.start_pcscd)
        assert await eventually(is_state(pool, TokenState.READY)) < 1.5
        check(public_key, (await sign(pool, job(public_key)))[0])


async def test_looking_at_an_idle_key_ends_no_session_and_offers_no_pin(
    desk: Desk, bench: Bench
) -> None:
    public_key = desk.make()
    async with desk.running() as pool:
        before = desk.key.state
        await asyncio.sleep(1.5)
        after = desk.key.state
        # A program that looks at the card leaves it with a reset; libykcs11 gets over that alone.
        await asyncio.to_thread(desk.worker.call, by_yubikit.metadata, desk.key.serial, SLOT)
        await asyncio.sleep(0.9)
        check(public_key, (await sign(pool, job(public_key)))[0])
    assert (after.pins_offered, after.selects) == (before.pins_offered, before.selects)
    assert desk.kinds() == ["unlocked"]


async def test_a_program_that_holds_the_card_delays_a_signature_and_fails_nothing(
    desk: Desk,
) -> None:
    public_key, other = desk.make(), desk.make(touch="ALWAYS", slot=SLOT + 1)
    async with desk.running(token_timeout_s=0.5) as pool:
        # Another program waits for a touch and lets nobody in meanwhile.
        held = desk.worker.begin(
            by_yubikit.sign, desk.key.serial, SLOT + 1, "ECCP256", FACTORY_PIN, b"m"
        )
        await asyncio.to_thread(desk.key.wait_for_blinking)
        signing = asyncio.create_task(sign(pool, job(public_key)))
        await asyncio.sleep(1.2)
        desk.key.touch()
        await asyncio.to_thread(held, 5.0)
        check(public_key, (await signing)[0])
    assert other
    assert desk.kinds() == ["unlocked"]


async def test_an_absent_token_does_not_disturb_one_that_signs(desk: Desk) -> None:
    public_key = desk.make()
    absent = desk.config(name="absent", serial="999")
    async with desk.running(more=[absent]) as pool:
        check(public_key, (await sign(pool, job(public_key)))[0])
        before = desk.key.state
        await asyncio.sleep(1.2)
        after = desk.key.state
        check(public_key, (await sign(pool, job(public_key)))[0])
    assert (after.pins_offered, after.selects) == (before.pins_offered, before.selects)
    assert desk.kinds().count(EventKind.UNLOCKED) == 1
    assert "returned" not in desk.kinds()


async def test_two_keys_at_once_are_told_apart_by_serial_and_sign_in_turn(
    desk: Desk, bench: Bench
) -> None:
    first = desk.make()
    second_key = await asyncio.to_thread(bench.add, Model(7654321), 1)
    second = desk.make(serial=7654321)
    other = desk.config(name="second", serial="7654321")
    async with desk.running(more=[other]) as pool:
        assert [t.serial for t in pool.tokens()] == ["1234567", "7654321"]
        for _ in range(5):
            check(first, (await sign(pool, job(first, serial="1234567")))[0])
            (answer,) = await pool.sign("second", [job(second, serial="7654321")])
            check(second, answer)
        (wrong,) = await pool.sign("second", [job(first)])
        await pull(desk.key)
        await eventually(is_state(pool, TokenState.ABSENT))
        (answer,) = await pool.sign("second", [job(second)])
        check(second, answer)

    assert isinstance(wrong, WrongTokenError)
    assert (desk.key.state.signatures, second_key.state.signatures) == (5, 6)
    # Each host ends what the other has proven when it looks for its own: one proof more is enough.
    assert second_key.state.pins_offered <= 4


async def test_a_host_that_loses_its_session_over_and_over_leaves_none_behind(desk: Desk) -> None:
    """libykcs11 has 16 sessions: the seventeenth login of a host that leaks them fails."""
    public_key = desk.make()
    async with desk.running() as pool:
        keeper = pool.keeper("yubi")
        for _ in range(34):
            await keeper.refresh()
            check(public_key, (await sign(pool, job(public_key)))[0])
    assert "host-died" not in desk.kinds()


async def test_a_card_that_another_program_keeps_for_itself_is_said_so_and_used_once_it_is_free(
    desk: Desk, bench: Bench
) -> None:
    """gpg's scdaemon opens cards so."""
    public_key = desk.make()
    reader = bench.readers[0]
    assert not await asyncio.to_thread(
        lambda: desk.worker.call(by_pcsc.connect, reader, exclusive=True)
    )
    async with desk.running() as pool:
        await eventually(is_state(pool, TokenState.ABSENT))
        await eventually(lambda: "keeps a card for itself" in status(pool).detail)
        assert desk.key.state.pins_offered == 0
        await asyncio.to_thread(desk.worker.call, by_pcsc.leave)
        await eventually(is_state(pool, TokenState.READY))
        check(public_key, (await sign(pool, job(public_key)))[0])


async def test_logins_that_are_cut_short_again_and_again_cost_nothing_and_lock_nobody_out(
    desk: Desk,
) -> None:
    """The PIN is known to be good, and the card tells that all its tries are left."""
    public_key = desk.make()
    async with desk.running() as pool:
        await eventually(is_state(pool, TokenState.READY))
        await pull(desk.key)
        for _ in range(4):
            await eventually(is_state(pool, TokenState.ABSENT))
            desk.key.stop_at(Moment.VERIFY)
            await plug(desk.key)
            await asyncio.to_thread(desk.key.wait_until_stopped)
            await pull(desk.key)
        await eventually(is_state(pool, TokenState.ABSENT))
        await plug(desk.key)
        await eventually(is_state(pool, TokenState.READY))
        check(public_key, (await sign(pool, job(public_key)))[0])
    assert desk.key.state.pin_tries == 3
    assert EventKind.LOCKED not in desk.kinds()


async def test_a_pin_that_was_spent_in_a_login_cut_short_is_a_persons_to_say(desk: Desk) -> None:
    desk.make()
    async with desk.running() as pool:
        await eventually(is_state(pool, TokenState.READY))
        await pull(desk.key)
        for _ in range(2):
            await eventually(is_state(pool, TokenState.ABSENT))
            desk.key.stop_at(Moment.VERIFY)
            await plug(desk.key)
            await asyncio.to_thread(desk.key.wait_until_stopped)
            await pull(desk.key)
        await eventually(is_state(pool, TokenState.ABSENT))
        desk.key.tries_left(pin=2)
        offered = desk.key.state.pins_offered
        await plug(desk.key)
        await eventually(is_state(pool, TokenState.LOCKED))
        assert desk.key.state.pins_offered == offered
        await pool.unlock("yubi", Pin(FACTORY_PIN))


async def test_a_pcscd_without_any_reader_is_no_trouble_and_the_key_signs_when_one_is_there(
    desk: Desk, bench: Bench
) -> None:
    """As on a machine whose only reader was the YubiKey. That it goes while pcscd runs cannot be
    had here: pcscd 1.9.9 takes a reader of its configuration away when SIGUSR1 makes it look and
    the driver fails (RFReCheckReaderConf), and vpcd's driver says "empty" instead."""
    public_key = desk.make()
    readers = bench.socket_path.parent / "readers/yubikey"
    async with desk.running() as pool:
        await eventually(is_state(pool, TokenState.READY))
        await pull(desk.key)
        readers.rename(readers.with_name(".away"))
        await asyncio.to_thread(bench.kill_pcscd)
        await eventually(lambda: "journalctl -u pcscd" in status(pool).detail)
        await asyncio.to_thread(bench.start_pcscd)
        await eventually(lambda: "no token has serial 1234567" in status(pool).detail)
        readers.with_name(".away").rename(readers)
        await asyncio.to_thread(bench.kill_pcscd)
        await asyncio.to_thread(bench.start_pcscd)
        await plug(desk.key)
        await eventually(is_state(pool, TokenState.READY))
        check(public_key, (await sign(pool, job(public_key)))[0])
    assert desk.key.state.pin_tries == 3


@pytest.mark.parametrize("missed", [Moment.SELECT, Moment.SERIAL])
async def test_a_key_that_did_not_answer_at_first_is_looked_at_again(
    desk: Desk, missed: Moment
) -> None:
    """Nothing is plugged in or pulled after that."""
    public_key = desk.make()
    async with desk.running() as pool:
        await pull(desk.key)
        await eventually(is_state(pool, TokenState.ABSENT))
        desk.key.fail_once(missed)
        await plug(desk.key)
        await eventually(is_state(pool, TokenState.READY))
        check(public_key, (await sign(pool, job(public_key)))[0])
