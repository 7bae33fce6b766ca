"""The log key: the key pair on a token that signs checkpoints, and nothing else.

It is registered under the reserved name ``keyd/log``. Names under ``keyd/`` are refused to every
caller by the gate (except for looking at them), so nobody can have it sign a checkpoint the daemon
did not make. Ed25519 where the token has it, since tile-based log tools read only that; else
ECDSA P-256.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

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
    SetFlag,
    SignJob,
    VersionState,
)

LOG_KEY = "keyd/log"
"""The reserved name the first log key is registered under; its successors are keyd/log-2, ..."""

REPLACE = "log-key-replace"
"""Durable flag: a person asked for a new log key, to be made when the log's token is ready."""

_ALGORITHMS = (KeyAlgorithm.ED25519, KeyAlgorithm.ECDSA_P256)


def log_keys(registry: Registry) -> list[Key]:
    """Every log key there ever was, oldest first; the last one signs."""
    found: list[Key] = []
    while (key := registry.find(_name(len(found) + 1))) is not None:
        found.append(key)
    return found


def log_public_keys(registry: Registry) -> list[bytes]:
    """The DER SubjectPublicKeyInfo of every log key there ever was, oldest first: what checks
    old notes."""
    return [
        version.public_key
        for key in log_keys(registry)
        for version in key.versions
        if version.public_key
    ]


def _name(number: int) -> str:
    return LOG_KEY if number == 1 else f"{LOG_KEY}-{number}"


class LogKey:
    """Makes the log key once, or anew when a person asked for it, and signs with it."""

    def __init__(
        self,
        *,
        token: str,
        registry: Registry,
        device: Device,
        enrolment: Enrolment,
        clock: Clock,
        get_flag: Callable[[str], str | None],
    ) -> None:
        """``token``: where a new log key is made; an existing one stays where it is.
        ``get_flag``: a durable flag's value, or None; never blocks."""
        self._token = token
        self._registry = registry
        self._device = device
        self._enrolment = enrolment
        self._clock = clock
        self._get_flag = get_flag

    @property
    def token(self) -> str:
        """The token that holds it, or will."""
        key = self._find()
        return self._token if key is None or self._is_to_be_replaced else key.token

    @property
    def _is_to_be_replaced(self) -> bool:
        return self._get_flag(REPLACE) is not None

    def _find(self) -> Key | None:
        """The newest log key that was finished, else the newest; None when there is none."""
        keys = log_keys(self._registry)
        return next((key for key in reversed(keys) if key.active), keys[-1] if keys else None)

    def find_public_key(self) -> bytes | None:
        """Its DER SubjectPublicKeyInfo, or None while it is not made."""
        key = self._find()
        return key.active.public_key if key and key.active else None

    def public_keys(self) -> list[bytes]:
        """See :func:`log_public_keys`."""
        return log_public_keys(self._registry)

    @property
    def is_wanted(self) -> bool:
        """True while ensure() has something to make."""
        return not log_keys(self._registry) or self._is_to_be_replaced

    async def ensure(self) -> None:
        """Make it if it is not there, or a new one if a person asked for it; the token has to be
        READY.

        Raises:
            KeydError: the token cannot; tried again when the token is ready the next time.
        """
        if not self.is_wanted:
            return
        keys = log_keys(self._registry)
        caller = Caller(SYSTEM, "log-key")
        for algorithm in _ALGORITHMS:
            key = self._new_key(_name(len(keys) + 1), algorithm)
            status = next(t for t in self._device.tokens() if t.name == self._token)
            version = KeyVersion(
                key=key.name,
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
                    caller,
                    Action.CREATE,
                    key,
                    version,
                    before=(InsertKey(key),),
                    # Not before: what a crash undoes is still asked for.
                    after=(SetFlag(REPLACE, None),),
                )
            except MechanismMissingError:
                if algorithm is _ALGORITHMS[-1]:
                    raise
            else:
                return

    def _new_key(self, name: str, algorithm: KeyAlgorithm) -> Key:
        return Key(
            name=name,
            token=self._token,
            algorithm=algorithm,
            scheme=algorithm.schemes[0],
            created_at=self._clock.now(),
            created_by=SYSTEM.id,
            bindings=frozenset({Binding("keyd", "log")}),
        )

    async def sign(self, message: bytes) -> bytes:
        """Sign a note's text: Ed25519 as 64 bytes, ECDSA as DER; verified before it is returned.

        Raises:
            KeydError: the key is not made yet, or its token cannot sign now.
        """
        key = self._find()
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
