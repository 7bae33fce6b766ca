"""A thousand connections that do nothing cost others nothing."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.v1 import signing_pb2
from tests.integration.api_daemon import api_daemon, connect

IDLE = 1000
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""An HTTP/2 client preface and an empty SETTINGS frame (RFC 9113, 3.4): a connection that grpc
takes for a client's, and on which nothing is ever asked."""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * IDLE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the hard limit on open files is {hard}, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(20)
async def test_a_thousand_idle_connections_delay_nobody(
    tmp_path: Path, many_descriptors: None
) -> None:
    request = signing_pb2.SignRequest(key="acme/root", message=b"m")
    idle: list[socket.socket] = []

    async with api_daemon(tmp_path) as daemon:
        target = await daemon.listen("admin")

        def open_idle() -> None:
            for _ in range(IDLE):
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.settimeout(5)
                idle.append(connection)
                connection.connect(target.removeprefix("unix:"))
                connection.sendall(_PREFACE)

        try:
            await asyncio.to_thread(open_idle)
            async with connect(target) as stubs:
                began = time.monotonic()
                for _ in range(100):
                    await asyncio.wait_for(stubs.signing.Sign(request), 5)
                took_s = time.monotonic() - began
        finally:
            for connection in idle:
                connection.close()

    assert len(idle) == IDLE
    # 100 calls one after another take about 0.1 s on an idle machine; idle connections that cost
    # each call a poll of all of them would take many times that.
    assert took_s < 5
