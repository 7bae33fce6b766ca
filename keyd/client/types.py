"""What the client answers with: immutable, checked, independent of protobuf.

Nouns that the daemon and the client share come from :mod:`keyd.model`; here stand those that only
a client sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from keyd import model
from keyd.model import Digest, Encoding, Scheme, VersionState


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature the client has checked itself.

    ``key_version``: KEY/versions/N. ``signature``: in ``encoding``; empty for a dry run, whose
    ``log_index`` is -1. ``keyid``: the version's TUF keyid. ``public_key``: DER
    SubjectPublicKeyInfo (RFC 5280). ``digest``: what was signed; for Ed25519 the message's
    SHA-256. ``replayed``: the stored signature of an earlier identical request. ``summary``: what
    the daemon read in the payload. ``unbound``: the key signs anything. ``checkpoint``: a C2SP
    signed note, now and then. ``reissued``: other bytes were signed under this version before.
    For a dry run only: ``checks``, what the rules looked at, and ``needs``, whose consent would be
    asked for, one line each.
    """

    key_version: str
    signature: bytes
    encoding: Encoding
    scheme: Scheme
    keyid: str
    digest: Digest
    public_key: bytes
    log_index: int
    replayed: bool = False
    rule: str = ""
    summary: str = ""
    request_id: str = ""
    unbound: bool = False
    checkpoint: str = ""
    reissued: bool = False
    checks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Key(model.Key):
    """A key as the daemon shows it. ``frozen``: who stopped it and why, or empty."""

    frozen: str = ""

    def is_staged(self, number: int) -> bool:
        """True for an enabled version newer than the active one: it signs only on demand."""
        version = self.find_version(number)
        return (
            version is not None
            and number > self.active_version > 0
            and version.state is VersionState.ENABLED
        )


@dataclass(frozen=True, slots=True)
class TokenObject(model.TokenObject):
    """A key pair on a token. ``registered_as``: KEY/versions/N, or empty."""

    registered_as: str = ""


@dataclass(frozen=True, slots=True)
class YubiKeySlot(model.SlotContent):
    """What lies in a slot. ``registered_as``: KEY/versions/N, or empty."""

    registered_as: str = ""


@dataclass(frozen=True, slots=True)
class YubiKey:
    """A configured token that is a YubiKey. ``state`` is None where it could not be read, and
    ``problem`` says why; ``slots`` are the state's, with what they are registered as."""

    token: str
    serial: str
    problem: str
    state: model.YubiKey | None
    slots: tuple[YubiKeySlot, ...] = ()


@dataclass(frozen=True, slots=True)
class PluggedIn(model.PluggedIn):
    """A YubiKey that no token is configured for. ``token``: a name for one that is not taken."""

    token: str


@dataclass(frozen=True, slots=True)
class PluggedInList:
    """``problem``: why there may be more; empty when all readers were looked at."""

    yubikeys: tuple[PluggedIn, ...]
    problem: str


@dataclass(frozen=True, slots=True)
class Attested:
    """What a YubiKey has proven of one of its keys. ``registered_as``: KEY/versions/N, or empty."""

    attestation: model.Attestation
    public_key: bytes
    registered_as: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """What AdoptKey registered, and what it left alone, each with the reason."""

    keys: tuple[Key, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint(model.Checkpoint):
    """A signed tree head. ``verifier_keys``: C2SP ``name+hash+key`` lines that check the note."""

    verifier_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """``hashes`` lead from the entry's leaf to the root of ``tree_size`` (RFC 6962, 2.1.1)."""

    entry: model.Entry
    tree_size: int
    hashes: tuple[bytes, ...]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """The tree of ``old_size`` is a prefix of that of ``new_size`` (RFC 6962, 2.1.2)."""

    old_size: int
    new_size: int
    hashes: tuple[bytes, ...]
    old_root_hash: bytes
    new_root_hash: bytes
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Requirement(model.Requirement):
    """A requirement of an approval; its ``expires_s`` stands in the approval itself. ``have``: how
    many of those that count have consented."""

    have: int = 0


@dataclass(frozen=True, slots=True)
class Approval(model.Approval):
    """An approval as the daemon shows it. ``content`` and ``previous``: as in
    :class:`keyd.model.ApprovalContents`, only from ``get_approval``. ``waits_for_me``: the caller's
    consent would count and has not been given."""

    content: bytes = b""
    previous: bytes = b""
    waits_for_me: bool = False

    @property
    def counts(self) -> tuple[Requirement, ...]:
        """The requirements, with how many have consented."""
        return tuple(r for r in self.requirements if isinstance(r, Requirement))


@dataclass(frozen=True, slots=True)
class RoleFile:
    """A metadata file as published, signatures included. ``role``: root, targets, snapshot,
    timestamp or the name of a delegated role, which the file itself does not say."""

    role: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RoleSigner:
    """Who signed: ``identity`` is the SHA-256 of the DER SubjectPublicKeyInfo, hex.
    ``key_version``: KEY/versions/N, empty for a key of somebody else."""

    identity: str
    key_version: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """How far a role of a repository has come.

    ``version``, ``state``, ``digest`` (SHA-256 of the signed bytes), ``expires``, ``signed_at``,
    ``signers``, ``missing`` (signatures, at least) and ``reissued`` are of the version signed last;
    ``complete_...`` of the last complete one (0, empty and None before there was one), which
    clients may hold where it is ``complete_published``. ``content`` and ``complete_content``: the
    signed bytes, only from ``get_role``. ``keys``: those bound here that the caller may see.
    """

    repository: str
    role: str
    version: int
    state: model.MarkState
    digest: bytes
    dialect: str
    expires: datetime
    signed_at: datetime
    signers: tuple[RoleSigner, ...] = ()
    missing: int = 0
    reissued: int = 0
    complete_version: int = 0
    complete_digest: bytes = b""
    complete_expires: datetime | None = None
    complete_published: bool = False
    content: bytes = b""
    complete_content: bytes = b""
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownFiles:
    """What became of metadata files that the daemon was shown: ``roles`` that changed (or would, in
    a dry run), and ``notes``, what a person should know of the files, one line each."""

    roles: tuple[Role, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AcceptedLoss:
    """``loss``: what was lost, in words. ``origin``: the log's new one, whose first entry is
    ``log_index``."""

    loss: str
    origin: str
    log_index: int


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """The caller as the daemon sees it; ``grants`` are readable lines."""

    principal: str
    method: str
    certificate_sha256: str
    certificate_not_after: datetime | None
    is_group: bool
    grants: tuple[str, ...]
    server_version: str


@dataclass(frozen=True, slots=True)
class DueRotation:
    """A key whose rotation is due soon, or overdue. ``at``: when its active ``version`` is as old
    as the key's period. ``note``: how far it is prepared and what to do, for people."""

    key: str
    version: int
    at: datetime
    is_overdue: bool
    note: str


@dataclass(frozen=True, slots=True)
class ExpiringRole:
    """What expires first of a role: its last complete version or one signed since. ``state``:
    SIGNED, COMPLETE or PUBLISHED."""

    repository: str
    role: str
    version: int
    expires_at: datetime
    state: str


@dataclass(frozen=True, slots=True)
class Status:
    """State of the daemon. ``health``: SERVING, DEGRADED or NOT_SIGNING. ``due_rotations`` and
    ``expiring_roles``: the soonest few; ``overdue_keys`` and ``expired_roles``: how many."""

    server_version: str
    started_at: datetime | None
    health: str
    problems: tuple[str, ...]
    keys: int
    log_size: int
    uncheckpointed: int
    freezes: tuple[str, ...]
    policy_sha256: str
    unbound_keys: int
    due_rotations: tuple[DueRotation, ...] = ()
    overdue_keys: int = 0
    expiring_roles: tuple[ExpiringRole, ...] = ()
    expired_roles: int = 0


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys to list; all set filters have to match. ``label``: NAME or NAME=VALUE."""

    token: str = ""
    repository: str = ""
    role: str = ""
    state: VersionState | None = None
    label: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries to list; all set filters have to match.

    ``decision``: allowed, refused or failed. ``since`` is inclusive, ``until`` exclusive.
    ``signature_sha256``: hex, of the signature as it left the daemon.
    """

    key: str = ""
    principal: str = ""
    action: str = ""
    decision: str = ""
    digest: str = ""
    keyid: str = ""
    request_id: str = ""
    since: datetime | None = None
    until: datetime | None = None
    start_index: int = 0
    signature_sha256: str = ""


ALL_KEYS = KeyFilter()
ALL_ENTRIES = EntryFilter()
