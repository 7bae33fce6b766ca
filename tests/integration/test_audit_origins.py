"""A log that lost entries goes on under a new origin, on a real database with restored backups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from keyd.audit.checkpoint import parse_checkpoint, verify_checkpoint
from keyd.audit.entry import parse_entry
from keyd.audit.export import checkpoint_line, export_lines, verify_export
from keyd.audit.log import Log
from keyd.audit.note import NoteSignature, VerifierKey, write_note
from keyd.audit.standing import Verdict
from keyd.errors import CheckpointBehindError, LogProofError
from keyd.model import Checkpoint
from keyd.store.backup import backup, restore
from tests.integration.test_audit_log import CALLER, ORIGIN, Bench, a_draft, lose_entries


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def accept(bench: Bench, state: str = "restored") -> Checkpoint:
    """A person accepts; returns the checkpoint over the acceptance."""
    async with bench.running(state=state) as (log, _):
        assert await log.accept_checkpoint(CALLER, "the disk died") is not None
        return await log.checkpointer.fresh()


def behind(log: Log) -> bool:
    """True while bound keys do not sign."""
    try:
        log.check_signing_allowed(bound=True)
    except CheckpointBehindError:
        return True
    return False


def names(keys: Sequence[VerifierKey]) -> list[str]:
    return [key.name for key in keys]


async def test_the_entry_that_accepts_names_the_lost_range_and_both_origins(bench: Bench) -> None:
    await lose_entries(bench, kept=3, more=4)
    bench.clock.advance(timedelta(hours=2))  # one checkpoint an hour is kept

    async with bench.running(state="restored") as (log, store):
        receipt = await log.accept_checkpoint(CALLER, "the disk died")
        assert receipt is not None
        checkpoint = await log.checkpointer.fresh()

        fields = parse_entry(store.bodies(receipt.index, receipt.index + 1)[0]).fields
        assert fields["action"] == "checkpoint-accept"
        assert fields["alert"] is True
        assert fields["details"] == {
            "old_origin": ORIGIN,
            "origin": checkpoint.origin,
            "lost_from": "3",
            "lost_to": "7",
        }
        assert checkpoint.origin.startswith(f"{ORIGIN}/2-")
        # No checkpoint of the old name covers it, the first of the new one does.
        assert [c.size for c in store.checkpoints() if c.origin == ORIGIN] == [3]
        assert checkpoint.size == receipt.index + 1
        assert parse_checkpoint(bench.file.read_text()).origin == checkpoint.origin


async def test_what_is_accepted_is_told_with_its_range_and_is_the_same_as_the_log_grows(
    bench: Bench,
) -> None:
    await lose_entries(bench, kept=3, more=4)

    async with bench.running(state="restored") as (log, _):
        told = log.describe_loss()
        await log.record(a_draft())

        assert log.describe_loss() == told
        assert told.keys() == {"loss", "lost_from", "lost_to", "origin", "restored"}
        assert "covers 7 entries, the log has 3" in told["loss"]
        assert (told["lost_from"], told["lost_to"], told["origin"]) == ("3", "7", ORIGIN)
        await log.accept_checkpoint(CALLER, "the disk died")
        assert log.describe_loss() == {}


async def test_keys_verify_checkpoints_of_both_names(bench: Bench) -> None:
    note = await lose_entries(bench)
    checkpoint = await accept(bench)

    async with bench.running(state="restored") as (log, _):
        keys = log.checkpointer.keys

    assert names(keys) == [checkpoint.origin, ORIGIN]
    assert verify_checkpoint(note, keys).origin == ORIGIN
    assert verify_checkpoint(checkpoint.note, keys).origin == checkpoint.origin


async def test_a_client_that_kept_what_is_lost_is_told_so_and_stops_nothing(bench: Bench) -> None:
    note = await lose_entries(bench)
    await accept(bench)

    for _ in range(2):
        async with bench.running(state="restored") as (log, _):
            assert await log.note_client_checkpoint(note) is Verdict.SUCCEEDED
            assert not behind(log)


async def test_a_client_that_kept_what_is_still_there_is_told_that(bench: Bench) -> None:
    async with bench.running() as (log, _):
        await log.record_many([(a_draft(), ())] * 2)
        early = (await log.checkpointer.fresh()).note
    await lose_entries(bench)
    await accept(bench)

    async with bench.running(state="restored") as (log, _):
        assert await log.note_client_checkpoint(early) is Verdict.AHEAD
        assert not behind(log)


async def test_a_change_before_the_loss_is_found_although_a_loss_was_accepted(bench: Bench) -> None:
    await lose_entries(bench)
    await accept(bench)

    async with bench.running(state="restored") as (log, _):
        forged = bench.key.note(2, bytes(32))
        assert await log.note_client_checkpoint(forged) is Verdict.INCONSISTENT
        assert behind(log)


async def test_a_larger_loss_than_the_accepted_one_is_said_once_and_keeps_the_origin(
    bench: Bench,
) -> None:
    note = await lose_entries(bench)
    bench.file.unlink()
    checkpoint = await accept(bench)

    async with bench.running(state="restored") as (log, store):
        assert await log.note_client_checkpoint(note) is Verdict.BEHIND
        assert behind(log)
        receipt = await log.accept_checkpoint(CALLER, "as I said")
        assert receipt is not None
        fields = parse_entry(store.bodies(receipt.index, receipt.index + 1)[0]).fields
        assert fields["details"] == {"lost_from": "3", "lost_to": "7"}
        assert not behind(log)
        assert await log.note_client_checkpoint(note) is Verdict.SUCCEEDED
        assert (await log.checkpointer.fresh()).origin == checkpoint.origin


async def test_a_backup_restored_twice_never_gives_two_logs_of_one_name(bench: Bench) -> None:
    await lose_entries(bench)
    first = await accept(bench)
    restore(bench.folder / "backup", bench.folder / "again", bench.clock.now())
    bench.clock.advance(timedelta(seconds=1))

    async with bench.running(state="again") as (log, _):
        # The file outside is of the first acceptance, of which this state knows nothing.
        assert behind(log)
        assert "covers" in log.loss
    second = await accept(bench, state="again")

    assert second.origin != first.origin
    async with bench.running(state="again") as (log, _):
        assert not behind(log)
        assert await log.note_client_checkpoint(first.note) is Verdict.SUCCEEDED
        assert not behind(log)


async def test_losses_can_be_accepted_one_after_another(bench: Bench) -> None:
    note = await lose_entries(bench)
    first = await accept(bench)
    backup(bench.folder / "restored", bench.folder / "later")
    async with bench.running(state="restored") as (log, _):
        await log.record_many([(a_draft(), ())] * 9)
        lost = await log.checkpointer.fresh()
    restore(bench.folder / "later", bench.folder / "third", bench.clock.now())

    second = await accept(bench, state="third")

    assert second.origin.startswith(f"{ORIGIN}/3-")
    async with bench.running(state="third") as (log, store):
        assert await log.note_client_checkpoint(note) is Verdict.SUCCEEDED
        assert await log.note_client_checkpoint(first.note) is Verdict.AHEAD
        assert await log.note_client_checkpoint(lost.note) is Verdict.SUCCEEDED
        await log.record(a_draft())
        await log.checkpointer.fresh()
        report = verify_export(export_lines(store), [bench.key.verifier])
        assert [loss.origin for loss in report.losses] == [first.origin, second.origin]


async def test_an_export_verifies_across_the_loss_with_the_key_kept_before_it(
    bench: Bench,
) -> None:
    async with bench.running() as (log, _):
        await log.record_many([(a_draft(), ())] * 2)
        early = (await log.checkpointer.fresh()).note
    lost = await lose_entries(bench)
    newest = await accept(bench)

    async with bench.running(state="restored") as (_, store):
        lines = list(export_lines(store))

    kept_key = [bench.key.verifier]
    for kept in (None, early, newest.note):
        report = verify_export(lines, kept_key, kept)
        assert report.newest.origin == newest.origin
        (loss,) = report.losses
        assert "socket:ci accepted that entries" in loss.text
    with pytest.raises(LogProofError, match="some of which are lost") as error:
        verify_export(lines, kept_key, lost)
    assert "keep a checkpoint of the new origin" in error.value.hint


async def test_an_export_whose_name_changes_without_an_acceptance_is_refused(bench: Bench) -> None:
    async with bench.running() as (log, store):
        await log.record_many([(a_draft(), ())] * 3)
        await log.checkpointer.fresh()
        lines = list(export_lines(store))
        root = log.proofs.root(3)
    renamed = VerifierKey(f"{ORIGIN}/2-00000000", bench.key.verifier.type, bench.key.verifier.key)
    text = bench.key.note(3, root).partition("\n\n")[0].replace(ORIGIN, renamed.name) + "\n"
    signature = bench.key.private.sign(text.encode())
    note = write_note(text, [NoteSignature(renamed.name, renamed.key_id, signature)])
    with pytest.raises(LogProofError, match="checkpoint of another log"):
        verify_export([*lines, checkpoint_line(note)], [bench.key.verifier])


async def test_where_nothing_is_lost_there_is_nothing_to_accept(bench: Bench) -> None:
    async with bench.running() as (log, _):
        await log.record(a_draft())

        assert await log.accept_checkpoint(CALLER, "to be safe") is None

        assert log.checkpointer.origin == ORIGIN
        assert log.size == 1
