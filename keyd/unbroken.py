"""Work that goes on to its end when the caller who asked for it has left.

A caller's deadline ends its wait. What touches a token or spends a PIN try must not stop half-way
with it, between the deed and its entry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from keyd.errors import KeydError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class Unbroken:
    """Runs such work; owned by the event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Do the work as a task of the daemon and wait for it."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_fault)
            raise

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Do the work without anybody who waits; if it fails, that is told."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(_tell_failure)

    def cancel(self) -> None:
        """End what runs; for work without an end of its own."""
        for task in self._running:
            task.cancel()

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        while self._running:
            await asyncio.wait(list(self._running))


def _tell_failure(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("work of the daemon failed", exc_info=error)


def _tell_fault(task: asyncio.Task[Any]) -> None:
    """Nobody waits for this task: what went wrong by no intent of ours is told here."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, KeydError):
        log.error("work whose caller had left failed", exc_info=error)
