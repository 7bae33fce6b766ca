"""The way of every call: who asks, is there room, read, run, answer; measured and logged once.

grpc ends a handler (CancelledError) at the caller's deadline and when the caller dies. The work is
therefore a task of the daemon: such an end cancels it, the domain drops what no token host has yet,
and what is in flight completes and is logged. Servicers see none of this: their methods take a
:class:`~keyd.model.Caller` and a message, return a message and raise KeydError.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from keyd.errors import InvalidRequestError, KeydError, ServerGoneError, UnknownCallerError
from keyd.model import Caller, Principal
from keyd.server import status
from keyd.server.limits import Limits, Slots
from keyd.server.metrics import Metrics
from keyd.server.wire.fields import check_request_id

if TYPE_CHECKING:
    _Context = grpc.aio.ServicerContext[Any, Any]

Resolver = Callable[["_Context"], Principal]
"""Who a call comes from; raises UnknownCallerError. Asked on every call: a connection outlives its
certificate, and the deny-list changes under it."""

_Unary = Callable[[Caller, Any], Awaitable[Message]]
_Stream = Callable[[Caller, Any], AsyncIterator[Message]]

RECHECK_CALLER_S = 1.0
"""How long a stream may go on sending before its caller is looked up again."""

_CANCEL_S = 2.0
"""How long cancelled work may take to end before a drain goes on without it."""

log = logging.getLogger(__name__)


def new_request_id() -> str:
    """A request id for callers that sent none: 20 hex digits, random."""
    return secrets.token_hex(10)


def method_name(name: str) -> str:
    """``WhoAmI`` -> ``who_am_i``: the servicer's method for a method of the API."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@dataclass(slots=True)
class _Call:
    method: str
    caller: Caller
    request: Message
    started: float
    give_back: Callable[[], None]
    abandoned: bool = False


class Calls:
    """Runs the calls of all listeners of one daemon."""

    def __init__(
        self, limits: Limits, metrics: Metrics, *, request_ids: Callable[[], str] = new_request_id
    ) -> None:
        """``request_ids`` makes one for a caller that sent none."""
        self._limits = limits
        self._metrics = metrics
        self._request_ids = request_ids
        self._tasks: set[asyncio.Task[Message | KeydError]] = set()
        self._unary_slots = Slots(
            total=limits.max_calls,
            per_principal=limits.max_calls_per_principal,
            total_bytes=limits.max_bytes_in_flight,
            retry_after_s=limits.retry_after_s,
        )
        self._stream_slots = Slots(
            total=limits.max_streams,
            per_principal=limits.max_streams_per_principal,
            total_bytes=limits.max_bytes_in_flight,
            retry_after_s=limits.retry_after_s,
            what="streams",
        )

    @property
    def in_progress(self) -> int:
        """Calls whose work has not ended, with or without a caller who waits."""
        return len(self._tasks)

    async def drain(self, timeout_s: float) -> None:
        """Wait for the work in progress, also where nobody waits for its answer any more; cancel
        what is left after ``timeout_s``. Call it once the servers take no new calls."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_S)

    def handler(
        self, service: ServiceDescriptor, servicer: object, resolver: Resolver
    ) -> grpc.GenericRpcHandler:
        """All methods of a service, for one listener, whose callers ``resolver`` knows.

        Raises:
            AttributeError: the servicer lacks a method of the service.
        """
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in service.methods:
            behaviour = getattr(servicer, method_name(method.name))
            handlers[method.name] = self._method(method, behaviour, resolver)
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _method(
        self, method: MethodDescriptor, behaviour: Any, resolver: Resolver
    ) -> grpc.RpcMethodHandler[Any, Any]:
        # No deserializer: grpc would answer garbage with a bare INTERNAL and a traceback in the
        # log, and would parse before it is known who asks.
        name = f"{method.containing_service.name}/{method.name}"
        request_class: type[Message] = message_factory.GetMessageClass(method.input_type)

        async def unary(raw: bytes, context: _Context) -> bytes:
            call = await self._admit(name, request_class, raw, context, resolver, self._unary_slots)
            return await self._answer(call, behaviour, context)

        async def stream(raw: bytes, context: _Context) -> None:
            call = await self._admit(
                name, request_class, raw, context, resolver, self._stream_slots
            )
            await self._send(call, behaviour, context, resolver)

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)

    # ---------------------------------------------------------------------------- the way in

    async def _admit(
        self,
        method: str,
        request_class: type[Message],
        raw: bytes,
        context: _Context,
        resolver: Resolver,
        slots: Slots,
    ) -> _Call:
        """Everything that is refused before the domain is asked; ends the call when it is."""
        started = time.monotonic()
        try:
            principal = resolver(context)
        except Exception as e:  # noqa: BLE001 - whatever goes wrong here, the caller stays unknown
            await self._turn_away(method, e, context)
        request_id = ""
        try:
            request = self._parse(request_class, raw)
            request_id = check_request_id(getattr(request, "request_id", ""))
            request_id = request_id or self._request_ids()
            give_back = slots.take(principal.id, len(raw))
        except KeydError as e:
            caller = Caller(principal, request_id or self._request_ids())
            self._ended(method, caller, e, started)
            await context.abort_with_status(status.to_grpc(e))
        return _Call(method, Caller(principal, request_id), request, started, give_back)

    async def _turn_away(self, method: str, error: Exception, context: _Context) -> None:
        if isinstance(error, UnknownCallerError):
            self._metrics.unauthenticated(error.reason)
            log.debug("unknown caller", extra={"method": method, "why": error.message})
            unknown: KeydError = error
        else:
            self._metrics.unauthenticated("INTERNAL")
            log.error("caller not resolved", exc_info=error, extra={"method": method})
            unknown = UnknownCallerError("the daemon could not tell who is calling")
        unknown.request_id = unknown.request_id or self._request_ids()
        await context.abort_with_status(status.to_grpc(unknown))

    def _parse(self, request_class: type[Message], raw: bytes) -> Message:
        if len(raw) > self._limits.max_request_bytes:
            raise InvalidRequestError(
                "request",
                f"{len(raw)} bytes, at most {self._limits.max_request_bytes} are taken",
                hint="send a digest in place of the message, or fewer items in a batch",
            )
        try:
            request: Message = request_class.FromString(raw)
        except DecodeError:
            raise InvalidRequestError(
                "request", f"not a {request_class.DESCRIPTOR.full_name} message"
            ) from None
        return request

    # ---------------------------------------------------------------------------- unary

    async def _answer(self, call: _Call, behaviour: _Unary, context: _Context) -> bytes:
        task = asyncio.create_task(self._run(call, behaviour))
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._let_go(call, ended))
        try:
            outcome = await asyncio.shield(task)
        except asyncio.CancelledError:
            call.abandoned = True
            self._metrics.abandoned(call.method)
            task.cancel()
            raise
        if isinstance(outcome, KeydError):
            await context.abort_with_status(status.to_grpc(outcome))
            raise AssertionError("abort_with_status raises")
        return outcome.SerializeToString()

    async def _run(self, call: _Call, behaviour: _Unary) -> Message | KeydError:
        """The daemon's task; never raises, so that an answer nobody waits for is no warning."""
        try:
            outcome: Message | KeydError = await behaviour(call.caller, call.request)
        except asyncio.CancelledError:
            outcome = _dropped()
        except Exception as e:  # noqa: BLE001 - the last line before the wire
            outcome = _on_purpose(e, call)
        self._ended(
            call.method,
            call.caller,
            outcome if isinstance(outcome, KeydError) else None,
            call.started,
            abandoned=call.abandoned,
        )
        return outcome

    def _let_go(self, call: _Call, task: asyncio.Task[Message | KeydError]) -> None:
        self._tasks.discard(task)
        call.give_back()

    # ---------------------------------------------------------------------------- stream

    async def _send(
        self, call: _Call, behaviour: _Stream, context: _Context, resolver: Resolver
    ) -> None:
        error: KeydError | None = None
        checked = call.started
        try:
            async with aclosing(behaviour(call.caller, call.request)) as answers:  # type: ignore[type-var]
                async for answer in answers:
                    if time.monotonic() - checked > RECHECK_CALLER_S:
                        _check_same(resolver(context), call.caller.principal)
                        checked = time.monotonic()
                    await context.write(answer.SerializeToString())
        except asyncio.CancelledError:
            call.abandoned = True
            raise
        except Exception as e:  # noqa: BLE001 - the last line before the wire
            error = _on_purpose(e, call)
        finally:
            call.give_back()
            self._ended(call.method, call.caller, error, call.started, abandoned=call.abandoned)
        if error is not None:
            await context.abort_with_status(status.to_grpc(error))

    # ---------------------------------------------------------------------------- the way out

    def _ended(
        self,
        method: str,
        caller: Caller,
        error: KeydError | None,
        started: float,
        *,
        abandoned: bool = False,
    ) -> None:
        """Measure the call and log its one line."""
        seconds = time.monotonic() - started
        outcome = "OK" if error is None else error.reason
        self._metrics.request(method, outcome, seconds)
        extra = {
            "method": method,
            "principal": caller.principal.id,
            "peer": caller.principal.peer,
            "request_id": caller.request_id,
            "outcome": outcome,
            "ms": round(seconds * 1000, 2),
        }
        if error is not None:
            error.request_id = caller.request_id
            extra["why"] = error.message
        if abandoned:
            extra["abandoned"] = True
        log.info("call", extra=extra)


def _dropped() -> KeydError:
    return ServerGoneError(
        "the call ended before its work was with a token; nothing was signed",
        hint="the daemon is stopping; try again when it is back",
        retry_after_s=1.0,
    )


def _on_purpose(error: Exception, call: _Call) -> KeydError:
    """The error itself when it was raised for callers, else INTERNAL with a traceback here."""
    if isinstance(error, KeydError) and status.is_sendable(error):
        return error
    log.error(
        "call failed",
        exc_info=error,
        extra={"method": call.method, "request_id": call.caller.request_id},
    )
    return status.internal_error(call.caller.request_id)


def _check_same(now: Principal, before: Principal) -> None:
    if now.id != before.id:
        raise UnknownCallerError(f"the caller was {before.id} and now is {now.id}")
