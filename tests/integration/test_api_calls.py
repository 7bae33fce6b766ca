"""Limits, deadlines, callers that leave, and the end of the daemon."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from keyd.errors import DeadlineError, RateLimitedError, ServerGoneError
from keyd.model import Caller, Principal, SignRequest
from keyd.server.limits import Limits
from keyd.server.metrics import Metrics
from keyd.server.signing import CheckpointNews, SigningServicer
from keyd.v1 import signing_pb2
from tests.integration.api_daemon import FakeSigning, api_daemon, connect, error_of
from tests.waiting import eventually


def a_request(request_id: str = "") -> signing_pb2.SignRequest:
    return signing_pb2.SignRequest(key="acme/root", message=b"m", request_id=request_id)


class Gate:
    """Holds signatures back until it is opened; with ``shielded`` as the domain does it for what
    is with a token host."""

    def __init__(self, *, shielded: bool = False) -> None:
        self.opened = asyncio.Event()
        self.shielded = shielded
        self.done = 0

    async def __call__(self, caller: Caller, request: SignRequest) -> None:
        work = asyncio.create_task(self.work())
        await (asyncio.shield(work) if self.shielded else work)

    async def work(self) -> None:
        await self.opened.wait()
        self.done += 1


async def test_an_answer_names_everything_and_the_request(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        answer = await stubs.signing.Sign(a_request("ci-42"))
        generated = await stubs.signing.Sign(a_request())

    assert answer.key_version == "acme/root/versions/1"
    assert answer.request_id == "ci-42"
    assert len(generated.request_id) == 20
    assert (answer.encoding, answer.scheme) == (signing_pb2.SIGNATURE_ENCODING_RAW, "ed25519")
    assert len(answer.signature) == 64
    assert len(answer.keyid) == 64
    assert answer.digest.algorithm == signing_pb2.HASH_ALGORITHM_SHA256
    assert (answer.rule, answer.summary, answer.unbound) == ("grant 1", "opaque", True)
    assert [c.request_id for c in daemon.signing.callers] == ["ci-42", generated.request_id]


async def test_each_listener_stands_for_its_own_principal(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon:
        for name in ("admin", "ci"):
            async with connect(await daemon.listen(name)) as stubs:
                await stubs.signing.Sign(a_request())

    assert [c.principal.id for c in daemon.signing.callers] == ["socket:admin", "socket:ci"]


async def test_one_caller_too_many_is_told_when_to_come_back(tmp_path: Path) -> None:
    limits = Limits(max_calls=10, max_calls_per_principal=2, retry_after_s=0.25)
    gate = Gate()

    async with api_daemon(tmp_path, limits) as daemon:
        daemon.signing.act = gate
        greedy, modest = await daemon.listen("greedy"), await daemon.listen("modest")
        async with connect(greedy) as stubs, connect(modest) as others:
            waiting = [asyncio.ensure_future(stubs.signing.Sign(a_request())) for _ in range(2)]
            await eventually(lambda: daemon.signing.started == 2)
            refused = await error_of(stubs.signing.Sign(a_request()))
            other = asyncio.ensure_future(others.signing.Sign(a_request()))
            await eventually(lambda: daemon.signing.started == 3)
            gate.opened.set()
            await asyncio.gather(*waiting, other)
            await stubs.signing.Sign(a_request())

    assert isinstance(refused, RateLimitedError)
    assert refused.retry_after_s == 0.25
    assert daemon.signing.finished == 4


async def test_a_caller_that_gives_up_frees_its_place_and_its_work_is_dropped(
    tmp_path: Path,
) -> None:
    gate = Gate()

    async with api_daemon(tmp_path, Limits(max_calls_per_principal=1)) as daemon:
        daemon.signing.act = gate
        async with connect(await daemon.listen("admin")) as stubs:
            for _ in range(5):
                error = await error_of(stubs.signing.Sign(a_request(), timeout=0.1))
                assert isinstance(error, DeadlineError)
                await eventually(lambda: daemon.services.calls.in_progress == 0)
            gate.opened.set()
            await stubs.signing.Sign(a_request())
        page = daemon.metrics.page().decode()

    assert (daemon.signing.dropped, daemon.signing.finished) == (5, 1)
    assert gate.done == 1
    assert 'keyd_abandoned_total{method="SigningService/Sign"} 5.0' in page


async def test_what_is_with_a_token_completes_though_its_caller_died(tmp_path: Path) -> None:
    gate = Gate(shielded=True)

    async with api_daemon(tmp_path) as daemon:
        daemon.signing.act = gate
        async with connect(await daemon.listen("admin")) as stubs:
            call = stubs.signing.Sign(a_request())
            waiting = asyncio.ensure_future(error_of(call))
            await eventually(lambda: daemon.signing.started == 1)
            waiting.cancel()
            await eventually(lambda: daemon.signing.dropped == 1)
            assert gate.done == 0
            gate.opened.set()
            await eventually(lambda: gate.done == 1)


async def test_calls_cancelled_at_any_moment_give_back_their_places(tmp_path: Path) -> None:
    async with (
        api_daemon(tmp_path, Limits(max_calls_per_principal=64)) as daemon,
        connect(await daemon.listen("admin")) as stubs,
    ):
        gate = daemon.signing.act = Gate()
        for arrived in range(20):
            before = daemon.signing.started
            calls = [stubs.signing.Sign(a_request()) for _ in range(20)]
            async with asyncio.timeout(5):
                while daemon.signing.started < before + arrived:
                    await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await eventually(lambda: daemon.services.calls.in_progress == 0)
        gate.opened.set()
        answers = await asyncio.gather(*(stubs.signing.Sign(a_request()) for _ in range(60)))

    assert len(answers) == 60
    assert daemon.signing.dropped >= sum(range(20))


async def test_draining_lets_what_is_in_progress_finish(tmp_path: Path) -> None:
    gate = Gate()

    async with api_daemon(tmp_path) as daemon:
        daemon.signing.act = gate
        async with connect(await daemon.listen("admin")) as stubs:
            call = asyncio.ensure_future(stubs.signing.Sign(a_request()))
            await eventually(lambda: daemon.signing.started == 1)
            drain = asyncio.create_task(daemon.services.drain(daemon.servers, 5))
            await asyncio.sleep(0.1)
            assert not drain.done()
            gate.opened.set()
            answer = await asyncio.wait_for(call, 5)
            await asyncio.wait_for(drain, 5)

    assert len(answer.signature) == 64


async def test_a_drain_ends_in_time_whatever_hangs(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon:
        daemon.signing.act = Gate()
        async with connect(await daemon.listen("admin")) as stubs:
            waiting = asyncio.create_task(error_of(stubs.signing.Sign(a_request())))
            await eventually(lambda: daemon.signing.started == 1)
            async with asyncio.timeout(3):
                await daemon.services.drain(daemon.servers, 0.3)
                error = await waiting

    assert isinstance(error, ServerGoneError)
    assert daemon.signing.dropped == 1
    assert daemon.services.calls.in_progress == 0


async def test_the_checkpoint_is_handed_out_when_it_is_news_to_the_caller(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon:
        first, second = await daemon.listen("first"), await daemon.listen("second")
        async with connect(first) as stubs, connect(second) as others:
            seen = [(await stubs.signing.Sign(a_request())).checkpoint]
            daemon.checkpoint = "note 1"
            seen += [(await stubs.signing.Sign(a_request())).checkpoint for _ in range(2)]
            daemon.checkpoint = "note 2"
            item = signing_pb2.SignBatchItem(request=a_request())
            batch = await stubs.signing.SignBatch(signing_pb2.SignBatchRequest(items=[item]))
            seen.append(batch.checkpoint)
            other = (await others.signing.Sign(a_request())).checkpoint

    assert seen == ["", "note 1", "", "note 2"]
    assert other == "note 2"


async def test_every_call_leaves_one_line_and_one_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        await stubs.signing.Sign(a_request("ci-1"))
        await error_of(stubs.signing.Sign(signing_pb2.SignRequest(key="acme/root")))
        page = daemon.metrics.page().decode()

    lines = [vars(r) for r in caplog.records if r.name == "keyd.server.call"]
    assert [(r["method"], r["outcome"], r["principal"]) for r in lines] == [
        ("SigningService/Sign", "OK", "socket:admin"),
        ("SigningService/Sign", "INVALID_REQUEST", "socket:admin"),
    ]
    assert lines[0]["request_id"] == "ci-1"
    assert 'keyd_requests_total{method="SigningService/Sign",outcome="OK"} 1.0' in page
    assert 'keyd_signatures_total{outcome="signed",scheme="ed25519"} 1.0' in page


def a_batch(size: int) -> signing_pb2.SignBatchRequest:
    items = [signing_pb2.SignBatchItem(reference=str(n), request=a_request()) for n in range(size)]
    return signing_pb2.SignBatchRequest(items=items)


async def test_a_batch_of_ten_thousand_is_answered_in_its_order(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon:
        target = await daemon.listen("admin", options=Limits().transport_options)
        async with connect(target) as stubs:
            answer = await asyncio.wait_for(stubs.signing.SignBatch(a_batch(10_000)), 30)

    assert [r.reference for r in answer.results] == [str(n) for n in range(10_000)]
    assert [r.response.log_index for r in answer.results] == list(range(10_000))
    assert {c.request_id for c in daemon.signing.callers} == {answer.request_id}


async def test_reading_and_writing_a_large_batch_lets_others_have_their_turns() -> None:
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    servicer = SigningServicer(FakeSigning(), CheckpointNews(lambda: ""), Limits(), Metrics())
    other = asyncio.create_task(another())
    try:
        await servicer.sign_batch(Caller(Principal("socket:a", "unix"), "r"), a_batch(2000))
    finally:
        other.cancel()

    # 8 chunks are read and 8 are written.
    assert turns >= 16


async def test_reflection_is_there_only_where_it_was_asked_for(tmp_path: Path) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async def services(target: str) -> list[str]:
        async with grpc.aio.insecure_channel(target) as channel:
            # The published types know only the other kind of channel.
            stub = cast(Any, reflection_pb2_grpc.ServerReflectionStub)(channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            call = stub.ServerReflectionInfo(iter([asked]))
            answer = await asyncio.wait_for(call.read(), 5)
            return [service.name for service in answer.list_services_response.service]

    async with api_daemon(tmp_path) as daemon:
        dev = await daemon.listen("dev", reflection=True)
        production = await daemon.listen("production")

        assert "keyd.v1.SigningService" in await services(dev)
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await services(production)
    assert e.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_is_looked_up_on_every_call(tmp_path: Path) -> None:
    names = iter(["uri:spiffe://acme/alice", "uri:spiffe://acme/bob"])

    async with api_daemon(tmp_path) as daemon:
        target = await daemon.listen("tcp", lambda context: Principal(next(names), "mtls"))
        async with connect(target) as stubs:
            await stubs.signing.Sign(a_request())
            await stubs.signing.Sign(a_request())

    assert [c.principal.id[-5:] for c in daemon.signing.callers] == ["alice", "e/bob"]
