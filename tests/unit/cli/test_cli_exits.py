"""The exit code of every reason: scripts depend on this table."""

from __future__ import annotations

import pytest

from keyd import errors
from keyd.cli.exits import BY_REASON, Exit, exit_code
from keyd.errors import KeydError, RepositoryError, ServerGoneError, from_reason

EXPECTED = {
    "INTERNAL": 1,
    "INVALID_REQUEST": 2,
    "UNKNOWN_CALLER": 1,
    "POLICY_DENIED": 1,
    "KEY_NOT_FOUND": 1,
    "KEY_EXISTS": 1,
    "KEY_NOT_ENABLED": 1,
    "KEY_STATE": 1,
    "KEY_BOUND": 1,
    "FROZEN": 3,
    "APPROVAL_NEEDED": 3,
    "APPROVAL_NOT_FOUND": 1,
    "APPROVAL_STATE": 1,
    "ALGORITHM_MISMATCH": 2,
    "KEY_MISMATCH": 1,
    "CONTENT": 1,
    "ROTATION_CONFLICT": 4,
    "CONFLICT": 4,
    "VERSION_TAKEN": 1,
    "RULE_REFUSED": 1,
    "ROLE_NOT_FOUND": 1,
    "CEREMONY_NOT_FOUND": 1,
    "RATE_LIMITED": 4,
    "TOKEN_NOT_FOUND": 1,
    "DEVICE_BUSY": 4,
    "DEVICE_GONE": 4,
    "DEVICE_FAULT": 1,
    "TOKEN_LOCKED": 3,
    "PIN_REFUSED": 3,
    "TOUCH_REFUSED": 3,
    "WRONG_TOKEN": 3,
    "MECHANISM_MISSING": 1,
    "TOKEN_OBJECT": 1,
    "AUDIT_UNAVAILABLE": 4,
    "CHECKPOINT_BEHIND": 3,
    "CLOCK": 3,
    "BAD_SIGNATURE": 1,
    "LOG_PROOF": 1,
    "REPOSITORY": 1,
    "DEADLINE": 4,
    "SERVER_GONE": 4,
    "CONFIG": 2,
}


@pytest.mark.parametrize("reason", EXPECTED)
def test_each_reason_has_its_exit_code(reason: str) -> None:
    assert exit_code(from_reason(reason, "x")) == EXPECTED[reason]


def test_no_reason_is_forgotten_here() -> None:
    """A new error has to say what a script should do about it."""
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    reasons = {c.reason for c in classes if issubclass(c, KeydError)}

    assert reasons == set(EXPECTED)
    assert set(BY_REASON) <= reasons


def test_a_certificate_does_not_get_better_by_trying_again() -> None:
    error = ServerGoneError("no daemon answers", certificate="expired")

    assert exit_code(error) is Exit.NEEDS_PEOPLE


def test_signatures_that_people_owe_are_theirs_to_give() -> None:
    assert exit_code(RepositoryError("x", missing="root: alice")) is Exit.NEEDS_PEOPLE
