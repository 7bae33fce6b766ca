"""The client for programs with threads, or with none."""

from __future__ import annotations

import copy
import dataclasses
import functools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

import grpc

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
from keyd.client.streams import Stream, Wire
from keyd.errors import KeydError
from keyd.model import Checkpoint, SignRequest

_CLOSED_WITHIN_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def _method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """The method that carries out a call."""

    @functools.wraps(make)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(make(*args, **kwargs))

    return method


def _local(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """The method that carries out a call whose secrets must not leave the machine."""

    @functools.wraps(make)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._link.check_local()
        return self._do(make(*args, **kwargs))

    return method


def _paged(make: Callable[P, Pages[T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """The method that walks through pages."""

    @functools.wraps(make)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._walk(make(*args, **kwargs))

    return method


def _streamed(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], Stream[T]]:
    """The method that hands on what the daemon streams; it ends when the daemon or the caller
    does."""

    @functools.wraps(make)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        return self._stream(make(*args, **kwargs))

    return method


Companion = Callable[["Client", str], AbstractContextManager[None]]
"""Entered while a call is under way that may wait for a touch, with the client and the id of the
call's request: as ``for_request_id``, :meth:`Client.watch_tokens` tells of it."""


class Client:
    """Talks to one daemon; one connection, opened at the first call, shared by all threads.

    Each call waits at most ``deadline_s`` in all, repetitions included. Every signature is checked
    here before it is returned. ``checkpoints``: folder where the newest checkpoint is kept, by
    default the user's. All methods raise KeydError subclasses.
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
        self._channel: list[grpc.Channel] = []
        self._deadline_s = endpoint.deadline_s if deadline_s is None else deadline_s
        self._retries = retries
        self._companion: Companion | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, KeyboardInterrupt):
            self.close()
            return
        # Interrupted while it begins a call, grpc (1.85.1) waits in close() for that for ever.
        closing = threading.Thread(target=self.close, daemon=True)
        closing.start()
        closing.join(_CLOSED_WITHIN_S)

    def close(self) -> None:
        """Close the connection; calls in flight end with an error."""
        with self._link.lock:
            while self._channel:
                self._channel.pop().close()

    def with_deadline(self, deadline_s: float) -> Client:
        """The same client on the same connection, with another deadline in seconds."""
        other = copy.copy(self)
        other._deadline_s = deadline_s
        return other

    def accompanied(self, companion: Companion) -> Client:
        """The same client on the same connection, with a companion for each call that may wait
        for somebody to touch a token."""
        other = copy.copy(self)
        other._companion = companion
        return other

    def check_local(self) -> None:
        """Refuse to have a secret typed that must not travel over TCP.

        Raises:
            PolicyDeniedError: the daemon is not reached over a unix socket.
        """
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

    def sign_batch(
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
        with ThreadPoolExecutor(signcalls.IN_FLIGHT, "keyd-batch") as pool:

            def send(chunk: signcalls.Chunk) -> None:
                try:
                    batch.take(chunk.numbers, self._do(chunk.call, until)[0])
                except KeydError as e:
                    batch.take(chunk.numbers, e)

            while True:
                for done in [pool.submit(send, chunk) for chunk in batch.chunks()]:
                    done.result()
                wait_s = batch.wait_s(until - time.monotonic())
                if wait_s is None:
                    return batch.outcomes()
                time.sleep(wait_s)

    def _stream(self, request: Call[T]) -> Stream[T]:
        def begin() -> Wire:
            method: grpc.UnaryStreamMultiCallable[bytes, bytes]
            method = self._open().unary_stream(request.path)
            return method(request.body, timeout=request.stream_s)

        return Stream(begin, request.decode, self._failure)

    def _walk(self, pages: Pages[T]) -> Iterator[T]:
        token = ""
        while True:
            page = self._do(pages(token))
            yield from page.items
            token = page.next_token
            if not token:
                return

    def _do(self, request: Call[T], until: float | None = None) -> T:
        if self._companion is None or request.named is None:
            return self._repeat(request, until)
        request_id = request.request_id or secrets.token_hex(10)
        named = dataclasses.replace(request, body=request.named(request_id))
        with self._companion(self, request_id):
            return self._repeat(named, until)

    def _repeat(self, request: Call[T], until: float | None) -> T:
        until = time.monotonic() + self._deadline_s if until is None else until
        done = 0
        while True:
            try:
                answer = request.decode(self._send(request, until - time.monotonic()))
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
            time.sleep(wait_s)
            done += 1
        self._link.answered = True
        self._show_kept()
        self._link.kept.offer(request.note_of(answer))
        return answer

    def _send(self, request: Call[T], timeout_s: float) -> bytes:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        method = self._open().unary_unary(request.path)
        try:
            return method(request.body, timeout=max(timeout_s, 0.0))
        except grpc.RpcError as e:
            raise self._failure(e) from e

    def _show_kept(self) -> None:
        note = self._link.note_to_show()
        if note:
            question = auditcalls.show_checkpoint(note)
            try:
                verdict = question.decode(self._send(question, SHOW_TIMEOUT_S))
            except KeydError:
                return  # it is a service to the daemon; not every caller may offer it
            self._link.kept.judge(verdict)

    def _open(self) -> grpc.Channel:
        with self._link.lock:
            if not self._channel:
                tls = credentials(self.endpoint)
                target = self.endpoint.target
                self._channel.append(
                    grpc.insecure_channel(target, OPTIONS)
                    if tls is None
                    else grpc.secure_channel(target, tls, OPTIONS)
                )
            return self._channel[0]

    def _failure(self, error: grpc.RpcError) -> KeydError:
        assert isinstance(error, grpc.Call)
        return from_call(
            error.code(), error.details() or "", error.trailing_metadata() or (), self.endpoint
        )
