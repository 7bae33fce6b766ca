"""The gold contact, and the person who does or does not touch it."""

from __future__ import annotations

import asyncio
from enum import StrEnum

from tests.yubikey.apdu import CardError, Sw
from tests.yubikey.model import TouchPolicy

WINDOW_S = 15.0
"""How long the contact blinks before the card gives up."""

CACHE_S = 15.0
"""A touch counts for this long for keys whose policy is CACHED."""


class Person(StrEnum):
    """How the person behaves.

    WAITS: touches when the test says so. TOUCHES: by itself, ``after_s`` after the blinking began.
    REFUSES: the card gives up with 6985 after ``after_s``. SLEEPS: never touches.
    """

    WAITS = "waits"
    TOUCHES = "touches"
    REFUSES = "refuses"
    SLEEPS = "sleeps"


class TouchContact:
    """One card's contact. ``blinking`` is set while it waits; ``touches`` counts those used."""

    def __init__(self) -> None:
        self.person = Person.WAITS
        self.after_s = 0.0
        self.window_s = WINDOW_S
        self.cache_s = CACHE_S
        self.touches = 0
        self.requests = 0
        self.blinking = asyncio.Event()
        self._touched: asyncio.Future[None] | None = None
        self._touched_at: float | None = None

    def touch(self) -> bool:
        """A finger, now; False when nothing waited for it, and then it counts for nothing."""
        if self._touched is None or self._touched.done():
            return False
        self._touched.set_result(None)
        return True

    def age(self, seconds: float) -> None:
        """The last touch is so much longer ago, without waiting for it."""
        if self._touched_at is not None:
            self._touched_at -= seconds

    def forget(self) -> None:
        """Power was lost: the last touch counts no more."""
        self._touched_at = None

    async def require(self, policy: TouchPolicy) -> None:
        """Wait for the touch this policy wants.

        Raises:
            CardError: it did not come.
        """
        if policy not in (TouchPolicy.ALWAYS, TouchPolicy.CACHED):
            return
        loop = asyncio.get_running_loop()
        is_cached = self._touched_at is not None and loop.time() - self._touched_at < self.cache_s
        if policy is TouchPolicy.CACHED and is_cached:
            return
        self._touched = loop.create_future()
        self.requests += 1
        self.blinking.set()
        try:
            async with asyncio.timeout(self.window_s):
                await self._decision()
        except TimeoutError:
            raise CardError(Sw.SECURITY_NOT_SATISFIED) from None
        finally:
            self.blinking.clear()
            self._touched = None
        self.touches += 1
        self._touched_at = loop.time()

    async def _decision(self) -> None:
        assert self._touched is not None
        if self.person in (Person.WAITS, Person.SLEEPS):
            # A sleeping person can still be woken by touch(): the test is in charge.
            await self._touched
            return
        await asyncio.sleep(self.after_s)
        if self.person is Person.REFUSES:
            raise CardError(Sw.CONDITIONS_NOT_SATISFIED)
