"""Entries, receipts, checkpoints, and the log as the domain sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from keyd.errors import KeydError
from keyd.model.algorithms import Digest, Scheme
from keyd.model.effects import Effect
from keyd.model.requests import Caller, Context, Statement


class Outcome(StrEnum):
    """How what an entry tells of ended."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EntryDraft:
    """What shall be logged; the log adds index and time. Empty fields are left out of the JSON.

    ``action``: an Action value or start, stop, policy-reload, recovery, freeze, unfreeze,
    clock-accept, checkpoint-accept, clock-alert, checkpoint-alert, log-key-replace.
    ``reason_code``: KeydError.reason of a refusal or failure. ``rule``: grant or rule that
    decided. ``said``: the reason the caller gave. ``count``: how many repeated refusals this entry
    stands for. ``alert``: someone should look. ``details``: small, printable extras.
    """

    action: str
    outcome: Outcome
    caller: Caller
    key: str = ""
    version: int = 0
    keyid: str = ""
    fingerprint: str = ""
    token: str = ""
    token_serial: str = ""
    scheme: str = ""
    encoding: str = ""
    digest: Digest | None = None
    signature_sha256: str = ""
    statement: Statement | None = None
    context: Context | None = None
    rule: str = ""
    policy_hash: str = ""
    reason_code: str = ""
    said: str = ""
    message: str = ""
    count: int = 1
    alert: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A durable audit entry. ``body``: its canonical JSON, the bytes the Merkle leaf hashes.
    ``fields``: the same, parsed."""

    index: int
    body: bytes
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof for the caller that an entry is durable: its index and time."""

    index: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed tree head in C2SP form. ``note``: the signed note text, UTF-8."""

    origin: str
    size: int
    root_hash: bytes
    note: str


@dataclass(frozen=True, slots=True)
class StoredSignature:
    """A signature found again by (principal, key version, scheme, digest)."""

    signature: bytes
    log_index: int


@dataclass(frozen=True, slots=True)
class SignatureKey:
    """What identifies a repeated request. ``digest``: of the signed bytes, as in the entry.
    ``context``: for which repository and role, as in the entry; None where that is all the same."""

    principal: str
    key: str
    version: int
    scheme: Scheme
    digest: Digest
    context: Context | None = None


class AuditLog(Protocol):
    """The log as the domain sees it (audit/log.py; tests/fakes.py has MemoryAudit)."""

    async def record(self, draft: EntryDraft, effects: Sequence[Effect] = ()) -> Receipt:
        """Append the entry with its effects in one durable transaction, shared with whoever
        else waits (group commit). On return it is durable.

        Raises the effect's conflict error (its refusal entry is then durable instead), or
        AuditUnavailableError, after which nothing may be released.
        """

    async def record_many(
        self, items: Sequence[tuple[EntryDraft, Sequence[Effect]]]
    ) -> list[Receipt | KeydError]:
        """Like ``record`` for many; one item's conflict never fails its neighbours.
        Raises AuditUnavailableError for all."""

    async def refuse(self, draft: EntryDraft) -> None:
        """Log a refusal; repeated ones of one principal, action, reason and rule collapse into
        counted entries, and near a full disk they are dropped. Never raises: a refusal is answered
        whether or not it could be written."""

    def check_signing_allowed(self, *, bound: bool) -> None:
        """Raises AuditUnavailableError (log not writable, or uncheckpointed entries over the
        limit) or, for bound keys, CheckpointBehindError."""

    def check_nothing_lost(self) -> None:
        """Raises CheckpointBehindError while entries are, or may be, gone and nobody has accepted
        it: what they said, such as the use of an approval, is not known here."""


class SignatureLookup(Protocol):
    """Finds stored signatures (store/)."""

    async def find_signatures(
        self, wanted: Sequence[SignatureKey]
    ) -> dict[SignatureKey, StoredSignature]:
        """Those of the wanted that were released before, by exact match."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries to list; an empty field does not filter.

    ``digest``: hex of the value. ``since`` and ``until``: at or after, before. ``start_index``:
    at or after this index (also when ``descending``).
    """

    key: str = ""
    version: int = 0
    principal: str = ""
    action: str = ""
    outcome: str = ""
    digest: str = ""
    keyid: str = ""
    fingerprint: str = ""
    request_id: str = ""
    signature_sha256: str = ""
    since: datetime | None = None
    until: datetime | None = None
    start_index: int = 0
    descending: bool = False


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries of one page. ``next_after``: pass it as ``after`` for the next page; None at the
    end."""

    entries: tuple[Entry, ...]
    next_after: int | None
