"""KeydError -> google.rpc.Status, in one table.

Codes and reasons are API, messages are not (AIP-193). Each status has exactly one ErrorInfo: domain
``keyd.v1``, the error's reason, its facts in lowerCamelCase plus ``hint``; and beside it what the
code calls for. A status travels in HTTP/2 trailers, which grpc refuses beyond 8 KiB, so texts are
cut here.
"""

from __future__ import annotations

import re

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from keyd import errors
from keyd.errors import DOMAIN, KeydError
from keyd.v1 import signing_pb2

_Code = grpc.StatusCode

CODES: dict[type[KeydError], grpc.StatusCode] = {
    errors.InvalidRequestError: _Code.INVALID_ARGUMENT,
    errors.UnknownCallerError: _Code.UNAUTHENTICATED,
    errors.PolicyDeniedError: _Code.PERMISSION_DENIED,
    errors.KeyNotFoundError: _Code.NOT_FOUND,
    errors.KeyExistsError: _Code.ALREADY_EXISTS,
    errors.KeyNotEnabledError: _Code.FAILED_PRECONDITION,
    errors.KeyStateError: _Code.FAILED_PRECONDITION,
    errors.KeyBoundError: _Code.FAILED_PRECONDITION,
    errors.FrozenError: _Code.FAILED_PRECONDITION,
    errors.ApprovalNeededError: _Code.FAILED_PRECONDITION,
    errors.AlgorithmMismatchError: _Code.INVALID_ARGUMENT,
    errors.KeyMismatchError: _Code.FAILED_PRECONDITION,
    errors.ContentError: _Code.INVALID_ARGUMENT,
    errors.RotationConflictError: _Code.ABORTED,
    errors.ConflictError: _Code.ABORTED,
    errors.VersionTakenError: _Code.FAILED_PRECONDITION,
    errors.ApprovalNotFoundError: _Code.NOT_FOUND,
    errors.ApprovalStateError: _Code.FAILED_PRECONDITION,
    errors.RuleRefusedError: _Code.FAILED_PRECONDITION,
    errors.RoleNotFoundError: _Code.NOT_FOUND,
    errors.CeremonyNotFoundError: _Code.NOT_FOUND,
    errors.RateLimitedError: _Code.RESOURCE_EXHAUSTED,
    errors.TokenNotFoundError: _Code.NOT_FOUND,
    errors.DeviceBusyError: _Code.UNAVAILABLE,
    errors.DeviceGoneError: _Code.UNAVAILABLE,
    # Not UNAVAILABLE: a module that answers with an odd error will do so again, and what was asked
    # may have happened.
    errors.DeviceFaultError: _Code.INTERNAL,
    errors.TokenLockedError: _Code.FAILED_PRECONDITION,
    errors.PinRefusedError: _Code.FAILED_PRECONDITION,
    errors.TouchRefusedError: _Code.FAILED_PRECONDITION,
    errors.WrongTokenError: _Code.FAILED_PRECONDITION,
    errors.MechanismMissingError: _Code.FAILED_PRECONDITION,
    errors.TokenObjectError: _Code.FAILED_PRECONDITION,
    errors.AuditUnavailableError: _Code.UNAVAILABLE,
    errors.CheckpointBehindError: _Code.FAILED_PRECONDITION,
    # In the daemon only over what the caller brought: a checkpoint that cannot be read.
    errors.LogProofError: _Code.INVALID_ARGUMENT,
    errors.ClockError: _Code.FAILED_PRECONDITION,
    errors.BadSignatureError: _Code.INTERNAL,
    errors.DeadlineError: _Code.DEADLINE_EXCEEDED,
    # Sent only while the daemon stops.
    errors.ServerGoneError: _Code.UNAVAILABLE,
}
"""Every class that may leave the daemon. Any other leaves as INTERNAL, without its text."""

_DEFAULT_RETRY_S: dict[type[KeydError], float] = {
    errors.RateLimitedError: 1.0,
    errors.DeviceBusyError: 0.2,
    errors.DeviceGoneError: 1.0,
    errors.ServerGoneError: 1.0,
}

_PRECONDITIONS = (
    errors.KeyNotEnabledError,
    errors.ApprovalNeededError,
    errors.TokenLockedError,
    errors.VersionTakenError,
    errors.RuleRefusedError,
    errors.ApprovalStateError,
)

_MAX_MESSAGE_BYTES = 600
_MAX_FACT_BYTES = 300
_MAX_FACTS_BYTES = 1500


def is_sendable(error: KeydError) -> bool:
    """False for classes that have no place on the wire: a fault of ours, to be logged."""
    return type(error) in CODES


def internal_error(request_id: str) -> KeydError:
    """What a caller gets to see of an error nobody raised on purpose."""
    error = KeydError(
        "internal error; the daemon's log has it under the request id",
        hint=f"look in the daemon's journal for {request_id}" if request_id else "",
    )
    error.request_id = request_id
    return error


def to_status(error: KeydError) -> status_pb2.Status:
    """The google.rpc.Status of an error. ``error.request_id`` goes into RequestInfo."""
    error = _sendable(error)
    code = CODES.get(type(error), _Code.INTERNAL)
    number: int = code.value[0]
    text = _cut(error.message, _MAX_MESSAGE_BYTES)
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=DOMAIN, metadata=_metadata(error, with_hint=True)
        )
    ]
    details.extend(_details(error))
    if error.request_id:
        details.append(error_details_pb2.RequestInfo(request_id=error.request_id))
    return status_pb2.Status(code=number, message=text, details=[_packed(d) for d in details])


def to_grpc(error: KeydError) -> grpc.Status:
    """The same, ready for ``context.abort_with_status``."""
    status: grpc.Status = rpc_status.to_status(to_status(error))
    return status


def to_item_error(error: KeydError) -> signing_pb2.ItemError:
    """The error of one item of a batch, with the content of an ErrorInfo."""
    error = _sendable(error)
    return signing_pb2.ItemError(
        reason=error.reason,
        message=_cut(error.message, _MAX_MESSAGE_BYTES),
        metadata=_metadata(error, with_hint=False),
        hint=_cut(error.hint, _MAX_FACT_BYTES),
        retry_after_s=_retry_after_s(error) or 0.0,
    )


def camel_case(name: str) -> str:
    """``next_version`` -> ``nextVersion``: how a fact is named in ErrorInfo.metadata."""
    return re.sub(r"_+([a-z0-9])", lambda m: m.group(1).upper(), name)


def _sendable(error: KeydError) -> KeydError:
    return error if is_sendable(error) else internal_error(error.request_id)


def _details(error: KeydError) -> list[message.Message]:
    details: list[message.Message] = []
    facts = error.facts
    text = _cut(error.message, _MAX_FACT_BYTES)
    if isinstance(error, errors.InvalidRequestError | errors.AlgorithmMismatchError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(facts.get("field", ""), _MAX_FACT_BYTES),
            description=_cut(facts.get("why", error.message), _MAX_FACT_BYTES),
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, errors.KeyNotFoundError | errors.KeyExistsError):
        details.append(_resource("keyd.v1.Key", facts.get("key", ""), text))
    elif isinstance(error, errors.TokenNotFoundError):
        details.append(_resource("keyd.v1.Token", facts.get("token", ""), text))
    elif isinstance(error, _PRECONDITIONS):
        subject = next((facts[f] for f in ("approval", "token", "version") if f in facts), "")
        broken = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=_cut(subject, _MAX_FACT_BYTES), description=text
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[broken]))
    elif isinstance(error, errors.RateLimitedError):
        exceeded = error_details_pb2.QuotaFailure.Violation(
            subject=_cut(facts.get("limit", ""), _MAX_FACT_BYTES), description=text
        )
        details.append(error_details_pb2.QuotaFailure(violations=[exceeded]))
    retry_after_s = _retry_after_s(error)
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, round(retry_after_s * 1000)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _resource(kind: str, name: str, text: str) -> message.Message:
    resource: message.Message = error_details_pb2.ResourceInfo(
        resource_type=kind, resource_name=_cut(name, _MAX_FACT_BYTES), description=text
    )
    return resource


def _retry_after_s(error: KeydError) -> float | None:
    if error.retry_after_s is not None:
        return error.retry_after_s
    return _DEFAULT_RETRY_S.get(type(error))


def _metadata(error: KeydError, *, with_hint: bool) -> dict[str, str]:
    metadata: dict[str, str] = {}
    left = _MAX_FACTS_BYTES
    # The hint is what helps a person most, so it is kept before any fact.
    named = {"hint": error.hint} if with_hint and error.hint else {}
    for name, value in (named | dict(error.facts)).items():
        text = _cut(value, _MAX_FACT_BYTES)
        left -= len(name) + len(text.encode())
        if left < 0:
            break
        metadata[camel_case(name)] = text
    return metadata


def _cut(text: str, size_bytes: int) -> str:
    # Lone surrogates cannot be sent in a protobuf string.
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= size_bytes:
        return raw.decode()
    return raw[: size_bytes - 3].decode("utf-8", "ignore") + "..."


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
