"""What an entry changes, applied in the entry's own transaction.

An effect whose precondition no longer holds turns its own item into a refusal entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from keyd.model.approvals import Approval, ApprovalContents, ApprovalState, Vote
from keyd.model.ceremonies import Ceremony
from keyd.model.keys import Binding, Key, KeyVersion, Origin, VersionState
from keyd.model.marks import Mark, MarkContents, Marked, Need
from keyd.model.yubikeys import Attestation


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
    origin: Origin | None = None
    attestation: Attestation | None = None


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


@dataclass(frozen=True, slots=True)
class RecordMark:
    """A signature over ``marked`` was made by ``signer`` (identity as in Need).

    Judged once more where nobody can come between. Same version and digest as the mark's newest:
    the signer is added. Otherwise a root has to be exactly the next version after a complete one
    (or version 1 without a mark), else RuleRefusedError; others have to be above the newest, or,
    for snapshot and timestamp while the newest is not PUBLISHED, other bytes at its version
    (counted as reissued); other bytes elsewhere -> VersionTakenError, lower -> RuleRefusedError.
    When all ``needs`` are met by the signers known, the version becomes COMPLETE.
    """

    repository: str
    role: str
    marked: Marked
    content: bytes
    signer: str
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, slots=True)
class PutMark:
    """Set a mark as a person or published files say. ``expect``: the mark that was looked at, None
    for none; whatever differs from it now, a signer too -> ConflictError."""

    mark: Mark
    contents: MarkContents
    expect: Mark | None


@dataclass(frozen=True, slots=True)
class DropMark:
    """Forget a mark; ``expect`` as in PutMark."""

    repository: str
    role: str
    expect: Mark | None


@dataclass(frozen=True, slots=True)
class InsertApproval:
    """A new request for consent. Conflict: an open one for the same requester, action, subject, key
    version, repository, role and digest exists -> ConflictError."""

    approval: Approval
    contents: ApprovalContents


@dataclass(frozen=True, slots=True)
class AddVote:
    """One person consents. Conflicts: not open, expired at the entry's time, or this principal has
    a vote -> ApprovalStateError. ``state``: the state that follows, PENDING or APPROVED, is worked
    out by the domain from the votes it saw; ``votes_seen``: how many those were; another number
    -> ConflictError."""

    approval_id: str
    vote: Vote
    state: ApprovalState
    votes_seen: int


@dataclass(frozen=True, slots=True)
class RemoveVote:
    """One person takes the consent back; the approval is PENDING again. Conflicts: not open or no
    such vote -> ApprovalStateError."""

    approval_id: str
    principal: str


@dataclass(frozen=True, slots=True)
class CloseApproval:
    """An approval ends, as USED, REJECTED, WITHDRAWN or EXPIRED. Conflicts: not open; for USED also
    not APPROVED or expired at the entry's time -> ApprovalStateError."""

    approval_id: str
    state: ApprovalState


@dataclass(frozen=True, slots=True)
class PutCeremony:
    """Insert (step 1) or replace a ceremony whose stored step is ``ceremony.step - 1``; another
    one, or a second open ceremony of the repository -> ConflictError."""

    ceremony: Ceremony


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
    | RecordMark
    | PutMark
    | DropMark
    | InsertApproval
    | AddVote
    | RemoveVote
    | CloseApproval
    | PutCeremony
)
