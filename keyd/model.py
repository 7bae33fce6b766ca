"""The nouns of keyd, and the Protocols through which its rooms meet.

Everything here is immutable, has no I/O and knows no library: dataclasses that are checked once
when they are made, so that the rooms below server/ can trust them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from keyd.errors import AlgorithmMismatchError, InvalidRequestError, KeydError

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


# --------------------------------------------------------------------------------- algorithms


class HashAlgorithm(StrEnum):
    """A digest algorithm of FIPS 180-4."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def size_bytes(self) -> int:
        """Length of the digest in bytes."""
        return {"sha256": 32, "sha384": 48, "sha512": 64}[self.value]


class KeyAlgorithm(StrEnum):
    """What kind of key pair lies on the token."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ED25519 = "ed25519"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def is_ecdsa(self) -> bool:
        """True for the curves whose signatures have two encodings (DER and raw r||s)."""
        return self in (KeyAlgorithm.ECDSA_P256, KeyAlgorithm.ECDSA_P384)

    @property
    def is_rsa(self) -> bool:
        """True for RSA of any size."""
        return self.value.startswith("rsa-")

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The signature schemes such a key can make; the first is the default."""
        if self is KeyAlgorithm.ECDSA_P256:
            return (Scheme.ECDSA_P256_SHA256,)
        if self is KeyAlgorithm.ECDSA_P384:
            return (Scheme.ECDSA_P384_SHA384,)
        if self is KeyAlgorithm.ED25519:
            return (Scheme.ED25519,)
        return tuple(s for s in Scheme if s.value.startswith("rsa"))


class Scheme(StrEnum):
    """A signature scheme, under the names TUF and securesystemslib give them.

    RSASSA-PSS uses MGF1 with the same hash and a salt of the digest's length (RFC 8017, 9.1).
    """

    ECDSA_P256_SHA256 = "ecdsa-sha2-nistp256"
    ECDSA_P384_SHA384 = "ecdsa-sha2-nistp384"
    ED25519 = "ed25519"
    RSA_PSS_SHA256 = "rsassa-pss-sha256"
    RSA_PSS_SHA384 = "rsassa-pss-sha384"
    RSA_PSS_SHA512 = "rsassa-pss-sha512"
    RSA_PKCS1_SHA256 = "rsa-pkcs1v15-sha256"
    RSA_PKCS1_SHA384 = "rsa-pkcs1v15-sha384"
    RSA_PKCS1_SHA512 = "rsa-pkcs1v15-sha512"

    @property
    def hash(self) -> HashAlgorithm | None:
        """The digest that is signed; None for Ed25519, which signs the message itself."""
        if self is Scheme.ED25519:
            return None
        if self is Scheme.ECDSA_P256_SHA256:
            return HashAlgorithm.SHA256
        if self is Scheme.ECDSA_P384_SHA384:
            return HashAlgorithm.SHA384
        return HashAlgorithm(self.value.rsplit("-", 1)[1])

    @property
    def is_pss(self) -> bool:
        """True for RSASSA-PSS."""
        return self.value.startswith("rsassa-pss")


class Encoding(StrEnum):
    """How signature bytes are written.

    ``der``: ECDSA-Sig-Value (RFC 3279), what TUF, X.509 and cosign want. ``raw``: r||s, each
    padded to the curve's size (PKCS#11 "EC Signatures"), what Notary and JWS want; for Ed25519
    (64 bytes) and RSA (modulus length) the only form there is.
    """

    DER = "der"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash value with its algorithm; the length is checked when it is made."""

    algorithm: HashAlgorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != self.algorithm.size_bytes:
            raise InvalidRequestError(
                "digest",
                f"{self.algorithm} has {self.algorithm.size_bytes} bytes, got {len(self.value)}",
            )

    @classmethod
    def of(cls, algorithm: HashAlgorithm, message: bytes) -> Digest:
        """Hash a message."""
        return cls(algorithm, hashlib.new(algorithm.value, message).digest())

    @property
    def hex(self) -> str:
        """The value in lower-case hexadecimal."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


# --------------------------------------------------------------------------------- keys


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
    """Where a key pair comes from, as far as keyd can prove it."""

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
    canonical key object with the key's scheme) and ``notary``.
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


# --------------------------------------------------------------------------------- who and what


class Action(StrEnum):
    """What a grant can allow. The names stand in policy.toml and in the log."""

    SIGN = "sign"
    LIST = "list"
    CREATE = "create"
    ROTATE = "rotate"
    ACTIVATE = "activate"
    ENABLE = "enable"
    DISABLE = "disable"
    DESTROY = "destroy"
    ADOPT = "adopt"
    BIND = "bind"
    FREEZE = "freeze"
    UNLOCK = "unlock"
    LOCK = "lock"
    TOKENS = "tokens"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. ``id`` is typed: ``socket:NAME``, ``uri:``, ``email:``, ``dns:`` or ``system:``.

    ``method``: ``unix``, ``mtls`` or ``system`` (the daemon itself). ``is_group``: a socket that
    a group may open; it never counts as a person. ``fingerprint``: SHA-256 of the client
    certificate, hex, or empty. ``peer``: the address as the listener saw it.
    ``certificate_not_after``: when the client certificate ends; None on a unix socket.
    """

    id: str
    method: str
    is_group: bool = False
    fingerprint: str = ""
    peer: str = ""
    certificate_not_after: datetime | None = None

    @property
    def is_remote(self) -> bool:
        """True when the call came over TCP."""
        return self.method == "mtls"


SYSTEM = Principal("system:keyd", "system")
"""The daemon itself: start, stop, recovery, policy reload."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One call as the servicers see it: who, under which request id."""

    principal: Principal
    request_id: str


@dataclass(frozen=True, slots=True)
class Context:
    """What the caller claims to sign for; logged as a claim."""

    repository: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a payload says. ``kind``: root, targets, snapshot, timestamp, or opaque.

    ``dialect``: ``tuf`` (1.0), ``notary`` or empty for opaque bytes. ``expires``: as written in
    the payload.
    """

    kind: str = "opaque"
    dialect: str = ""
    version: int = 0
    expires: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class SignRequest:
    """One signature that is asked for, parsed and checked at the door.

    Exactly one of ``message`` and ``digest`` is set. ``version``: 0 for the active one.
    ``expected_public_key`` (DER SPKI) or ``expected_keyid``: only the version that holds it
    signs. ``scheme`` None: the key's own.
    """

    key: str
    message: bytes | None = None
    digest: Digest | None = None
    version: int = 0
    expected_public_key: bytes = b""
    expected_keyid: str = ""
    scheme: Scheme | None = None
    encoding: Encoding | None = None
    context: Context = Context()
    reason: str = ""
    dry_run: bool = False

    def __post_init__(self) -> None:
        if (self.message is None) == (self.digest is None):
            raise InvalidRequestError("message", "give either a message or a digest")


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that may leave the daemon: checked, and its entry is durable.

    ``digest``: what was signed; for Ed25519 the SHA-256 of the message, for the record only.
    ``replayed``: the stored signature of an earlier entry. ``log_index`` is -1 for a dry run,
    which has no signature either. ``unbound``: the key is bound to nothing and signs anything.
    """

    version: KeyVersion
    scheme: Scheme
    encoding: Encoding
    signature: bytes
    digest: Digest
    log_index: int
    statement: Statement
    rule: str
    replayed: bool = False
    unbound: bool = False


def check_encoding(algorithm: KeyAlgorithm, encoding: Encoding | None) -> Encoding:
    """Return the encoding to answer in; ECDSA callers must choose, the others have one form.

    Raises:
        AlgorithmMismatchError: no choice for ECDSA, or DER for Ed25519 and RSA.
    """
    if algorithm.is_ecdsa:
        if encoding is None:
            raise AlgorithmMismatchError(
                "encoding: an ECDSA signature has two encodings, say DER (TUF, X.509) "
                "or RAW (Notary, JWS)"
            )
        return encoding
    if encoding is Encoding.DER:
        raise AlgorithmMismatchError(f"encoding: DER is for ECDSA keys, this key is {algorithm}")
    return Encoding.RAW


# --------------------------------------------------------------------------------- policy


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer. ``rule`` names the grant that allowed it, or why it was refused."""

    allowed: bool
    rule: str


class Policy(Protocol):
    """Decides; pure and total: it reads no clock, no database, and raises nothing."""

    @property
    def hash(self) -> str:
        """SHA-256 of the policy text, hex; goes into every entry."""

    def decide(
        self,
        principal: Principal,
        action: Action,
        key: str,
        *,
        statement: Statement | None = None,
        context: Context | None = None,
    ) -> Decision:
        """Decide one action. ``key``: the key's name, the token's for token actions, or empty
        where the action has neither (listing entries)."""

    def grants_of(self, principal: Principal) -> list[str]:
        """The principal's grants as readable lines, for WhoAmI."""


# --------------------------------------------------------------------------------- device


class Pin:
    """A PIN in memory; prints as ``Pin(***)`` wherever it might slip into text."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The PIN itself, only for the frame to the token host."""
        return self._value

    def __repr__(self) -> str:
        return "Pin(***)"

    __str__ = __repr__


class TokenState(StrEnum):
    """What a token can do right now."""

    ABSENT = "ABSENT"
    LOCKED = "LOCKED"
    READY = "READY"
    PIN_LOCKED = "PIN_LOCKED"
    FAULTED = "FAULTED"


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """One configured token as it stands. ``detail`` says in words why it is not READY.

    ``pin_state``: ok, count-low, final-try, locked, or empty where the token does not tell.
    ``hosts``: token host processes that are logged in. ``queued``: signatures waiting.
    """

    name: str
    state: TokenState
    serial: str = ""
    label: str = ""
    model: str = ""
    manufacturer: str = ""
    firmware: str = ""
    pin_state: str = ""
    detail: str = ""
    hosts: int = 0
    queued: int = 0


@dataclass(frozen=True, slots=True)
class SignJob:
    """One raw signature for a token host.

    ``payload``: the digest, or for Ed25519 the message. ``public_key`` (DER SPKI): compared with
    the object's own before it is first used. ``serial``: the token it must lie on.
    """

    object_id: bytes
    public_key: bytes
    algorithm: KeyAlgorithm
    scheme: Scheme
    payload: bytes
    serial: str = ""


@dataclass(frozen=True, slots=True)
class TokenObject:
    """A key pair found on a token. The attributes are the private key's, as the module says."""

    object_id: bytes
    label: str
    algorithm: KeyAlgorithm | None
    public_key: bytes
    sensitive: bool
    extractable: bool
    always_sensitive: bool
    never_extractable: bool
    local: bool
    serial: str = ""


def never_gone() -> bool:
    """The caller still waits."""
    return False


class Device(Protocol):
    """All tokens, by configured name (device/pool.py; tests/fakes.py has FakeDevice).

    Every method raises a TokenError subclass; none retries on the caller's behalf except where
    its text says so. The domain never cancels ``sign``: it says ``gone``.
    """

    def tokens(self) -> list[TokenStatus]:
        """All configured tokens, in the order of the configuration; never blocks."""

    async def sign(
        self, token: str, jobs: Sequence[SignJob], gone: Callable[[], bool] = never_gone
    ) -> list[bytes | KeydError]:
        """Sign each job; a result or an error for each, in order. ECDSA comes as raw r||s.

        ``gone`` is asked when a job is about to be put into a frame: True drops the job with
        DeadlineError, since nobody waits for it any more. What is with a host completes.
        A job in flight when its host dies is tried once more on a fresh host.
        Raises DeviceBusyError when the queue has no room for the jobs (nothing was sent).
        """

    async def generate(
        self, token: str, algorithm: KeyAlgorithm, object_id: bytes, label: str
    ) -> TokenObject:
        """Generate a key pair on the token and read it back, its attributes checked:
        SENSITIVE, not EXTRACTABLE, LOCAL. Not retried: after an error, look with ``objects``.
        Raises MechanismMissingError before anything is made."""

    async def objects(self, token: str) -> list[TokenObject]:
        """All key pairs on the token."""

    async def destroy(self, token: str, object_id: bytes, public_key: bytes) -> bool:
        """Destroy the key pair that has this id AND this public key; False when it was gone.
        An empty ``public_key`` matches only an object pair whose label starts as keyd writes it."""

    async def unlock(self, token: str, pin: Pin | None, *, spend_last_try: bool = False) -> None:
        """Log in with a person's PIN, or with the configured source's when ``pin`` is None.
        Clears a remembered refusal on success. Raises PinRefusedError, TokenLockedError."""

    async def lock(self, token: str) -> None:
        """Log out: end the token's hosts; LOCKED until somebody unlocks."""


class PinAttempts(Protocol):
    """Durable memory of automatic logins, so that a refused PIN is never tried again.

    Each method returns when its change is durable; they block, call them off the event loop.
    """

    def begin(self, serial: str, source: str) -> bool:
        """Record that a login is about to be tried; False when a record already stands."""

    def clear(self, serial: str) -> None:
        """The login succeeded, or a person unlocked: forget the records of this serial."""

    def find(self, serial: str) -> str | None:
        """The source whose attempt stands, or None."""


# --------------------------------------------------------------------------------- audit


class Outcome(StrEnum):
    """How what an entry tells of ended."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EntryDraft:
    """What shall be logged; the log adds index and time. Empty fields are left out of the JSON.

    ``action``: an Action value or start, stop, policy-reload, recovery, freeze, unfreeze,
    clock-accept, checkpoint-accept, clock-alert, checkpoint-alert. ``reason_code``:
    KeydError.reason of a refusal or failure. ``rule``: grant or rule that decided. ``said``: the
    reason the caller gave. ``count``: how many repeated refusals this entry stands for.
    ``alert``: someone should look. ``details``: small, printable extras.
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


# -- effects: what an entry changes, applied in the entry's own transaction ------------------
# An effect whose precondition no longer holds turns its own item into a refusal entry.


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


@dataclass(frozen=True, slots=True)
class Freeze:
    """A standing freeze. ``key`` is empty for all keys."""

    key: str
    by: str
    said: str
    since: datetime


@dataclass(frozen=True, slots=True)
class StoredSignature:
    """A signature found again by (principal, key version, scheme, digest)."""

    signature: bytes
    log_index: int


@dataclass(frozen=True, slots=True)
class SignatureKey:
    """What identifies a repeated request. ``digest``: of the signed bytes, as in the entry."""

    principal: str
    key: str
    version: int
    scheme: Scheme
    digest: Digest


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
        """Log a refusal; repeated ones of one principal, action and reason collapse into counted
        entries, and near a full disk they are dropped. Never raises: a refusal is answered
        whether or not it could be written."""

    def check_signing_allowed(self, *, bound: bool) -> None:
        """Raises AuditUnavailableError (log not writable, or uncheckpointed entries over the
        limit) or, for bound keys, CheckpointBehindError."""


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


class SignatureLookup(Protocol):
    """Finds stored signatures (store/)."""

    async def find_signatures(
        self, wanted: Sequence[SignatureKey]
    ) -> dict[SignatureKey, StoredSignature]:
        """Those of the wanted that were released before, by exact match."""


# -- the rows under the log: store/ keeps them, audit/ says what they hold ---------------------


class TreeHead(NamedTuple):
    """The Merkle tree (RFC 6962) as of one commit.

    ``frontier``: roots of the complete subtrees that make up ``size``, largest first, SHA-256
    each; as many as ``size`` has one bits. ``last_time``: of the newest entry, None while empty.
    """

    size: int
    frontier: tuple[bytes, ...]
    last_time: datetime | None


class TreeNode(NamedTuple):
    """The hash over entries ``[position << level, (position + 1) << level)``; kept at the levels
    8, 16 and 24 (the tile boundaries of C2SP tlog-tiles), so that proofs read few rows."""

    level: int
    position: int
    hash: bytes


class NewEntry(NamedTuple):
    """One row to append: the draft for the columns, the bytes for the proof.

    ``signature``: kept so that a lost answer can be given again, ECDSA as raw r||s; else None.
    """

    log_index: int
    time: datetime
    draft: EntryDraft
    body: bytes
    leaf_hash: bytes
    signature: bytes | None


class AuditGroup(Protocol):
    """One open write transaction that holds the log's lock."""

    @property
    def head(self) -> TreeHead:
        """The tree as this transaction found it."""

    def apply(self, items: Sequence[Sequence[Effect]], now: datetime) -> list[KeydError | None]:
        """Apply each item's effects, all or none of an item, in order; an item sees those before
        it. For each None, or the conflict its effects met (documented at the effect)."""

    def append(
        self, entries: Sequence[NewEntry], head: TreeHead, nodes: Sequence[TreeNode]
    ) -> None:
        """Insert the entries and replace the tree head."""


class AuditRows(Protocol):
    """The seam between audit/ and store/. All methods block; any of them raises
    AuditUnavailableError when the database cannot be read or written."""

    def group(self) -> AbstractContextManager[AuditGroup]:
        """Take the log's lock; commit durably when the block ends, roll back when it raises.

        Raises AuditUnavailableError when the commit failed or its result is unknown.
        """

    def head(self) -> TreeHead:
        """The tree as of the last commit."""

    def bodies(self, start: int, end: int) -> list[bytes]:
        """The bodies of entries [start, end), by index."""

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """The leaf hashes of entries [start, end), by index."""

    def nodes(self, level: int, start: int, end: int) -> list[bytes]:
        """The kept subtree hashes [start, end) of a level (8, 16 or 24)."""

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that was saved, or None."""

    def save_checkpoint(self, checkpoint: Checkpoint, now: datetime) -> None:
        """Keep it; of each hour only the newest stays."""

    def checkpoints(self) -> list[Checkpoint]:
        """All kept checkpoints, by size."""

    def get_flag(self, name: str) -> str | None:
        """A durable flag's value as of the last commit, or None; does not block."""

    def free_bytes(self) -> int:
        """Room left on the file system that holds the log, in bytes."""


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


class Clock(Protocol):
    """Time comes in; nothing below app.py reads the clock itself."""

    def now(self) -> datetime:
        """Now, aware, in UTC."""


ContentReader = Callable[[bytes], Statement]
"""content.read: payload -> Statement; never raises, unknown bytes are opaque."""
