"""Calls that may wait for a person are accompanied; streams end from another thread."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest

from keyd.client import AsyncClient, Client, KeyAlgorithm
from keyd.client.call import Call
from keyd.client.keycalls import adopt, adopt_labelled, create_key, get_key, rotate
from keyd.client.signcalls import sign
from keyd.client.streams import Stream
from keyd.client.tokencalls import list_tokens, lock
from keyd.errors import KeydError, ServerGoneError
from keyd.v1 import keys_pb2, signing_pb2


@pytest.mark.parametrize(
    "call",
    [
        sign("acme/root", b"message"),
        create_key("acme/root", KeyAlgorithm.ECDSA_P256),
        rotate("acme/root"),
        adopt("yubi", "acme/root", b"\x02"),
        adopt_labelled("yubi"),
    ],
    ids=lambda call: call.path,
)
def test_calls_that_may_wait_for_a_touch_take_a_request_id(call: Call[object]) -> None:
    assert call.named is not None
    assert call.named("req-7") != call.body


@pytest.mark.parametrize("call", [get_key("a"), list_tokens(), lock("yubi")])
def test_other_calls_are_not_accompanied(call: Call[object]) -> None:
    assert call.named is None


def test_a_named_call_asks_for_the_same() -> None:
    call = rotate("acme/root", expected_newest=3, reason="due")
    assert call.named is not None

    named = keys_pb2.RotateKeyRequest.FromString(call.named("req-7"))

    assert named.request_id == "req-7"
    named.ClearField("request_id")
    assert named == keys_pb2.RotateKeyRequest.FromString(call.body)


def test_a_request_id_of_the_caller_is_the_one_that_is_watched() -> None:
    call = sign("acme/root", b"message", request_id="mine")

    assert call.request_id == "mine"
    assert signing_pb2.SignRequest.FromString(call.body).request_id == "mine"


def test_the_companion_is_there_until_the_call_has_failed() -> None:
    seen: list[str] = []

    @contextmanager
    def companion(client: Client, request_id: str) -> Iterator[None]:
        assert client is accompanied
        seen.append(request_id)
        try:
            yield
        finally:
            seen.append("over")

    plain = Client("unix:/nonexistent/keyd.sock", deadline_s=2, keep_checkpoints=False)
    with plain.accompanied(companion) as accompanied:
        with pytest.raises(ServerGoneError):
            accompanied.rotate("acme/root")
        with pytest.raises(ServerGoneError):
            accompanied.get_key("acme/root")
        with pytest.raises(ServerGoneError):
            plain.rotate("acme/root")

    assert len(seen) == 2
    assert len(seen[0]) == 20
    assert seen[1] == "over"


async def test_the_asyncio_client_is_accompanied_alike() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def companion(client: AsyncClient, request_id: str) -> AsyncIterator[None]:
        seen.append(request_id)
        try:
            yield
        finally:
            seen.append("over")

    plain = AsyncClient("unix:/nonexistent/keyd.sock", deadline_s=2, keep_checkpoints=False)
    async with plain.accompanied(companion) as accompanied:
        with pytest.raises(ServerGoneError):
            await accompanied.sign("acme/root", b"message", request_id="mine")
        with pytest.raises(ServerGoneError):
            await accompanied.get_key("acme/root")

    assert seen == ["mine", "over"]


class CancelledError(grpc.RpcError):
    """What grpc raises in a stream that was cancelled."""


class Messages:
    """A stream that is silent after one message, until it is cancelled."""

    def __init__(self) -> None:
        self._first = [b"one"]
        self.is_read = threading.Event()
        self._ended = threading.Event()

    def __next__(self) -> bytes:
        if self._first:
            return self._first.pop()
        self.is_read.set()
        assert self._ended.wait(10)
        raise CancelledError

    def cancel(self) -> object:
        self._ended.set()
        return None


def unexpected(error: grpc.RpcError) -> KeydError:
    raise AssertionError from error


def a_stream(begin: Callable[[], Messages]) -> Stream[str]:
    return Stream(begin, bytes.decode, unexpected)


def test_a_stream_that_is_closed_by_another_thread_ends_without_an_error() -> None:
    messages = Messages()
    stream = a_stream(lambda: messages)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(stream))
    reader.start()
    assert messages.is_read.wait(10)

    stream.close()
    reader.join(10)

    assert not reader.is_alive()
    assert got == ["one"]


def test_a_stream_that_is_closed_before_it_began_asks_the_daemon_nothing() -> None:
    begun: list[Messages] = []

    def begin() -> Messages:
        begun.append(Messages())
        return begun[0]

    stream = a_stream(begin)
    stream.close()

    assert list(stream) == []
    assert begun == []


def test_an_error_of_a_stream_that_nobody_closed_is_told() -> None:
    messages = Messages()
    messages.cancel()
    stream = Stream(lambda: messages, bytes.decode, lambda _: ServerGoneError("gone"))

    assert next(stream) == "one"
    with pytest.raises(ServerGoneError):
        next(stream)
