"""What callers get to see when something is refused or breaks, over a real connection."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyd import errors
from keyd.errors import KeydError
from keyd.model import Caller, Principal, SignRequest
from keyd.server import status
from keyd.server.limits import Limits
from keyd.v1 import audit_pb2, keys_pb2, signing_pb2, tokens_pb2
from tests.integration.api_daemon import api_daemon, connect, error_of


def a_request(**changes: str) -> signing_pb2.SignRequest:
    return signing_pb2.SignRequest(key="acme/root", message=b"m", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", status.CODES, ids=lambda cls: cls.reason)
async def test_every_error_reaches_the_caller_as_itself(
    tmp_path: Path, cls: type[KeydError]
) -> None:
    async def fail(caller: Caller, request: SignRequest) -> None:
        if cls is errors.InvalidRequestError:
            raise errors.InvalidRequestError("digest", "what happened", hint="try this")
        raise cls("what happened", hint="try this", key="acme/root")

    async with api_daemon(tmp_path) as daemon:
        daemon.signing.act = fail
        async with connect(await daemon.listen("admin")) as stubs:
            error = await error_of(stubs.signing.Sign(a_request(request_id="ci-1")))

    assert type(error) is cls
    assert error.message.endswith("what happened")
    assert error.hint == "try this"
    assert error.request_id == "ci-1"


async def test_a_fault_of_ours_leaves_its_request_id_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(caller: Caller, request: SignRequest) -> None:
        raise RuntimeError("secret path /var/lib/keyd-server")

    async with api_daemon(tmp_path) as daemon:
        daemon.signing.act = fail
        async with connect(await daemon.listen("admin")) as stubs:
            error = await error_of(stubs.signing.Sign(a_request()))

    assert error.reason == "INTERNAL"
    assert "secret" not in error.message + error.hint + str(error.facts)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.__dict__["request_id"] == error.request_id != ""
    assert record.exc_info is not None
    assert "secret path" in str(record.exc_info[1])


async def test_one_bad_item_of_a_batch_fails_alone_and_in_its_place(tmp_path: Path) -> None:
    async def fail(caller: Caller, request: SignRequest) -> None:
        if request.key == "acme/targets":
            raise errors.DeviceGoneError("token is away", token="online", retry_after_s=2)

    good, bad, broken = a_request(), a_request(), signing_pb2.SignRequest(key="acme/targets")
    bad.key, broken.message = "Bad Name", b"m"
    items = [
        signing_pb2.SignBatchItem(reference=reference, request=request)
        for reference, request in (("1", good), ("2", bad), ("3", broken), ("4", good))
    ]

    async with api_daemon(tmp_path) as daemon:
        daemon.signing.act = fail
        async with connect(await daemon.listen("admin")) as stubs:
            answer = await stubs.signing.SignBatch(signing_pb2.SignBatchRequest(items=items))

    assert [r.reference for r in answer.results] == ["1", "2", "3", "4"]
    assert [r.WhichOneof("outcome") for r in answer.results] == [
        "response",
        "error",
        "error",
        "response",
    ]
    assert answer.results[1].error.reason == "INVALID_REQUEST"
    assert answer.results[1].error.metadata["field"] == "key"
    assert answer.results[2].error.reason == "DEVICE_GONE"
    assert answer.results[2].error.retry_after_s == 2
    assert answer.results[0].response.log_index == 0


async def test_more_items_than_allowed_fail_as_a_whole(tmp_path: Path) -> None:
    items = [signing_pb2.SignBatchItem(request=a_request())] * 4

    async with api_daemon(tmp_path, Limits(max_batch_items=3)) as daemon:
        async with connect(await daemon.listen("admin")) as stubs:
            error = await error_of(
                stubs.signing.SignBatch(signing_pb2.SignBatchRequest(items=items))
            )
        assert daemon.signing.started == 0

    assert isinstance(error, errors.InvalidRequestError)
    assert error.facts["field"] == "items"


async def test_a_request_over_the_limit_is_told_the_limit(tmp_path: Path) -> None:
    limits = Limits(max_request_bytes=100_000, max_message_bytes=50_000)
    large, larger, largest = bytes(60_000), bytes(200_000), bytes(3_000_000)

    async with api_daemon(tmp_path, limits) as daemon:
        target = await daemon.listen("admin", options=limits.transport_options)
        async with connect(target) as stubs:
            refused = [
                await error_of(
                    stubs.signing.Sign(signing_pb2.SignRequest(key="acme/root", message=message))
                )
                for message in (large, larger, largest)
            ]
            await stubs.signing.Sign(a_request())

    assert "60000 bytes, at most 50000" in refused[0].message
    assert "digest" in refused[0].hint
    assert "at most 100000" in refused[1].message
    assert "digest" in refused[1].hint
    # Beyond the transport's own limit grpc answers for us; the client says it in words.
    assert all(isinstance(error, errors.InvalidRequestError) for error in refused)


async def test_bytes_that_are_no_message_are_refused_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        call: Any = stubs.channel.unary_unary("/keyd.v1.SigningService/Sign")
        error = await error_of(call(b"\xff\xff\xffgarbage"))

    assert isinstance(error, errors.InvalidRequestError)
    assert "keyd.v1.SignRequest" in error.message
    assert error.request_id
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_an_unknown_caller_is_counted_and_learns_nothing(tmp_path: Path) -> None:
    def nobody(context: object) -> Principal:
        raise errors.UnknownCallerError("the certificate has no principal")

    async with api_daemon(tmp_path) as daemon:
        async with connect(await daemon.listen("strangers", nobody)) as stubs:
            # Even what cannot be parsed gets the same answer: who asks comes first.
            call: Any = stubs.channel.unary_unary("/keyd.v1.SigningService/Sign")
            answers = [await error_of(call(raw)) for raw in (b"\xff", b"")]
            answers.append(await error_of(stubs.keys.GetKey(keys_pb2.GetKeyRequest(name="a"))))
            tail = stubs.audit.TailEntries(audit_pb2.TailEntriesRequest())
            answers.append(await error_of(tail.read()))
        page = daemon.metrics.page().decode()

    assert {type(answer) for answer in answers} == {errors.UnknownCallerError}
    assert {answer.message for answer in answers} == {"the certificate has no principal"}
    assert 'keyd_unauthenticated_total{reason="UNKNOWN_CALLER"} 4.0' in page
    assert "keyd_requests_total{" not in page


async def test_a_resolver_that_breaks_lets_nobody_in(tmp_path: Path) -> None:
    def broken(context: object) -> Principal:
        raise ValueError("secret")

    async with (
        api_daemon(tmp_path) as daemon,
        connect(await daemon.listen("broken", broken)) as stubs,
    ):
        error = await error_of(stubs.audit.WhoAmI(audit_pb2.WhoAmIRequest()))

    assert isinstance(error, errors.UnknownCallerError)
    assert "secret" not in error.message


async def test_a_pin_in_a_refused_unlock_is_nowhere_to_be_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        error = await error_of(
            stubs.tokens.Unlock(tokens_pb2.UnlockRequest(token="No Such", pin="s3cret-pin"))
        )

    assert isinstance(error, errors.InvalidRequestError)
    text = error.message + error.hint + str(error.facts) + caplog.text
    text += "".join(str(vars(record)) for record in caplog.records)
    assert "s3cret-pin" not in text


async def test_garbage_on_the_port_hurts_nobody_else(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon:
        target = await daemon.listen("admin")
        attackers = []
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(200), bytes(100_000), b""):
            attacker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            attacker.settimeout(5)
            attacker.connect(target.removeprefix("unix:"))
            attackers.append(attacker)
            with suppress(OSError):  # the daemon may hang up before it has read all
                await asyncio.to_thread(attacker.sendall, noise)
        try:
            async with connect(target) as stubs:
                answers = await asyncio.wait_for(
                    asyncio.gather(*(stubs.signing.Sign(a_request()) for _ in range(20))), 10
                )
        finally:
            for attacker in attackers:
                attacker.close()

    assert len(answers) == 20
    assert all(len(answer.signature) == 64 for answer in answers)


async def test_a_method_nobody_knows_is_unimplemented(tmp_path: Path) -> None:
    async with api_daemon(tmp_path) as daemon, connect(await daemon.listen("admin")) as stubs:
        call: Any = stubs.channel.unary_unary("/keyd.v1.SigningService/Export")
        with pytest.raises(grpc.aio.AioRpcError) as e:
            await call(b"")

    assert e.value.code() is grpc.StatusCode.UNIMPLEMENTED
