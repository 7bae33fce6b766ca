"""Names, keys and their versions, and the registry that holds them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from keyd.errors import InvalidRequestError
from keyd.model.algorithms import KeyAlgorithm, Scheme
from keyd.model.yubikeys import Attestation

MAX_NAME_CHARS = 128
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?(?:/[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)*")


def check_name(field_name: str, name: str) -> str:
    """Return a key, token or label name that is safe in paths, logs, URIs and CKA_LABEL.

    Lower-case letters, digits, ``.`` ``_`` ``-``, parts joined by ``/``; at most 128 characters.

    Raises:
        InvalidRequestError: with what a name may hold.
    """
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise InvalidRequestError(
            field_name,
            f"{name[:160]!r} is not a valid name: use 1 to {MAX_NAME_CHARS} lower-case letters, "
            "digits, '.', '_', '-', in parts joined by '/', as in acme/root",
        )
    return name


class VersionState(StrEnum):
    """The life of one key version.

    PENDING: recorded, being generated on the token; signs nothing. ENABLED: signs. DISABLED:
    does not sign, can be enabled again. DESTROY_SCHEDULED: does not sign; after
    ``destroy_after`` a person may destroy it (shown as DESTROYABLE from then on, never stored).
    DESTROYED: gone from the token; the public key stays registered for ever.
    """

    PENDING = "PENDING"
    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    DESTROY_SCHEDULED = "DESTROY_SCHEDULED"
    DESTROYABLE = "DESTROYABLE"
    DESTROYED = "DESTROYED"


class Origin(StrEnum):
    """Where a key pair comes from, as far as keyd can prove it: ATTESTED by the device itself, with
    a statement that leads to a trusted root; GENERATED on keyd's order, by the module's word."""

    GENERATED = "generated"
    ATTESTED = "attested"
    ADOPTED = "adopted-unproven"


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """What a key is for: a repository (or Notary GUN) and a role, either may be a glob pattern.

    ``role`` holds root, targets, snapshot, timestamp or a delegated role's name.
    """

    repository: str
    role: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.role}"


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One key pair on one token.

    ``object_id``: CKA_ID. ``public_key``: SubjectPublicKeyInfo, DER (RFC 5280); empty only while
    PENDING. ``keyids``: form -> id, with the forms ``tuf`` (securesystemslib's SHA-256 of the
    canonical key object with the key's scheme) and ``notary``. ``attestation``: what the device
    proved of this very key, or None.
    """

    key: str
    number: int
    state: VersionState
    origin: Origin
    token_serial: str
    object_id: bytes
    public_key: bytes
    keyids: Mapping[str, str]
    created_at: datetime
    created_by: str
    destroy_after: datetime | None = None
    attestation: Attestation | None = None

    @property
    def name(self) -> str:
        """``KEY/versions/N``: the resource name; ``KEY/N`` is what goes into CKA_LABEL."""
        return f"{self.key}/versions/{self.number}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key's DER SubjectPublicKeyInfo, lower-case hex."""
        return hashlib.sha256(self.public_key).hexdigest()

    def shown_state(self, now: datetime) -> VersionState:
        """The state as people see it: DESTROYABLE once the waiting time is over."""
        if (
            self.state is VersionState.DESTROY_SCHEDULED
            and self.destroy_after is not None
            and now >= self.destroy_after
        ):
            return VersionState.DESTROYABLE
        return self.state


@dataclass(frozen=True, slots=True)
class Key:
    """A name that lives on, and the key pairs under it.

    ``active_version`` signs when the caller names neither a version nor a public key; 0 while
    there is none. A version that is ENABLED and newer than the active one is *staged*: it signs
    only for callers who expect its public key. A key without bindings signs anything.
    """

    name: str
    token: str
    algorithm: KeyAlgorithm
    scheme: Scheme
    created_at: datetime
    created_by: str
    bindings: frozenset[Binding] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    rotation_period_s: int = 0
    active_version: int = 0
    versions: tuple[KeyVersion, ...] = ()

    def find_version(self, number: int) -> KeyVersion | None:
        """The version with that number, or None."""
        return next((v for v in self.versions if v.number == number), None)

    def find_public_key(self, public_key: bytes) -> KeyVersion | None:
        """The version that holds this DER SubjectPublicKeyInfo, or None."""
        return next((v for v in self.versions if v.public_key == public_key), None)

    def find_keyid(self, keyid: str) -> KeyVersion | None:
        """The version that has this keyid in any form, or None."""
        return next((v for v in self.versions if keyid in v.keyids.values()), None)

    @property
    def active(self) -> KeyVersion | None:
        """The version that signs by default, or None."""
        return self.find_version(self.active_version)


@dataclass(frozen=True, slots=True)
class Freeze:
    """A standing freeze. ``key`` is empty for all keys."""

    key: str
    by: str
    said: str
    since: datetime


class Registry(Protocol):
    """Keys as of the last commit, held in memory; never blocks (store/registry.py)."""

    def find(self, name: str) -> Key | None:
        """The key of that name, or None."""

    def find_public_key(self, public_key: bytes) -> KeyVersion | None:
        """The version, of whatever key and state, that holds this DER SPKI, or None."""

    def keys(self) -> Sequence[Key]:
        """All keys, sorted by name."""

    def freeze_on(self, name: str) -> Freeze | None:
        """The freeze that stops this key (its own, or the one on all keys), or None."""

    def freezes(self) -> Sequence[Freeze]:
        """All standing freezes."""
