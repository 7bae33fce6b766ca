"""The client for asyncio programs: the same methods, awaited."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc
import grpc.aio

from keyd.client import (
    approvalcalls,
    auditcalls,
    ceremonycalls,
    keycalls,
    rolecalls,
    signcalls,
    tokencalls,
    yubikeycalls,
)
from keyd.client.call import Call, Pages
from keyd.client.checkpoints import default_folder
from keyd.client.endpoint import Endpoint, find_endpoint
from keyd.client.failures import from_call
from keyd.client.link import OPTIONS, SHOW_TIMEOUT_S, Link, credentials
from keyd.client.retry import RETRIES, Retries
from keyd.errors import KeydError
from keyd.model import Checkpoint, SignRequest

P = ParamSpec("P")
T = TypeVar("T")


def _method(
    make: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method that carries out a call."""

    @functools.wraps(make)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._do(make(*args, **kwargs))

    return method


def _local(
    make: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """The method that carries out a call whose secrets must not leave the machine."""

    @functools.wraps(make)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._link.check_local()
        return await self._do(make(*args, **kwargs))

    return method


def _paged(make: Callable[P, Pages[T]]) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    """The method that walks through pages."""

    @functools.wraps(make)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._walk(make(*args, **kwargs))

    return method


def _streamed(
    make: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]:
    """The method that hands on what the daemon streams; it ends when the daemon or the caller
    does."""

    @functools.wraps(make)
    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._stream(make(*args, **kwargs))

    return method


AsyncCompanion = Callable[["AsyncClient", str], AbstractAsyncContextManager[None]]
"""As :data:`keyd.client.client.Companion`, awaited."""


class AsyncClient:
    """Talks to one daemon over one connection, opened at the first call.

    Use it from one event loop. Otherwise as :class:`keyd.client.Client`; checks that take long
    run in a thread.
    """

    def __init__(
        self,
        endpoint: Endpoint | str = "",
        *,
        profile: str = "",
        deadline_s: float | None = None,
        retries: Retries = RETRIES,
        checkpoints: Path | None = None,
        keep_checkpoints: bool = True,
    ) -> None:
        """Find the daemon (see :func:`keyd.client.endpoint.find_endpoint`); opens nothing yet.

        Raises:
            ConfigError: a bad endpoint, profile or client.toml.
            ServerGoneError: nothing was named and there is no socket at the usual places.
        """
        if isinstance(endpoint, str):
            endpoint = find_endpoint(endpoint, profile)
        folder = (checkpoints or default_folder()) if keep_checkpoints else None
        self._link = Link(endpoint, folder)
        self._channel: list[grpc.aio.Channel] = []
        self._deadline_s = endpoint.deadline_s if deadline_s is None else deadline_s
        self._retries = retries
        self._companion: AsyncCompanion | None = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight end with an error."""
        while self._channel:
            await self._channel.pop().close()

    def with_deadline(self, deadline_s: float) -> AsyncClient:
        """The same client on the same connection, with another deadline in seconds."""
        other = copy.copy(self)
        other._deadline_s = deadline_s
        return other

    def accompanied(self, companion: AsyncCompanion) -> AsyncClient:
        """The same client, with a companion for each call that may wait for a touch."""
        other = copy.copy(self)
        other._companion = companion
        return other

    def check_local(self) -> None:
        """See Client.check_local."""
        self._link.check_local()

    @property
    def endpoint(self) -> Endpoint:
        """The daemon this client talks to."""
        return self._link.endpoint

    @property
    def checkpoint_verdict(self) -> str:
        """What the daemon said about the kept checkpoint: empty, same, ahead, behind,
        inconsistent or foreign."""
        return self._link.kept.verdict

    def kept_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint this user has kept of this daemon, or None."""
        return self._link.kept.read()

    def forget_checkpoint(self) -> bool:
        """Drop the kept checkpoint, after the daemon was set up anew; False: there was none."""
        return self._link.kept.forget()

    sign = _method(signcalls.sign)
    sign_one = _method(signcalls.sign_one)
    create_key = _method(keycalls.create_key)
    list_keys = _paged(keycalls.list_keys)
    get_key = _method(keycalls.get_key)
    rotate = _method(keycalls.rotate)
    activate = _method(keycalls.activate)
    enable = _method(keycalls.enable)
    disable = _method(keycalls.disable)
    schedule_destroy = _method(keycalls.schedule_destroy)
    cancel_destroy = _method(keycalls.cancel_destroy)
    destroy = _method(keycalls.destroy)
    adopt = _method(keycalls.adopt)
    adopt_labelled = _method(keycalls.adopt_labelled)
    update = _method(keycalls.update)
    freeze = _method(keycalls.freeze)
    unfreeze = _method(keycalls.unfreeze)
    list_tokens = _method(tokencalls.list_tokens)
    unlock = _method(tokencalls.unlock)
    lock = _method(tokencalls.lock)
    list_objects = _method(tokencalls.list_objects)
    list_yubikeys = _method(yubikeycalls.list_yubikeys)
    list_plugged_in = _method(yubikeycalls.list_plugged_in)
    init_yubikey = _local(yubikeycalls.init_yubikey)
    change_pin = _local(yubikeycalls.change_pin)
    unblock_pin = _local(yubikeycalls.unblock_pin)
    attest = _method(yubikeycalls.attest)
    write_slot_certificate = _method(yubikeycalls.write_slot_certificate)
    list_entries = _paged(auditcalls.list_entries)
    checkpoint = _method(auditcalls.checkpoint)
    prove_inclusion = _method(auditcalls.prove_inclusion)
    prove_consistency = _method(auditcalls.prove_consistency)
    whoami = _method(auditcalls.whoami)
    tail = _streamed(auditcalls.tail)
    status = _method(auditcalls.status)
    get_approval = _method(approvalcalls.get_approval)
    list_approvals = _method(approvalcalls.list_approvals)
    approve = _method(approvalcalls.approve)
    reject = _method(approvalcalls.reject)
    revoke = _method(approvalcalls.revoke)
    watch_approvals = _streamed(approvalcalls.watch_approvals)
    watch_tokens = _streamed(tokencalls.watch_tokens)
    list_roles = _paged(rolecalls.list_roles)
    get_role = _method(rolecalls.get_role)
    import_role = _method(rolecalls.import_role)
    advance_role = _method(rolecalls.advance_role)
    supersede_role = _method(rolecalls.supersede_role)
    reset_role = _method(rolecalls.reset_role)
    accept_loss = _method(rolecalls.accept_loss)
    start_ceremony = _method(ceremonycalls.start_ceremony)
    get_ceremony = _method(ceremonycalls.get_ceremony)
    list_ceremonies = _method(ceremonycalls.list_ceremonies)
    advance_ceremony = _method(ceremonycalls.advance_ceremony)
    abort_ceremony = _method(ceremonycalls.abort_ceremony)

    async def sign_batch(
        self, requests: Sequence[SignRequest], *, request_id: str = ""
    ) -> list[signcalls.Outcome]:
        """Sign many: one signature or error for each request, in the order given.

        They travel in messages of up to 1 000 items, several at a time; each signature is
        checked. When some messages fail as a whole, their items carry that error.

        Raises:
            KeydError: not one message was answered.
        """
        batch = signcalls.Batch(requests, self._retries, request_id)
        until = time.monotonic() + self._deadline_s
        in_flight = asyncio.Semaphore(signcalls.IN_FLIGHT)

        async def send(chunk: signcalls.Chunk) -> None:
            async with in_flight:
                try:
                    batch.take(chunk.numbers, (await self._do(chunk.call, until))[0])
                except KeydError as e:
                    batch.take(chunk.numbers, e)

        while True:
            async with asyncio.TaskGroup() as group:
                for chunk in batch.chunks():
                    group.create_task(send(chunk))
            wait_s = batch.wait_s(until - time.monotonic())
            if wait_s is None:
                return batch.outcomes()
            await asyncio.sleep(wait_s)

    async def _stream(self, request: Call[T]) -> AsyncIterator[T]:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        method = self._open().unary_stream(request.path)
        stream = method(request.body, timeout=request.stream_s)
        try:
            async for raw in stream:
                yield request.decode(raw)
        except grpc.aio.AioRpcError as e:
            raise self._failure(e) from e
        finally:
            stream.cancel()

    async def _walk(self, pages: Pages[T]) -> AsyncIterator[T]:
        token = ""
        while True:
            page = await self._do(pages(token))
            for item in page.items:
                yield item
            token = page.next_token
            if not token:
                return

    async def _do(self, request: Call[T], until: float | None = None) -> T:
        if self._companion is None or request.named is None:
            return await self._repeat(request, until)
        request_id = request.request_id or secrets.token_hex(10)
        named = dataclasses.replace(request, body=request.named(request_id))
        async with self._companion(self, request_id):
            return await self._repeat(named, until)

    async def _repeat(self, request: Call[T], until: float | None) -> T:
        until = time.monotonic() + self._deadline_s if until is None else until
        done = 0
        while True:
            try:
                raw = await self._send(request, until - time.monotonic())
                decode = request.decode
                answer = await asyncio.to_thread(decode, raw) if request.heavy else decode(raw)
                break
            except KeydError as e:
                wait_s = self._retries.wait_s(
                    e,
                    done,
                    until - time.monotonic(),
                    repeatable=request.repeatable,
                    answered=self._link.answered,
                )
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
            done += 1
        self._link.answered = True
        await self._show_kept()
        note = request.note_of(answer)
        if note:
            await asyncio.to_thread(self._link.kept.offer, note)
        return answer

    async def _send(self, request: Call[T], timeout_s: float) -> bytes:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        method = self._open().unary_unary(request.path)
        try:
            return await method(request.body, timeout=max(timeout_s, 0.0))
        except grpc.aio.AioRpcError as e:
            raise self._failure(e) from e

    async def _show_kept(self) -> None:
        note = self._link.note_to_show()
        if note:
            question = auditcalls.show_checkpoint(note)
            try:
                verdict = question.decode(await self._send(question, SHOW_TIMEOUT_S))
            except KeydError:
                return  # it is a service to the daemon; not every caller may offer it
            self._link.kept.judge(verdict)

    def _open(self) -> grpc.aio.Channel:
        if not self._channel:
            tls = credentials(self.endpoint)
            target = self.endpoint.target
            self._channel.append(
                grpc.aio.insecure_channel(target, OPTIONS)
                if tls is None
                else grpc.aio.secure_channel(target, tls, OPTIONS)
            )
        return self._channel[0]

    def _failure(self, error: grpc.aio.AioRpcError) -> KeydError:
        return from_call(
            error.code(), error.details() or "", error.trailing_metadata() or (), self.endpoint
        )
