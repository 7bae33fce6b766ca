"""A token's state follows from what its places report, and is told once."""

from __future__ import annotations

import asyncio

import pytest

from keyd.device.condition import Condition
from keyd.device.events import EventKind, TokenEvent
from keyd.device.failures import fault_error, gone_error
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import KeydError, PinRefusedError, TokenLockedError, WrongTokenError
from keyd.model import TokenState


class Told:
    """A condition with what it told: the events, and how often nothing may wait any more."""

    def __init__(self) -> None:
        self.events: list[TokenEvent] = []
        self.settled = 0
        self.condition = Condition("main", self.events.append, self._on_settled)

    def _on_settled(self) -> None:
        self.settled += 1

    @property
    def kinds(self) -> list[EventKind]:
        """The events' kinds."""
        return [event.kind for event in self.events]


async def test_a_token_that_starts_is_absent_and_undecided() -> None:
    condition = Told().condition

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await condition.decided()

    assert condition.state is TokenState.ABSENT
    assert "is being started" in condition.why


async def test_calls_wait_through_the_moment_in_which_a_host_is_replaced() -> None:
    told = Told()
    told.condition.open(by_person=False)

    told.condition.shut(just_now=True)
    waiting = asyncio.create_task(told.condition.decided())
    await asyncio.sleep(0)
    waited = not waiting.done()
    told.condition.open(by_person=False)
    async with asyncio.timeout(1):
        await waiting

    assert waited
    assert told.condition.why_not() is None
    assert (told.kinds, told.settled) == ([EventKind.UNLOCKED], 0)


async def test_a_loss_is_told_once_and_whoever_waits_is_answered() -> None:
    told = Told()
    told.condition.open(by_person=False)

    for _ in range(2):
        told.condition.settle(TokenState.ABSENT, gone_error("main", "is not there"))
    told.condition.open(by_person=False)

    assert told.kinds == [EventKind.UNLOCKED, EventKind.ABSENT, EventKind.RETURNED]
    assert told.settled == 2


async def test_every_caller_gets_an_error_of_its_own() -> None:
    condition = Told().condition
    condition.settle(TokenState.FAULTED, fault_error("main", "broken"))

    first, second = condition.why_not(), condition.why_not()

    assert first is not second
    assert first is not None
    assert first.message == "token main: broken"


async def test_a_token_that_is_stopped_tells_nothing_more() -> None:
    told = Told()
    told.condition.open(by_person=True)

    told.condition.stop()

    assert told.kinds == [EventKind.UNLOCKED]
    assert told.settled == 1
    assert "keyd is stopping" in told.condition.why


@pytest.mark.parametrize(
    ("error", "pin_state", "state", "seen"),
    [
        (gone_error("main", "went"), "ok", TokenState.ABSENT, "DEVICE_GONE"),
        (PinRefusedError("no", token="main"), "ok", TokenState.LOCKED, "TOKEN_LOCKED"),
        (TokenLockedError("no", token="main"), "ok", TokenState.LOCKED, "TOKEN_LOCKED"),
        (PinRefusedError("no", token="main"), "locked", TokenState.PIN_LOCKED, "PIN_REFUSED"),
        (
            PinRefusedError("no", ckr="CKR_PIN_LOCKED"),
            "ok",
            TokenState.PIN_LOCKED,
            "PIN_REFUSED",
        ),
        (WrongTokenError("other"), "ok", TokenState.FAULTED, "WRONG_TOKEN"),
    ],
    ids=["gone", "refused", "locked", "blocked by its flags", "blocked by its answer", "other"],
)
async def test_the_state_follows_from_why_a_login_failed(
    error: KeydError, pin_state: str, state: TokenState, seen: str
) -> None:
    condition = Told().condition
    condition.info = pb.TokenInfo(pin_state=pin_state)

    found, answer = condition.after_login_failed(error)

    assert (found, answer.reason) == (state, seen)
