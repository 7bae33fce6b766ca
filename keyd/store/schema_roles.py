"""The tables of marks, approvals and ceremonies; schema.py says how to read them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    text,
)

from keyd.model import ApprovalState, MarkState, Phase
from keyd.store.schema import metadata, one_of

marks = Table(
    "marks",
    metadata,
    # How far a role has come; model/marks.py says what each field means.
    Column("repository", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    # The version signed last.
    Column("version", BigInteger, CheckConstraint("version >= 0"), nullable=False),
    # SHA-256 of the signed bytes, raw.
    Column("digest", LargeBinary, nullable=False),
    Column("kind", Text, nullable=False),
    Column("dialect", Text, nullable=False),
    Column("expires", BigInteger, nullable=False),
    # Empty where the keys of the role were not known.
    Column("keyset", Text, nullable=False),
    Column(
        "state",
        Text,
        CheckConstraint(one_of("state", [str(s) for s in MarkState])),
        nullable=False,
    ),
    Column("signed_at", BigInteger, nullable=False),
    # JSON list: SHA-256 of each signer's DER SubjectPublicKeyInfo, hex.
    Column("signers", Text, nullable=False),
    # JSON list of [threshold, signers].
    Column("needs", Text, nullable=False),
    Column("reissued", Integer, CheckConstraint("reissued >= 0"), nullable=False),
    # The last version that was complete; NULL in all of these before there was one.
    Column("complete_version", BigInteger),
    Column("complete_digest", LargeBinary),
    Column("complete_kind", Text),
    Column("complete_dialect", Text),
    Column("complete_expires", BigInteger),
    Column("complete_keyset", Text),
    # Whether the version below was: the complete one where that is another than the newest, else
    # the one before it.
    Column("published_before", Boolean, nullable=False),
    # JSON list of the columns from version to keyset, the digest in hex; NULL for none.
    Column("before", Text),
    Column("floor", Text),
    # The signed bytes of the newest version and of the one below, last in the row so that reading
    # what is before them never reads them. Those of older versions are not kept: the log has their
    # digests.
    Column("content", LargeBinary, nullable=False),
    # NULL where there is no version below.
    Column("below_content", LargeBinary),
    CheckConstraint(
        "(complete_version IS NULL) = (complete_digest IS NULL)"
        " AND (complete_version IS NULL) = (complete_kind IS NULL)"
        " AND (complete_version IS NULL) = (complete_dialect IS NULL)"
        " AND (complete_version IS NULL) = (complete_expires IS NULL)"
        " AND (complete_version IS NULL) = (complete_keyset IS NULL)",
        name="complete_is_whole",
    ),
    CheckConstraint(
        "complete_version IS NULL OR complete_version <= version", name="complete_not_newer"
    ),
    CheckConstraint(
        "state = 'SIGNED' OR (complete_version IS NOT NULL AND complete_version = version"
        " AND complete_digest = digest)",
        name="complete_is_newest",
    ),
    CheckConstraint("before IS NULL OR state <> 'SIGNED'", name="before_the_complete"),
    CheckConstraint(
        "(below_content IS NOT NULL) = (before IS NOT NULL OR (complete_version IS NOT NULL"
        " AND NOT (complete_version = version AND complete_digest = digest)))",
        name="below_content_once",
    ),
    CheckConstraint("NOT published_before OR below_content IS NOT NULL", name="published_below"),
)

approvals = Table(
    "approvals",
    metadata,
    # In the order they came.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", Text, unique=True, nullable=False),
    Column("action", Text, nullable=False),
    # Key name, or token name.
    Column("subject", Text, nullable=False),
    # 0 where none.
    Column("key_version", BigInteger, CheckConstraint("key_version >= 0"), nullable=False),
    # Empty, empty and 0 for what is no metadata.
    Column("repository", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column(
        "metadata_version", BigInteger, CheckConstraint("metadata_version >= 0"), nullable=False
    ),
    # SHA-256 of the content, or the finished digest to sign, raw.
    Column("digest", LargeBinary, nullable=False),
    Column("summary", Text, nullable=False),
    Column("requester", Text, nullable=False),
    # JSON list of [rule, needed, of, own, signed, expires_s].
    Column("requirements", Text, nullable=False),
    # JSON list of texts.
    Column("why", Text, nullable=False),
    Column("said", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # EXPIRED only once somebody wrote it down; until then expires_at says it.
    Column(
        "state",
        Text,
        CheckConstraint(one_of("state", [str(s) for s in ApprovalState])),
        nullable=False,
    ),
    # JSON list of [principal, at, said, signature, signer].
    Column("votes", Text, nullable=False),
    # What is to be consented to, and the version before it; NULL for long ones of an approval that
    # is done (approval_rows.KEPT_BYTES).
    Column("content", LargeBinary),
    Column("previous", LargeBinary),
)
IS_OPEN_APPROVAL = text(one_of("state", [str(s) for s in ApprovalState if s.is_open]))
# One open request for the same operation: who asks again meets the one that waits. The digest comes
# first, so that it is found by that alone.
Index(
    "approvals_open",
    approvals.c.digest,
    approvals.c.requester,
    approvals.c.action,
    approvals.c.subject,
    approvals.c.key_version,
    approvals.c.repository,
    approvals.c.role,
    unique=True,
    sqlite_where=IS_OPEN_APPROVAL,
    postgresql_where=IS_OPEN_APPROVAL,
)

ceremonies = Table(
    "ceremonies",
    metadata,
    # In the order they were started.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("id", Text, unique=True, nullable=False),
    Column("repository", Text, nullable=False),
    # Canonical JSON.
    Column("plan", Text, nullable=False),
    # The phase that is next to be done.
    Column(
        "phase", Text, CheckConstraint(one_of("phase", [str(p) for p in Phase])), nullable=False
    ),
    Column("started_by", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("said", Text, nullable=False),
    # The bytes to sign; empty before there are any.
    Column("draft", LargeBinary, nullable=False),
    # JSON object of texts.
    Column("facts", Text, nullable=False),
    # Counts the changes.
    Column("step", BigInteger, CheckConstraint("step >= 1"), nullable=False),
)
IS_OPEN_CEREMONY = text(one_of("phase", [str(p) for p in Phase if p.is_open]))
# Two changes of one root at a time would each take the next version.
Index(
    "ceremonies_open",
    ceremonies.c.repository,
    unique=True,
    sqlite_where=IS_OPEN_CEREMONY,
    postgresql_where=IS_OPEN_CEREMONY,
)
