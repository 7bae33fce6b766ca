"""The audit log and the registry in memory, for tests of what stands above them.

Effects and their conflicts are the store's own (keyd/store/plan.py); nothing is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keyd.audit import merkle
from keyd.audit.entry import entry_body, parse_entry
from keyd.errors import AuditUnavailableError, CheckpointBehindError, KeydError
from keyd.model import (
    Approval,
    ApprovalContents,
    Ceremony,
    Clock,
    Context,
    Digest,
    Effect,
    Entry,
    EntryDraft,
    Freeze,
    Key,
    KeyVersion,
    Mark,
    MarkContents,
    Outcome,
    Receipt,
    SignatureKey,
    StoredSignature,
    StoreSignature,
)
from keyd.store.plan import Plan
from keyd.store.plan_approvals import ApprovalPlan
from keyd.store.plan_ceremonies import CeremonyPlan
from keyd.store.plan_keys import KeyPlan
from keyd.store.plan_marks import MarkPlan, RoleName
from keyd.store.registry import KeyRegistry, Snapshot

_Place = tuple[str, str, int, str, Digest, Context | None]
"""Principal, key, version, scheme, digest and context of a stored signature."""


class MemoryAudit:
    """model.AuditLog, Registry, SignatureLookup, Marks, OpenApprovals and Ceremonies in one.

    ``unavailable`` and ``stop_signing``: set to an error's text, or error, to have it raised.
    ``drafts``: everything recorded, in order, as it would stand in the log.
    """

    def __init__(self, clock: Clock, keys: Sequence[Key] = ()) -> None:
        self._clock = clock
        self._registry = KeyRegistry(Snapshot.of({key.name: key for key in keys}, {}, {}))
        self._signatures: dict[_Place, StoredSignature] = {}
        self._marks: dict[RoleName, Mark] = {}
        self._mark_contents: dict[RoleName, MarkContents] = {}
        self._approvals: dict[str, Approval] = {}
        self._approval_contents: dict[str, ApprovalContents] = {}
        self._ceremonies: dict[str, Ceremony] = {}
        self.entries: list[Entry] = []
        self.drafts: list[EntryDraft] = []
        self.refused: list[EntryDraft] = []
        self.unavailable = ""
        self.stop_signing: KeydError | None = None

    # -- model.AuditLog

    async def record(self, draft: EntryDraft, effects: Sequence[Effect] = ()) -> Receipt:
        result = (await self.record_many([(draft, effects)]))[0]
        if isinstance(result, KeydError):
            raise result
        return result

    async def record_many(
        self, items: Sequence[tuple[EntryDraft, Sequence[Effect]]]
    ) -> list[Receipt | KeydError]:
        if self.unavailable:
            raise AuditUnavailableError(self.unavailable)
        return [self._apply(draft, effects) for draft, effects in items]

    async def refuse(self, draft: EntryDraft) -> None:
        self.refused.append(draft)
        if not self.unavailable:
            self._append(draft)

    def check_signing_allowed(self, *, bound: bool) -> None:
        if self.unavailable:
            raise AuditUnavailableError(self.unavailable)
        if self.stop_signing is not None:
            raise self.stop_signing

    def check_nothing_lost(self) -> None:
        if isinstance(self.stop_signing, CheckpointBehindError):
            raise self.stop_signing

    # -- model.Registry

    def find(self, name: str) -> Key | None:
        return self._registry.find(name)

    def find_public_key(self, public_key: bytes) -> KeyVersion | None:
        return self._registry.find_public_key(public_key)

    def keys(self) -> Sequence[Key]:
        return self._registry.keys()

    def freeze_on(self, name: str) -> Freeze | None:
        return self._registry.freeze_on(name)

    def freezes(self) -> Sequence[Freeze]:
        return self._registry.freezes()

    def get_flag(self, name: str) -> str | None:
        return self._registry.snapshot.flags.get(name)

    # -- model.SignatureLookup

    async def find_signatures(
        self, wanted: Sequence[SignatureKey]
    ) -> dict[SignatureKey, StoredSignature]:
        found: dict[SignatureKey, StoredSignature] = {}
        for key in wanted:
            place = (key.principal, key.key, key.version, key.scheme.value, key.digest)
            for (*where, context), stored in self._signatures.items():
                if tuple(where) == place and key.context in (None, context):
                    found.setdefault(key, stored)
        return found

    # -- model.Marks

    def find_mark(self, repository: str, role: str) -> Mark | None:
        return self._marks.get((repository, role))

    def marks(self) -> Sequence[Mark]:
        return tuple(self._marks[name] for name in sorted(self._marks))

    async def load_contents(self, repository: str, role: str) -> MarkContents:
        return self._mark_contents.get((repository, role), MarkContents())

    # -- model.OpenApprovals

    def find_approval(self, approval_id: str) -> Approval | None:
        found = self._approvals.get(approval_id)
        return found if found is not None and found.state.is_open else None

    def open_approvals(self) -> Sequence[Approval]:
        return tuple(found for found in self._approvals.values() if found.state.is_open)

    async def load_approval(self, approval_id: str) -> tuple[Approval, ApprovalContents] | None:
        found = self._approvals.get(approval_id)
        return None if found is None else (found, self._approval_contents[approval_id])

    async def list_approvals(self, *, limit: int) -> Sequence[Approval]:
        return tuple(reversed(self._approvals.values()))[:limit]

    # -- model.Ceremonies

    def find_ceremony(self, ceremony_id: str) -> Ceremony | None:
        return self._ceremonies.get(ceremony_id)

    def ceremonies(self) -> Sequence[Ceremony]:
        return tuple(reversed(self._ceremonies.values()))

    # -- inside

    def root(self) -> bytes:
        """The root hash over all entries."""
        leaves = [merkle.leaf_hash(entry.body) for entry in self.entries]
        return merkle.root_hash(merkle.append(0, (), leaves)[0])

    def _append(self, draft: EntryDraft) -> Receipt:
        now = self._clock.now()
        self.drafts.append(draft)
        self.entries.append(parse_entry(entry_body(len(self.entries), now, draft)))
        return Receipt(len(self.entries) - 1, now)

    def _apply(self, draft: EntryDraft, effects: Sequence[Effect]) -> Receipt | KeydError:
        snapshot = self._registry.snapshot
        objects = {
            (version.token_serial, version.object_id): (version.key, version.number)
            for key in snapshot.keys.values()
            for version in key.versions
            if version.state.value != "DESTROYED"
        }
        now = self._clock.now()
        keys = KeyPlan(snapshot.keys, snapshot.public_keys, objects, now)
        marks = MarkPlan(self._marks, now)
        approvals = ApprovalPlan(self._approvals, now)
        ceremonies = CeremonyPlan(self._ceremonies)
        plan = Plan(keys, marks, approvals, ceremonies)
        conflict = plan.apply(effects)
        if conflict is not None:
            self._append(
                replace(
                    draft,
                    outcome=Outcome.REFUSED,
                    reason_code=conflict.reason,
                    message=conflict.message,
                    signature_sha256="",
                )
            )
            return conflict
        self._registry.swap(snapshot.changed(keys.changes))
        self._show(marks, approvals, ceremonies)
        receipt = self._append(draft)
        for effect in effects:
            if isinstance(effect, StoreSignature) and draft.digest is not None:
                principal = draft.caller.principal.id
                place = (principal, draft.key, draft.version, draft.scheme, draft.digest)
                stored = StoredSignature(effect.signature, receipt.index)
                self._signatures.setdefault((*place, draft.context), stored)
        return receipt

    def _show(self, marks: MarkPlan, approvals: ApprovalPlan, ceremonies: CeremonyPlan) -> None:
        for name, planned in marks.changes.items():
            before = self._mark_contents.pop(name, MarkContents())
            held = self._marks.pop(name, None)
            if planned is not None:
                self._marks[name] = planned.mark
                self._mark_contents[name] = planned.contents(held, before)
        for approval_id, changed in approvals.changes.items():
            self._approvals[approval_id] = changed.approval
            if changed.contents is not None:
                self._approval_contents[approval_id] = changed.contents
        self._ceremonies |= ceremonies.changes
