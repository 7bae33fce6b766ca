"""grpc.health.v1 as notary-server asks for it, every ten seconds, under names of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    _Context = grpc.aio.ServicerContext[Any, Any]

_Response = health_pb2.HealthCheckResponse

SERVICES = ("", "grpc.health.v1.Health.KeyManagement", "grpc.health.v1.Health.Signer")


class NotaryHealth(health_pb2_grpc.HealthServicer):
    """Looks when it is asked. Watch is not offered: notary-server does not watch."""

    def __init__(self, can_sign: Callable[[], bool]) -> None:
        """``can_sign``: whether all tokens that keys of collections lie on sign now."""
        self._can_sign = can_sign

    async def Check(  # noqa: N802 - the API's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: _Context,
    ) -> health_pb2.HealthCheckResponse:
        """SERVING while signatures can be made; NOT_FOUND for any other name."""
        if request.service not in SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        serving = self._can_sign()
        return _Response(status=_Response.SERVING if serving else _Response.NOT_SERVING)
