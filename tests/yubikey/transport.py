"""The wire to vsmartcard's virtual reader: the card's end of a TCP connection to vpcd.

Messages are two bytes of length, big-endian, then the body: one byte that is a control message,
or an APDU. vpcd answers presence itself by whether somebody is connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from enum import IntEnum

from tests.yubikey.card import ATR, Card

_RETRY_S = 0.01
_NO_ANSWER = b"\0"
"""From a card without power: pcscd lets libykcs11's commands through after another program has cut
it. A real reader then says that it cannot; vpcd has no word for that, and this is no answer."""


class _Control(IntEnum):
    POWER_OFF = 0
    POWER_ON = 1
    RESET = 2
    GET_ATR = 4


class Plug:
    """A card in a reader's slot: connects, serves, and connects again while it is plugged in.

    ``powered`` is set once pcscd has switched the card on and read its ATR.
    """

    def __init__(self, card: Card, port: int) -> None:
        self.card = card
        self.powered = asyncio.Event()
        self._port = port
        self._writer: asyncio.StreamWriter | None = None
        self._task = asyncio.get_running_loop().create_task(self._stay())

    async def pull(self) -> None:
        """Out, at once, whatever is going on."""
        self._task.cancel()
        if self._writer is not None:
            self._writer.transport.abort()
        await asyncio.gather(self._task, return_exceptions=True)
        self.card.unplug()

    async def _stay(self) -> None:
        while True:
            # pcscd may have been killed, or not listen yet.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    await self._serve(reader, self._writer)
                finally:
                    self._writer.transport.abort()
                    self._writer = None
                    self.powered.clear()
                    self.card.reset()
            await asyncio.sleep(_RETRY_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        switched_on = False
        upcoming = asyncio.ensure_future(_read(reader, writer))
        try:
            while True:
                body = await upcoming
                upcoming = asyncio.ensure_future(_read(reader, writer))
                if len(body) != 1:
                    answer = await self._answer(body, upcoming) if switched_on else _NO_ANSWER
                    _write(writer, answer)
                elif body[0] == _Control.GET_ATR:
                    _write(writer, ATR)
                    if switched_on:
                        self.powered.set()
                elif body[0] in (_Control.POWER_OFF, _Control.POWER_ON, _Control.RESET):
                    switched_on = body[0] != _Control.POWER_OFF
                    self.card.reset()
        finally:
            upcoming.cancel()

    async def _answer(self, apdu: bytes, upcoming: asyncio.Future[bytes]) -> bytes:
        """The card's answer, unless the reader goes away first: nothing else is sent meanwhile."""
        answer = asyncio.ensure_future(self.card.transmit(apdu))
        try:
            await asyncio.wait((answer, upcoming), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionResetError("the reader went away")
            return answer.result()
        finally:
            answer.cancel()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    _acknowledge_quickly(writer)
    size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)


def _write(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(len(message).to_bytes(2, "big") + message)
    _acknowledge_quickly(writer)


def _acknowledge_quickly(writer: asyncio.StreamWriter) -> None:
    """vpcd sends length and body apart and waits for the acknowledgement in between: without this
    each APDU takes 40 ms. The kernel forgets the option whenever data is sent."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
