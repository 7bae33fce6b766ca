"""Each fault at each moment: what the waiting call is told, how the token stands, what never is.

One daemon's pool goes through all cells of this file without a restart of anything: at the end of
each cell both tokens sign, through the same host processes, no PIN try is spent, and the YubiKey
with another serial was offered nothing. `make test` runs the cells of EVERYDAY, `make soak` all.

Not here, and why:

* a factory reset by another program takes the stage's keys with it: test_factory_reset below, once
  for each moment that leaves the other program its turn;
* removal while another program's own touch is awaited: the card belongs to that program, and keyd
  waits its turn as in "held in a transaction" (test_device_absence.py has it with a touch);
* a real suspend of the machine: to PC/SC it is "asleep" when the card keeps its power and
  "powered-off" when it does not;
* a reader that goes with its YubiKey: vpcd's stays, see test_device_absence.py;
* a card that another program holds exclusively before keyd comes: test_device_absence.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from keyd.errors import DeviceGoneError, KeydError, TokenLockedError
from keyd.model import TokenState
from tests.yubikey import faults, moments
from tests.yubikey.bench import Bench
from tests.yubikey.cycles import host_pids
from tests.yubikey.faults import FAULTS, Fault
from tests.yubikey.moments import MOMENTS, Call
from tests.yubikey.stage import PATIENCE_S, Stage
from tests.yubikey.worker import Worker

pytestmark = pytest.mark.asyncio(loop_scope="module")

BY_HAND = (moments.unlocking, moments.changing_pin)
"""What a person began is a person's to finish: the token is LOCKED when it was cut short."""
EVERYDAY = (
    {("idle", fault.name) for fault in FAULTS}
    | {(moment.__name__, "pulled") for moment in MOMENTS}
    | {
        ("signing", "moved-to-the-other-reader"),
        ("signing", "pcscd-restarted"),
        ("signing", "reset"),
        ("awaiting_touch", "swapped-for-another-serial"),
        ("awaiting_touch", "replugged"),
        ("unlocking", "swapped-for-another-serial"),
        ("unlocking", "powered-off"),
        ("generating", "pcscd-killed"),
        ("attesting", "another-applet-selected"),
        ("changing_pin", "pcscd-killed"),
    }
)


class Stages:
    """One stage after the other: the next one when a cell has left one unfit."""

    def __init__(self, module: Path, folder: Path) -> None:
        self._module = module
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._stage: Stage | None = None
        self._number = 0

    async def ready(self) -> Stage:
        """One that signs."""
        if self._stage is None or self._stage.is_spent:
            await self.close()
            self._number += 1
            folder = self._folder / str(self._number)
            folder.mkdir()
            bench = self._stack.enter_context(Bench.start(readers=2))
            surroundings = self._stack.enter_context(pytest.MonkeyPatch.context())
            for name, value in bench.environment.items():
                surroundings.setenv(name, value)
            worker = self._stack.enter_context(Worker(bench.environment))
            stage = Stage(bench, worker, self._module, folder)
            self._stage = await self._stack.enter_async_context(stage.running())
        return self._stage

    async def close(self) -> None:
        """End it."""
        await self._stack.aclose()
        self._stage = None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(ykcs11: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stages]:
    made = Stages(ykcs11, tmp_path_factory.mktemp("stage"))
    try:
        yield made
    finally:
        await made.close()


async def outcome(call: Call) -> object:
    """What the call came to; an error that is not clear is raised."""
    if call is None:
        return None
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await call
    except KeydError as error:
        assert error.message
        assert error.hint or error.retry_after_s is not None, f"no way out: {error!r}"
        return error


def cells() -> list[Any]:
    return [
        pytest.param(
            moment,
            fault,
            id=f"{moment.__name__}-{fault.name}",
            marks=() if (moment.__name__, fault.name) in EVERYDAY else pytest.mark.soak,
        )
        for moment in MOMENTS
        for fault in FAULTS
    ]


@pytest.mark.parametrize(("moment", "fault"), cells())
async def test_a_fault_is_told_and_healed_without_a_restart_and_spends_no_pin(
    stages: Stages, moment: Callable[[Stage], Awaitable[Call]], fault: Fault
) -> None:
    stage = await stages.ready()
    # Unfit for the next cell until this one has ended well.
    stage.is_spent = True
    call = await moment(stage)
    answer: object = None
    try:
        await fault.begin(stage)
        try:
            if fault.away and not fault.comes_back:
                answer = await outcome(call)
                assert call is None or isinstance(answer, DeviceGoneError), repr(answer)
                await stage.reaches(TokenState.ABSENT)
            if fault.other_goes_on:
                await stage.sign_with_other()
            if not fault.other_goes_on and not fault.away:
                waiting = asyncio.ensure_future(stage.sign_with_other())
                _, pending = await asyncio.wait((waiting,), timeout=0.3)
                assert pending, "nothing answers, yet something signed"
        finally:
            await fault.end(stage)
        if not fault.away:
            await faults.let_go_on(stage)
        answer = await outcome(call)
    finally:
        if call is not None:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    if isinstance(answer, KeydError) and answer.message.startswith("the PIN is changed, but"):
        # Another program came into the login that follows: a person says the new PIN once more.
        assert "keydctl token unlock yubi" in answer.hint
    elif not fault.away:
        assert not isinstance(answer, KeydError), repr(answer)
    elif isinstance(answer, KeydError):
        assert isinstance(answer, DeviceGoneError), repr(answer)
    await back_to_work(stage, was_cut_short=moment in BY_HAND and isinstance(answer, KeydError))
    assert host_pids() == stage.hosts or moment in BY_HAND, "a host was replaced"
    stage.hosts = host_pids()
    stage.is_spent = False


async def back_to_work(stage: Stage, *, was_cut_short: bool) -> None:
    """Both tokens sign, with what the person has to do and nothing else."""
    stage.write_pin(stage.pin)
    if was_cut_short:
        await stage.reaches(TokenState.LOCKED)
        with pytest.raises(TokenLockedError) as locked:
            await stage.sign(stage.plain)
        assert "keydctl token unlock yubi" in locked.value.hint
        await stage.unlock_as_people_do()
    await stage.sign_as_clients_do()
    await stage.reaches(TokenState.READY)
    key, other, stranger = stage.key.state, stage.other.state, stage.stranger.state
    assert (key.pin_tries, other.pin_tries) == (3, 3)
    assert (stranger.pins_offered, stranger.signatures) == (0, 0)


@pytest.mark.parametrize("moment", [moments.idle, moments.signing, moments.attesting])
async def test_a_factory_reset_by_another_program_leaves_nothing_to_sign_with_and_is_told(
    stages: Stages, moment: Callable[[Stage], Awaitable[Call]]
) -> None:
    stage = await stages.ready()
    stage.is_spent = True
    call = await moment(stage)
    await faults.reset_to_factory(stage)
    assert not isinstance(await outcome(call), KeydError), "its turn was before the reset"

    signatures = stage.key.state.signatures
    with pytest.raises(KeydError) as refused:
        await stage.sign_as_clients_do()
    assert not isinstance(refused.value, DeviceGoneError)
    await stage.sign_with_other()
    # The PIN that keyd knew is wrong now: it may learn that once.
    assert stage.key.state.pin_tries >= 2
    assert stage.key.state.signatures == signatures
    await stage.reaches(TokenState.LOCKED)
    assert refused.value.hint == "keydctl token unlock yubi"
