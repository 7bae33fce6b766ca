"""What the doctor says of disk, database, clock, backups, checkpoints, keys and roots."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyd.audit.checkpoint import checkpoint_text
from keyd.audit.group_commit import CLOCK_SUSPECT
from keyd.audit.note import NoteSignature, VerifierKey, write_note
from keyd.audit.standing import LOSS, RESTORED, Loss
from keyd.cli.server_doctor_backup import Backup, check_backup, find_backup, record_backup
from keyd.cli.server_doctor_daemon import (
    check_disk,
    free_room,
)
from keyd.cli.server_doctor_findings import Finding, must_act
from keyd.cli.server_doctor_keys import (
    check_checkpoints,
    check_clock,
    check_roots,
    check_unbound,
)
from keyd.cli.server_doctor_state import State, check_database
from keyd.content import parse_document
from keyd.content.documents import Root
from keyd.model import (
    Binding,
    Checkpoint,
    Effect,
    InsertKey,
    InsertVersion,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Mark,
    MarkContents,
    Marked,
    MarkState,
    Origin,
    PutMark,
    Scheme,
    VersionState,
)
from keyd.store.store import open_store
from tests.bound_keys import root
from tests.contract.databases import a_draft, commit
from tests.fakes import FakeClock, make_private_key, public_key_of

NOW = datetime(2030, 1, 10, tzinfo=UTC)
ORIGIN = "keyd.example.org/prod"
LOG_KEY = Ed25519PrivateKey.generate()
LOG_VKEY = VerifierKey.from_public_key(ORIGIN, public_key_of(LOG_KEY))


def version(
    key: str, serial: str = "0123", state: VersionState = VersionState.ENABLED
) -> KeyVersion:
    public = public_key_of(make_private_key(KeyAlgorithm.ED25519))
    place = (Origin.GENERATED, serial, os.urandom(16), public, {"tuf": os.urandom(8).hex()})
    return KeyVersion(key, 1, state, *place, NOW - timedelta(days=9), "socket:ci")


def a_key(held: KeyVersion, *bindings: Binding) -> Key:
    kind = (KeyAlgorithm.ED25519, Scheme.ED25519, NOW - timedelta(days=9), "socket:ci")
    return Key(held.key, "main", *kind, frozenset(bindings), versions=(held,), active_version=1)


def note(size: int, root_hash: bytes = b"r" * 32, by: Ed25519PrivateKey = LOG_KEY) -> str:
    text = checkpoint_text(ORIGIN, size, root_hash)
    key = VerifierKey.from_public_key(ORIGIN, public_key_of(by))
    return write_note(text, [NoteSignature(ORIGIN, key.key_id, by.sign(text.encode()))])


def a_state(size: int = 5, covered: int = 5) -> State:
    newest = Checkpoint(ORIGIN, covered, b"r" * 32, note(covered))
    return State(size, NOW - timedelta(hours=1), {}, (), (LOG_VKEY,), newest, {}, (), {})


def only(findings: Sequence[Finding]) -> Finding:
    (found,) = findings
    return found


def checkpoints(state: State, outside: str | None) -> list[Finding]:
    return must_act(list(check_checkpoints(state, outside, NOW, interval_s=1)))


# ------------------------------------------------------------------------- disk, clock


@pytest.mark.parametrize(("free", "files"), [(199, 10), (1000, 0)])
def test_a_disk_that_is_nearly_full_is_found(free: int, files: int) -> None:
    found = check_disk(Path("/state"), free, files, reserve_bytes=100)

    assert "df -h /state" in found.todo


def test_a_disk_with_room_is_well(tmp_path: Path) -> None:
    free_bytes, free_files = free_room(tmp_path)

    assert check_disk(tmp_path, free_bytes, free_files, reserve_bytes=1).is_well
    assert check_disk(tmp_path, 200, -1, reserve_bytes=100).is_well


@pytest.mark.parametrize("runs", [True, False])
def test_a_clock_behind_the_log_is_found(runs: bool) -> None:
    found = check_clock(a_state(), NOW - timedelta(hours=2), runs=runs)

    assert "keyd-server clock accept" in found.todo


def test_a_clock_that_the_daemon_suspects_is_found() -> None:
    state = replace(a_state(), flags={CLOCK_SUSPECT: "the clock jumped"})

    assert check_clock(state, NOW, runs=True).what == "the clock jumped"


def test_a_log_that_rests_for_days_is_no_wonder_while_the_daemon_runs() -> None:
    later = NOW + timedelta(days=3)

    assert check_clock(a_state(), later, runs=True).is_well
    assert not check_clock(a_state(), later, runs=False).is_well


# ------------------------------------------------------------------------- database


def test_what_a_database_holds_is_read_while_its_daemon_runs(tmp_path: Path) -> None:
    held = version("acme/root")
    payload = root(1, held)
    document = parse_document(payload)
    newest = Marked(1, hashlib.sha256(payload).digest(), "root", "tuf", document.expires)
    mark = Mark("acme", "root", newest, MarkState.COMPLETE, NOW, complete=newest)
    store = open_store(tmp_path / "state", clock=FakeClock())
    try:
        key = replace(a_key(held), versions=(), active_version=0)
        put = PutMark(mark, MarkContents(payload, payload), None)
        effects: list[Effect] = [InsertKey(key), InsertVersion(held), put]
        assert commit(store, [(a_draft(), effects)], NOW) == [None]
        assert store.pin_attempts.begin("1234567", "file:/pin")

        finding, state = check_database(tmp_path / "state", ORIGIN)
    finally:
        store.close()

    assert finding.is_well
    assert state is not None
    assert (state.size, state.last_time) == (1, NOW)
    assert [key.name for key in state.keys] == ["acme/root"]
    assert state.roots == {"acme": document}
    assert state.pin_attempts == {"1234567": "file:/pin"}
    assert state.newest_key == held.created_at


def test_a_database_that_is_not_there_is_found(tmp_path: Path) -> None:
    finding, state = check_database(tmp_path, ORIGIN)

    assert state is None
    assert "keyd-server restore" in finding.todo


def test_a_database_that_is_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "keyd.db").write_bytes(b"no database" * 1000)

    finding, state = check_database(tmp_path, ORIGIN)

    assert state is None
    assert "cannot be read" in finding.what


@pytest.mark.parametrize(("step", "todo"), [(-1, "keyd-server migrate"), (1, "install the keyd")])
def test_a_database_of_another_version_is_found(tmp_path: Path, step: int, todo: str) -> None:
    open_store(tmp_path, clock=FakeClock()).close()
    with closing(sqlite3.connect(tmp_path / "keyd.db")) as connection, connection:
        connection.execute("UPDATE schema_version SET version = version + ?", (step,))

    finding, state = check_database(tmp_path, ORIGIN)

    assert state is None
    assert todo in finding.todo


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path, clock=FakeClock())
    for _ in range(200):
        commit(store, [(a_draft(), [])], NOW)
    store.close()
    file = tmp_path / "keyd.db"
    content = bytearray(file.read_bytes())
    for at in range(len(content) // 2, len(content), 512):
        content[at : at + 64] = b"\xff" * 64
    file.write_bytes(content)

    finding, state = check_database(tmp_path, ORIGIN)

    assert state is None
    assert "damaged" in finding.what or "malformed" in finding.what
    assert "restore" in finding.todo or "root" in finding.todo


# ------------------------------------------------------------------------- backup


def test_a_backup_is_remembered_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    assert find_backup(tmp_path) is None
    record_backup(tmp_path, Backup(NOW, 4, "/srv/1.db"))
    record_backup(tmp_path, Backup(NOW, 5, "/srv/2.db"))

    assert find_backup(tmp_path) == Backup(NOW, 5, "/srv/2.db")
    assert [path.name for path in tmp_path.iterdir()] == ["last-backup.json"]


def test_a_record_that_cannot_be_read_counts_as_no_backup(tmp_path: Path) -> None:
    (tmp_path / "last-backup.json").write_text('{"at": "yesterday"}')

    assert find_backup(tmp_path) is None


@pytest.mark.parametrize(
    ("last", "newest_key", "what"),
    [
        (None, None, "no backup"),
        (Backup(NOW - timedelta(days=3), 4, "b"), None, "3 days old and lacks 1"),
        (Backup(NOW - timedelta(hours=3), 5, "b"), NOW - timedelta(hours=2), "keys were made"),
    ],
)
def test_a_backup_that_is_missing_or_too_old_is_found(
    last: Backup | None, newest_key: datetime | None, what: str
) -> None:
    found = check_backup(last, 5, newest_key, NOW)

    assert what in found.what
    assert "keyd-server backup FILE" in found.todo


@pytest.mark.parametrize(("age", "size"), [(timedelta(days=1), 4), (timedelta(days=90), 5)])
def test_a_backup_that_is_fresh_or_lacks_nothing_is_well(age: timedelta, size: int) -> None:
    last = Backup(NOW - age, size, "b")

    assert check_backup(last, 5, NOW - timedelta(days=99), NOW).is_well
    assert check_backup(None, 0, None, NOW).is_well


# ------------------------------------------------------------------------- checkpoints


def test_a_log_with_all_its_checkpoints_is_well() -> None:
    assert checkpoints(a_state(), note(5)) == []
    assert checkpoints(a_state(), note(4)) == []


LOST = Loss("the file covers 9 entries, the log has 5", 9)


@pytest.mark.parametrize(
    ("state", "outside", "what"),
    [
        (a_state(), note(9), "covers 9 entries, the log has 5"),
        (a_state(), note(5, b"x" * 32), "does not fit the first 5"),
        (a_state(), note(5, by=Ed25519PrivateKey.generate()), "not of this log"),
        (a_state(), "no note", "not of this log"),
        (replace(a_state(), flags={LOSS: LOST.write()}), note(5), "covers 9"),
        (replace(a_state(), flags={RESTORED: "{}"}), note(5), "restored from a backup"),
        (a_state(), None, "checkpoint file is not there"),
        (a_state(size=8), note(5), "3 entries have no checkpoint"),
        (replace(a_state(), log_keys=()), None, "no log key"),
    ],
)
def test_a_log_that_is_not_as_its_checkpoints_say_is_found(
    state: State, outside: str | None, what: str
) -> None:
    assert what in only(checkpoints(state, outside)).what


def test_an_accepted_loss_and_entries_of_this_moment_are_well() -> None:
    accepted = replace(LOST, accepted=True)
    busy = replace(a_state(size=8), last_time=NOW - timedelta(seconds=1))

    assert checkpoints(replace(a_state(), flags={LOSS: accepted.write()}), note(5)) == []
    assert checkpoints(busy, note(5)) == []


# ------------------------------------------------------------------------- keys and roots


def test_a_key_that_is_bound_to_nothing_is_found_unless_it_is_destroyed() -> None:
    free, gone = version("acme/free"), version("acme/gone", state=VersionState.DESTROYED)
    bound = a_key(version("acme/root"), Binding("acme", "root"))

    found = check_unbound(replace(a_state(), keys=(a_key(free), a_key(gone), bound)))

    assert found.what == "bound to nothing: acme/free"
    assert "keydctl key update acme/free --bind" in found.todo
    assert check_unbound(replace(a_state(), keys=(a_key(gone), bound))).is_well


def roots(payload: bytes, *here: KeyVersion) -> list[Finding]:
    document = parse_document(payload)
    assert isinstance(document, Root)
    keys = tuple(a_key(held) for held in here)
    return must_act(list(check_roots(replace(a_state(), keys=keys, roots={"acme": document}))))


A, B, C = version("acme/a", "1"), version("acme/b", "2"), version("acme/c", "3")
A2, A3 = version("acme/a2", "1"), version("acme/a3", "1")


@pytest.mark.parametrize(
    ("payload", "here", "what"),
    [
        (root(1, A), (A,), "a single key"),
        (root(1, A, B, threshold=1), (A, B), "signs alone"),
        (root(1, A, A2, threshold=2), (A, A2), "all 2 keys of its root are on one token (1)"),
        (root(1, A, A2, B, threshold=2), (A, A2, B), "2 keys of its root are on one token (1)"),
        (root(1, A, B, threshold=2), (A, B), "without one token (1)"),
    ],
)
def test_a_root_that_hangs_on_one_key_or_token_is_found(
    payload: bytes, here: tuple[KeyVersion, ...], what: str
) -> None:
    found = only(roots(payload, *here))

    assert what in found.what
    assert "keydctl tuf ceremony start DIR --add-key" in found.todo


def test_a_root_of_two_out_of_three_tokens_is_well_wherever_they_are() -> None:
    payload = root(1, A, B, C, threshold=2)

    assert roots(payload, A, B, C) == []
    assert roots(payload, A) == []  # the others are with other people


def test_a_root_that_cannot_be_read_is_found() -> None:
    found = only(must_act(list(check_roots(replace(a_state(), unreadable=("acme",))))))

    assert "keydctl role import acme" in found.todo
