"""What is decided about one requested signature before a token is asked.

Pure: which version of the key signs, over which digest, under which context.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from keyd import publickeys
from keyd.content import Reading
from keyd.content.documents import Document
from keyd.errors import (
    AlgorithmMismatchError,
    FrozenError,
    InvalidRequestError,
    KeydError,
    KeyMismatchError,
    KeyNotEnabledError,
    KeyNotFoundError,
)
from keyd.model import (
    Action,
    Caller,
    Context,
    Decision,
    Digest,
    Effect,
    Encoding,
    Freeze,
    HashAlgorithm,
    Key,
    KeyVersion,
    Purpose,
    Scheme,
    SignatureKey,
    SignJob,
    SignRequest,
    Statement,
    VersionState,
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is decided about an item apart from what it signs. ``action``: sign, or certify for
    X.509 with a bound key. ``policy_hash``: of the policy that ``decision`` is of;
    ``fingerprint``: the version's. ``waits``: the policy demands consent first."""

    action: Action
    key: Key
    version: KeyVersion
    scheme: Scheme
    encoding: Encoding
    statement: Statement
    context: Context
    decision: Decision
    policy_hash: str
    fingerprint: str
    waits: bool


@dataclass(frozen=True, slots=True)
class Ruling:
    """What rules and people said to an item. ``effects``: recorded with its entry; ``details``:
    said in the entry. For a dry run: ``checks`` and ``needs`` as in Signed."""

    effects: tuple[Effect, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    reissued: bool = False
    checks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


NOTHING_TO_RULE = Ruling()
"""Of a key without bindings, where nobody's consent is demanded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An item that may be signed, and how. ``place``: its position in the batch. ``reading``: what
    its message says, for a bound key; None for another key, or where only a digest came."""

    place: int
    request: SignRequest
    terms: Terms
    digest: Digest
    reading: Reading | None = None
    ruling: Ruling = NOTHING_TO_RULE

    @property
    def is_ruled(self) -> bool:
        """True when rules or people have to be asked."""
        return bool(self.terms.key.bindings) or self.terms.waits

    @property
    def document(self) -> Document | None:
        """The metadata that a bound key is asked to sign."""
        found = self.reading.content if self.reading is not None else None
        return found if isinstance(found, Document) else None

    def covers(self, request: SignRequest, statement: Statement, action: Action) -> bool:
        """True when this plan's terms are what would be decided about the request too: it says
        the same in everything they follow from. Only while nothing else had its turn."""
        mine = self.request
        return (
            request.key == mine.key
            and request.version == mine.version
            and request.expected_public_key == mine.expected_public_key
            and request.expected_keyid == mine.expected_keyid
            and request.scheme is mine.scheme
            and request.encoding is mine.encoding
            and request.context == mine.context
            and statement == self.terms.statement
            and action is self.terms.action
        )

    def identity(self, caller: Caller) -> SignatureKey:
        """What makes a later request the same one."""
        terms = self.terms
        return SignatureKey(
            caller.principal.id,
            terms.key.name,
            terms.version.number,
            terms.scheme,
            self.digest,
            terms.context if self.document is not None else None,
        )

    def job(self, caller: Caller) -> SignJob:
        """The token host's part."""
        terms, message = self.terms, self.request.message
        payload = self.digest.value if message is None or terms.scheme.hash else message
        return SignJob(
            object_id=terms.version.object_id,
            public_key=terms.version.public_key,
            algorithm=terms.key.algorithm,
            scheme=terms.scheme,
            payload=payload,
            serial=terms.version.token_serial,
            purpose=Purpose(
                key=terms.key.name,
                what=_subject(terms.statement),
                asked_by=caller.principal.id,
                request_id=caller.request_id,
            ),
        )

    def verify(self, raw: bytes) -> None:
        """Check the token's answer with the registered public key; BadSignatureError."""
        terms, message = self.terms, self.request.message
        signed = self.digest if message is None or terms.scheme.hash else message
        publickeys.verify(terms.version.public_key, terms.scheme, raw, signed)


def _subject(statement: Statement) -> str:
    """What a payload is, as in "root 7"; empty for what nobody could read."""
    return f"{statement.kind} {statement.version}" if statement.version else ""


def choose_version(key: Key, request: SignRequest) -> KeyVersion:
    """Which version signs: the one the caller named, else whose public key it expects, else the
    active one; what the caller said about it has to agree."""
    if request.expected_public_key:
        version = key.find_public_key(request.expected_public_key)
        if version is None:
            sha256 = hashlib.sha256(request.expected_public_key).hexdigest()
            raise KeyMismatchError(
                f"no version of {key.name} holds the public key you expect (SHA-256 {sha256})",
                hint=f"see its versions with: keydctl key show {key.name}",
                key=key.name,
            )
    elif request.expected_keyid:
        version = key.find_keyid(request.expected_keyid)
        if version is None:
            raise KeyMismatchError(
                f"no version of {key.name} has the keyid {request.expected_keyid}",
                hint=f"see its versions with: keydctl key show {key.name}",
                key=key.name,
            )
    else:
        version = key.find_version(request.version or key.active_version)
        if version is None:
            raise KeyNotFoundError(
                f"{key.name} has no version {request.version}"
                if request.version
                else f"{key.name} has no active version",
                hint=f"see its versions with: keydctl key show {key.name}",
                key=key.name,
            )
    if request.version not in (0, version.number):
        raise KeyMismatchError(
            f"version {request.version} of {key.name} does not hold the public key you expect, "
            f"version {version.number} does",
            key=key.name,
        )
    if request.expected_keyid and request.expected_keyid not in version.keyids.values():
        raise KeyMismatchError(
            f"{version.name} holds the public key you expect, but its keyid is "
            f"{version.keyids.get('tuf', '')}",
            hint="a keyid with other fields hashed in: send the public key alone",
            key=key.name,
        )
    return version


def check_open(version: KeyVersion, freeze: Freeze | None) -> None:
    """Refuse a version that does not sign now. ``freeze``: the one that stands on its key.

    Raises:
        FrozenError: a person stopped signing with the key, or with all.
        KeyNotEnabledError: the version's state does not sign.
    """
    if freeze is not None:
        raise FrozenError(
            f"signing with {freeze.key or 'all keys'} was frozen by {freeze.by}: {freeze.said}",
            hint=f"ends with: keydctl unfreeze {freeze.key or 'all'}",
            key=version.key,
        )
    if version.state is not VersionState.ENABLED:
        raise KeyNotEnabledError(
            f"{version.name} is {version.state} and does not sign",
            hint=state_hint(version),
            version=version.name,
            state=version.state,
        )


def state_hint(version: KeyVersion) -> str:
    if version.state is VersionState.DISABLED:
        return f"enable it with: keydctl key enable {version.key} {version.number}"
    if version.state is VersionState.DESTROY_SCHEDULED:
        return f"keep it with: keydctl key cancel-destroy {version.key} {version.number}"
    if version.state is VersionState.PENDING:
        return "its creation is not finished; it is finished or undone when the token is ready"
    return "its private key is gone; rotate to a new version"


def digest_to_sign(key: Key, scheme: Scheme, request: SignRequest) -> Digest:
    """The digest that is signed and logged; for Ed25519 the message's SHA-256 for the log."""
    if scheme.hash is None:
        if request.message is None:
            raise AlgorithmMismatchError(
                f"digest: {key.name} is an Ed25519 key, which signs messages; send the message",
                key=key.name,
            )
        return Digest.of(HashAlgorithm.SHA256, request.message)
    if request.digest is None:
        assert request.message is not None
        return Digest.of(scheme.hash, request.message)
    if request.digest.algorithm is not scheme.hash:
        raise AlgorithmMismatchError(
            f"digest: {scheme} signs a {scheme.hash} digest, got {request.digest.algorithm}",
            key=key.name,
        )
    return request.digest


def find_context(
    key: Key | None, claimed: Context, statement: Statement
) -> tuple[Context, KeydError | None]:
    """The context a request is judged and logged under, and the error if it cannot be.

    The caller's claim, completed where the bindings leave one choice. A claim has to fit a
    binding of a bound key; what a claimed role may contain is content's question, not this one's.
    """
    if key is None or not key.bindings:
        return claimed, None
    fitting = [
        b
        for b in sorted(key.bindings)
        if (not claimed.repository or fnmatch.fnmatchcase(claimed.repository, b.repository))
        and (not claimed.role or fnmatch.fnmatchcase(claimed.role, b.role))
    ]
    bindings = ", ".join(str(b) for b in sorted(key.bindings))
    if not fitting:
        said = f"{claimed.repository or '*'}:{claimed.role or '*'}"
        return claimed, InvalidRequestError(
            "context",
            f"{key.name} is bound to {bindings}, not to {said}",
            hint="sign with a key that is bound to it; to see those there are: keydctl key list",
            key=key.name,
        )
    if not claimed.role and len(fitting) > 1:
        # The payload itself may leave one choice among the roles, as for a key that serves
        # snapshot and timestamp. Delegated targets look like targets: those stay undecided.
        by_kind = [b for b in fitting if b.role == statement.kind]
        delegated = statement.kind == "targets" and any(
            b.role not in ("root", "snapshot", "timestamp", "targets") for b in fitting
        )
        fitting = by_kind if by_kind and not delegated else fitting
    repository = claimed.repository or _only(b.repository for b in fitting)
    role = claimed.role or _only(b.role for b in fitting)
    if not repository or not role:
        missing = "repository" if not repository else "role"
        return claimed, InvalidRequestError(
            "context",
            f"{key.name} is bound to {bindings}: say for which {missing} you sign",
            hint="in a keyd: URI ?repository=R&role=ROLE, in keydctl sign --context R:ROLE",
            key=key.name,
        )
    return Context(repository, role), None


def _only(values: Iterable[str]) -> str:
    """The one literal value, or empty when there are several or it is a pattern."""
    distinct = set(values)
    value = distinct.pop() if len(distinct) == 1 else ""
    return "" if any(c in value for c in "*?[") else value
