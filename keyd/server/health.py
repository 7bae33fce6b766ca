"""The standard health service (grpc.health.v1).

Written on its protobufs rather than on grpcio's reference servicer, whose watchers hold a lock
while they write: there one watcher that does not read keeps every later change from everybody.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    _Context = grpc.aio.ServicerContext[Any, Any]

_Response = health_pb2.HealthCheckResponse

SIGNING_SERVICE = "keyd.v1.SigningService"
SERVICES = (
    "",
    SIGNING_SERVICE,
    "keyd.v1.KeyService",
    "keyd.v1.TokenService",
    "keyd.v1.AuditService",
)
MAX_WATCHERS = 256


class Health(health_pb2_grpc.HealthServicer):
    """Says which services serve; NOT_SERVING until told otherwise. Needs no principal."""

    def __init__(self, ended: asyncio.Event) -> None:
        """``ended``: set when the daemon drains; watches end then."""
        self._ended = ended
        self._statuses: dict[str, int] = dict.fromkeys(SERVICES, _Response.NOT_SERVING)
        self._changed = asyncio.Event()
        self._watchers = 0

    def set_serving(self, *, daemon: bool, signing: bool) -> None:
        """``daemon``: calls are taken. ``signing``: and signatures can be made. Once the daemon
        drains nothing is served any more, whatever is said here."""
        daemon = daemon and not self._ended.is_set()
        statuses = dict.fromkeys(SERVICES, _answer(daemon))
        statuses[SIGNING_SERVICE] = _answer(daemon and signing)
        if statuses != self._statuses:
            self._statuses = statuses
            # Each change has an event of its own, so that none is missed and no lock is held.
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def Check(  # noqa: N802 - the API's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: _Context,
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that is none of ours."""
        status = self._statuses.get(request.service)
        if status is None:
            await _refuse(context, grpc.StatusCode.NOT_FOUND, "no such service")
        return _Response(status=status)

    async def Watch(  # noqa: N802 - the API's name; answers by write()
        self,
        request: health_pb2.HealthCheckRequest,
        context: _Context,
    ) -> None:
        """The status now and whenever it changes, until the daemon drains."""
        if self._watchers >= MAX_WATCHERS:
            await _refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch already")
        self._watchers += 1
        try:
            last = None
            while not self._ended.is_set():
                changed = self._changed
                status = self._statuses.get(request.service, _Response.SERVICE_UNKNOWN)
                if status != last:
                    await context.write(_Response(status=status))
                    last = status
                await self._change_or_end(changed)
        finally:
            self._watchers -= 1

    async def _change_or_end(self, changed: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (changed, self._ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _answer(serving: bool) -> int:
    return _Response.SERVING if serving else _Response.NOT_SERVING


async def _refuse(context: _Context, code: grpc.StatusCode, text: str) -> NoReturn:
    await context.abort(code, text)
    raise AssertionError("abort raises")
