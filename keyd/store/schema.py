"""The tables of keys and of the log. What must always hold stands here as a constraint, what a
column means beside it.

Times are whole microseconds since 1970 UTC, so that both databases order and compare them alike.
Marks, approvals and ceremonies have their tables in schema_roles.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
)

from keyd.model import KeyAlgorithm, Origin, Outcome, Scheme, VersionState

SCHEMA_VERSION = 3
"""The version this code reads and writes; migrations.py leads there."""

BUCKET_BITS = 17
"""Entries in one bucket of the digest index, as a power of two."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(time: datetime) -> int:
    """An aware datetime as whole microseconds since 1970 UTC."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The inverse of :func:`to_microseconds`."""
    return _EPOCH + value * _MICROSECOND


def one_of(column: str, values: list[str]) -> str:
    """The condition that a column holds one of these words."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


metadata = MetaData()

schema_version = Table(
    "schema_version",
    metadata,
    # Exactly one row: which migration this file has reached.
    Column("one", SmallInteger, CheckConstraint("one = 1"), primary_key=True),
    Column("version", Integer, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    # The configured name of the token; serial numbers are the versions'.
    Column("token", Text, nullable=False),
    Column(
        "algorithm",
        Text,
        CheckConstraint(one_of("algorithm", [str(a) for a in KeyAlgorithm])),
        nullable=False,
    ),
    Column(
        "scheme", Text, CheckConstraint(one_of("scheme", [str(s) for s in Scheme])), nullable=False
    ),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    # Seconds; 0 for none.
    Column("rotation_period_s", BigInteger, CheckConstraint("rotation_period_s >= 0")),
    # Signs when the caller names no version; 0 while there is none.
    Column("active_version", Integer, CheckConstraint("active_version >= 0"), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("key", Text, ForeignKey("keys.name"), primary_key=True),
    Column("number", Integer, CheckConstraint("number >= 1"), primary_key=True),
    # DESTROYABLE is what DESTROY_SCHEDULED is shown as, and never stored.
    Column(
        "state",
        Text,
        CheckConstraint(
            one_of("state", [str(s) for s in VersionState if s is not VersionState.DESTROYABLE])
        ),
        nullable=False,
    ),
    Column(
        "origin", Text, CheckConstraint(one_of("origin", [str(o) for o in Origin])), nullable=False
    ),
    Column("token_serial", Text, nullable=False),
    # CKA_ID.
    Column("object_id", LargeBinary, nullable=False),
    # DER SubjectPublicKeyInfo; NULL only while PENDING. Registered once, in whatever state: a
    # destroyed key's public key never comes back as another key.
    Column("public_key", LargeBinary, unique=True),
    # JSON object: form -> keyid.
    Column("keyids", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    # A person may destroy the version from then on.
    Column("destroy_after", BigInteger),
    CheckConstraint("state = 'PENDING' OR public_key IS NOT NULL", name="public_key_known"),
    CheckConstraint(
        "state <> 'DESTROY_SCHEDULED' OR destroy_after IS NOT NULL", name="destroy_time_known"
    ),
)
# An object on a token is one key version's, until it is destroyed and its id is free again.
Index(
    "versions_object",
    versions.c.object_id,
    versions.c.token_serial,
    unique=True,
    sqlite_where=versions.c.state != "DESTROYED",
    postgresql_where=versions.c.state != "DESTROYED",
)

attestations = Table(
    "attestations",
    metadata,
    # A row only for versions of which the device proved something.
    Column("key", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    # JSON of keyd.model.Attestation.
    Column("attestation", Text, nullable=False),
    ForeignKeyConstraint(["key", "number"], ["versions.key", "versions.number"]),
)

bindings = Table(
    "bindings",
    metadata,
    Column("key", Text, ForeignKey("keys.name"), primary_key=True),
    Column("repository", Text, primary_key=True),
    Column("role", Text, primary_key=True),
)

labels = Table(
    "labels",
    metadata,
    Column("key", Text, ForeignKey("keys.name"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

freezes = Table(
    "freezes",
    metadata,
    # Empty for all keys, so no foreign key.
    Column("key", Text, primary_key=True),
    Column("by", Text, nullable=False),
    Column("said", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
)

flags = Table(
    "flags",
    metadata,
    # Such as restored, clock-suspect, checkpoint-alert.
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

pin_attempts = Table(
    "pin_attempts",
    metadata,
    # A row stands while an automatic login is under way or was refused. UNIQUE: one try.
    Column("serial", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    # Position in the log, from 0.
    Column("idx", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    # Grows with idx, so a search by time halves its way and needs no index.
    Column("time", BigInteger, nullable=False),
    # Canonical JSON (audit/entry.py): the bytes leaf_hash is over. All columns below but the
    # signature repeat what it says, for the filters.
    Column("body", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("action", Text, nullable=False),
    Column(
        "outcome",
        Text,
        CheckConstraint(one_of("outcome", [str(o) for o in Outcome])),
        nullable=False,
    ),
    Column("principal", Text, nullable=False),
    Column("key", Text),
    Column("version", Integer),
    Column("keyid", Text),
    # Its first 8 characters as a number: an index over 64 of them for each signature is dear.
    Column("keyid_mark", BigInteger),
    # SHA-256 of the public key, raw.
    Column("fingerprint", LargeBinary),
    Column("scheme", Text),
    # Raw value; its algorithm follows from its size.
    Column("digest", LargeBinary),
    # First 8 bytes of the digest as a signed number. Digests fall all over their index, where
    # each dirties a page of its own. So the index is narrow, and is filled bucket by bucket: what
    # a commit costs stays the same however large the log is, while a search (rare: seen.py stands
    # in front) looks into each bucket.
    Column("digest_mark", BigInteger),
    # idx >> 17.
    Column("bucket", Integer, nullable=False),
    Column("request_id", Text),
    # The same of the signature's SHA-256, without an index: who looks for a signature knows the
    # digest it is over.
    Column("signature_mark", BigInteger),
    # Kept so that a lost answer can be given again; ECDSA as raw r||s.
    Column("signature", LargeBinary),
    # 1 when the signature is: an index prefix, so that a digest signed a million times and
    # answered from the store each time is found without reading a million rows.
    Column("kept", SmallInteger, nullable=False),
    CheckConstraint("(kept = 1) = (signature IS NOT NULL)", name="kept_is_signature"),
)
# Entries that are neither signatures nor allowed are few and looked for: their indexes leave the
# many signatures out, whose cost they would otherwise raise.
_rare_action = entries.c.action != "sign"
_rare_outcome = entries.c.outcome != "allowed"
_has_digest = entries.c.digest_mark.is_not(None)
# Each index ends in idx, which SQLite adds by itself: so matches come in the log's order.
Index("entries_key", entries.c.key)
Index("entries_principal", entries.c.principal)
Index("entries_request", entries.c.request_id)
Index("entries_action", entries.c.action, sqlite_where=_rare_action, postgresql_where=_rare_action)
Index(
    "entries_outcome",
    entries.c.outcome,
    sqlite_where=_rare_outcome,
    postgresql_where=_rare_outcome,
)
Index("entries_keyid", entries.c.keyid_mark)
Index(
    "entries_digest",
    entries.c.bucket,
    entries.c.digest_mark,
    entries.c.kept,
    sqlite_where=_has_digest,
    postgresql_where=_has_digest,
)

tree = Table(
    "tree",
    metadata,
    # Exactly one row; whoever writes the log locks it first.
    Column("one", SmallInteger, CheckConstraint("one = 1"), primary_key=True),
    Column("size", BigInteger, CheckConstraint("size >= 0"), nullable=False),
    # Roots of the complete subtrees, largest first, 32 bytes each.
    Column("frontier", LargeBinary, nullable=False),
    # Of the newest entry.
    Column("last_time", BigInteger),
)

tree_nodes = Table(
    "tree_nodes",
    metadata,
    # Complete subtrees at the levels 8, 16 and 24.
    Column("level", SmallInteger, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    # Of each hour the newest.
    Column("hour", BigInteger, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("origin", Text, nullable=False),
    Column("root_hash", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    UniqueConstraint("size", "note"),
)


def _append_only(operation: str) -> DDL:
    return DDL(  # type: ignore[no-untyped-call]
        f"CREATE TRIGGER entries_no_{operation.lower()} BEFORE {operation} ON entries "
        "BEGIN SELECT RAISE(ABORT, 'audit entries are append-only'); END"
    )


for _operation in ("UPDATE", "DELETE"):
    event.listen(entries, "after_create", _append_only(_operation).execute_if(dialect="sqlite"))
