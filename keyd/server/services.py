"""All services of one daemon, put together once and added to the server of each listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc

from keyd.approvals import Approvals
from keyd.ceremonies import Ceremonies
from keyd.keys import Keys
from keyd.model import Clock, Policy
from keyd.roles import Roles
from keyd.server.approvals import ApprovalServicer
from keyd.server.audit import AuditReads, AuditServicer, Authorize
from keyd.server.call import Calls, Resolver
from keyd.server.ceremonies import CeremonyServicer
from keyd.server.health import Health
from keyd.server.keys import KeyServicer
from keyd.server.limits import Limits
from keyd.server.metrics import Metrics
from keyd.server.roles import RoleServicer
from keyd.server.signing import CheckpointNews, SigningCore, SigningServicer
from keyd.server.tokens import TokenServicer
from keyd.server.wire.audit import StatusReport
from keyd.tokens import Tokens
from keyd.v1 import (
    approvals_pb2,
    audit_pb2,
    ceremonies_pb2,
    keys_pb2,
    roles_pb2,
    signing_pb2,
    tokens_pb2,
)
from keyd.yubikeys import YubiKeys

_SIGNING = signing_pb2.DESCRIPTOR.services_by_name["SigningService"]
_KEYS = keys_pb2.DESCRIPTOR.services_by_name["KeyService"]
_TOKENS = tokens_pb2.DESCRIPTOR.services_by_name["TokenService"]
_APPROVALS = approvals_pb2.DESCRIPTOR.services_by_name["ApprovalService"]
_AUDIT = audit_pb2.DESCRIPTOR.services_by_name["AuditService"]
_ROLES = roles_pb2.DESCRIPTOR.services_by_name["RoleService"]
_CEREMONIES = ceremonies_pb2.DESCRIPTOR.services_by_name["CeremonyService"]


@dataclass(frozen=True, slots=True)
class Services:
    """What every listener of a daemon offers."""

    calls: Calls
    health: Health
    servicers: tuple[tuple[ServiceDescriptor, object], ...]
    ended: asyncio.Event

    async def drain(self, servers: list[grpc.aio.Server], timeout_s: float) -> None:
        """End streams, take no new calls, and wait for the work in progress, whether or not
        somebody still waits for it; cancel what is left after ``timeout_s``."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        self.health.set_serving(daemon=False, signing=False)
        self.ended.set()
        if servers:
            await asyncio.gather(*(server.stop(timeout_s) for server in servers))
        await self.calls.drain(max(0.0, until - loop.time()))


def build_services(
    *,
    signing: SigningCore,
    keys: Keys,
    tokens: Tokens,
    yubikeys: YubiKeys | None = None,
    approvals: Approvals,
    ceremonies: Ceremonies,
    roles: Roles,
    audit: AuditReads,
    authorize: Authorize,
    policy: Callable[[], Policy],
    report: Callable[[], StatusReport],
    newest_checkpoint: Callable[[], str],
    clock: Clock,
    limits: Limits,
    metrics: Metrics,
    server_version: str,
) -> Services:
    """Make the servicers. ``newest_checkpoint``: its note, or empty; must not block. Call it
    within the event loop that serves."""
    ended = asyncio.Event()
    return Services(
        calls=Calls(limits, metrics),
        health=Health(ended),
        servicers=(
            (
                _SIGNING,
                SigningServicer(signing, CheckpointNews(newest_checkpoint), limits, metrics),
            ),
            (_KEYS, KeyServicer(keys, clock, limits)),
            (_TOKENS, TokenServicer(tokens, ended, yubikeys)),
            (_APPROVALS, ApprovalServicer(approvals, limits, ended)),
            (_CEREMONIES, CeremonyServicer(ceremonies, limits)),
            (_ROLES, RoleServicer(roles, limits)),
            (
                _AUDIT,
                AuditServicer(
                    audit,
                    authorize=authorize,
                    policy=policy,
                    report=report,
                    server_version=server_version,
                    limits=limits,
                    ended=ended,
                ),
            ),
        ),
        ended=ended,
    )


def add_services(
    server: grpc.aio.Server, services: Services, resolver: Resolver, *, reflection: bool = False
) -> None:
    """Offer the services on one listener, whose callers ``resolver`` knows. ``reflection``: also
    describe them to whoever asks, for development."""
    server.add_generic_rpc_handlers(
        [
            services.calls.handler(service, servicer, resolver)
            for service, servicer in services.servicers
        ]
    )
    health_pb2_grpc.add_HealthServicer_to_server(services.health, server)
    if reflection:
        # Imported here: nothing but development needs it.
        from grpc_reflection.v1alpha import reflection as grpc_reflection

        names = [service.full_name for service, _ in services.servicers]
        grpc_reflection.enable_server_reflection(
            [*names, "grpc.health.v1.Health", grpc_reflection.SERVICE_NAME], server
        )
