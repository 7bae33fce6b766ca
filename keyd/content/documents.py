"""The signed part of trust metadata, the same nouns for TUF 1.0 and for Notary's dialect.

What keyd does not know is kept under ``unknown`` and shown to people, never dropped: whoever
consents, consents to all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, TypedDict

from keyd.content.canonical import Json

TOP_LEVEL_ROLES = ("root", "targets", "snapshot", "timestamp")


class Dialect(StrEnum):
    """``tuf``: TUF 1.0 as python-tuf writes it; ``notary``: Docker Content Trust's older form."""

    TUF = "tuf"
    NOTARY = "notary"


@dataclass(frozen=True, slots=True)
class KeyCertificate:
    """The certificate behind a Notary root key, the leaf of its chain.

    ``common_name``: the GUN, or ``prefix/*``. ``fingerprint``: SHA-256 of its DER, hex.
    """

    common_name: str
    not_before: datetime
    not_after: datetime
    is_ca: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class PublicKeyInfo:
    """One key object of a root or a delegation.

    ``keyid``: the id it has in the document. ``scheme``: as written, empty for Notary.
    ``spki``: DER SubjectPublicKeyInfo; empty where keyd cannot read the key, whose signatures
    then never count. ``public``: the text as written (PEM, hex, or base64 for Notary).
    ``canonical_id``: Notary's id of the bare key, which a certificate key has beside its keyid;
    empty for TUF.
    """

    keyid: str
    keytype: str
    scheme: str
    spki: bytes
    public: str
    certificate: KeyCertificate | None = None
    canonical_id: str = ""
    unknown: Mapping[str, Json] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Equal for equal key pairs, whatever they are called: counts a key under two ids once."""
        return hashlib.sha256(self.spki or self.public.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleKeys:
    """Who may sign a role, and how many of them have to."""

    keyids: tuple[str, ...]
    threshold: int
    unknown: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegatedRole(RoleKeys):
    """One delegation. ``paths``: glob patterns (TUF) or prefixes (Notary, where an empty one is
    everything); None where ``path_hash_prefixes`` decides, or where neither is given (Notary)."""

    name: str
    terminating: bool = False
    paths: tuple[str, ...] | None = None
    path_hash_prefixes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccinctRoles(RoleKeys):
    """2 to the power of ``bit_length`` hash bins named ``name_prefix``-HEX (TAP 15)."""

    bit_length: int
    name_prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegations:
    """The keys and roles a targets file delegates to, in the order in which clients search."""

    keys: Mapping[str, PublicKeyInfo]
    roles: tuple[DelegatedRole, ...] = ()
    succinct: SuccinctRoles | None = None
    unknown: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFile:
    """One target. ``length`` in bytes; ``hashes``: algorithm -> digest; ``custom`` as written."""

    length: int
    hashes: Mapping[str, bytes]
    custom: Json = None
    unknown: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaFile:
    """What a snapshot or timestamp says of another file. Notary has no ``version``, TUF may omit
    ``length`` and ``hashes``; what is not said is None or empty."""

    version: int | None = None
    length: int | None = None
    hashes: Mapping[str, bytes] = field(default_factory=dict)
    unknown: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What all four kinds have. ``expires``: aware, UTC, cut to microseconds; ``expires_text``:
    as written. ``spec_version``: empty for Notary."""

    kind: ClassVar[str]

    dialect: Dialect
    version: int
    expires: datetime
    expires_text: str
    spec_version: str = ""
    unknown: Mapping[str, Json] = field(default_factory=dict)


class Header(TypedDict):
    """What a parser reads first, as keyword arguments of a :class:`Document`."""

    dialect: Dialect
    version: int
    expires: datetime
    expires_text: str
    spec_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Root(Document):
    """The root of trust. ``roles`` has the four top-level roles and no other."""

    kind: ClassVar[str] = "root"

    keys: Mapping[str, PublicKeyInfo]
    roles: Mapping[str, RoleKeys]
    consistent_snapshot: bool | None = None

    @property
    def common_names(self) -> frozenset[str]:
        """The common names of the root role's certificates: GUNs. Empty for TUF."""
        keys = (self.keys.get(keyid) for keyid in self.roles["root"].keyids)
        return frozenset(k.certificate.common_name for k in keys if k and k.certificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets(Document):
    """Top-level or delegated targets: the file itself does not say which, nor of what
    repository."""

    kind: ClassVar[str] = "targets"

    targets: Mapping[str, TargetFile]
    delegations: Delegations | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Document):
    """``meta``: role name, without ``.json``, -> the file of that role."""

    kind: ClassVar[str] = "snapshot"

    meta: Mapping[str, MetaFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamp(Document):
    """``snapshot``: the one file it speaks of."""

    kind: ClassVar[str] = "timestamp"

    snapshot: MetaFile
