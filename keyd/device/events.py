"""What happens to tokens, for the log, the audit entries and the metrics of app.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """READY is reached by UNLOCKED (somebody or keyd logged in) or RETURNED (an absent token is
    back and logged in again); the others say why a token does not sign, or that a host ended."""

    UNLOCKED = "unlocked"
    RETURNED = "returned"
    PIN_REFUSED = "pin-refused"
    LOCKED = "locked"
    ABSENT = "absent"
    FAULTED = "faulted"
    HOST_DIED = "host-died"


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One change. ``detail``: in words, without secrets. ``serial``: empty where not known.
    ``by_person``: a person's PIN or command, not keyd by itself."""

    token: str
    kind: EventKind
    detail: str
    serial: str = ""
    by_person: bool = False


OnEvent = Callable[[TokenEvent], None]

OnSigned = Callable[[str, int, float, float], None]
"""(token, signatures, queue seconds of the one that waited longest, seconds in the module), once
for each frame a host answered."""

KnownKeys = Callable[[str], Mapping[bytes, bytes]]
"""From a token's serial to the public keys (DER SubjectPublicKeyInfo) that should be there, by
CKA_ID."""
