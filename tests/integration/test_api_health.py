"""The standard health service, and the HTTP pages for monitors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyd.errors import ConfigError
from keyd.server.http import Pages
from keyd.server.metrics import Metrics
from tests.integration.api_daemon import api_daemon

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def stub_of(channel: grpc.aio.Channel) -> Any:
    # The published types of this stub have no methods.
    return health_pb2_grpc.HealthStub(channel)


async def check(channel: grpc.aio.Channel, service: str) -> int:
    stub = stub_of(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    status: int = answer.status
    return status


async def test_a_daemon_that_cannot_sign_says_so_for_signing_only(tmp_path: Path) -> None:
    async with (
        api_daemon(tmp_path) as daemon,
        grpc.aio.insecure_channel(await daemon.listen("admin")) as channel,
    ):
        daemon.services.health.set_serving(daemon=True, signing=False)

        assert await check(channel, "") == SERVING
        assert await check(channel, "keyd.v1.KeyService") == SERVING
        assert await check(channel, "keyd.v1.SigningService") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await check(channel, "no.such.Service")
    assert e.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watch_tells_each_change_and_ends_with_the_daemon(tmp_path: Path) -> None:
    async with (
        api_daemon(tmp_path) as daemon,
        grpc.aio.insecure_channel(await daemon.listen("admin")) as channel,
    ):
        stub = stub_of(channel)
        request = health_pb2.HealthCheckRequest(service="keyd.v1.SigningService")
        watch = stub.Watch(request)
        stranger = stub.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
        async with asyncio.timeout(10):
            seen = [(await watch.read()).status]
            unknown = (await stranger.read()).status
            daemon.services.health.set_serving(daemon=True, signing=False)
            seen.append((await watch.read()).status)
            daemon.services.health.set_serving(daemon=True, signing=False)
            daemon.services.health.set_serving(daemon=True, signing=True)
            seen.append((await watch.read()).status)
            await daemon.services.drain(daemon.servers, 5)
            end = [await watch.read()]
            if end[0] is not grpc.aio.EOF:  # the last change may still be told
                end.append(await watch.read())

    assert seen == [SERVING, NOT_SERVING, SERVING]
    assert unknown == UNKNOWN
    assert end[-1] is grpc.aio.EOF


async def fetch(port: int, request: bytes) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        raw = await asyncio.wait_for(reader.read(1_000_000), 5)
        while chunk := await asyncio.wait_for(reader.read(1_000_000), 5):
            raw += chunk
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    return head, body


async def test_metrics_and_health_are_there_for_monitors() -> None:
    healthy = True
    metrics = Metrics()
    metrics.unauthenticated("UNKNOWN_CALLER")
    async with Pages(metrics, lambda: (healthy, "serving" if healthy else "no log")) as pages:
        port = await pages.start("127.0.0.1", 0)
        head, body = await fetch(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        well = await fetch(port, b"GET /healthz?v=1 HTTP/1.1\r\n\r\n")
        healthy = False
        ill = await fetch(port, b"GET /healthz HTTP/1.0\r\n\r\n")
        only_head = await fetch(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/plain; version=0.0.4" in head
    assert b"keyd_unauthenticated_total" in body
    assert f"Content-Length: {len(body)}".encode() in head
    assert (well[0][:12], well[1]) == (b"HTTP/1.1 200", b"serving\n")
    assert (ill[0][:12], ill[1]) == (b"HTTP/1.1 503", b"no log\n")
    assert only_head[1] == b""


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
    ],
)
async def test_other_requests_get_a_plain_refusal(request_: bytes, code: bytes) -> None:
    async with Pages(Metrics(), lambda: (True, "serving")) as pages:
        head, _ = await fetch(await pages.start("127.0.0.1", 0), request_)

    assert head.split(b" ")[1] == code


async def test_a_head_without_an_end_is_cut_off_and_others_are_served() -> None:
    async with Pages(Metrics(), lambda: (True, "serving")) as pages:
        port = await pages.start("127.0.0.1", 0)
        head, body = await fetch(port, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000)
        after, _ = await fetch(port, b"GET /healthz HTTP/1.1\r\n\r\n")

    assert (head, body) == (b"", b"")
    assert after.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "localhost", "example.org", ""])
async def test_metrics_refuse_to_listen_where_others_reach_them(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        await Pages(Metrics(), lambda: (True, "")).start(host, 0)


async def test_a_taken_metrics_port_is_an_error_that_names_it() -> None:
    async with Pages(Metrics(), lambda: (True, "")) as first:
        port = await first.start("127.0.0.1", 0)
        with pytest.raises(ConfigError, match=f"port {port}"):
            await Pages(Metrics(), lambda: (True, "")).start("127.0.0.1", port)
