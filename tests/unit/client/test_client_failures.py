"""Statuses of grpc -> errors of keyd."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from keyd import errors
from keyd.cli.exits import Exit, exit_code
from keyd.client.endpoint import Endpoint
from keyd.client.failures import from_call, from_item, snake_case
from keyd.errors import KeydError
from keyd.server.status import CODES, camel_case, to_item_error, to_status

HERE = Endpoint("unix:/run/keyd.sock", "user socket")


def sent(error: KeydError) -> list[tuple[str, str | bytes]]:
    return [("grpc-status-details-bin", to_status(error).SerializeToString())]


def rebuilt(error: KeydError) -> KeydError:
    return from_call(grpc.StatusCode.INTERNAL, "x", sent(error), HERE)


@pytest.mark.parametrize("cls", CODES, ids=lambda c: c.__name__)
def test_every_error_of_the_daemon_arrives_as_itself(cls: type[KeydError]) -> None:
    error = errors.from_reason(
        cls.reason, "what happened", facts={"next_version": "8"}, hint="do this", retry_after_s=1.5
    )
    error.request_id = "req-9"

    found = rebuilt(error)
    item = from_item(to_item_error(error), "req-9")

    for arrived in (found, item):
        assert type(arrived) is cls
        assert arrived.message == "what happened"
        assert arrived.hint == "do this"
        assert arrived.facts == {"next_version": "8"}
        assert arrived.retry_after_s == 1.5
        assert arrived.request_id == "req-9"


def test_facts_keep_their_names_over_the_wire() -> None:
    for name in ("next_version", "state", "retry_after_s", "a_b_c"):
        assert snake_case(camel_case(name)) == name


def test_a_reason_of_a_newer_daemon_is_a_plain_error_that_keeps_its_text() -> None:
    status = to_status(errors.FrozenError("stopped", hint="ask"))
    info = error_details_pb2.ErrorInfo(reason="SOMETHING_NEW", domain=errors.DOMAIN)
    packed = Any()
    packed.Pack(info)
    newer = status_pb2.Status(code=status.code, message="new", details=[packed])
    trailers = [("grpc-status-details-bin", newer.SerializeToString())]

    found = from_call(grpc.StatusCode.INTERNAL, "x", trailers, HERE)

    assert type(found) is KeydError
    assert found.message == "new"


def test_an_error_of_another_service_is_not_taken_for_keyds() -> None:
    """A proxy in between may speak google.rpc.Status as well."""
    packed = Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="FROZEN", domain="proxy.example"))
    status = status_pb2.Status(code=14, message="x", details=[packed])
    trailers = [("grpc-status-details-bin", status.SerializeToString())]

    found = from_call(grpc.StatusCode.UNAVAILABLE, "no upstream", trailers, HERE)

    assert type(found) is errors.ServerGoneError


@pytest.mark.parametrize("details", [b"\xff\xff", b""])
def test_details_that_cannot_be_read_do_not_hide_the_code(details: bytes) -> None:
    trailers = [("grpc-status-details-bin", details)]

    found = from_call(grpc.StatusCode.DEADLINE_EXCEEDED, "late", trailers, HERE)

    assert type(found) is errors.DeadlineError


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServerGoneError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.InvalidRequestError),
        (grpc.StatusCode.UNIMPLEMENTED, KeydError),
        (grpc.StatusCode.UNKNOWN, KeydError),
    ],
)
def test_what_grpc_says_by_itself_names_the_endpoint(
    code: grpc.StatusCode, cls: type[KeydError]
) -> None:
    found = from_call(code, "some\ndetails", [], HERE)

    assert type(found) is cls
    if cls is not errors.InvalidRequestError:
        assert "unix:/run/keyd.sock (user socket)" in found.message


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ("connect: No such file or directory (2)", "no such socket"),
        ("connect: Connection refused (111)", "nobody listens"),
    ],
)
def test_why_a_socket_does_not_answer_is_in_the_hint(details: str, said: str) -> None:
    assert said in from_call(grpc.StatusCode.UNAVAILABLE, details, [], HERE).hint


@pytest.mark.parametrize("group", [os.getgid(), 0, None])
def test_a_socket_one_may_not_open_needs_a_person_who_adds_one_to_its_group(
    tmp_path: Path, group: int | None
) -> None:
    socket = tmp_path / "keyd.sock"
    name = grp.getgrgid(os.getgid()).gr_name if group and os.getgid() else "keyd-admin"
    if group is not None:
        socket.touch()
        if os.getuid() == 0:
            os.chown(socket, -1, group)
    endpoint = Endpoint(f"unix:{socket}", "system socket")

    denied = "connect: Permission denied (13)"
    found = from_call(grpc.StatusCode.UNAVAILABLE, denied, [], endpoint)

    assert exit_code(found) is Exit.NEEDS_PEOPLE
    assert f"this user may not open the socket unix:{socket} (system socket)" in found.message
    assert f"usermod -a -G {name} USER" in found.hint
