"""The log on a real database: groups, faults of the disk, checkpoints, losses and the clock."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyd.audit import merkle
from keyd.audit.checkpoint import checkpoint_text, verify_checkpoint
from keyd.audit.checkpointer import Checkpointer, CheckpointSettings, LogSigner
from keyd.audit.entry import parse_entry
from keyd.audit.export import export_lines, verify_export
from keyd.audit.log import Log, LogSettings
from keyd.audit.note import NoteSignature, VerifierKey, write_note
from keyd.audit.standing import Verdict
from keyd.errors import (
    AuditUnavailableError,
    CheckpointBehindError,
    ClockError,
    DeviceGoneError,
    KeyExistsError,
    LogProofError,
)
from keyd.model import (
    AuditGroup,
    AuditRows,
    Caller,
    Checkpoint,
    EntryDraft,
    InsertKey,
    Key,
    KeyAlgorithm,
    Outcome,
    Principal,
    Receipt,
    Scheme,
    StoreSignature,
    TreeHead,
)
from keyd.store.backup import backup, restore
from keyd.store.store import Store, open_store
from tests.fakes import FakeClock
from tests.waiting import eventually

ORIGIN = "keyd.example/log"
CALLER = Caller(Principal("socket:ci", "unix"), "req-1")


@dataclass
class LogKey:
    """A log key on a token that can be away."""

    private: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)
    away: bool = False
    signed: int = 0

    @property
    def verifier(self) -> VerifierKey:
        public = self.private.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return VerifierKey.from_public_key(ORIGIN, spki)

    @property
    def signer(self) -> LogSigner:
        return LogSigner(self.verifier, self._sign)

    async def _sign(self, message: bytes) -> bytes:
        if self.away:
            raise DeviceGoneError("the log key's token is away")
        self.signed += 1
        return self.private.sign(message)

    def note(self, size: int, root: bytes) -> str:
        message = checkpoint_text(ORIGIN, size, root)
        signature = self.private.sign(message.encode())
        return write_note(message, [NoteSignature(ORIGIN, self.verifier.key_id, signature)])


@dataclass
class Bench:
    """One daemon's log on a folder, to be opened again and again."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    key: LogKey = field(default_factory=LogKey)
    settings: LogSettings = field(
        default_factory=lambda: LogSettings(probe_interval_s=0.05, refusal_interval_s=0.2)
    )
    interval_s: float = 0.01
    entries: int = 1_000
    elapsed_s: Callable[[], float] = lambda: 0.0

    @property
    def file(self) -> Path:
        return self.folder / "outside" / "checkpoint"

    @asynccontextmanager
    async def running(
        self, rows: Callable[[Store], AuditRows] = lambda store: store, state: str = "state"
    ) -> AsyncIterator[tuple[Log, Store]]:
        self.file.parent.mkdir(exist_ok=True)
        store = open_store(self.folder / state, clock=self.clock)
        try:
            seen = rows(store)
            log = Log(
                seen,
                self.clock,
                Checkpointer(
                    seen,
                    self.clock,
                    CheckpointSettings(ORIGIN, self.file, self.interval_s, self.entries),
                    elapsed_s=asyncio.get_running_loop().time,
                    signers=[self.key.signer],
                ),
                self.settings,
                elapsed_s=self.elapsed_s,
            )
            await log.start()
            try:
                yield log, store
            finally:
                await log.stop()
                check_whole(store)
        finally:
            store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def check_whole(store: Store) -> None:
    """Every entry is in the tree, at its place."""
    head = store.head()
    bodies = store.bodies(0, head.size + 10)
    frontier, _ = merkle.append(0, (), [merkle.leaf_hash(body) for body in bodies])
    assert frontier == head.frontier
    assert [parse_entry(body).index for body in bodies] == list(range(head.size))


def a_draft(action: str = "sign", **fields: str) -> EntryDraft:
    return EntryDraft(action, Outcome.ALLOWED, CALLER, **fields)  # type: ignore[arg-type]


def a_key(name: str) -> Key:
    time = datetime(2030, 1, 1, tzinfo=UTC)
    return Key(name, "main", KeyAlgorithm.ED25519, Scheme.ED25519, time, "me")


def actions(store: Store) -> list[object]:
    return [parse_entry(body).fields["action"] for body in store.bodies(0, 10_000)]


# ------------------------------------------------------------------------------------ groups


async def test_each_caller_gets_the_place_of_its_own_entry(bench: Bench) -> None:
    async with bench.running() as (log, store):
        receipts = await asyncio.gather(*(log.record(a_draft(said=str(n))) for n in range(300)))

        for number, receipt in enumerate(receipts):
            entry = parse_entry(store.bodies(receipt.index, receipt.index + 1)[0])
            assert entry.fields["said"] == str(number)


async def test_more_items_than_a_group_holds_keep_their_order(bench: Bench) -> None:
    async with bench.running() as (log, _):
        drafts = [a_draft(said=str(n)) for n in range(4_500)]

        results = await log.record_many([(draft, ()) for draft in drafts])

        indexes = [r.index for r in results if isinstance(r, Receipt)]
        assert indexes == list(range(4_500))
        assert log.size == 4_500


async def test_one_items_conflict_becomes_its_refusal_and_its_neighbours_go_on(
    bench: Bench,
) -> None:
    async with bench.running() as (log, store):
        results = await log.record_many(
            [
                (a_draft("create", key="a"), [InsertKey(a_key("a"))]),
                (
                    a_draft("create", key="a", signature_sha256="ab" * 32),
                    [InsertKey(a_key("a")), StoreSignature(b"never leaves")],
                ),
                (a_draft("create", key="b"), [InsertKey(a_key("b"))]),
            ]
        )

        assert [type(result) for result in results] == [Receipt, KeyExistsError, Receipt]
        refusal = parse_entry(store.bodies(1, 2)[0]).fields
        assert refusal["outcome"] == "refused"
        assert refusal["reason_code"] == "KEY_EXISTS"
        assert refusal["principal"] == "socket:ci"
        assert "signature_sha256" not in refusal
        with pytest.raises(KeyExistsError):
            await log.record(a_draft("create", key="b"), [InsertKey(a_key("b"))])


async def test_a_caller_that_gave_up_leaves_its_entry(bench: Bench) -> None:
    async with bench.running() as (log, store):
        waiting = asyncio.create_task(log.record(a_draft(said="gone")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        await log.record(a_draft())

        assert parse_entry(store.bodies(0, 1)[0]).fields["said"] == "gone"


async def test_a_tail_wakes_for_each_new_entry(bench: Bench) -> None:
    async with bench.running() as (log, _):
        tail = asyncio.create_task(log.wait_beyond(0))
        await asyncio.sleep(0)

        await log.record(a_draft())

        assert await asyncio.wait_for(tail, 5) == 1


# ------------------------------------------------------------------------------------ faults


async def test_a_full_disk_stops_signing_and_the_log_recovers_by_itself(bench: Bench) -> None:
    async with bench.running() as (log, store):
        await log.record(a_draft())
        await log.checkpointer.fresh()

        with full_disk(room_bytes=4_096):
            with pytest.raises(AuditUnavailableError):
                await log.record_many([(a_draft(said="x" * 900), ())] * 1500)
            for _ in range(3):
                await asyncio.sleep(0.1)
                with pytest.raises(AuditUnavailableError, match="cannot be written since"):
                    log.check_signing_allowed(bound=False)
            with pytest.raises(AuditUnavailableError):
                await log.record_many([(a_draft(said="x" * 900), ())] * 1500)
            assert log.problems()
            assert log.size == 1

        await eventually(lambda: not log.problems())
        receipt = await log.record(a_draft())
        assert receipt.index == 2
        recovery = parse_entry(store.bodies(1, 2)[0]).fields
        assert recovery["action"] == "recovery"
        assert "not written since" in str(recovery["message"])


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond that size; Python ignores the signal, so a write fails
    as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class LostCommit:
    """Rows whose next commit happens, but whose answer is lost."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lose = False

    @contextmanager
    def group(self) -> Iterator[AuditGroup]:
        with self._store.group() as group:
            yield group
        if self.lose:
            self.lose = False
            raise AuditUnavailableError("the answer of the commit was lost")

    def head(self) -> TreeHead:
        return self._store.head()

    def bodies(self, start: int, end: int) -> list[bytes]:
        return self._store.bodies(start, end)

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        return self._store.leaf_hashes(start, end)

    def nodes(self, level: int, start: int, end: int) -> list[bytes]:
        return self._store.nodes(level, start, end)

    def newest_checkpoint(self) -> Checkpoint | None:
        return self._store.newest_checkpoint()

    def save_checkpoint(self, checkpoint: Checkpoint, now: datetime) -> None:
        self._store.save_checkpoint(checkpoint, now)

    def checkpoints(self) -> list[Checkpoint]:
        return self._store.checkpoints()

    def get_flag(self, name: str) -> str | None:
        return self._store.get_flag(name)

    def free_bytes(self) -> int:
        return self._store.free_bytes()


async def test_a_commit_whose_answer_is_lost_withholds_and_reads_the_head_again(
    bench: Bench,
) -> None:
    lost: list[LostCommit] = []

    def losing(store: Store) -> AuditRows:
        lost.append(LostCommit(store))
        return lost[0]

    async with bench.running(losing) as (log, store):
        await log.record(a_draft())
        lost[0].lose = True

        with pytest.raises(AuditUnavailableError, match="lost"):
            await log.record(a_draft(said="withheld"), [InsertKey(a_key("a"))])

        await eventually(lambda: not log.problems())
        receipt = await log.record(a_draft())
        assert actions(store) == ["sign", "sign", "recovery", "sign"]
        assert receipt.index == 3


async def test_refusals_are_not_written_when_the_disk_is_nearly_full(bench: Bench) -> None:
    bench.settings = LogSettings(reserve_bytes=1 << 62)
    async with bench.running() as (log, store):
        await log.refuse(refusal())
        await log.record(a_draft())

        assert actions(store) == ["sign"]
        assert log.refusals.dropped == 1


def refusal() -> EntryDraft:
    return EntryDraft("sign", Outcome.REFUSED, CALLER, reason_code="POLICY_DENIED")


async def test_a_thousand_refusals_become_two_entries(bench: Bench) -> None:
    async with bench.running() as (log, store):
        for _ in range(1000):
            await log.refuse(refusal())
        await log.stop()

        counts = [parse_entry(body).fields.get("count", 1) for body in store.bodies(0, 10)]
        assert sum(int(str(count)) for count in counts) == 1000
        assert len(counts) <= 4


# ------------------------------------------------------------------------------------ checkpoints


async def test_checkpoints_follow_the_log_and_stand_outside_the_state_folder(
    bench: Bench,
) -> None:
    async with bench.running() as (log, store):
        await log.record_many([(a_draft(), ())] * 5)

        await eventually(lambda: log.uncheckpointed == 0)

        newest = log.checkpointer.newest
        assert newest is not None
        checked = verify_checkpoint(bench.file.read_text(), [bench.key.verifier])
        assert (checked.size, checked.root_hash) == (5, log.proofs.root(5))
        assert newest.note == bench.file.read_text()
        assert store.newest_checkpoint() == newest


async def test_checkpoints_come_at_most_once_an_interval(bench: Bench) -> None:
    bench.interval_s = 0.5
    async with bench.running() as (log, _):
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - begun < 0.9:
            await log.record(a_draft())

        assert 1 <= bench.key.signed <= 2


async def test_many_entries_do_not_wait_for_the_interval(bench: Bench) -> None:
    bench.interval_s, bench.entries = 3600.0, 100
    async with bench.running() as (log, _):
        await log.record(a_draft())
        await eventually(lambda: bench.key.signed == 1)

        await log.record_many([(a_draft(), ())] * 100)
        await eventually(lambda: log.uncheckpointed == 0)

        assert bench.key.signed == 2


async def test_a_log_key_that_is_away_is_said_and_signing_stops_only_after_the_limit(
    bench: Bench,
) -> None:
    bench.settings = LogSettings(max_uncheckpointed=10)
    bench.key.away = True
    async with bench.running() as (log, _):
        await log.record_many([(a_draft(), ())] * 10)
        await eventually(lambda: "token is away" in log.checkpointer.problem)
        log.check_signing_allowed(bound=True)
        assert "10 entries without one" in log.problems()[0]

        await log.record(a_draft())
        with pytest.raises(AuditUnavailableError, match="11 entries have no checkpoint"):
            log.check_signing_allowed(bound=False)

        bench.key.away = False
        await eventually(lambda: log.uncheckpointed == 0)
        log.check_signing_allowed(bound=True)
        await eventually(lambda: not log.problems())


async def test_while_one_log_key_replaces_the_other_both_sign(bench: Bench) -> None:
    successor = LogKey()
    async with bench.running() as (log, _):
        log.checkpointer.set_signers([bench.key.signer, successor.signer])
        await log.record(a_draft())
        await eventually(lambda: log.uncheckpointed == 0)

        note = bench.file.read_text()
        for key in (bench.key, successor):
            assert verify_checkpoint(note, [key.verifier]).size == 1


async def test_an_export_of_the_log_verifies(bench: Bench, tmp_path: Path) -> None:
    async with bench.running() as (log, store):
        await log.record_many([(a_draft(said=str(n)), ()) for n in range(2500)])
        kept = (await log.checkpointer.fresh()).note
        await log.record(a_draft())
        await log.checkpointer.fresh()

        report = verify_export(export_lines(store), [bench.key.verifier], kept)

        assert report.entries == 2501


# ------------------------------------------------------------------------------------ losses


async def lose_entries(bench: Bench, kept: int = 3, more: int = 4) -> str:
    """A log of kept + more entries goes back to ``kept``; returns a client's last note."""
    async with bench.running() as (log, _):
        await log.record_many([(a_draft(), ())] * kept)
        await log.checkpointer.fresh()
    backup(bench.folder / "state", bench.folder / "backup")
    async with bench.running() as (log, _):
        await log.record_many([(a_draft(said="lost"), ())] * more)
        note = (await log.checkpointer.fresh()).note
    restore(bench.folder / "backup", bench.folder / "restored", bench.clock.now())
    return note


async def test_a_restored_log_stops_bound_keys_until_a_person_accepts(bench: Bench) -> None:
    note = await lose_entries(bench)

    async with bench.running(state="restored") as (log, store):
        log.check_signing_allowed(bound=False)
        with pytest.raises(CheckpointBehindError, match="covers 7 entries, the log has 3") as e:
            log.check_signing_allowed(bound=True)
        assert "checkpoint accept" in e.value.hint
        assert actions(store)[3:] == ["checkpoint-alert"]
        # What contradicts a checkpoint of ours is not signed before a person knows.
        assert verify_checkpoint(bench.file.read_text(), [bench.key.verifier]).size == 7

    async with bench.running(state="restored") as (log, store):
        with pytest.raises(CheckpointBehindError):
            log.check_signing_allowed(bound=True)
        await log.accept_checkpoint(CALLER, "disk lost")
        log.check_signing_allowed(bound=True)
        await eventually(lambda: log.uncheckpointed == 0)
        # Clients still hold checkpoints of what was lost: known, so nothing stops again.
        await log.record_many([(a_draft(), ())] * 20)
        assert await log.note_client_checkpoint(note) is Verdict.SUCCEEDED
        log.check_signing_allowed(bound=True)
    async with bench.running(state="restored") as (log, _):
        log.check_signing_allowed(bound=True)


async def test_a_restored_log_without_a_file_outside_is_told_by_its_client(bench: Bench) -> None:
    note = await lose_entries(bench)
    bench.file.unlink()

    async with bench.running(state="restored") as (log, _):
        with pytest.raises(CheckpointBehindError, match="restored from a backup"):
            log.check_signing_allowed(bound=True)
        await log.accept_checkpoint(CALLER)
        log.check_signing_allowed(bound=True)

        assert await log.note_client_checkpoint(note) is Verdict.BEHIND

        with pytest.raises(CheckpointBehindError, match="a client kept"):
            log.check_signing_allowed(bound=True)


async def test_what_clients_send_that_is_not_ours_stops_nothing(bench: Bench) -> None:
    async with bench.running() as (log, store):
        await log.record(a_draft())
        foreign = LogKey().note(99, bytes(32))

        assert await log.note_client_checkpoint(foreign) is Verdict.FOREIGN
        assert await log.note_client_checkpoint("rubbish") is Verdict.FOREIGN
        log.check_signing_allowed(bound=True)
        assert actions(store) == ["sign"]


async def test_a_checkpoint_with_another_root_is_an_alert_once(bench: Bench) -> None:
    async with bench.running() as (log, store):
        await log.record_many([(a_draft(), ())] * 3)
        forged = bench.key.note(2, bytes(32))

        for _ in range(3):
            assert await log.note_client_checkpoint(forged) is Verdict.INCONSISTENT

        with pytest.raises(CheckpointBehindError, match="does not fit the first 2"):
            log.check_signing_allowed(bound=True)
        assert actions(store).count("checkpoint-alert") == 1


async def test_a_clients_older_checkpoint_is_fine(bench: Bench) -> None:
    async with bench.running() as (log, _):
        await log.record(a_draft())
        old = (await log.checkpointer.fresh()).note
        assert await log.note_client_checkpoint(old) is Verdict.SAME
        await log.record(a_draft())
        await log.checkpointer.fresh()

        assert await log.note_client_checkpoint(old) is Verdict.AHEAD
        log.check_signing_allowed(bound=True)


async def test_a_new_database_under_an_old_checkpoint_file_is_noticed(bench: Bench) -> None:
    async with bench.running() as (log, _):
        await log.record_many([(a_draft(), ())] * 3)
        await log.checkpointer.fresh()
    bench.key = LogKey()

    async with bench.running(state="empty") as (log, _):
        with pytest.raises(CheckpointBehindError, match="is not of this log"):
            log.check_signing_allowed(bound=True)


async def test_no_checkpoint_no_export(bench: Bench) -> None:
    bench.key.away = True
    async with bench.running() as (log, store):
        await log.record(a_draft())

        with pytest.raises(LogProofError, match="no checkpoint yet"):
            list(export_lines(store))


# ------------------------------------------------------------------------------------ clock


async def test_a_clock_set_back_stops_what_depends_on_time_until_accepted(bench: Bench) -> None:
    async with bench.running() as (log, store):
        await log.record(a_draft())
        log.check_clock()
        bench.clock.advance(timedelta(hours=-1))

        await log.record(a_draft())

        with pytest.raises(ClockError, match="behind the newest entry") as e:
            log.check_clock()
        assert "clock accept" in e.value.hint
        log.check_signing_allowed(bound=True)
        entries = [parse_entry(body).fields for body in store.bodies(0, 3)]
        assert entries[1]["action"] == "clock-alert"
        assert entries[2]["time"] == entries[0]["time"]
        assert entries[2]["clock"] == "2030-01-02T02:04:05.000000Z"

    async with bench.running() as (log, store):
        with pytest.raises(ClockError):
            log.check_clock()
        receipt = await log.accept_clock(CALLER)
        log.check_clock()
        assert receipt.time == bench.clock.now()
        assert (await log.record(a_draft())).time == bench.clock.now()


async def test_a_clock_put_ahead_between_two_runs_stays_suspect_over_restarts(
    bench: Bench,
) -> None:
    async with bench.running() as (log, _):
        await log.record(a_draft("start"))
    bench.clock.advance(timedelta(days=8))

    for _ in range(2):
        async with bench.running() as (log, _):
            await log.record(a_draft("start"))
            with pytest.raises(ClockError, match="over a day"):
                log.check_clock()
    assert actions_of(bench).count("clock-alert") == 1


def actions_of(bench: Bench) -> list[object]:
    store = open_store(bench.folder / "state", clock=bench.clock)
    try:
        return actions(store)
    finally:
        store.close()
