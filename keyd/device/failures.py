"""A host's Failure as the keyd error it stands for. Daemon side; faults.py is the other end."""

from __future__ import annotations

from keyd.device.v1 import device_pb2 as pb
from keyd.errors import KeydError, from_reason

RETRY_AFTER_S = 1.0
"""What callers are told to wait for a token that may come back by itself."""


def failure_error(token: str, failure: pb.Failure) -> KeydError:
    """The error a host sent."""
    return from_reason(
        failure.reason,
        failure.message,
        facts={"token": token, **failure.facts},
        hint=failure.hint,
        retry_after_s=RETRY_AFTER_S if failure.session_lost else None,
    )
