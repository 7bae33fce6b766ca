"""Errors on their way out, and back in at the client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2

from keyd import errors
from keyd.client import failures
from keyd.client.endpoint import Endpoint
from keyd.errors import DOMAIN, KeydError
from keyd.server import status

M = TypeVar("M", bound=Message)

NEVER_SENT = {
    errors.KeydError,
    errors.TokenError,
    errors.ConfigError,
    errors.RepositoryError,
}


def every_class(base: type[KeydError] = KeydError) -> Iterator[type[KeydError]]:
    yield base
    for cls in base.__subclasses__():
        yield from every_class(cls)


def an_error(cls: type[KeydError], **facts: Any) -> KeydError:
    if cls is errors.InvalidRequestError:
        return errors.InvalidRequestError("digest", "too short", hint="try this", **facts)
    return cls("what happened", hint="try this", **facts)


def sent(error: KeydError) -> KeydError:
    """The error as a client raises it."""
    grpc_status = status.to_grpc(error)
    return failures.from_call(
        grpc_status.code,
        grpc_status.details or "",
        [(name, value) for name, value in grpc_status.trailing_metadata or ()],
        Endpoint("unix:/nowhere", "a test"),
    )


def only(error: KeydError, kind: type[M]) -> M | None:
    found = []
    for detail in status.to_status(error).details:
        unpacked = kind()
        if detail.Unpack(unpacked):
            found.append(unpacked)
    assert len(found) <= 1
    return found[0] if found else None


def test_every_class_is_either_in_the_table_or_never_sent() -> None:
    assert set(every_class()) == set(status.CODES) | NEVER_SENT
    assert not set(status.CODES) & NEVER_SENT


@pytest.mark.parametrize("cls", status.CODES, ids=lambda cls: cls.reason)
def test_an_error_arrives_as_the_same_class_with_all_it_carries(cls: type[KeydError]) -> None:
    error = an_error(cls, key="acme/root", next_version="8")
    error.retry_after_s = 1.5
    error.request_id = "ci-77"

    arrived = sent(error)

    assert type(arrived) is cls
    assert arrived.message == error.message
    assert arrived.hint == "try this"
    assert arrived.facts == error.facts
    assert arrived.retry_after_s == 1.5
    assert arrived.request_id == "ci-77"


@pytest.mark.parametrize("cls", status.CODES, ids=lambda cls: cls.reason)
def test_a_status_has_exactly_one_error_info_of_our_domain(cls: type[KeydError]) -> None:
    info = only(an_error(cls, next_version="8"), details_pb2.ErrorInfo)

    assert info is not None
    assert info.domain == DOMAIN
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", info.reason)
    assert info.metadata["nextVersion"] == "8"
    assert info.metadata["hint"] == "try this"


@pytest.mark.parametrize(
    ("error", "code", "extra"),
    [
        (an_error(errors.InvalidRequestError), "INVALID_ARGUMENT", details_pb2.BadRequest),
        (an_error(errors.AlgorithmMismatchError), "INVALID_ARGUMENT", details_pb2.BadRequest),
        (an_error(errors.UnknownCallerError), "UNAUTHENTICATED", None),
        (an_error(errors.PolicyDeniedError), "PERMISSION_DENIED", None),
        (an_error(errors.KeyNotFoundError, key="a"), "NOT_FOUND", details_pb2.ResourceInfo),
        (an_error(errors.TokenNotFoundError, token="t"), "NOT_FOUND", details_pb2.ResourceInfo),
        (an_error(errors.KeyExistsError, key="a"), "ALREADY_EXISTS", details_pb2.ResourceInfo),
        (
            an_error(errors.KeyNotEnabledError, version="a/versions/1"),
            "FAILED_PRECONDITION",
            details_pb2.PreconditionFailure,
        ),
        (
            an_error(errors.TokenLockedError, token="t"),
            "FAILED_PRECONDITION",
            details_pb2.PreconditionFailure,
        ),
        (
            an_error(errors.VersionTakenError, version="7"),
            "FAILED_PRECONDITION",
            details_pb2.PreconditionFailure,
        ),
        (an_error(errors.RateLimitedError), "RESOURCE_EXHAUSTED", details_pb2.QuotaFailure),
        (an_error(errors.RateLimitedError), "RESOURCE_EXHAUSTED", details_pb2.RetryInfo),
        (an_error(errors.DeviceBusyError), "UNAVAILABLE", details_pb2.RetryInfo),
        (an_error(errors.DeviceGoneError), "UNAVAILABLE", details_pb2.RetryInfo),
        (an_error(errors.RotationConflictError), "ABORTED", None),
        (an_error(errors.PinRefusedError), "FAILED_PRECONDITION", None),
        (an_error(errors.AuditUnavailableError), "UNAVAILABLE", None),
        (an_error(errors.BadSignatureError), "INTERNAL", None),
    ],
)
def test_codes_and_details_stand_as_the_api_promises(
    error: KeydError, code: str, extra: type[Message] | None
) -> None:
    assert status.to_grpc(error).code is grpc.StatusCode[code]
    kinds = {d.type_url.rsplit(".", 1)[1] for d in status.to_status(error).details}
    if extra is None:
        assert kinds == {"ErrorInfo"}
    else:
        assert only(error, extra) is not None


@pytest.mark.parametrize("cls", sorted(NEVER_SENT, key=str), ids=lambda cls: cls.__name__)
def test_a_class_without_a_place_in_the_table_leaves_nothing_of_its_text(
    cls: type[KeydError],
) -> None:
    error = cls("PIN 123456 in /var/lib/keyd-server/secret", path="/secret", hint="look in /secret")
    error.request_id = "r-1"

    arrived = sent(error)

    assert arrived.reason == "INTERNAL"
    assert arrived.request_id == "r-1"
    assert not arrived.facts
    assert b"secret" not in status.to_status(error).SerializeToString()


def test_the_longest_error_still_fits_into_the_trailers_grpc_takes() -> None:
    error = errors.InvalidRequestError(
        "name", "\U0001f511" * 5000, **{f"fact_{n}": "ü" * 900 for n in range(50)}
    )
    error.hint = "h" * 5000

    grpc_status = status.to_grpc(error)

    details = grpc_status.details or ""
    size = 3 * len(details.encode())  # percent-encoded at worst
    size += sum(4 * len(value) // 3 for _, value in grpc_status.trailing_metadata or ())
    assert size < 8192
    assert sent(error).facts["field"] == "name"


def test_text_that_is_no_unicode_does_not_break_the_answer() -> None:
    arrived = sent(errors.KeyNotFoundError("no key \udcff", key="\udcff"))

    assert arrived.facts == {"key": "\\udcff"}


def test_an_item_error_arrives_as_its_class() -> None:
    error = errors.DeviceBusyError("queue full", token="online", hint="wait", retry_after_s=0.25)

    arrived = failures.from_item(status.to_item_error(error), "r-1")

    assert type(arrived) is errors.DeviceBusyError
    assert (arrived.message, arrived.hint, arrived.retry_after_s) == ("queue full", "wait", 0.25)
    assert arrived.facts == {"token": "online"}


def test_an_item_error_nobody_raised_on_purpose_says_nothing() -> None:
    item = status.to_item_error(KeydError("secret", hint="secret", path="secret"))

    assert item.reason == "INTERNAL"
    assert "secret" not in str(item)
