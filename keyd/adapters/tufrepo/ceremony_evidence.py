"""What a bundle proves, and to whom: everything else in it is only claimed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyd.adapters.tufrepo.bundle import BundleSignature, Request, Response, refuse
from keyd.audit.checkpoint import parse_checkpoint, verify_checkpoint
from keyd.audit.entry import parse_entry
from keyd.audit.merkle import leaf_hash, verify_inclusion
from keyd.audit.note import VerifierKey
from keyd.content import envelope, parse_document
from keyd.content.documents import Dialect, PublicKeyInfo, Root
from keyd.content.envelope import Envelope, FileSignature
from keyd.content.refusal import printable
from keyd.content.verification import verify_signature, verify_threshold
from keyd.errors import AlgorithmMismatchError, BadSignatureError, ContentError, KeydError

MAX_CLOCK_AHEAD = timedelta(hours=24)
"""How far the sender's clock may be ahead of ours: machines without a network drift."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A request that holds together: each root vouched for by the one before it, and a draft that
    follows the last one. That says nothing about whether the first root is ours."""

    draft: Root
    history: tuple[Envelope, ...]

    @property
    def before(self) -> Root:
        """The root the draft follows."""
        return _root(self.history[-1])


def check_request(request: Request, now: datetime) -> Evidence:
    """Verify what can be verified without knowing the repository.

    Raises:
        RepositoryError: fact ``problem``: expired, clock, history, draft.
    """
    _check_time(request, now)
    history = [_parse_root(file.version, file.content) for file in request.history]
    versions = [file.version for file in request.history]
    if versions != list(range(versions[0], request.version)):
        raise refuse(
            "history",
            f"the bundle has roots {', '.join(map(str, versions))} and not all up to "
            f"{request.version - 1}",
            hint="have it exported again",
        )
    for number, file in enumerate(history):
        judges = [_root(file), *([_root(history[number - 1])] if number else [])]
        for judge in judges:
            met = verify_threshold(file.payload, file.signatures, judge.roles["root"], judge.keys)
            if not met.is_met:
                raise refuse(
                    "history",
                    f"root {versions[number]} in the bundle is not signed as root {judge.version} "
                    "demands",
                    hint="do not sign; ask whoever sent it where it comes from",
                )
    return Evidence(_parse_draft(request), tuple(history))


def _check_time(bundle: Request | Response, now: datetime) -> None:
    if now >= bundle.expires:
        raise refuse(
            "expired",
            f"the bundle expired at {bundle.expires:%Y-%m-%d %H:%M:%SZ}",
            hint="have it exported again: keydctl tuf ceremony export DIR",
        )
    if bundle.created > now + MAX_CLOCK_AHEAD or bundle.expires <= bundle.created:
        raise refuse(
            "clock",
            f"the bundle says it was made at {bundle.created:%Y-%m-%d %H:%M:%SZ}, which is not yet",
            hint="check the clocks of both machines",
        )


def _parse_root(version: int, content: bytes) -> Envelope:
    try:
        found = envelope.parse(content)
    except ContentError as e:
        raise refuse("history", f"root {version} in the bundle: {e.message}") from e
    document = found.document
    if not isinstance(document, Root) or document.version != version:
        raise refuse("history", f"what the bundle calls root {version} is something else")
    return found


def _parse_draft(request: Request) -> Root:
    try:
        draft = parse_document(request.draft)
    except ContentError as e:
        raise refuse("draft", f"the draft in the bundle cannot be signed: {e.message}") from e
    if not isinstance(draft, Root) or draft.dialect is not Dialect.TUF:
        raise refuse("draft", f"the draft in the bundle is no TUF root but {draft.kind}")
    if draft.version != request.version:
        raise refuse(
            "draft", f"the draft is root {draft.version}, the bundle says {request.version}"
        )
    return draft


def _root(file: Envelope) -> Root:
    assert isinstance(file.document, Root)
    return file.document


def root_keys(*roots: Root) -> dict[str, PublicKeyInfo]:
    """The keys that may sign for root by any of these, by keyid."""
    return {
        keyid: root.keys[keyid]
        for root in roots
        for keyid in root.roles["root"].keyids
        if keyid in root.keys
    }


def draft_identities(evidence: Evidence) -> dict[str, PublicKeyInfo]:
    """Whose signatures the draft needs: old and new holders."""
    return root_keys(evidence.before, evidence.draft)


@dataclass(frozen=True, slots=True)
class Awaited:
    """The exchange a response has to belong to. ``ids``: of the requests that were exported.
    ``draft``: the bytes to sign. ``holders``: keyid -> key. ``signed``: keyids that have signed
    already."""

    ids: Collection[str]
    ceremony: str
    repository: str
    version: int
    draft: bytes
    holders: Mapping[str, PublicKeyInfo]
    signed: Collection[str]


def check_response(response: Response, awaited: Awaited, now: datetime) -> None:
    """Verify that a response belongs to this exchange, brings something new, and is signed.

    Raises:
        RepositoryError: fact ``problem``: repository, ceremony, version, draft, request, expired,
            clock, imported, key, signature, receipt.
    """
    _check_belongs(response, awaited)
    _check_time(response, now)
    keyids = [one.keyid for one in response.signatures]
    if all(keyid in awaited.signed for keyid in keyids):
        raise refuse(
            "imported",
            "the signatures of this response are in the draft already",
            hint="go on with: keydctl tuf ceremony resume DIR",
        )
    if len(set(keyids)) != len(keyids):
        raise refuse("signature", "the response has two signatures of one key")
    for one in response.signatures:
        _check_signature(one, awaited)


def _check_belongs(response: Response, awaited: Awaited) -> None:
    if response.repository != awaited.repository:
        raise refuse(
            "repository",
            f"the response is for {printable(response.repository)}, this repository is "
            f"{awaited.repository}",
        )
    if response.version < awaited.version:
        raise refuse(
            "version",
            f"the response is for root {response.version}; root {awaited.version} waits for "
            "signatures",
            hint="it was used already, or belongs to a ceremony that was given up",
        )
    if response.ceremony != awaited.ceremony:
        raise refuse(
            "ceremony",
            f"the response belongs to ceremony {printable(response.ceremony)}, not to "
            f"{awaited.ceremony}",
        )
    if response.draft_sha256 != hashlib.sha256(awaited.draft).hexdigest():
        raise refuse(
            "draft",
            "the response signs another draft than the one that waits here",
            hint="export again and have that one signed: keydctl tuf ceremony export DIR",
        )
    if response.version != awaited.version or response.id not in awaited.ids:
        raise refuse(
            "request",
            "the response answers no request that was exported here",
            hint="export one and have that one signed: keydctl tuf ceremony export DIR",
        )


def _check_signature(one: BundleSignature, awaited: Awaited) -> None:
    key = awaited.holders.get(one.keyid)
    if key is None:
        raise refuse(
            "key", f"{printable(one.keyid)} is no root key, neither of the old root nor of the new"
        )
    try:
        verify_signature(key, FileSignature(one.keyid, "", one.signature), awaited.draft)
    except (BadSignatureError, AlgorithmMismatchError) as e:
        raise refuse(
            "signature", f"the signature of {one.keyid[:16]} does not fit the draft: {e.message}"
        ) from e
    if one.receipt is not None:
        check_receipt(one, key, awaited.draft)


# ------------------------------------------------------------------------------------ receipts


@dataclass(frozen=True, slots=True)
class LoggedSignature:
    """What a receipt shows. ``origin``: the log's name. ``is_verified``: checked with a log key
    that the reader brought; else the log key is the sender's claim."""

    origin: str
    index: int
    principal: str
    time: str
    key_version: str
    is_verified: bool


def check_receipt(
    one: BundleSignature,
    key: PublicKeyInfo,
    draft: bytes,
    trusted: Sequence[VerifierKey] = (),
) -> LoggedSignature:
    """Verify that the entry is in the log the checkpoint is of, and tells of this signature.

    ``trusted``: log keys the reader knows; without any, those that the receipt claims.

    Raises:
        RepositoryError: fact ``problem``: receipt.
    """
    receipt = one.receipt
    if receipt is None:
        raise refuse("receipt", f"{one.keyid[:16]} has no receipt")
    try:
        entry = parse_entry(receipt.entry)
        head = parse_checkpoint(receipt.checkpoint)
        verify_inclusion(
            leaf_hash(receipt.entry), receipt.index, head.size, receipt.hashes, head.root_hash
        )
        keys = trusted or [VerifierKey.parse(line) for line in receipt.verifier_keys]
        verify_checkpoint(receipt.checkpoint, keys)
    except KeydError as e:
        raise refuse("receipt", f"the receipt of {one.keyid[:16]} is not valid: {e.message}") from e
    fields = entry.fields
    told = (fields.get("action"), fields.get("outcome"), fields.get("digest"), entry.index)
    digest = f"sha256:{hashlib.sha256(draft).hexdigest()}"
    meant = ("sign", "allowed", _digest_as(str(fields.get("digest")), draft, digest), receipt.index)
    if told != meant or fields.get("fingerprint") != key.identity:
        raise refuse(
            "receipt", f"the receipt of {one.keyid[:16]} tells of something else than its signature"
        )
    return LoggedSignature(
        head.origin,
        receipt.index,
        str(fields.get("principal", "")),
        str(fields.get("time", "")),
        f"{fields.get('key', '')}/versions/{fields.get('version', '')}",
        bool(trusted),
    )


def _digest_as(told: str, draft: bytes, otherwise: str) -> str:
    """The draft's digest by the algorithm of the scheme, which the entry names."""
    name = told.partition(":")[0]
    if name in ("sha384", "sha512"):
        return f"{name}:{hashlib.new(name, draft).hexdigest()}"
    return otherwise
