"""Databases of earlier versions, as their daemons left them, under today's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyd.errors import ConfigError
from keyd.model import Marked, RecordMark
from keyd.store.backup import backup, restore
from keyd.store.migrations import STEPS
from keyd.store.schema import SCHEMA_VERSION
from keyd.store.state_folder import DATABASE
from keyd.store.store import open_store
from tests.contract.databases import a_draft, commit
from tests.fakes import FakeClock

SCHEMA_1 = """
CREATE TABLE schema_version (
    one SMALLINT NOT NULL CHECK (one = 1),
    version INTEGER NOT NULL,
    PRIMARY KEY (one)
);

CREATE TABLE keys (
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    algorithm TEXT NOT NULL CHECK (algorithm IN ('ecdsa-p256', 'ecdsa-p384', 'ed25519',
        'rsa-2048', 'rsa-3072', 'rsa-4096')),
    scheme TEXT NOT NULL CHECK (scheme IN ('ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384',
        'ed25519', 'rsassa-pss-sha256', 'rsassa-pss-sha384', 'rsassa-pss-sha512',
        'rsa-pkcs1v15-sha256', 'rsa-pkcs1v15-sha384', 'rsa-pkcs1v15-sha512')),
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    rotation_period_s BIGINT CHECK (rotation_period_s >= 0),
    active_version INTEGER NOT NULL CHECK (active_version >= 0),
    PRIMARY KEY (name)
);

CREATE TABLE freezes (
    "key" TEXT NOT NULL,
    "by" TEXT NOT NULL,
    said TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY ("key")
);

CREATE TABLE flags (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE pin_attempts (
    serial TEXT NOT NULL,
    source TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (serial)
);

CREATE TABLE entries (
    idx INTEGER NOT NULL,
    time BIGINT NOT NULL,
    body BLOB NOT NULL,
    leaf_hash BLOB NOT NULL,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('allowed', 'refused', 'failed')),
    principal TEXT NOT NULL,
    "key" TEXT,
    version INTEGER,
    keyid TEXT,
    keyid_mark BIGINT,
    fingerprint BLOB,
    scheme TEXT,
    digest BLOB,
    digest_mark BIGINT,
    bucket INTEGER NOT NULL,
    request_id TEXT,
    signature_mark BIGINT,
    signature BLOB,
    kept SMALLINT NOT NULL,
    PRIMARY KEY (idx),
    CONSTRAINT kept_is_signature CHECK ((kept = 1) = (signature IS NOT NULL))
);

CREATE INDEX entries_request ON entries (request_id);

CREATE INDEX entries_digest ON entries (bucket, digest_mark, kept) WHERE digest_mark IS NOT
        NULL;

CREATE INDEX entries_key ON entries ("key");

CREATE INDEX entries_outcome ON entries (outcome) WHERE outcome != 'allowed';

CREATE INDEX entries_action ON entries (action) WHERE action != 'sign';

CREATE INDEX entries_principal ON entries (principal);

CREATE INDEX entries_keyid ON entries (keyid_mark);

CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'audit
        entries are append-only'); END;

CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'audit
        entries are append-only'); END;

CREATE TABLE tree (
    one SMALLINT NOT NULL CHECK (one = 1),
    size BIGINT NOT NULL CHECK (size >= 0),
    frontier BLOB NOT NULL,
    last_time BIGINT,
    PRIMARY KEY (one)
);

CREATE TABLE tree_nodes (
    level SMALLINT NOT NULL,
    position BIGINT NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (level, position)
);

CREATE TABLE checkpoints (
    hour BIGINT NOT NULL,
    size BIGINT NOT NULL,
    origin TEXT NOT NULL,
    root_hash BLOB NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (hour),
    UNIQUE (size, note)
);

CREATE TABLE versions (
    "key" TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    state TEXT NOT NULL CHECK (state IN ('PENDING', 'ENABLED', 'DISABLED', 'DESTROY_SCHEDULED',
        'DESTROYED')),
    origin TEXT NOT NULL CHECK (origin IN ('generated', 'attested', 'adopted-unproven')),
    token_serial TEXT NOT NULL,
    object_id BLOB NOT NULL,
    public_key BLOB,
    keyids TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    destroy_after BIGINT,
    PRIMARY KEY ("key", number),
    CONSTRAINT public_key_known CHECK (state = 'PENDING' OR public_key IS NOT NULL),
    CONSTRAINT destroy_time_known CHECK (state <> 'DESTROY_SCHEDULED' OR destroy_after IS NOT
        NULL),
    FOREIGN KEY("key") REFERENCES keys (name),
    UNIQUE (public_key)
);

CREATE UNIQUE INDEX versions_object ON versions (object_id, token_serial) WHERE state !=
        'DESTROYED';

CREATE TABLE bindings (
    "key" TEXT NOT NULL,
    repository TEXT NOT NULL,
    role TEXT NOT NULL,
    PRIMARY KEY ("key", repository, role),
    FOREIGN KEY("key") REFERENCES keys (name)
);

CREATE TABLE labels (
    "key" TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY ("key", name),
    FOREIGN KEY("key") REFERENCES keys (name)
);
"""
"""The tables as version 1 made them, never to be changed."""

ROWS_1 = """
INSERT INTO schema_version VALUES (1, 1);
INSERT INTO keys VALUES ('acme/root', 'main', 'ed25519', 'ed25519', 1893456000000000, 'socket:ci',
    0, 1);
INSERT INTO versions VALUES ('acme/root', 1, 'ENABLED', 'generated', '0123', x'01', x'302a',
    '{"tuf":"ab"}', 1893456000000000, 'socket:ci', NULL);
INSERT INTO bindings VALUES ('acme/root', 'acme', 'root');
INSERT INTO labels VALUES ('acme/root', 'team', 'release');
INSERT INTO freezes VALUES ('acme/root', 'cert:alice', 'stolen?', 1893456000000000);
INSERT INTO flags VALUES ('restored', '{}');
INSERT INTO pin_attempts VALUES ('0123', 'config', 1893456000000000);
INSERT INTO entries VALUES (0, 1893456000000000, x'7b7d', x'LEAF', 'create', 'allowed',
    'socket:ci', 'acme/root', 1, NULL, NULL, NULL, NULL, NULL, NULL, 0, 'req-1', NULL, NULL, 0);
INSERT INTO tree VALUES (1, 1, x'LEAF', 1893456000000000);
INSERT INTO checkpoints VALUES (525960, 1, 'keyd/acme', x'LEAF', 'a note');
""".replace("LEAF", "5e" * 32)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SIGNED = RecordMark("acme", "targets", Marked(1, b"d" * 32, "targets", "tuf", NOW), b"{}", "me")


def lay_down(folder: Path) -> Path:
    """A state folder that a daemon of version 1 left."""
    folder.mkdir(mode=0o700)
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.executescript(SCHEMA_1 + ROWS_1)
        connection.execute("PRAGMA journal_mode=WAL")
    return folder / DATABASE


def tables_of(file: Path) -> set[tuple[str, str]]:
    """Names and definitions, whatever their spaces."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {(name, "".join(sql.split())) for name, sql in rows}


def rows_of(file: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        names = ["keys", "versions", "bindings", "labels", "freezes", "flags", "pin_attempts"]
        names += ["entries", "tree", "checkpoints"]
        return [row for name in names for row in connection.execute(f"SELECT * FROM {name}")]


def test_a_database_of_version_1_keeps_all_it_holds_and_learns_of_marks(
    tmp_path: Path, clock: FakeClock
) -> None:
    file = lay_down(tmp_path / "state")
    before = rows_of(file)
    assert len(before) == 10

    store = open_store(tmp_path / "state", clock=clock)
    try:
        key = store.registry.find("acme/root")
        assert key is not None
        assert (key.active_version, key.labels) == (1, {"team": "release"})
        assert store.registry.freeze_on("acme/root") is not None
        assert store.head().size == 1
        assert store.bodies(0, 9) == [b"{}"]
        assert store.marks.marks() == ()
        assert store.approvals.open_approvals() == ()
        assert store.ceremonies.ceremonies() == ()
    finally:
        store.close()

    assert rows_of(file) == before
    copies = list((tmp_path / "state").glob(f"{DATABASE}.before-schema-{SCHEMA_VERSION}.*"))
    assert len(copies) == 1
    assert copies[0].stat().st_mode & 0o777 == 0o600
    assert rows_of(copies[0]) == before
    with closing(sqlite3.connect(copies[0])) as copy:
        assert copy.execute("SELECT version FROM schema_version").fetchone() == (1,)


def test_a_migrated_database_has_the_tables_of_a_new_one(tmp_path: Path, clock: FakeClock) -> None:
    lay_down(tmp_path / "old")
    for folder in ("old", "new"):
        open_store(tmp_path / folder, clock=clock).close()

    assert tables_of(tmp_path / "old" / DATABASE) == tables_of(tmp_path / "new" / DATABASE)


def test_a_migrated_database_is_opened_again_without_another_copy(
    tmp_path: Path, clock: FakeClock
) -> None:
    lay_down(tmp_path / "state")
    store = open_store(tmp_path / "state", clock=clock)
    assert commit(store, [(a_draft(), [SIGNED])]) == [None]
    store.close()

    store = open_store(tmp_path / "state", clock=clock)
    try:
        assert store.marks.find_mark("acme", "targets") is not None
        assert store.head().size == 2
    finally:
        store.close()
    assert len(list((tmp_path / "state").glob(f"{DATABASE}.before-schema-*"))) == 1


def test_a_start_that_died_before_the_migration_was_whole_begins_it_again_in_the_same_second(
    tmp_path: Path, clock: FakeClock
) -> None:
    file = lay_down(tmp_path / "state")
    before = tables_of(file)

    def dies(connection: object) -> None:
        STEPS[2](connection)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path / "state", clock=clock, steps={2: dies})
    assert tables_of(file) == before

    store = open_store(tmp_path / "state", clock=clock)
    try:
        assert commit(store, [(a_draft(), [SIGNED])]) == [None]
    finally:
        store.close()


def test_a_backup_of_version_1_is_restored_and_migrated_when_it_is_opened(
    tmp_path: Path, clock: FakeClock
) -> None:
    lay_down(tmp_path / "state")
    assert backup(tmp_path / "state", tmp_path / "backup") == 1
    assert restore(tmp_path / "backup", tmp_path / "new", clock.now()) == 1

    store = open_store(tmp_path / "new", clock=clock)
    try:
        assert store.registry.find("acme/root") is not None
        assert commit(store, [(a_draft(), [SIGNED])]) == [None]
    finally:
        store.close()


def test_there_is_a_step_to_each_version_since_the_first() -> None:
    assert sorted(STEPS) == list(range(2, SCHEMA_VERSION + 1))


def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    file = lay_down(tmp_path / "state")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(ConfigError, match="newer keyd"):
        backup(tmp_path / "state", tmp_path / "backup")
    with pytest.raises(ConfigError, match="newer keyd"):
        open_store(tmp_path / "state", clock=clock)
