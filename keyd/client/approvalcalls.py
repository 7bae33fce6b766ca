"""The calls of ApprovalService: arguments in, a :class:`Call` out. Nothing here talks to anybody.

The docstrings are those of the methods of Client and AsyncClient. All of them raise KeydError
subclasses: what the daemon refused, ServerGoneError, DeadlineError.
"""

from __future__ import annotations

from dataclasses import replace

from keyd.client import approvalwire, types
from keyd.client.call import Call, call
from keyd.v1 import approvals_pb2


def get_approval(id: str) -> Call[types.Approval]:
    """One approval with the bytes it is about; for whoever asked for it or may approve it.

    Raises:
        ApprovalNotFoundError: no such approval, or not the caller's to see.
    """
    return call(
        "ApprovalService/GetApproval",
        approvals_pb2.GetApprovalRequest(id=id),
        approvals_pb2.Approval,
        approvalwire.approval,
        repeatable=True,
    )


def list_approvals(
    *, open: bool = True, waits_for_me: bool = False, limit: int = 0
) -> Call[list[types.Approval]]:
    """The approvals the caller asked for or may approve, newest first, without their bytes.

    ``open``: only those that can still be used or consented to. ``waits_for_me``: only those the
    caller's consent would count for and has not been given to. ``limit``: at most 1 000; 0: 100.
    """
    return call(
        "ApprovalService/ListApprovals",
        approvals_pb2.ListApprovalsRequest(open=open, waits_for_me=waits_for_me, limit=limit),
        approvals_pb2.ListApprovalsResponse,
        lambda m: [approvalwire.approval(a) for a in m.approvals],
        repeatable=True,
    )


def approve(
    id: str, digest: bytes, *, signature: str = "", reason: str = ""
) -> Call[types.Approval]:
    """Consent. ``digest``: SHA-256 (32 bytes) of what was looked at, worked out by the caller.

    ``signature``: armored SSHSIG over Approval.consent_text (see :mod:`keyd.sshsig`).

    Raises:
        ApprovalStateError: the approval is over, or this person's word does not count for it.
    """
    request = approvals_pb2.ApproveRequest(id=id, digest=digest, signature=signature, reason=reason)
    return call("ApprovalService/Approve", request, approvals_pb2.Approval, approvalwire.approval)


def reject(id: str, *, reason: str = "") -> Call[types.Approval]:
    """Say no, as one of those whose consent counts: the approval ends."""
    return _change("Reject", id, reason)


def revoke(id: str, *, reason: str = "") -> Call[types.Approval]:
    """Take the own consent back, or withdraw the own request; only while it is unused."""
    return _change("Revoke", id, reason)


def watch_approvals(id: str = "", *, timeout_s: float | None = None) -> Call[types.Approval]:
    """The approvals the caller could list, now and whenever one changes, without their bytes.

    With an id only that one; then the stream ends once it is no longer open. ``timeout_s``: end
    after so long with a DeadlineError; None: the caller ends it.
    """
    watching = call(
        "ApprovalService/WatchApprovals",
        approvals_pb2.WatchApprovalsRequest(id=id),
        approvals_pb2.Approval,
        approvalwire.approval,
    )
    return replace(watching, stream_s=timeout_s)


def _change(method: str, id: str, reason: str) -> Call[types.Approval]:
    return call(
        f"ApprovalService/{method}",
        approvals_pb2.ApprovalRequest(id=id, reason=reason),
        approvals_pb2.Approval,
        approvalwire.approval,
    )
