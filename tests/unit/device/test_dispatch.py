"""What the dispatcher does with hosts that answer nonsense."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from keyd.device.dispatch import Dispatcher, Place
from keyd.device.settings import TokenConfig
from keyd.device.supervisor import HostProcess
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceFaultError
from keyd.model import KeyAlgorithm, Scheme, SignJob, never_gone


class MiscountingHost:
    """Answers with one signature less than it was asked for."""

    is_open = True

    def __init__(self) -> None:
        self.killed = ""

    def send(self, request: pb.Request, on_progress: object = None) -> asyncio.Future[pb.Reply]:
        """One short."""
        asked = sum(len(group.payloads) for group in request.sign_many.groups)
        answer: asyncio.Future[pb.Reply] = asyncio.get_running_loop().create_future()
        answer.set_result(pb.Reply(signed=pb.Signed(signatures=[b"s"] * (asked - 1))))
        return answer

    def kill(self, why: str) -> None:
        """Remembered."""
        self.killed = why


async def test_a_host_that_miscounts_fails_its_jobs_and_is_replaced() -> None:
    host = MiscountingHost()
    place = Place(0)
    place.host, place.logged_in = cast("HostProcess", host), True
    dispatcher = Dispatcher(
        TokenConfig("main", Path("/module.so"), label="main"),
        [place],
        why_not=lambda: None,
        on_lost=lambda _: None,
        on_signed=lambda *_: None,
    )
    job = SignJob(
        b"id", b"key", KeyAlgorithm.ECDSA_P256, Scheme.ECDSA_P256_SHA256, bytes(32), "serial"
    )

    async with asyncio.timeout(5):
        results = await dispatcher.sign([job] * 3, never_gone)

    assert [type(r) for r in results] == [DeviceFaultError] * 3
    assert "2 of 3" in host.killed
