"""One repository's marks in memory, kept as RecordMark promises, and documents of python-tuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner
from securesystemslib.signer import Key as SignerKey
from tuf.api import metadata as api
from tuf.api.serialization.json import CanonicalJSONSerializer

from keyd import publickeys
from keyd.content import documents, parse, parse_document
from keyd.content.tuf import ED25519_SPKI
from keyd.model import (
    Binding,
    Context,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Limits,
    Mark,
    MarkState,
    Origin,
    RecordMark,
    Scheme,
    VersionState,
)
from keyd.rules import Asked, History, Verdict, judge

NOW = datetime(2029, 6, 1, tzinfo=UTC)
SOON = NOW + timedelta(days=30)
REPOSITORY = "acme/app"
LIMITS = Limits(max_expiry_days=400)
ALICE, BOB, CAROL, MALLORY = (CryptoSigner.generate_ecdsa() for _ in range(4))


def spki_of(signer: CryptoSigner) -> bytes:
    public = signer.public_key.keyval["public"]
    if signer.public_key.keytype == "ed25519":
        return ED25519_SPKI + bytes.fromhex(public)
    return publickeys.load_pem(public.encode())


def a_version(spki: bytes) -> KeyVersion:
    return KeyVersion(
        key="acme/key",
        number=1,
        state=VersionState.ENABLED,
        origin=Origin.GENERATED,
        token_serial="1",
        object_id=b"\x01",
        public_key=spki,
        keyids={},
        created_at=NOW,
        created_by="socket:admin",
    )


def a_key(*bindings: tuple[str, str]) -> Key:
    return Key(
        name="acme/key",
        token="token",
        algorithm=KeyAlgorithm.ECDSA_P256,
        scheme=Scheme.ECDSA_P256_SHA256,
        created_at=NOW,
        created_by="socket:admin",
        bindings=frozenset(Binding(*b) for b in bindings or [(REPOSITORY, "*")]),
    )


def payload_of(signed: api.Signed | bytes) -> bytes:
    return signed if isinstance(signed, bytes) else CanonicalJSONSerializer().serialize(signed)


def root(
    version: int,
    *holders: CryptoSigner,
    threshold: int = 1,
    online: CryptoSigner | Mapping[str, CryptoSigner] = CAROL,
    expires: datetime = SOON,
    **unknown: Any,
) -> api.Root:
    """A root of these holders; the other roles are held by one key, or by one each."""
    made = api.Root(version, expires=expires, unrecognized_fields=unknown)
    for holder in holders:
        made.add_key(holder.public_key, "root")
    for role in ("targets", "snapshot", "timestamp"):
        held_by = online if isinstance(online, CryptoSigner) else online.get(role, CAROL)
        made.add_key(held_by.public_key, role)
    made.roles["root"].threshold = threshold
    return made


def targets(version: int, *paths: str, expires: datetime = SOON) -> api.Targets:
    files = {path: api.TargetFile(3, {"sha256": "07" * 32}, path) for path in paths}
    return api.Targets(version, expires=expires, targets=files)


def delegating(version: int, name: str, *holders: CryptoSigner, threshold: int = 1) -> api.Targets:
    """A targets file that delegates everything to one role."""
    made = targets(version)
    keyids = [holder.public_key.keyid for holder in holders]
    role = api.DelegatedRole(name, keyids, threshold, False, ["*"])
    keys: dict[str, SignerKey] = {holder.public_key.keyid: holder.public_key for holder in holders}
    made.delegations = api.Delegations(keys, {name: role})
    return made


def snapshot(version: int, *, expires: datetime = SOON, **roles: int) -> api.Snapshot:
    meta = {f"{role}.json": api.MetaFile(at) for role, at in (roles or {"targets": 1}).items()}
    return api.Snapshot(version, expires=expires, meta=meta)


def timestamp(version: int, of: int = 1, *, expires: datetime = SOON) -> api.Timestamp:
    return api.Timestamp(version, expires=expires, snapshot_meta=api.MetaFile(of))


class Ledger:
    """Judges and records, as the daemon does in one transaction."""

    def __init__(self, repository: str = REPOSITORY, *, here: Sequence[CryptoSigner] = ()) -> None:
        """``here``: whose keys are enabled root keys of this daemon."""
        self.repository = repository
        self.marks: dict[str, Mark] = {}
        self.signed: list[tuple[str, int, bytes]] = []
        self._here = {spki_of(signer) for signer in here}
        self._contents: dict[bytes, bytes] = {}

    def history(self, role: str) -> History:
        mark = self.marks.get(role)
        root = self._complete("root")
        delegator = self._complete("targets")
        return History(
            mark=mark,
            newest=self._document(mark.newest.digest) if mark else None,
            complete=self._complete(role),
            root=root if isinstance(root, documents.Root) else None,
            delegator=delegator if isinstance(delegator, documents.Targets) else None,
        )

    def judge(
        self,
        role: str,
        signed: api.Signed | bytes,
        by: CryptoSigner | bytes = CAROL,
        *,
        limits: Limits = LIMITS,
        now: datetime = NOW,
        key: Key | None = None,
    ) -> Verdict:
        payload = payload_of(signed)
        asked = Asked(
            payload=payload,
            content=parse(payload),
            key=key or a_key(),
            version=a_version(by if isinstance(by, bytes) else spki_of(by)),
            context=Context(self.repository, role),
            is_root_key_here=self._here.__contains__,
        )
        return judge(asked, self.history(role), limits, now)

    def sign(
        self, role: str, signed: api.Signed | bytes, *by: CryptoSigner, limits: Limits = LIMITS
    ) -> Verdict:
        """Judge, record, and answer the last verdict."""
        for signer in by or (CAROL,):
            verdict = self.judge(role, signed, signer, limits=limits)
            self.record(verdict)
        return verdict

    def record(self, verdict: Verdict) -> None:
        """What the daemon does with a verdict once the token has signed."""
        if verdict.effect is not None:
            self._record(verdict.effect)

    def publish(self, role: str) -> None:
        self.marks[role] = replace(self.marks[role], state=MarkState.PUBLISHED)

    def forget(self, role: str) -> None:
        """Lose the bytes behind a mark, and keep the mark."""
        self._contents.pop(self.marks[role].newest.digest)

    def supersede(self, role: str) -> None:
        """Back to the version that was complete before the newest, or to nothing."""
        mark = self.marks[role]
        if mark.below is None:
            del self.marks[role]
            return
        back = replace(mark, newest=mark.below, state=MarkState.COMPLETE)
        self.marks[role] = replace(back, complete=mark.below, before=None)

    def _record(self, effect: RecordMark) -> None:
        old = self.marks.get(effect.role)
        self._contents[effect.marked.digest] = effect.content
        self.signed.append((effect.role, effect.marked.version, effect.marked.digest))
        if old is None or old.newest.digest != effect.marked.digest:
            state = MarkState.SIGNED
            mark = Mark(self.repository, effect.role, effect.marked, state, NOW)
            old = replace(mark, complete=old.complete if old else None)
        signers = old.signers | {effect.signer}
        mark = replace(old, signers=signers, needs=effect.needs)
        if not mark.is_complete and all(need.is_met(signers) for need in effect.needs):
            mark = replace(
                mark, state=MarkState.COMPLETE, complete=effect.marked, before=mark.complete
            )
        self.marks[effect.role] = mark

    def _complete(self, role: str) -> documents.Document | None:
        mark = self.marks.get(role)
        return self._document(mark.complete.digest) if mark and mark.complete else None

    def _document(self, digest: bytes) -> documents.Document | None:
        payload = self._contents.get(digest)
        return parse_document(payload) if payload is not None else None
