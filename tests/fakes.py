"""Fakes that implement keyd's Protocols with real keys in memory.

They do what the contracts in keyd/model/ say and are held to it by tests/contract; use them
wherever a test needs a device, a memory of PIN attempts or a clock and not the real thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from keyd.errors import (
    AlgorithmMismatchError,
    DeadlineError,
    DeviceBusyError,
    DeviceGoneError,
    InvalidRequestError,
    KeydError,
    MechanismMissingError,
    PinRefusedError,
    TokenLockedError,
    TokenNotFoundError,
    TokenObjectError,
    WrongTokenError,
)
from keyd.model import (
    KeyAlgorithm,
    Pin,
    Scheme,
    SignJob,
    TokenObject,
    TokenState,
    TokenStatus,
    never_gone,
)

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def make_private_key(algorithm: KeyAlgorithm) -> PrivateKey:
    """A fresh key of that kind."""
    if algorithm is KeyAlgorithm.ECDSA_P256:
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm is KeyAlgorithm.ECDSA_P384:
        return ec.generate_private_key(ec.SECP384R1())
    if algorithm is KeyAlgorithm.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(algorithm.value.removeprefix("rsa-")))


def public_key_of(private: PrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def sign_raw(private: PrivateKey, scheme: Scheme, payload: bytes) -> bytes:
    """What a token answers: ECDSA as r||s, the others as they are."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(payload)
    assert scheme.hash is not None
    digest = utils.Prehashed(_HASHES[scheme.hash])
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(private.sign(payload, ec.ECDSA(digest)))
        size = (private.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    kind: padding.AsymmetricPadding = padding.PKCS1v15()
    if scheme.is_pss:
        hash_algorithm = _HASHES[scheme.hash]
        kind = padding.PSS(padding.MGF1(hash_algorithm), hash_algorithm.digest_size)
    return private.sign(payload, kind, digest)


@dataclass
class FakeToken:
    """One token of a FakeDevice; tests turn its knobs.

    ``state``: what it is now. ``lacks``: algorithms it has no mechanism for. ``busy``: its queue
    is full. ``gone_after``: it vanishes after so many more signatures; None for never.
    """

    name: str
    serial: str
    pin: str
    state: TokenState = TokenState.READY
    pin_source: str = "prompt"
    model: str = "Fake"
    configured_pin: str | None = None
    lacks: frozenset[KeyAlgorithm] = frozenset()
    busy: bool = False
    gone_after: int | None = None
    keys: dict[bytes, tuple[PrivateKey, TokenObject]] = field(default_factory=dict)
    wrong_pins: int = 0
    signed: int = 0


class FakeDevice:
    """model.Device without hardware: real keys, real signatures, no processes."""

    def __init__(self, *tokens: FakeToken) -> None:
        self._tokens = {token.name: token for token in tokens}

    @classmethod
    def with_token(cls, name: str = "main", *, pin: str = "31415926") -> FakeDevice:
        """A device with one READY token."""
        return cls(FakeToken(name, serial="fa4e000000000001", pin=pin))

    def add(self, token: FakeToken) -> None:
        """Configure one more."""
        self._tokens[token.name] = token

    def token(self, name: str) -> FakeToken:
        """The token itself, to turn its knobs."""
        try:
            return self._tokens[name]
        except KeyError:
            raise TokenNotFoundError(f"no token {name!r} is configured", token=name) from None

    def tokens(self) -> list[TokenStatus]:
        """See model.Device."""
        return [
            TokenStatus(
                name=token.name,
                state=token.state,
                serial=token.serial,
                label=token.name,
                model=token.model,
                manufacturer="keyd tests",
                firmware="1.0",
                pin_state="locked" if token.state is TokenState.PIN_LOCKED else "ok",
                detail="" if token.state is TokenState.READY else f"token {token.name} is made so",
                hosts=int(token.state is TokenState.READY),
            )
            for token in self._tokens.values()
        ]

    async def sign(
        self, token: str, jobs: Sequence[SignJob], gone: Callable[[], bool] = never_gone
    ) -> list[bytes | KeydError]:
        """See model.Device."""
        found = self._ready(token)
        if found.busy:
            raise DeviceBusyError(
                f"token {token} has no room", retry_after_s=0.1, token=token, queued=0, limit=0
            )
        await asyncio.sleep(0)
        return [
            DeadlineError("the caller left", token=token) if gone() else self._sign(found, job)
            for job in jobs
        ]

    def _sign(self, token: FakeToken, job: SignJob) -> bytes | KeydError:
        if token.gone_after is not None:
            if token.gone_after == 0:
                token.state = TokenState.ABSENT
                return self._gone(token)
            token.gone_after -= 1
        if job.serial and job.serial != token.serial:
            return WrongTokenError(
                f"the key lies on {job.serial}, token {token.name} has {token.serial}",
                token=token.name,
            )
        if job.scheme not in job.algorithm.schemes:
            return AlgorithmMismatchError(f"{job.algorithm} cannot sign with {job.scheme}")
        if job.scheme.hash is not None and len(job.payload) != job.scheme.hash.size_bytes:
            return AlgorithmMismatchError(f"{job.scheme} signs other digests")
        if job.object_id not in token.keys:
            return TokenObjectError(f"token {token.name} has no such key", token=token.name)
        private, described = token.keys[job.object_id]
        if described.public_key != job.public_key:
            return WrongTokenError(f"token {token.name} holds another public key", token=token.name)
        token.signed += 1
        return sign_raw(private, job.scheme, job.payload)

    async def generate(
        self, token: str, algorithm: KeyAlgorithm, object_id: bytes, label: str
    ) -> TokenObject:
        """See model.Device."""
        found = self._ready(token)
        if algorithm in found.lacks:
            raise MechanismMissingError(
                f"token {token} cannot make {algorithm}", token=token, algorithm=algorithm
            )
        if object_id in found.keys:
            raise TokenObjectError(f"token {token} has an object of that id", token=token)
        private = make_private_key(algorithm)
        made = TokenObject(
            object_id=object_id,
            label=label,
            algorithm=algorithm,
            public_key=public_key_of(private),
            sensitive=True,
            extractable=False,
            always_sensitive=True,
            never_extractable=True,
            local=True,
            serial=found.serial,
        )
        found.keys[object_id] = (private, made)
        return made

    async def check(self, token: str) -> None:
        """See model.Device."""
        self._ready(token)

    async def objects(self, token: str, object_id: bytes = b"") -> list[TokenObject]:
        """See model.Device."""
        found = [described for _, described in self._ready(token).keys.values()]
        return [each for each in found if object_id in (b"", each.object_id)]

    async def destroy(self, token: str, object_id: bytes, public_key: bytes) -> bool:
        """See model.Device."""
        found = self._ready(token)
        if object_id not in found.keys:
            return False
        _, described = found.keys[object_id]
        labelled_by_keyd = described.label.rpartition("/")[2].isdigit()
        if public_key != described.public_key and (public_key or not labelled_by_keyd):
            raise TokenObjectError(f"token {token}: another pair has that id", token=token)
        del found.keys[object_id]
        return True

    async def unlock(self, token: str, pin: Pin | None, *, spend_last_try: bool = False) -> bool:
        """See model.Device."""
        found = self.token(token)
        if found.state is TokenState.READY:
            return False
        if found.state is TokenState.ABSENT:
            raise self._gone(found)
        if found.state is TokenState.PIN_LOCKED:
            raise TokenLockedError(f"the PIN of token {token} is blocked", token=token)
        given = pin.reveal() if pin is not None else found.configured_pin
        if given is None:
            raise InvalidRequestError("pin", f"token {token} has no configured PIN, give one")
        if given != found.pin:
            found.wrong_pins += 1
            raise PinRefusedError(f"token {token} refused the PIN", token=token)
        found.state = TokenState.READY
        return True

    async def lock(self, token: str) -> None:
        """See model.Device."""
        self.token(token).state = TokenState.LOCKED

    def _ready(self, name: str) -> FakeToken:
        token = self.token(name)
        if token.state is TokenState.READY:
            return token
        if token.state is TokenState.ABSENT:
            raise self._gone(token)
        raise TokenLockedError(
            f"token {name} is {token.state}", hint=f"keydctl token unlock {name}", token=name
        )

    def _gone(self, token: FakeToken) -> DeviceGoneError:
        return DeviceGoneError(
            f"token {token.name} is not there", retry_after_s=1.0, token=token.name
        )


class FakePinAttempts:
    """model.PinAttempts in memory; ``tries`` counts what was let through for each serial."""

    def __init__(self) -> None:
        self._standing: dict[str, str] = {}
        self.tries: dict[str, int] = {}

    def begin(self, serial: str, source: str) -> bool:
        """See model.PinAttempts."""
        if serial in self._standing:
            return False
        self._standing[serial] = source
        self.tries[serial] = self.tries.get(serial, 0) + 1
        return True

    def clear(self, serial: str) -> None:
        """See model.PinAttempts."""
        self._standing.pop(serial, None)

    def find(self, serial: str) -> str | None:
        """See model.PinAttempts."""
        return self._standing.get(serial)


class FakeClock:
    """model.Clock that stands still until it is told to move."""

    def __init__(self, now: datetime = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)) -> None:
        self._now = now

    def now(self) -> datetime:
        """See model.Clock."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Time passes; a negative ``by`` sets the clock back."""
        self._now += by
