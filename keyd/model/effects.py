"""What an entry changes, applied in the entry's own transaction.

An effect whose precondition no longer holds turns its own item into a refusal entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from keyd.model.keys import Binding, Key, KeyVersion, VersionState


@dataclass(frozen=True, slots=True)
class InsertKey:
    """A new key (its ``versions`` are ignored). Conflict: the name exists -> KeyExistsError."""

    key: Key


@dataclass(frozen=True, slots=True)
class InsertVersion:
    """A new version. Conflicts: number, object id on that token, or public key registered ->
    KeyExistsError."""

    version: KeyVersion


@dataclass(frozen=True, slots=True)
class UpdateVersion:
    """Change a version that is still in state ``expect``; else ConflictError.

    None leaves a field as it is. ``clear_destroy_after`` sets destroy_after to NULL.
    """

    key: str
    number: int
    expect: VersionState
    state: VersionState | None = None
    public_key: bytes | None = None
    keyids: Mapping[str, str] | None = None
    token_serial: str | None = None
    destroy_after: datetime | None = None
    clear_destroy_after: bool = False


@dataclass(frozen=True, slots=True)
class DeleteVersion:
    """Remove a version that is still PENDING (an undone creation), and its key when it was the
    only one; else ConflictError."""

    key: str
    number: int


@dataclass(frozen=True, slots=True)
class SetActive:
    """Make a version the active one while ``expect`` still is; else RotationConflictError."""

    key: str
    number: int
    expect: int


@dataclass(frozen=True, slots=True)
class SetKeyFields:
    """Replace bindings, labels or rotation period of a key; None leaves a field as it is."""

    key: str
    bindings: frozenset[Binding] | None = None
    labels: Mapping[str, str] | None = None
    rotation_period_s: int | None = None


@dataclass(frozen=True, slots=True)
class SetFreeze:
    """Freeze or thaw one key, or all keys with ``key`` empty."""

    key: str
    frozen: bool
    by: str
    said: str


@dataclass(frozen=True, slots=True)
class SetFlag:
    """Set (or, with None, remove) a named durable flag, such as ``restored``."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class StoreSignature:
    """Keep the signature beside its entry, so that a lost answer can be given again.
    ``signature``: ECDSA as raw r||s, whatever was asked for."""

    signature: bytes


Effect = (
    InsertKey
    | InsertVersion
    | UpdateVersion
    | DeleteVersion
    | SetActive
    | SetKeyFields
    | SetFreeze
    | SetFlag
    | StoreSignature
)
