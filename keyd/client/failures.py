"""What went wrong, as the same KeydError the daemon raised.

A status with an ErrorInfo of keyd is rebuilt by its reason. Everything else comes from grpc itself
(nobody listens, the deadline passed) or from something between client and daemon.
"""

from __future__ import annotations

import grp
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from keyd.client import certificates
from keyd.client.endpoint import Endpoint
from keyd.errors import (
    DOMAIN,
    DeadlineError,
    InvalidRequestError,
    KeydError,
    ServerGoneError,
    from_reason,
)
from keyd.v1 import signing_pb2

_ADMINS = "keyd-admin"
"""The group that systemd/keyd-server.sysusers.conf makes for the admin socket."""

_DETAILS = "grpc-status-details-bin"

Trailers = Iterable[tuple[str, str | bytes]]


def from_call(
    code: grpc.StatusCode, details: str, trailers: Trailers, endpoint: Endpoint
) -> KeydError:
    """The error of a failed call."""
    status = _status(trailers)
    error = _from_status(status) if status is not None else None
    return error or _from_grpc(code, details, endpoint)


def from_item(item: signing_pb2.ItemError, request_id: str) -> KeydError:
    """The error of one item of a batch."""
    error = from_reason(
        item.reason,
        item.message,
        facts=_facts(item.metadata),
        hint=item.hint,
        retry_after_s=item.retry_after_s or None,
    )
    error.request_id = request_id
    return error


def snake_case(name: str) -> str:
    """``nextVersion`` -> ``next_version``: facts as KeydError names them."""
    return re.sub(r"[A-Z]", lambda m: f"_{m[0].lower()}", name)


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    return {snake_case(name): value for name, value in metadata.items()}


def _status(trailers: Trailers) -> status_pb2.Status | None:
    for name, value in trailers:
        if name == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _from_status(status: status_pb2.Status) -> KeydError | None:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.RequestInfo()
    retry_after_s: float | None = None
    for detail in status.details:
        try:
            detail.Unpack(info)
            detail.Unpack(request)
            if detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        except DecodeError:
            return None
    if info.domain != DOMAIN:
        return None
    facts = _facts(info.metadata)
    error = from_reason(
        info.reason,
        status.message,
        hint=facts.pop("hint", ""),
        facts=facts,
        retry_after_s=retry_after_s,
    )
    error.request_id = request.request_id
    return error


def _from_grpc(code: grpc.StatusCode, details: str, endpoint: Endpoint) -> KeydError:
    details = " ".join(details.split())[:300]
    at = f"{endpoint.target} ({endpoint.source})"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(
            f"no answer from {at} in time",
            hint="the work may still complete and is then in the log; ask again, or allow more "
            "time with --deadline",
            endpoint=endpoint.target,
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return _gone(details, endpoint, at)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return KeydError(
            f"what answers at {at} does not know this call",
            hint="is it a keyd-server, and as new as this client?",
            endpoint=endpoint.target,
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return InvalidRequestError("message", f"too large for one call: {details}")
    return KeydError(f"the call to {at} failed: {code.name}: {details}", endpoint=endpoint.target)


def _gone(details: str, endpoint: Endpoint, at: str) -> ServerGoneError:
    if endpoint.tls is None and "Permission denied" in details:
        return _closed_to_us(details, endpoint, at)
    text, hint, certificate = _diagnose(details, endpoint, at)
    error = ServerGoneError(text, hint=hint, endpoint=endpoint.target, cause=details)
    if certificate:
        error.facts = {**error.facts, "certificate": certificate}
    return error


def _closed_to_us(details: str, endpoint: Endpoint, at: str) -> ServerGoneError:
    """A socket this user may not open: no waiting helps, a person has to let the user in."""
    group = _group_of(Path(endpoint.target.removeprefix("unix:")))
    return ServerGoneError(
        f"this user may not open the socket {at}",
        hint=f"have yourself added to the group {group}, then log in anew: "
        f"usermod -a -G {group} USER",
        endpoint=endpoint.target,
        cause=details,
        group=group,
    )


def _group_of(socket: Path) -> str:
    """The group that may open it: the socket's, or that of the folder which hides it."""
    for path in (socket, *socket.parents):
        try:
            status = path.stat()
            name = grp.getgrgid(status.st_gid).gr_name
        except (OSError, KeyError):
            continue
        # The superuser's group stands on what was never given to a group.
        return name if status.st_gid else _ADMINS
    return _ADMINS


def _diagnose(details: str, endpoint: Endpoint, at: str) -> tuple[str, str, str]:
    """Message, hint, and what is wrong with a certificate, if one is to blame."""
    tls = endpoint.tls
    if tls is None:
        return (
            f"no daemon answers at {at}",
            f"{_why_unix(details)}is keyd-server running? try: systemctl status keyd-server, "
            "or name another daemon with --endpoint",
            "",
        )
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return (
            f"the daemon at {at} could not prove who it is",
            f"its certificate must come from the CA in {tls.ca} and name the host in the endpoint",
            "server",
        )
    closed = any(word in details for word in ("Socket closed", "handshake", "Handshake"))
    finding = certificates.examine(tls)
    # Client and daemon may have their certificates from different CAs: a guess, no finding, while
    # nobody has closed a connection on us.
    if finding is not None and (closed or finding.what != "other-ca"):
        return f"no daemon answers at {at}: {finding.text}", finding.hint, finding.what
    if closed:
        return (
            f"the daemon at {at} closed the connection",
            f"it may not accept {tls.cert}: ask its operator whether this certificate and its CA "
            "are still allowed",
            "",
        )
    return (
        f"no daemon answers at {at}: {details}",
        "is keyd-server running there, and is the port reachable from here?",
        "",
    )


def _why_unix(details: str) -> str:
    if "No such file" in details:
        return "there is no such socket; "
    if "Connection refused" in details:
        return "nobody listens on the socket; "
    return ""
