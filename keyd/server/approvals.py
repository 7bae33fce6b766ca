"""ApprovalService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TypeVar

from keyd.approvals import Approvals
from keyd.model import Caller
from keyd.server.limits import Limits
from keyd.server.streams import until
from keyd.server.wire import approvals as wire
from keyd.server.wire import pages
from keyd.server.wire.fields import check_reason
from keyd.v1 import approvals_pb2 as pb

_T = TypeVar("_T")


class ApprovalServicer:
    """Reads the request, asks the approvals, writes them as the caller sees them."""

    def __init__(self, approvals: Approvals, limits: Limits, ended: asyncio.Event) -> None:
        """``ended``: set when the daemon drains; watches end then."""
        self._approvals = approvals
        self._limits = limits
        self._ended = ended

    async def get_approval(self, caller: Caller, message: pb.GetApprovalRequest) -> pb.Approval:
        """One approval with its bytes."""
        shown = await self._approvals.get(caller, wire.approval_id(message.id))
        return wire.approval_message(shown)

    async def list_approvals(
        self, caller: Caller, message: pb.ListApprovalsRequest
    ) -> pb.ListApprovalsResponse:
        """Those the caller may see, newest first; fewer when the answer would grow too large."""
        limit = wire.limit(message)
        found = await self._approvals.list(
            caller, only_open=message.open, waits_for_me=message.waits_for_me, limit=limit
        )
        shown = (wire.approval_message(one) for one in found)
        return pb.ListApprovalsResponse(
            approvals=pages.fill_page(shown, limit, self._limits.max_page_bytes)
        )

    async def approve(self, caller: Caller, message: pb.ApproveRequest) -> pb.Approval:
        """The caller consents."""
        shown = await self._approvals.approve(
            caller,
            wire.approval_id(message.id),
            wire.digest(message),
            signature=wire.signature(message),
            said=check_reason(message.reason),
        )
        return wire.approval_message(shown)

    async def reject(self, caller: Caller, message: pb.ApprovalRequest) -> pb.Approval:
        """The caller says no."""
        shown = await self._approvals.reject(
            caller, wire.approval_id(message.id), said=check_reason(message.reason)
        )
        return wire.approval_message(shown)

    async def revoke(self, caller: Caller, message: pb.ApprovalRequest) -> pb.Approval:
        """The caller takes back what is the caller's."""
        shown = await self._approvals.revoke(
            caller, wire.approval_id(message.id), said=check_reason(message.reason)
        )
        return wire.approval_message(shown)

    async def watch_approvals(
        self, caller: Caller, message: pb.WatchApprovalsRequest
    ) -> AsyncIterator[pb.Approval]:
        """Approvals now and whenever they change, until the one asked for is no longer open, the
        caller leaves or the daemon drains."""
        wanted = wire.approval_id(message.id) if message.id else ""
        async with aclosing(until(self._ended, self._approvals.watch(caller, wanted))) as changes:
            async for shown in changes:
                yield wire.approval_message(shown)
