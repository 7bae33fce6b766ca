"""Keeping the newest checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from keyd.audit.checkpoint import checkpoint_text, parse_checkpoint
from keyd.audit.note import NoteSignature, write_note
from keyd.client.checkpoints import KeptCheckpoint, default_folder


def a_note(size: int, *, origin: str = "log.example", root: str = "root") -> str:
    text = checkpoint_text(origin, size, hashlib.sha256(root.encode()).digest())
    return write_note(text, [NoteSignature(origin, b"1234", bytes(64))])


@pytest.fixture
def kept(tmp_path: Path) -> KeptCheckpoint:
    return KeptCheckpoint("unix:/run/keyd-server/keyd.sock", tmp_path / "state" / "checkpoints")


def size_of(kept: KeptCheckpoint) -> int | None:
    found = kept.read()
    return found.size if found else None


def test_only_a_larger_checkpoint_of_the_same_log_replaces_the_kept_one(
    kept: KeptCheckpoint,
) -> None:
    sizes = []
    for note in (a_note(5), a_note(9), a_note(7), a_note(50, origin="other.example")):
        # A new process each time: it remembers nothing but the file.
        assert kept.file is not None
        KeptCheckpoint("unix:/run/keyd-server/keyd.sock", kept.file.parent).offer(note)
        sizes.append(size_of(kept))

    assert sizes == [5, 9, 9, 9]


def test_two_roots_for_one_size_are_an_alarm(kept: KeptCheckpoint) -> None:
    kept.offer(a_note(5))
    assert kept.file is not None
    later = KeptCheckpoint("unix:/run/keyd-server/keyd.sock", kept.file.parent)

    later.offer(a_note(5, root="another"))

    assert later.verdict == "inconsistent"
    assert size_of(kept) == 5


def test_files_are_private_and_none_are_left_over(kept: KeptCheckpoint) -> None:
    kept.offer(a_note(5))
    kept.offer(a_note(6))

    assert kept.file is not None
    assert kept.file.stat().st_mode & 0o777 == 0o600
    assert kept.file.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(f.name for f in kept.file.parent.iterdir()) == [".lock", kept.file.name]


def test_two_endpoints_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    one = KeptCheckpoint("dns:a:1", tmp_path)
    other = KeptCheckpoint("dns-a:1", tmp_path)  # the same but for what a file name cannot hold

    one.offer(a_note(5))

    assert other.read() is None


def test_an_endpoint_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    kept = KeptCheckpoint("unix:/../../../etc/passwd", tmp_path)

    assert kept.file is not None
    assert kept.file.parent == tmp_path
    assert not kept.file.name.startswith(".")


@pytest.mark.parametrize("damage", ["", "garbage\n", "log.example\n5\nAAAA\n\n"])
def test_a_damaged_file_counts_as_none_and_is_replaced(kept: KeptCheckpoint, damage: str) -> None:
    assert kept.file is not None
    kept.file.parent.mkdir(parents=True)
    kept.file.write_text(damage)

    before = kept.read()
    kept.offer(a_note(3))

    assert before is None
    assert size_of(kept) == 3


def test_a_note_that_is_no_checkpoint_is_not_kept(kept: KeptCheckpoint) -> None:
    kept.offer("garbage")

    assert kept.read() is None


def test_forgetting_drops_the_file_once(kept: KeptCheckpoint) -> None:
    kept.offer(a_note(9))

    assert kept.forget() is True
    assert kept.forget() is False
    kept.offer(a_note(2))
    assert size_of(kept) == 2


def test_the_folder_follows_the_xdg_variables() -> None:
    state = default_folder({"XDG_STATE_HOME": "/state", "HOME": "/home/a"})
    home = default_folder({"HOME": "/home/a"})

    assert state == Path("/state/keyd/checkpoints")
    assert home == Path("/home/a/.local/state/keyd/checkpoints")


def test_the_next_origin_of_a_log_is_kept_once_the_daemon_told_why(tmp_path: Path) -> None:
    kept = KeptCheckpoint("unix:/run/k.sock", tmp_path)
    kept.offer(a_note(9))
    goes_on = a_note(5, origin="log.example/2-0123abcd")

    kept.offer(goes_on)
    before = kept.read()
    kept.judge("succeeded")
    kept.offer(goes_on)

    after = kept.read()
    assert before is not None
    assert after is not None
    assert (before.origin, before.size) == ("log.example", 9)
    assert (after.origin, after.size) == ("log.example/2-0123abcd", 5)
    assert kept.file is not None
    assert kept.file.with_name(f"{kept.file.name}.lost").read_text() == a_note(9)


def test_an_accepted_loss_is_told_once_however_many_commands_follow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    KeptCheckpoint("unix:/run/k.sock", tmp_path).offer(a_note(9))

    for _ in range(3):  # Commands that bring no checkpoint of the next origin.
        KeptCheckpoint("unix:/run/k.sock", tmp_path).judge("succeeded")
    told = list(caplog.messages)
    later = KeptCheckpoint("unix:/run/k.sock", tmp_path)
    later.judge("succeeded")
    later.offer(a_note(12, origin="log.example/2-0123abcd"))
    KeptCheckpoint("unix:/run/k.sock", tmp_path).judge("succeeded")

    assert len(told) == 1
    assert "accepted" in told[0]
    assert len(caplog.messages) == 2  # The second one is about another loss.


def test_other_bad_verdicts_are_told_every_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    KeptCheckpoint("unix:/run/k.sock", tmp_path).offer(a_note(9))

    for verdict in ("succeeded", "behind", "behind", "inconsistent", "inconsistent"):
        KeptCheckpoint("unix:/run/k.sock", tmp_path).judge(verdict)

    assert len(caplog.messages) == 5


def test_a_daemon_that_is_behind_cannot_have_the_kept_checkpoint_replaced(tmp_path: Path) -> None:
    kept = KeptCheckpoint("unix:/run/k.sock", tmp_path)
    kept.offer(a_note(9))
    kept.judge("behind")

    kept.offer(a_note(50, origin="log.example/2-0123abcd"))

    assert kept.read() == parse_checkpoint(a_note(9))


def test_a_verdict_from_before_the_log_changed_its_name_does_not_count(tmp_path: Path) -> None:
    kept = KeptCheckpoint("unix:/run/k.sock", tmp_path)
    kept.offer(a_note(9))
    kept.judge("same")
    kept.offer(a_note(50, origin="log.example/2-0123abcd"))
    assert kept.read() == parse_checkpoint(a_note(9))

    again = KeptCheckpoint("unix:/run/k.sock", tmp_path)
    again.judge("ahead")
    again.offer(a_note(50, origin="log.example/2-0123abcd"))

    assert again.read() == parse_checkpoint(a_note(50, origin="log.example/2-0123abcd"))
