"""What a test may do to the cards and to pcscd, as one JSON line each way over a unix socket.

The server side, in the card process. bench.py is the test's side, with types.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.yubikey.attestation import Maker
from tests.yubikey.card import Card, Latency
from tests.yubikey.model import FormFactor, Model
from tests.yubikey.pcscd import PrivatePcscd
from tests.yubikey.touch import Person
from tests.yubikey.transport import Plug

_LINE_BYTES = 1 << 20
_TELLS_S = 0.002
_UNNOTICED_S = 0.5
"""pcscd looks every 0.4 s: a card that is away for less was never away to it. Of a real YubiKey
the USB stack tells every removal."""


class Workbench:
    """All cards of a bench, plugged in or lying beside it, and the pcscd they meet."""

    def __init__(self, pcscd: PrivatePcscd) -> None:
        self._pcscd = pcscd
        self._maker = Maker()
        self._cards: dict[int, Card] = {}
        self._plugs: dict[int, Plug] = {}
        self._emptied_at = -_UNNOTICED_S
        self._calls: dict[str, Callable[..., Awaitable[Any] | Any]] = {
            "describe": self._describe,
            "add": self._add,
            "insert": self._insert,
            "remove": self._remove,
            "person": self._person,
            "touch": self._touch,
            "age_touch": self._age_touch,
            "wait_for_blinking": self._wait_for_blinking,
            "latency": self._latency,
            "stop_at": self._stop_at,
            "wait_until_stopped": self._wait_until_stopped,
            "go_on": self._go_on,
            "fail_once": self._fail_once,
            "tries": self._tries,
            "factory_reset": self._factory_reset,
            "state": self._state,
            "start_pcscd": self._start_pcscd,
            "kill_pcscd": self._kill_pcscd,
            "log": self._pcscd.log,
        }

    async def serve(self, path: Path) -> None:
        """Answer tests for ever."""
        server = await asyncio.start_unix_server(self._talk, path, limit=_LINE_BYTES)
        async with server:
            await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            order = json.loads(line)
            try:
                made = self._calls[order.pop("call")](**order)
                answer = {"done": await made if isinstance(made, Awaitable) else made}
            except Exception as error:  # noqa: BLE001  (the test is told)
                answer = {"failed": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    # -- the bench -----------------------------------------------------------------------

    def _describe(self) -> dict[str, Any]:
        return {
            "isolated": self._pcscd.isolated,
            "socket": str(self._pcscd.socket_path),
            "root": self._maker.root_pem,
            "readers": self._pcscd.readers,
            "pcscd": self._pcscd.pid,
        }

    async def _start_pcscd(self, within_s: float) -> None:
        self._pcscd.start()
        async with asyncio.timeout(within_s):
            for plug in self._plugs.values():
                await plug.powered.wait()

    def _kill_pcscd(self) -> None:
        self._pcscd.kill()
        for plug in self._plugs.values():
            # At once: its connection tells it only later, perhaps when the next pcscd is there.
            plug.powered.clear()

    # -- cards ---------------------------------------------------------------------------

    def _add(self, serial: int, firmware: list[int], form_factor: int) -> None:
        if serial in self._cards:
            raise ValueError(f"there is a card {serial} already")
        major, minor, patch = firmware
        model = Model(serial, (major, minor, patch), FormFactor(form_factor))
        self._cards[serial] = Card(model, self._maker)

    async def _insert(self, serial: int, slot: int, within_s: float) -> None:
        if serial in self._plugs:
            raise ValueError(f"card {serial} is plugged in")
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._emptied_at + _UNNOTICED_S - loop.time())
        changes = self._pcscd.changes(slot)[0] if within_s else 0
        plug = Plug(self._cards[serial], self._pcscd.port + slot)
        self._plugs[serial] = plug
        if within_s:
            async with asyncio.timeout(within_s):
                await plug.powered.wait()
                # It is switched on a moment before anybody is told.
                while self._pcscd.changes(slot) in ((changes, True), (changes, False)):
                    await asyncio.sleep(_TELLS_S)

    async def _remove(self, serial: int) -> None:
        await self._plugs.pop(serial).pull()
        self._emptied_at = asyncio.get_running_loop().time()

    def _person(self, serial: int, does: str, after_s: float, window_s: float) -> None:
        contact = self._cards[serial].contact
        contact.person, contact.after_s, contact.window_s = Person(does), after_s, window_s

    def _touch(self, serial: int) -> bool:
        return self._cards[serial].contact.touch()

    def _age_touch(self, serial: int, seconds: float) -> None:
        self._cards[serial].contact.age(seconds)

    async def _wait_for_blinking(self, serial: int, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._cards[serial].contact.blinking.wait()
        except TimeoutError:
            return False
        return True

    def _latency(self, serial: int, command_s: float, key_s: float) -> None:
        self._cards[serial].set_latency(Latency(command_s, key_s))

    def _stop_at(self, serial: int, instruction: int, is_after: bool, skip: int) -> None:
        self._cards[serial].pause.arm(instruction, is_after=is_after, skip=skip)

    async def _wait_until_stopped(self, serial: int, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._cards[serial].pause.reached.wait()
        except TimeoutError:
            return False
        return True

    def _go_on(self, serial: int) -> None:
        self._cards[serial].pause.end()

    def _fail_once(self, serial: int, instruction: int) -> None:
        self._cards[serial].pause.fail_once(instruction)

    def _tries(self, serial: int, pin: int, puk: int) -> None:
        piv = self._cards[serial].piv
        piv.pin.left, piv.puk.left = pin, puk

    def _factory_reset(self, serial: int) -> None:
        self._cards[serial].piv.factory_reset()

    def _state(self, serial: int) -> dict[str, Any]:
        card = self._cards[serial]
        piv, plug = card.piv, self._plugs.get(serial)
        return {
            "plugged_in": plug is not None,
            "powered": plug is not None and plug.powered.is_set(),
            "blinking": card.contact.blinking.is_set(),
            "touch_requests": card.contact.requests,
            "touches": card.contact.touches,
            "pin_tries": piv.pin.left,
            "puk_tries": piv.puk.left,
            "pins_offered": piv.pin.offered,
            "signatures": piv.signatures,
            "selects": card.instructions.get(0xA4, 0),
            "commands": sum(card.instructions.values()),
        }
