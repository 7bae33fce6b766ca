"""Tokens and what they are asked: the seam to the device room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from keyd.errors import KeydError
from keyd.model.algorithms import KeyAlgorithm, Scheme


class Pin:
    """A PIN in memory; prints as ``Pin(***)`` wherever it might slip into text."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The PIN itself, only for the frame to the token host."""
        return self._value

    def __repr__(self) -> str:
        return "Pin(***)"

    __str__ = __repr__


class TokenState(StrEnum):
    """What a token can do right now."""

    ABSENT = "ABSENT"
    LOCKED = "LOCKED"
    READY = "READY"
    PIN_LOCKED = "PIN_LOCKED"
    FAULTED = "FAULTED"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a signature is for, in words for the person at the token.

    ``key``: the key's name. ``what``: such as "root 7", empty where it is not known.
    ``asked_by``: a principal. ``request_id``: of the call that waits for it.
    """

    key: str = ""
    what: str = ""
    asked_by: str = ""
    request_id: str = ""

    def __str__(self) -> str:
        asked = f"asked by {self.asked_by}" if self.asked_by else ""
        return ", ".join(part for part in (self.key, self.what, asked) if part)


@dataclass(frozen=True, slots=True)
class TouchRequest:
    """A token blinks, and waits for a finger so much longer. ``window_s``: how long in all."""

    serial: str
    purpose: Purpose
    left_s: float
    window_s: float

    def __str__(self) -> str:
        purpose = f" ({self.purpose})" if str(self.purpose) else ""
        return f"touch token {self.serial}{purpose}, {self.left_s:.0f} s left"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call that waits for a token, and how many signatures of it do."""

    purpose: Purpose
    signatures: int


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """One configured token as it stands. ``detail`` says in words why it is not READY.

    ``pin_state``: ok, count-low, final-try, locked, or empty where the token does not tell.
    ``hosts``: token host processes that are logged in. ``queued``: signatures waiting.
    ``touch``: what it asks of a person now. ``waiting``: the first calls in the queue, in their
    order. ``before``: told to whoever watches for a request of theirs: signatures that come
    before its next one.
    """

    name: str
    state: TokenState
    serial: str = ""
    label: str = ""
    model: str = ""
    manufacturer: str = ""
    firmware: str = ""
    pin_state: str = ""
    detail: str = ""
    hosts: int = 0
    queued: int = 0
    touch: TouchRequest | None = None
    waiting: tuple[Waiting, ...] = ()
    before: int = 0

    @property
    def is_yubikey(self) -> bool:
        """True for the PIV applet of a YubiKey, as libykcs11 shows it."""
        return self.model.startswith("YubiKey")

    @property
    def may_be_yubikey(self) -> bool:
        """False only for what is known to be something else. One that was not seen since the
        daemon's start tells no model: its secrets are guarded like those of a YubiKey."""
        return not self.model or self.is_yubikey


@dataclass(frozen=True, slots=True)
class SignJob:
    """One raw signature for a token host.

    ``payload``: the digest, or for Ed25519 the message. ``public_key`` (DER SPKI): compared with
    the object's own before it is first used. ``serial``: the token it must lie on. ``purpose``: for
    the person who may have to touch the token.
    """

    object_id: bytes
    public_key: bytes
    algorithm: KeyAlgorithm
    scheme: Scheme
    payload: bytes
    serial: str = ""
    purpose: Purpose = Purpose()


@dataclass(frozen=True, slots=True)
class TokenObject:
    """A key pair found on a token. The attributes are the private key's, as the module says."""

    object_id: bytes
    label: str
    algorithm: KeyAlgorithm | None
    public_key: bytes
    sensitive: bool
    extractable: bool
    always_sensitive: bool
    never_extractable: bool
    local: bool
    serial: str = ""


def never_gone() -> bool:
    """The caller still waits."""
    return False


class Device(Protocol):
    """All tokens, by configured name (device/pool.py; tests/fakes.py has FakeDevice).

    Every method raises a TokenError subclass; none retries on the caller's behalf except where
    its text says so. The domain never cancels ``sign``: it says ``gone``.
    """

    def tokens(self) -> list[TokenStatus]:
        """All configured tokens, in the order of the configuration; never blocks."""

    async def sign(
        self, token: str, jobs: Sequence[SignJob], gone: Callable[[], bool] = never_gone
    ) -> list[bytes | KeydError]:
        """Sign each job; a result or an error for each, in order. ECDSA comes as raw r||s.

        ``gone`` is asked when a job is about to be put into a frame: True drops the job with
        DeadlineError, since nobody waits for it any more. What is with a host completes.
        A job in flight when its host dies is tried once more on a fresh host. A touch is asked
        for once: one that does not come is a DeadlineError for all jobs of this call with that
        key, a refused one a TouchRefusedError.
        Raises DeviceBusyError when the queue has no room for the jobs (nothing was sent).
        """

    async def generate(
        self, token: str, algorithm: KeyAlgorithm, object_id: bytes, label: str
    ) -> TokenObject:
        """Generate a key pair on the token and read it back, its attributes checked:
        SENSITIVE, not EXTRACTABLE, LOCAL. Not retried: after an error, look with ``objects``.
        Raises MechanismMissingError before anything is made."""

    async def check(self, token: str) -> None:
        """Look at the token now; costs the same however many keys it has. Raises TokenError when it
        cannot be used."""

    async def objects(self, token: str, object_id: bytes = b"") -> list[TokenObject]:
        """All key pairs on the token, or those with this CKA_ID: a full token takes seconds to
        tell them all."""

    async def destroy(self, token: str, object_id: bytes, public_key: bytes) -> bool:
        """Destroy the key pair that has this id AND this public key; False when it was gone.
        An empty ``public_key`` matches only an object pair whose label starts as keyd writes it."""

    async def unlock(self, token: str, pin: Pin | None, *, spend_last_try: bool = False) -> bool:
        """Log in with a person's PIN, or with the configured source's when ``pin`` is None.
        Clears a remembered refusal on success. False: all hosts were logged in already, and no
        PIN was tried. Raises PinRefusedError, TokenLockedError."""

    async def lock(self, token: str) -> None:
        """Log out: end the token's hosts; LOCKED until somebody unlocks."""


class PinAttempts(Protocol):
    """Durable memory of automatic logins, so that a refused PIN is never tried again.

    Each method returns when its change is durable; they block, call them off the event loop.
    """

    def begin(self, serial: str, source: str) -> bool:
        """Record that a login is about to be tried; False when a record already stands."""

    def clear(self, serial: str) -> None:
        """The login succeeded, or a person unlocked: forget the records of this serial."""

    def find(self, serial: str) -> str | None:
        """The source whose attempt stands, or None."""
