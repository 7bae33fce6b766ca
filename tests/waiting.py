"""Waiting for something to become true: bounded, and polled, since nothing tells of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def until(holds: Callable[[], object], what: str, timeout_s: float = 30.0) -> float:
    """Wait, bounded; the seconds it took. ``what``: said where it never comes to pass."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < timeout_s, f"never: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


async def eventually(holds: Callable[[], object], within_s: float = 10.0) -> float:
    """Wait for it on the event loop; the seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, "it did not come to pass in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began
