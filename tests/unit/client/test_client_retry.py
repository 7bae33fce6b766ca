"""What the client asks for again, and when."""

from __future__ import annotations

import pytest

from keyd.client.retry import Retries
from keyd.errors import DeviceBusyError, KeydError, KeyNotFoundError, ServerGoneError


def test_an_error_that_names_no_time_is_final() -> None:
    error = KeyNotFoundError("no")

    assert Retries().wait_s(error, 0, 60, repeatable=True) is None


def test_the_wait_is_what_the_daemon_asked_for_and_grows() -> None:
    error = DeviceBusyError("busy", retry_after_s=1.0)

    first = Retries().wait_s(error, 0, 60, repeatable=True)
    third = Retries().wait_s(error, 2, 60, repeatable=True)

    assert first is not None
    assert third is not None
    assert 1.0 <= first <= 1.25
    assert 4.0 <= third <= 5.0


def test_a_long_wait_the_daemon_asked_for_is_not_cut_short() -> None:
    error = DeviceBusyError("busy", retry_after_s=30.0)

    wait = Retries().wait_s(error, 3, 600, repeatable=True)

    assert wait is not None
    assert wait >= 30


@pytest.mark.parametrize(
    ("error", "done", "left_s", "repeatable"),
    [
        (DeviceBusyError("busy", retry_after_s=1.0), 4, 60.0, True),
        (DeviceBusyError("busy", retry_after_s=1.0), 0, 0.5, True),
        (DeviceBusyError("busy", retry_after_s=1.0), 0, 60.0, False),
        (ServerGoneError("gone"), 0, 60.0, True),
    ],
    ids=["often enough", "beyond the deadline", "not safe", "never was there"],
)
def test_it_gives_up(error: KeydError, done: int, left_s: float, repeatable: bool) -> None:
    assert Retries().wait_s(error, done, left_s, repeatable=repeatable) is None


def test_a_daemon_that_answered_before_is_being_restarted() -> None:
    gone = ServerGoneError("gone")

    assert Retries().wait_s(gone, 0, 60, repeatable=True, answered=True) is not None
    assert Retries().wait_s(gone, 0, 60, repeatable=False, answered=True) is None
