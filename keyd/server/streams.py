"""Streams of a servicer: they end when the daemon drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

_T = TypeVar("_T")


async def until(ended: asyncio.Event, items: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """The items until there are no more, or ``ended`` is set."""
    end = asyncio.create_task(ended.wait())
    following: asyncio.Task[_T] | None = None
    try:
        while not end.done():
            following = asyncio.ensure_future(anext(items))
            await asyncio.wait({end, following}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        end.cancel()
        if following is not None and not following.done():
            following.cancel()
            await asyncio.wait({following})
        await items.aclose()
