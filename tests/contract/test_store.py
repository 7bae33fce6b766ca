"""What every database under keyd has to hold; today SQLite, later PostgreSQL too."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from keyd.audit import merkle
from keyd.audit.proofs import Proofs
from keyd.errors import (
    AuditUnavailableError,
    ConfigError,
    ConflictError,
    InvalidRequestError,
    KeyExistsError,
)
from keyd.model import (
    Binding,
    Caller,
    Checkpoint,
    DeleteVersion,
    Digest,
    Effect,
    EntryDraft,
    EntryFilter,
    HashAlgorithm,
    InsertKey,
    InsertVersion,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Outcome,
    Principal,
    Scheme,
    SetActive,
    SetFlag,
    SetFreeze,
    SetKeyFields,
    SignatureKey,
    StoreSignature,
    UpdateVersion,
    VersionState,
)
from keyd.store.backup import RESTORED, backup, restore
from keyd.store.schema import SCHEMA_VERSION
from keyd.store.state_folder import DATABASE
from keyd.store.store import Store, open_store
from tests.contract.databases import Factory, Item, a_draft, commit
from tests.fakes import FakeClock


def signed(digest: bytes, who: str = "socket:ci", key: str = "acme/root") -> EntryDraft:
    return a_draft(
        "sign",
        who=who,
        key=key,
        version=1,
        scheme=Scheme.ED25519.value,
        digest=Digest(HashAlgorithm.SHA256, digest),
        signature_sha256=hashlib.sha256(digest).hexdigest(),
        keyid="ab" * 32,
        fingerprint="cd" * 32,
    )


def version(
    key: str = "acme/root", number: int = 1, state: VersionState = VersionState.ENABLED
) -> KeyVersion:
    name = f"{key}/{number}".encode()
    return KeyVersion(
        key,
        number,
        state,
        Origin.GENERATED,
        "0123",
        hashlib.sha256(name).digest()[:16],
        b"" if state is VersionState.PENDING else b"public " + name,
        {"tuf": hashlib.sha256(name).hexdigest()},
        datetime(2030, 1, 1, 1, 2, 3, 456789, tzinfo=UTC),
        "socket:ci",
    )


def a_key(name: str = "acme/root", *versions: KeyVersion, active: int = 0) -> Key:
    return Key(
        name,
        "main",
        KeyAlgorithm.ED25519,
        Scheme.ED25519,
        datetime(2030, 1, 1, tzinfo=UTC),
        "socket:ci",
        frozenset({Binding("acme/*", "root")}),
        {"team": "release"},
        3600,
        active,
        versions,
    )


def names(store: Store) -> list[str]:
    found: Sequence[Key] = store.registry.keys()
    return [key.name for key in found]


def created(name: str = "acme/root") -> list[Effect]:
    return [InsertKey(a_key(name)), InsertVersion(version(name)), SetActive(name, 1, expect=0)]


# ------------------------------------------------------------------------------------ keys


def test_a_key_survives_closing_and_opening(
    database: Factory, tmp_path: Path, clock: FakeClock, store: Store
) -> None:
    commit(store, [(a_draft(), created())])
    expected = a_key("acme/root", version(), active=1)
    assert store.registry.find("acme/root") == expected

    store.close()
    again = database(tmp_path / "state", clock)

    try:
        assert again.registry.keys() == (expected,)
        assert again.registry.find_public_key(b"public acme/root/1") == version()
        assert again.registry.find_public_key(b"") is None
    finally:
        again.close()


def test_two_items_in_conflict_in_one_group_leave_the_first_and_their_neighbours(
    store: Store,
) -> None:
    conflicts = commit(
        store,
        [
            (a_draft(), created("a")),
            (a_draft(), created("a")),
            (a_draft(), created("b")),
            (a_draft(), [SetFlag("half", "done"), DeleteVersion("b", 1)]),
        ],
    )

    assert [type(conflict) for conflict in conflicts] == [
        type(None),
        KeyExistsError,
        type(None),
        ConflictError,
    ]
    assert names(store) == ["a", "b"]
    assert store.get_flag("half") is None
    assert store.head().size == 4


def test_a_public_key_is_registered_once_in_whatever_state(store: Store) -> None:
    commit(store, [(a_draft(), created("a"))])
    destroyed = UpdateVersion("a", 1, VersionState.ENABLED, state=VersionState.DESTROYED)
    assert commit(store, [(a_draft(), [destroyed])]) == [None]
    same = replace(version("b"), public_key=b"public a/1")

    conflict = commit(store, [(a_draft(), [InsertKey(a_key("b")), InsertVersion(same)])])[0]

    assert isinstance(conflict, KeyExistsError)
    assert store.registry.find("b") is None


def test_the_constraints_hold_even_against_a_defect_above_them(store: Store) -> None:
    commit(store, [(a_draft(), [*created("a"), *created("b")])])

    for statement in (
        "UPDATE versions SET public_key = (SELECT public_key FROM versions WHERE key = 'b') "
        "WHERE key = 'a'",
        "UPDATE versions SET object_id = (SELECT object_id FROM versions WHERE key = 'b') "
        "WHERE key = 'a'",
        "UPDATE versions SET state = 'DESTROYABLE'",
        "UPDATE versions SET state = 'DESTROY_SCHEDULED'",
        "UPDATE versions SET public_key = NULL",
        "DELETE FROM keys WHERE name = 'a'",
        "INSERT INTO tree (one, size, frontier) VALUES (2, 0, '')",
    ):
        with pytest.raises(AuditUnavailableError, match="constraint"), store.write() as connection:
            connection.execute(text(statement))


def test_entries_can_be_neither_changed_nor_deleted(store: Store) -> None:
    commit(store, [(a_draft(), ())])

    for statement in ("UPDATE entries SET body = 'x'", "DELETE FROM entries"):
        with pytest.raises(AuditUnavailableError, match="append"), store.write() as connection:
            connection.execute(text(statement))
    assert len(store.bodies(0, 5)) == 1


def test_freezes_and_flags_survive_and_go(
    database: Factory, tmp_path: Path, clock: FakeClock, store: Store
) -> None:
    commit(store, [(a_draft(), created("a"))])
    commit(store, [(a_draft(), [SetFreeze("", True, "me", "stop"), SetFlag("x", "1")])])
    store.close()

    again = database(tmp_path / "state", clock)
    try:
        frozen = again.registry.freeze_on("a")
        assert frozen is not None
        assert (frozen.key, frozen.by, frozen.said) == ("", "me", "stop")
        assert again.get_flag("x") == "1"
        commit(again, [(a_draft(), [SetFreeze("", False, "me", ""), SetFlag("x", None)])])
        assert again.registry.freezes() == ()
        assert again.get_flag("x") is None
    finally:
        again.close()


def test_a_group_that_raises_changes_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.group() as group:
        group.apply([created("a")], datetime(2030, 1, 1, tzinfo=UTC))
        raise RuntimeError("stop")

    assert store.registry.find("a") is None
    assert store.head().size == 0
    assert commit(store, [(a_draft(), created("a"))]) == [None]


NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(1, 2)
STATES = st.sampled_from(VersionState)
EFFECTS: st.SearchStrategy[Effect] = st.one_of(
    st.builds(lambda name: InsertKey(a_key(name)), NAMES),
    st.builds(lambda n, i, s: InsertVersion(version(n, i, s)), NAMES, NUMBERS, STATES),
    st.builds(
        UpdateVersion,
        NAMES,
        NUMBERS,
        expect=STATES,
        state=st.none() | STATES,
        public_key=st.none() | st.sampled_from([b"public x", b"public y"]),
        token_serial=st.none() | st.sampled_from(["0123", "4567"]),
        destroy_after=st.none() | st.just(datetime(2030, 3, 1, tzinfo=UTC)),
        clear_destroy_after=st.booleans(),
    ),
    st.builds(DeleteVersion, NAMES, NUMBERS),
    st.builds(SetActive, NAMES, NUMBERS, expect=st.integers(0, 2)),
    st.builds(
        SetKeyFields,
        NAMES,
        bindings=st.none() | st.just(frozenset({Binding("r", "targets")})),
        labels=st.none() | st.just({}),
        rotation_period_s=st.none() | st.integers(0, 5),
    ),
    st.builds(SetFreeze, NAMES | st.just(""), st.booleans(), st.just("me"), st.just("")),
    st.builds(SetFlag, NAMES, st.none() | st.just("on")),
)


@given(st.lists(st.lists(st.lists(EFFECTS, max_size=4), min_size=1, max_size=4), max_size=6))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_effects_come_the_registry_is_what_the_database_holds(
    database: Factory, tmp_path_factory: pytest.TempPathFactory, groups: list[list[list[Effect]]]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    store = database(folder, FakeClock())
    try:
        for group in groups:
            commit(store, [(a_draft(), effects) for effects in group])
        shown = store.registry.snapshot
    finally:
        store.close()

    again = database(folder, FakeClock())
    try:
        assert again.registry.snapshot == shown
    finally:
        again.close()


# ------------------------------------------------------------------------------------ signatures


async def test_signatures_are_found_by_exact_match_only(store: Store) -> None:
    digest = Digest.of(HashAlgorithm.SHA256, b"m")
    commit(store, [(signed(digest.value), [StoreSignature(b"first")])])
    commit(store, [(signed(digest.value), [StoreSignature(b"second")]), (signed(digest.value), ())])
    wanted = SignatureKey("socket:ci", "acme/root", 1, Scheme.ED25519, digest)
    others = [
        replace(wanted, principal="socket:other"),
        replace(wanted, key="acme/targets"),
        replace(wanted, version=2),
        replace(wanted, scheme=Scheme.ECDSA_P256_SHA256),
        replace(wanted, digest=Digest.of(HashAlgorithm.SHA256, b"n")),
        replace(wanted, digest=Digest(HashAlgorithm.SHA384, digest.value + bytes(16))),
    ]

    found = await store.find_signatures([wanted, *others])

    assert {key: (s.signature, s.log_index) for key, s in found.items()} == {wanted: (b"first", 0)}


async def test_signatures_of_an_earlier_run_are_found_at_once_and_once_all_is_loaded(
    database: Factory, tmp_path: Path, clock: FakeClock, store: Store
) -> None:
    digest = Digest.of(HashAlgorithm.SHA256, b"m")
    commit(store, [(signed(digest.value), [StoreSignature(b"first")])])
    store.close()
    wanted = SignatureKey("socket:ci", "acme/root", 1, Scheme.ED25519, digest)
    other = replace(wanted, digest=Digest.of(HashAlgorithm.SHA256, b"n"))

    again = database(tmp_path / "state", clock)
    try:
        for _ in range(20):
            assert set(await again.find_signatures([wanted, other])) == {wanted}
            await asyncio.sleep(0.01)
    finally:
        again.close()


async def test_ten_thousand_signatures_are_looked_up_at_once(store: Store) -> None:
    digests = [hashlib.sha256(str(n).encode()).digest() for n in range(10_000)]
    commit(store, [(signed(digest), [StoreSignature(digest)]) for digest in digests[::2]])

    found = await store.find_signatures(
        [
            SignatureKey(
                "socket:ci", "acme/root", 1, Scheme.ED25519, Digest(HashAlgorithm.SHA256, d)
            )
            for d in digests
        ]
    )

    assert {key.digest.value: s.signature for key, s in found.items()} == {
        digest: digest for digest in digests[::2]
    }


# ------------------------------------------------------------------------------------ entries


async def all_indexes(store: Store, wanted: EntryFilter, page_size: int = 7) -> list[int]:
    found: list[int] = []
    after: int | None = None
    while True:
        page = await store.list_entries(wanted, page_size=page_size, after=after)
        found += [entry.index for entry in page.entries]
        if page.next_after is None:
            return found
        after = page.next_after


START = datetime(2030, 1, 1, tzinfo=UTC)


def fill(store: Store) -> list[EntryDraft]:
    """60 entries, a minute apart each ten."""
    drafts = [
        replace(
            signed(
                hashlib.sha256(bytes([n % 20])).digest(),
                who=f"socket:{n % 3}",
                key=f"key-{n % 4}",
            ),
            action="sign" if n % 5 else "rotate",
            outcome=Outcome.REFUSED if n % 7 == 0 else Outcome.ALLOWED,
            version=1 + n % 2,
            keyid=f"{n % 4:064x}",
            fingerprint=f"{n % 6:064x}",
            caller=Caller(Principal(f"socket:{n % 3}", "unix"), f"req-{n // 2}"),
        )
        for n in range(60)
    ]
    for tens in range(6):
        items: list[Item] = [(draft, ()) for draft in drafts[tens * 10 : tens * 10 + 10]]
        commit(store, items, START + timedelta(minutes=tens))
    return drafts


DIGEST_3 = hashlib.sha256(bytes([3])).digest()
SIGNATURE_3 = hashlib.sha256(DIGEST_3).hexdigest()
FILTERS: list[tuple[EntryFilter, Callable[[int, EntryDraft], bool]]] = [
    (EntryFilter(), lambda n, d: True),
    (EntryFilter(key="key-2"), lambda n, d: d.key == "key-2"),
    (EntryFilter(key="key-2", version=1), lambda n, d: d.key == "key-2" and d.version == 1),
    (EntryFilter(principal="socket:1"), lambda n, d: n % 3 == 1),
    (EntryFilter(action="rotate"), lambda n, d: d.action == "rotate"),
    (EntryFilter(action="sign"), lambda n, d: d.action == "sign"),
    (EntryFilter(outcome="refused"), lambda n, d: n % 7 == 0),
    (EntryFilter(outcome="allowed"), lambda n, d: n % 7 != 0),
    (EntryFilter(digest=DIGEST_3.hex()), lambda n, d: n % 20 == 3),
    (EntryFilter(digest=DIGEST_3.hex().upper(), principal="socket:2"), lambda n, d: n == 23),
    (EntryFilter(signature_sha256=SIGNATURE_3), lambda n, d: n % 20 == 3),
    (EntryFilter(keyid=f"{1:064x}"), lambda n, d: n % 4 == 1),
    (EntryFilter(fingerprint=f"{1:064x}"), lambda n, d: n % 6 == 1),
    (EntryFilter(request_id="req-4"), lambda n, d: n // 2 == 4),
    (EntryFilter(since=START + timedelta(minutes=2)), lambda n, d: n >= 20),
    (EntryFilter(until=START + timedelta(minutes=2)), lambda n, d: n < 20),
    (
        EntryFilter(since=START + timedelta(seconds=1), until=START + timedelta(minutes=3)),
        lambda n, d: 10 <= n < 30,
    ),
    (EntryFilter(since=START + timedelta(days=1)), lambda n, d: False),
    (EntryFilter(start_index=55), lambda n, d: n >= 55),
    (EntryFilter(key="nobody's"), lambda n, d: False),
]


@pytest.mark.parametrize(("wanted", "matches"), FILTERS, ids=[str(f) for f, _ in FILTERS])
async def test_entries_are_found_by_their_fields_page_by_page(
    store: Store, wanted: EntryFilter, matches: Callable[[int, EntryDraft], bool]
) -> None:
    expected = [n for n, draft in enumerate(fill(store)) if matches(n, draft)]

    assert await all_indexes(store, wanted) == expected
    assert await all_indexes(store, replace(wanted, descending=True)) == expected[::-1]


async def test_times_are_found_too_after_an_accepted_clock_went_back(store: Store) -> None:
    commit(store, [(a_draft(), ())], datetime(2038, 1, 1, tzinfo=UTC))
    commit(store, [(a_draft("clock-accept"), ())], START)
    commit(store, [(a_draft(), ())], START + timedelta(minutes=1))

    found = await all_indexes(store, EntryFilter(since=START + timedelta(seconds=1)))

    assert found == [0, 2]


@pytest.mark.parametrize(
    "wanted",
    [EntryFilter(digest="zz"), EntryFilter(digest="ab"), EntryFilter(signature_sha256="ab" * 31)],
)
async def test_a_hash_that_is_none_is_refused(store: Store, wanted: EntryFilter) -> None:
    with pytest.raises(InvalidRequestError):
        await store.list_entries(wanted)


@pytest.mark.parametrize("size", [0, 10_001, -1])
async def test_a_page_of_no_or_too_many_entries_is_refused(store: Store, size: int) -> None:
    with pytest.raises(InvalidRequestError):
        await store.list_entries(EntryFilter(), page_size=size)


async def test_an_entry_with_text_no_database_can_hold_does_not_stop_its_group(
    store: Store,
) -> None:
    commit(store, [(a_draft(), ()), (a_draft(who="socket:\udc80"), ())])

    assert store.head().size == 2


def test_proofs_over_a_thousand_entries_verify_and_read_few_rows(store: Store) -> None:
    for group in range(5):
        commit(store, [(signed(bytes([group]) * 32), ()) for _ in range(230)])
    leaves = store.leaf_hashes(0, 2000)
    proofs = Proofs(store)
    roots = {n: merkle.root_hash(merkle.append(0, (), leaves[:n])[0]) for n in (1, 255, 700, 1150)}

    for size, root in roots.items():
        assert proofs.root(size) == root
        for index in {0, size // 2, size - 1}:
            proof = proofs.inclusion(index, size)
            merkle.verify_inclusion(leaves[index], index, size, proof, root)
        consistency = proofs.consistency(size, 1150)
        merkle.verify_consistency(size, root, 1150, roots[1150], consistency)
    assert store.nodes(8, 0, 10) == [
        merkle.range_hash(n * 256, n * 256 + 256, _node_of(leaves)) for n in range(4)
    ]


def _node_of(leaves: list[bytes]) -> merkle.NodeLookup:
    def node(level: int, position: int) -> bytes:
        part = leaves[position << level : (position + 1) << level]
        return merkle.root_hash(merkle.append(0, (), part)[0])

    return node


def test_of_each_hour_the_newest_checkpoint_stays(store: Store) -> None:
    for minute in range(0, 150, 10):
        checkpoint = Checkpoint("log", minute, bytes(32), f"note {minute}")
        store.save_checkpoint(checkpoint, START + timedelta(minutes=minute))

    assert [c.size for c in store.checkpoints()] == [50, 110, 140]
    newest = store.newest_checkpoint()
    assert newest is not None
    assert newest.size == 140


def test_a_checkpoint_after_the_clock_went_back_is_still_the_newest(store: Store) -> None:
    store.save_checkpoint(Checkpoint("log", 1, bytes(32), "a"), START)
    store.save_checkpoint(Checkpoint("log", 2, bytes(32), "b"), START - timedelta(days=1))

    newest = store.newest_checkpoint()
    assert newest is not None
    assert newest.size == 2


# ------------------------------------------------------------------------------------ PIN


def test_one_attempt_stands_until_it_is_cleared_and_survives_restarts(
    database: Factory, tmp_path: Path, clock: FakeClock, store: Store
) -> None:
    assert store.pin_attempts.begin("0123", "file:/pin")
    assert not store.pin_attempts.begin("0123", "credential:pin")
    store.close()

    again = database(tmp_path / "state", clock)
    try:
        assert not again.pin_attempts.begin("0123", "file:/pin")
        assert again.pin_attempts.find("0123") == "file:/pin"
        assert again.pin_attempts.find("4567") is None
        again.pin_attempts.clear("0123")
        assert again.pin_attempts.find("0123") is None
        assert again.pin_attempts.begin("0123", "file:/pin")
    finally:
        again.close()


def test_of_many_hosts_at_once_one_may_try_the_pin(store: Store) -> None:
    tries: list[bool] = []
    threads = [
        threading.Thread(target=lambda: tries.append(store.pin_attempts.begin("0123", "file:/pin")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert sorted(tries) == [False] * 7 + [True]


# ------------------------------------------------------------------------------------ SQLite's own


def test_a_second_daemon_on_the_same_folder_is_refused_and_told_who_has_it(
    tmp_path: Path, clock: FakeClock
) -> None:
    store = open_store(tmp_path, clock=clock)
    try:
        with pytest.raises(ConfigError, match=f"already used by pid {os.getpid()}") as refused:
            open_store(tmp_path, clock=clock)
    finally:
        store.close()

    assert refused.value.facts["pid"] == str(os.getpid())
    open_store(tmp_path, clock=clock).close()


def test_the_lock_dies_with_its_daemon(tmp_path: Path, clock: FakeClock) -> None:
    program = (
        "import sys, pathlib\n"
        "from keyd.store.state_folder import StateLock\n"
        "lock = StateLock.acquire(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"already used by pid {child.pid}"):
            open_store(tmp_path, clock=clock)
        child.kill()
        child.wait(timeout=10)
        open_store(tmp_path, clock=clock).close()
    finally:
        child.kill()
        child.communicate(timeout=10)


def test_only_the_owner_can_read_the_database(tmp_path: Path, clock: FakeClock) -> None:
    open_store(tmp_path / "state", clock=clock).close()

    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / DATABASE).stat().st_mode & 0o777 == 0o600


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE keys ADD COLUMN extra TEXT"))


def test_a_migration_runs_once_and_puts_a_copy_beside_it_first(
    tmp_path: Path, clock: FakeClock
) -> None:
    store = open_store(tmp_path, clock=clock)
    commit(store, [(a_draft(), created())])
    store.close()
    newer = {SCHEMA_VERSION + 1: add_column}

    for _ in range(2):
        store = open_store(tmp_path, clock=clock, steps=newer)
        with store.write() as connection:
            assert connection.execute(text("SELECT extra FROM keys")).all() == [(None,)]
        store.close()

    copies = list(tmp_path.glob(f"{DATABASE}.before-schema-{SCHEMA_VERSION + 1}.*"))
    assert len(copies) == 1
    assert copies[0].stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copies[0])) as copy:
        assert copy.execute("SELECT version FROM schema_version").fetchone() == (SCHEMA_VERSION,)
        assert copy.execute("SELECT name FROM keys").fetchall() == [("acme/root",)]


def test_a_step_that_fails_leaves_the_database_as_it_was(tmp_path: Path, clock: FakeClock) -> None:
    open_store(tmp_path, clock=clock).close()

    def broken(connection: Connection) -> None:
        add_column(connection)
        connection.execute(text("SELECT nothing"))

    with pytest.raises(ConfigError, match="cannot open"):
        open_store(tmp_path, clock=clock, steps={SCHEMA_VERSION + 1: broken})

    store = open_store(tmp_path, clock=clock)
    with pytest.raises(AuditUnavailableError), store.write() as connection:
        connection.execute(text("SELECT extra FROM keys"))
    store.close()


def test_a_database_of_a_newer_keyd_is_refused_and_left_alone(
    tmp_path: Path, clock: FakeClock
) -> None:
    open_store(tmp_path, clock=clock, steps={SCHEMA_VERSION + 1: add_column}).close()
    before = (tmp_path / DATABASE).read_bytes()

    with pytest.raises(ConfigError, match="newer keyd"):
        open_store(tmp_path, clock=clock)

    assert (tmp_path / DATABASE).read_bytes() == before


def test_a_file_that_is_no_database_of_keyd_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError):
        open_store(tmp_path, clock=clock)

    (tmp_path / DATABASE).unlink()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        other.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(ConfigError, match="not keyd's"):
        open_store(tmp_path, clock=clock)


def test_a_backup_of_a_running_daemon_restores_with_a_mark(
    tmp_path: Path, clock: FakeClock
) -> None:
    store = open_store(tmp_path / "old", clock=clock)
    try:
        commit(store, [(a_draft(), created()), (a_draft(), ())])
        assert backup(tmp_path / "old", tmp_path / "backup") == 2
        commit(store, [(a_draft(), created("later"))])
    finally:
        store.close()
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backup", "old"]

    assert restore(tmp_path / "backup", tmp_path / "new", clock.now()) == 2

    restored = open_store(tmp_path / "new", clock=clock)
    try:
        assert names(restored) == ["acme/root"]
        assert restored.head().size == 2
        flag = json.loads(restored.get_flag(RESTORED) or "null")
        assert flag == {"at": clock.now().isoformat(), "size": 2}
    finally:
        restored.close()


def test_a_backup_of_a_stopped_daemon_works_too(tmp_path: Path, clock: FakeClock) -> None:
    store = open_store(tmp_path / "old", clock=clock)
    commit(store, [(a_draft(), created())])
    store.close()

    assert backup(tmp_path / "old", tmp_path / "backup") == 1


def test_a_backup_never_replaces_a_file(tmp_path: Path, clock: FakeClock) -> None:
    open_store(tmp_path / "old", clock=clock).close()
    (tmp_path / "backup").write_text("precious")

    with pytest.raises(ConfigError, match="exists already"):
        backup(tmp_path / "old", tmp_path / "backup")

    assert (tmp_path / "backup").read_text() == "precious"


def test_a_restore_into_a_used_folder_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    store = open_store(tmp_path / "old", clock=clock)
    backup(tmp_path / "old", tmp_path / "backup")
    with pytest.raises(ConfigError, match="already used by pid"):
        restore(tmp_path / "backup", tmp_path / "old", clock.now())
    store.close()

    with pytest.raises(ConfigError, match="not empty"):
        restore(tmp_path / "backup", tmp_path / "old", clock.now())


def test_a_damaged_backup_is_refused_and_leaves_the_folder_empty(
    tmp_path: Path, clock: FakeClock
) -> None:
    store = open_store(tmp_path / "old", clock=clock)
    commit(store, [(signed(bytes([n]) * 32), ()) for n in range(200)])
    store.close()
    backup(tmp_path / "old", tmp_path / "backup")
    whole = (tmp_path / "backup").read_bytes()

    for damaged in (whole[: len(whole) // 2], b"", b"x" * 5000, whole[:8192] + bytes(4096)):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ConfigError):
            restore(tmp_path / "damaged", tmp_path / "new", clock.now())

    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").glob("*.db*"))
