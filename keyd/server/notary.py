"""KeyManagement and Signer of Notary v1: what a notary-server is offered on its listener.

notary-server looks at no status code, and shows the status text to whoever publishes: it says what
to do, and nothing that is secret. The server itself waits for ever, so the work is bounded here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc

from keyd.errors import DeadlineError, KeydError, from_reason
from keyd.model import Caller
from keyd.notary.v0 import signer_pb2 as pb
from keyd.notarysigner import NotarySigner
from keyd.server import notarywire as wire
from keyd.server.call import Calls, Resolver
from keyd.server.limits import Limits
from keyd.server.metrics import Metrics
from keyd.server.notaryhealth import NotaryHealth
from keyd.server.status import is_sendable

_KEYS = pb.DESCRIPTOR.services_by_name["KeyManagement"]
_SIGNER = pb.DESCRIPTOR.services_by_name["Signer"]

_Answer = TypeVar("_Answer")


def add_notary_services(
    server: grpc.aio.Server,
    signer: NotarySigner,
    calls: Calls,
    health: NotaryHealth,
    resolver: Resolver,
    *,
    limits: Limits,
    metrics: Metrics,
    deadline_s: float,
) -> None:
    """Offer them, and nothing else of keyd, on one listener whose callers ``resolver`` knows.
    ``deadline_s``: the longest that one call may take."""
    server.add_generic_rpc_handlers(
        [
            calls.handler(_KEYS, KeyManagementServicer(signer, deadline_s), resolver),
            calls.handler(_SIGNER, SignerServicer(signer, deadline_s, limits, metrics), resolver),
        ]
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, server)


class KeyManagementServicer:
    """proto.KeyManagement."""

    def __init__(self, signer: NotarySigner, deadline_s: float) -> None:
        self._signer = signer
        self._deadline_s = deadline_s

    async def create_key(self, caller: Caller, message: pb.CreateKeyRequest) -> pb.PublicKey:
        """A key that has signed nothing yet."""
        return await _told(self._create(caller, message), self._deadline_s)

    async def delete_key(self, caller: Caller, message: pb.KeyID) -> pb.Void:
        """Never done."""

        async def refuse() -> pb.Void:
            raise await self._signer.refuse_deletion(caller, wire.keyid(message))

        return await _told(refuse(), self._deadline_s)

    async def get_key_info(self, caller: Caller, message: pb.KeyID) -> pb.GetKeyInfoResponse:
        """The public key."""

        async def get() -> pb.GetKeyInfoResponse:
            return wire.key_info_response(await self._signer.get(caller, wire.keyid(message)))

        return await _told(get(), self._deadline_s)

    async def _create(self, caller: Caller, message: pb.CreateKeyRequest) -> pb.PublicKey:
        algorithm = wire.algorithm(message)
        made = await self._signer.create(caller, message.gun, message.role, algorithm)
        return wire.public_key(made)


class SignerServicer:
    """proto.Signer."""

    def __init__(
        self, signer: NotarySigner, deadline_s: float, limits: Limits, metrics: Metrics
    ) -> None:
        self._signer = signer
        self._deadline_s = deadline_s
        self._limits = limits
        self._metrics = metrics

    async def sign(self, caller: Caller, message: pb.SignatureRequest) -> pb.Signature:
        """One signature."""
        return await _told(self._sign(caller, message), self._deadline_s)

    async def _sign(self, caller: Caller, message: pb.SignatureRequest) -> pb.Signature:
        content = wire.content(message, self._limits)
        try:
            key, signed = await self._signer.sign(caller, wire.keyid(message.keyID), content)
        except KeydError as e:
            self._metrics.signature("", e.reason)
            raise
        self._metrics.signature(signed.scheme, "replayed" if signed.replayed else "signed")
        return wire.signature(key, signed)


async def _told(work: Awaitable[_Answer], deadline_s: float) -> _Answer:
    """The answer, or an error whose text alone says everything: nobody shows the hint apart.

    Raises:
        KeydError: of the same class, with the hint in its text.
    """
    try:
        async with asyncio.timeout(deadline_s):
            return await work
    except TimeoutError:
        error: KeydError = DeadlineError(
            f"keyd was not done after {deadline_s:g} s; what it had begun is finished and logged",
            hint="try again; keydctl status says how the token is",
        )
    except KeydError as e:
        if not is_sendable(e):
            raise
        error = e
    text = f"keyd: {error.message}"
    if error.hint:
        text += f" ({error.hint})"
    raise from_reason(
        error.reason,
        text,
        facts=error.facts,
        hint=error.hint,
        retry_after_s=error.retry_after_s,
    )
