"""The load: callers of a running daemon, through the client library and with the bare stub.

The library checks every signature it returns (71 us of CPU for P-256), and here it shares two cores
with the daemon; the bare stub shows what the daemon alone can do.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable

import grpc.aio

from benchmarks.raw import Rate
from keyd.client import AsyncClient, Client, Digest, Encoding, HashAlgorithm, SignRequest
from keyd.errors import KeydError
from keyd.v1 import signing_pb2, signing_pb2_grpc

_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
]


def fresh_digest() -> Digest:
    """One that was never signed: the daemon gives stored signatures again."""
    return Digest(HashAlgorithm.SHA256, os.urandom(32))


async def batch(endpoint: str, key: str, size: int) -> Rate:
    """One SignBatch of ``size`` items through the library."""
    requests = [
        SignRequest(key=key, digest=fresh_digest(), encoding=Encoding.RAW) for _ in range(size)
    ]
    async with AsyncClient(endpoint, keep_checkpoints=False) as client:
        await client.whoami()
        began = time.perf_counter()
        outcomes = await client.sign_batch(requests)
        took = time.perf_counter() - began
    for outcome in outcomes:
        if isinstance(outcome, KeydError):
            raise outcome
    return Rate(size / took, count=size)


def _message(key: str) -> signing_pb2.SignRequest:
    digest = signing_pb2.Digest(algorithm=signing_pb2.HASH_ALGORITHM_SHA256, value=os.urandom(32))
    return signing_pb2.SignRequest(
        key=key, digest=digest, encoding=signing_pb2.SIGNATURE_ENCODING_RAW
    )


async def bare_batch(endpoint: str, key: str, size: int) -> Rate:
    """One SignBatch of ``size`` items with the stub; nothing is checked here."""
    request = signing_pb2.SignBatchRequest(
        items=[
            signing_pb2.SignBatchItem(reference=str(number), request=_message(key))
            for number in range(size)
        ]
    )
    async with grpc.aio.insecure_channel(endpoint, _OPTIONS) as channel:
        stub = signing_pb2_grpc.SigningServiceStub(channel)
        began = time.perf_counter()
        answer = await stub.SignBatch(request, timeout=60)
        took = time.perf_counter() - began
    failed = [r for r in answer.results if not r.response.signature]
    if failed or len(answer.results) != size:
        raise RuntimeError(f"{len(failed)} of {size} items were not signed: {failed[:1]}")
    return Rate(size / took, count=size)


async def callers(endpoint: str, key: str, count: int, seconds: float) -> Rate:
    """That many callers at once, each with one unary call after another, through the library."""
    async with AsyncClient(endpoint, keep_checkpoints=False) as client:
        await client.whoami()

        async def sign() -> None:
            await client.sign(key, digest=fresh_digest(), encoding=Encoding.RAW)

        return await _loop(sign, count, seconds)


async def bare_callers(endpoint: str, key: str, count: int, seconds: float) -> Rate:
    """The same with the stub."""
    async with grpc.aio.insecure_channel(endpoint, _OPTIONS) as channel:
        stub = signing_pb2_grpc.SigningServiceStub(channel)

        async def sign() -> None:
            await stub.Sign(_message(key), timeout=60)

        return await _loop(sign, count, seconds)


async def _loop(sign: Callable[[], Awaitable[None]], count: int, seconds: float) -> Rate:
    took: list[float] = []
    began = time.perf_counter()

    async def caller() -> None:
        while (start := time.perf_counter()) - began < seconds:
            await sign()
            took.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(caller())
    return rate(took, time.perf_counter() - began)


def one_caller(endpoint: str, key: str, seconds: float) -> Rate:
    """One thread, one call after another, through the library."""
    took: list[float] = []
    with Client(endpoint, keep_checkpoints=False) as client:
        client.whoami()
        began = time.perf_counter()
        while (start := time.perf_counter()) - began < seconds:
            client.sign(key, digest=fresh_digest(), encoding=Encoding.RAW)
            took.append(time.perf_counter() - start)
        return rate(took, time.perf_counter() - began)


def rate(took: list[float], seconds: float) -> Rate:
    """From the single durations."""
    cuts = statistics.quantiles(took, n=100)
    return Rate(len(took) / seconds, cuts[49] * 1e6, cuts[98] * 1e6, len(took))
