"""The log key: the key pair on a token that signs checkpoints, and nothing else.

It is registered under the reserved name ``keyd/log``. Names under ``keyd/`` are refused to every
caller by the gate (except for looking at them), so nobody can have it sign a checkpoint the daemon
did not make. Ed25519 where the token has it, since tile-based log tools read only that; else
ECDSA P-256.
"""

from __future__ import annotations

import secrets

from keyd import publickeys
from keyd.enrolment import Enrolment
from keyd.errors import KeydError, KeyNotEnabledError, MechanismMissingError
from keyd.model import (
    SYSTEM,
    Action,
    Binding,
    Caller,
    Clock,
    Device,
    Digest,
    HashAlgorithm,
    InsertKey,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Registry,
    SignJob,
    VersionState,
)

LOG_KEY = "keyd/log"
"""The reserved name the log key is registered under."""

_ALGORITHMS = (KeyAlgorithm.ED25519, KeyAlgorithm.ECDSA_P256)


class LogKey:
    """Makes the log key once, and signs with it."""

    def __init__(
        self,
        *,
        token: str,
        registry: Registry,
        device: Device,
        enrolment: Enrolment,
        clock: Clock,
    ) -> None:
        """``token``: where a new log key is made; an existing one stays where it is."""
        self._token = token
        self._registry = registry
        self._device = device
        self._enrolment = enrolment
        self._clock = clock

    @property
    def token(self) -> str:
        """The token that holds it, or will."""
        key = self._registry.find(LOG_KEY)
        return key.token if key else self._token

    def find_public_key(self) -> bytes | None:
        """Its DER SubjectPublicKeyInfo, or None while it is not made."""
        key = self._registry.find(LOG_KEY)
        return key.active.public_key if key and key.active else None

    def public_keys(self) -> list[bytes]:
        """The DER SubjectPublicKeyInfo of every version there ever was, for checking old notes."""
        key = self._registry.find(LOG_KEY)
        return [v.public_key for v in key.versions if v.public_key] if key else []

    async def ensure(self) -> None:
        """Make it if it is not there; its token has to be READY.

        Raises:
            KeydError: the token cannot; tried again when the token is ready the next time.
        """
        if self.find_public_key() is not None or self._registry.find(LOG_KEY) is not None:
            return
        caller = Caller(SYSTEM, "log-key")
        for algorithm in _ALGORITHMS:
            key = Key(
                name=LOG_KEY,
                token=self._token,
                algorithm=algorithm,
                scheme=algorithm.schemes[0],
                created_at=self._clock.now(),
                created_by=SYSTEM.id,
                bindings=frozenset({Binding("keyd", "log")}),
            )
            status = next(t for t in self._device.tokens() if t.name == self._token)
            version = KeyVersion(
                key=LOG_KEY,
                number=1,
                state=VersionState.PENDING,
                origin=Origin.GENERATED,
                token_serial=status.serial,
                object_id=secrets.token_bytes(16),
                public_key=b"",
                keyids={},
                created_at=key.created_at,
                created_by=SYSTEM.id,
            )
            try:
                await self._enrolment.generate(
                    caller, Action.CREATE, key, version, before=(InsertKey(key),)
                )
            except MechanismMissingError:
                if algorithm is _ALGORITHMS[-1]:
                    raise
            else:
                return

    async def sign(self, message: bytes) -> bytes:
        """Sign a note's text: Ed25519 as 64 bytes, ECDSA as DER; verified before it is returned.

        Raises:
            KeydError: the key is not made yet, or its token cannot sign now.
        """
        key = self._registry.find(LOG_KEY)
        version = key.active if key else None
        if key is None or version is None:
            raise KeyNotEnabledError(
                "the log key is not made yet",
                hint=f"it is made when token {self._token} is ready: keydctl token list",
            )
        signed: bytes | Digest = message
        if key.scheme.hash is not None:
            signed = Digest.of(HashAlgorithm.SHA256, message)
        job = SignJob(
            object_id=version.object_id,
            public_key=version.public_key,
            algorithm=key.algorithm,
            scheme=key.scheme,
            payload=signed.value if isinstance(signed, Digest) else signed,
            serial=version.token_serial,
        )
        (answer,) = await self._device.sign(key.token, [job])
        if isinstance(answer, KeydError):
            raise answer
        publickeys.verify(version.public_key, key.scheme, answer, signed)
        return publickeys.to_der(answer) if key.algorithm.is_ecdsa else answer
