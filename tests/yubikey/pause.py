"""A card that stops in the middle of a command, so that a test can strike at that very moment."""

from __future__ import annotations

import asyncio
from enum import IntEnum

from tests.yubikey.apdu import CardError, Command

_NOT_NOW = 0x6F00


class Moment(IntEnum):
    """The instruction that a card may stop at."""

    VERIFY = 0x20
    """A PIN is being compared. Asking whether one was is let through."""
    CHANGE_PIN = 0x24
    """Or the PUK."""
    GENERATE = 0x47
    SIGN = 0x87
    """Also the proof of the management key."""
    PUT_DATA = 0xDB
    """A certificate, or what the management key is kept in."""
    SELECT = 0xA4
    SERIAL = 0xF8
    ATTEST = 0xF9
    SET_MANAGEMENT_KEY = 0xFF


class Pause:
    """Of one card, once: at the next command of this kind. ``reached`` is set while it stops."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._instruction: int | None = None
        self._is_after = False
        self._skip = 0
        self._failing: int | None = None
        self._over = asyncio.Event()

    def arm(self, instruction: int, *, is_after: bool, skip: int) -> None:
        """Stop there: before anything is done, or when all is done and only not answered.
        ``skip``: so many commands of the kind are let through first."""
        self._instruction, self._is_after, self._skip = instruction, is_after, skip
        self._over.clear()

    def end(self) -> None:
        """Go on, and stop no more."""
        self._instruction = None
        self._over.set()

    def fail_once(self, instruction: int) -> None:
        """The next command of this kind is answered as by a card that is not up yet."""
        self._failing = instruction

    async def before(self, command: Command) -> None:
        """The command has arrived.

        Raises:
            CardError: the card cannot do it now.
        """
        if command.ins == self._failing:
            self._failing = None
            raise CardError(_NOT_NOW)
        if not self._is_after:
            await self._stop_at(command)

    async def after(self, command: Command) -> None:
        """It was carried out."""
        if self._is_after:
            await self._stop_at(command)

    async def _stop_at(self, command: Command) -> None:
        if command.ins != self._instruction:
            return
        if command.ins == Moment.VERIFY and not command.data:
            return
        if self._skip:
            self._skip -= 1
            return
        self.reached.set()
        try:
            await self._over.wait()
        finally:
            # Also when the card is pulled: it is whole when it is plugged in again.
            self._instruction = None
            self.reached.clear()
