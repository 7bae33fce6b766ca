"""What the exit code of a command tells a script.

0 done, 1 failed, 2 usage, 3 needs people (asking again cannot help before a person has done
something), 4 try again (the same command may succeed later).
"""

from __future__ import annotations

from enum import IntEnum

from keyd.errors import KeydError


class Exit(IntEnum):
    """Exit codes of keydctl."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NEEDS_PEOPLE = 3
    TRY_AGAIN = 4
    INTERRUPTED = 130
    BROKEN_PIPE = 141


BY_REASON: dict[str, Exit] = {
    "INVALID_REQUEST": Exit.USAGE,
    "ALGORITHM_MISMATCH": Exit.USAGE,
    "CONFIG": Exit.USAGE,
    "APPROVAL_NEEDED": Exit.NEEDS_PEOPLE,
    "TOKEN_LOCKED": Exit.NEEDS_PEOPLE,
    "PIN_REFUSED": Exit.NEEDS_PEOPLE,
    "TOUCH_REFUSED": Exit.NEEDS_PEOPLE,
    "WRONG_TOKEN": Exit.NEEDS_PEOPLE,
    "FROZEN": Exit.NEEDS_PEOPLE,
    "CHECKPOINT_BEHIND": Exit.NEEDS_PEOPLE,
    "CLOCK": Exit.NEEDS_PEOPLE,
    "RATE_LIMITED": Exit.TRY_AGAIN,
    "DEVICE_BUSY": Exit.TRY_AGAIN,
    "DEVICE_GONE": Exit.TRY_AGAIN,
    "AUDIT_UNAVAILABLE": Exit.TRY_AGAIN,
    "ROTATION_CONFLICT": Exit.TRY_AGAIN,
    "CONFLICT": Exit.TRY_AGAIN,
    "DEADLINE": Exit.TRY_AGAIN,
    "SERVER_GONE": Exit.TRY_AGAIN,
}
"""Every reason that is not here is FAILED."""


def exit_code(error: KeydError) -> Exit:
    """The exit code of an error."""
    if "certificate" in error.facts and error.reason == "SERVER_GONE":
        return Exit.NEEDS_PEOPLE  # an expired certificate does not get better by waiting
    if "group" in error.facts and error.reason == "SERVER_GONE":
        return Exit.NEEDS_PEOPLE  # a socket that is closed to this user
    if "missing" in error.facts and error.reason == "REPOSITORY":
        return Exit.NEEDS_PEOPLE  # signatures of people
    return BY_REASON.get(error.reason, Exit.FAILED)
