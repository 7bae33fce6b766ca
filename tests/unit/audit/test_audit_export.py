"""An export is checked byte by byte, and against a kept checkpoint for what it leaves out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyd.audit import merkle
from keyd.audit.checkpoint import checkpoint_text
from keyd.audit.entry import entry_body
from keyd.audit.export import checkpoint_line, verify_export
from keyd.audit.note import NoteSignature, VerifierKey, write_note
from keyd.errors import LogProofError
from keyd.model import Caller, EntryDraft, Outcome, Principal

ORIGIN = "log.example"
PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
KEY = VerifierKey.from_public_key(
    ORIGIN, PRIVATE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)


def bodies(count: int, said: str = "") -> list[bytes]:
    time = datetime(2030, 1, 1, tzinfo=UTC)
    caller = Caller(Principal("socket:ci", "unix"), "r")
    draft = EntryDraft("sign", Outcome.ALLOWED, caller, said=said)
    return [entry_body(index, time, draft) for index in range(count)]


def note_over(entries: list[bytes]) -> str:
    frontier, _ = merkle.append(0, (), [merkle.leaf_hash(body) for body in entries])
    text = checkpoint_text(ORIGIN, len(entries), merkle.root_hash(frontier))
    return write_note(text, [NoteSignature(ORIGIN, KEY.key_id, PRIVATE.sign(text.encode()))])


def export(entries: list[bytes], *checkpoints_at: int) -> bytes:
    lines = b""
    for index in range(len(entries) + 1):
        if index in checkpoints_at:
            lines += checkpoint_line(note_over(entries[:index]))
        if index < len(entries):
            lines += entries[index] + b"\n"
    return lines


def lines_of_file(data: bytes) -> list[bytes]:
    """As a binary file yields them: split at newlines only."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def test_a_sound_export_verifies_and_says_what_it_holds() -> None:
    report = verify_export(lines_of_file(export(bodies(5), 2, 5)), [KEY])

    assert (report.entries, report.checkpoints, report.newest.size) == (5, 2, 5)


def test_every_flipped_bit_of_an_export_is_found() -> None:
    data = export(bodies(3), 2, 3)
    verify_export(lines_of_file(data), [KEY])

    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(LogProofError):
                verify_export(lines_of_file(bytes(flipped)), [KEY])


def test_a_missing_a_doubled_and_a_swapped_line_are_found() -> None:
    lines = lines_of_file(export(bodies(6), 3, 6))

    for number in range(len(lines)):
        # Without a checkpoint in the middle the log is still whole.
        if not lines[number].startswith(b'{"checkpoint"') or number == len(lines) - 1:
            with pytest.raises(LogProofError):
                verify_export(lines[:number] + lines[number + 1 :], [KEY])
        if number + 1 < len(lines):
            swapped = [*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]
            with pytest.raises(LogProofError):
                verify_export(swapped, [KEY])
        if not lines[number].startswith(b'{"checkpoint"'):
            with pytest.raises(LogProofError):
                verify_export([*lines[: number + 1], *lines[number:]], [KEY])


def test_an_export_cut_anywhere_is_found_against_a_kept_checkpoint() -> None:
    entries = bodies(6)
    data = export(entries, 2, 4, 6)
    kept = note_over(entries)

    verify_export(lines_of_file(data), [KEY], kept)
    for end in range(len(data)):
        with pytest.raises(LogProofError):
            verify_export(lines_of_file(data[:end]), [KEY], kept)


def test_an_export_cut_at_a_checkpoint_is_only_found_with_a_kept_one() -> None:
    entries = bodies(6)
    cut = lines_of_file(export(entries, 2, 4, 6))[:6]

    assert verify_export(cut, [KEY]).entries == 4
    with pytest.raises(LogProofError, match="checkpoint you kept covers 6"):
        verify_export(cut, [KEY], note_over(entries))


def test_a_log_written_anew_is_found_against_a_kept_checkpoint() -> None:
    forged = bodies(6, said="forged")

    verify_export(lines_of_file(export(forged, 6)), [KEY])
    with pytest.raises(LogProofError, match="you kept does not fit"):
        verify_export(lines_of_file(export(forged, 6)), [KEY], note_over(bodies(3)))


def test_entries_without_a_checkpoint_over_them_are_not_taken_for_proven() -> None:
    with pytest.raises(LogProofError, match="no checkpoint covers the last 2 entries"):
        verify_export(lines_of_file(export(bodies(4), 2)), [KEY])


def test_a_checkpoint_of_another_key_is_refused() -> None:
    other = ed25519.Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
    spki = other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    with pytest.raises(LogProofError, match="line 4"):
        verify_export(
            lines_of_file(export(bodies(3), 3)), [VerifierKey.from_public_key(ORIGIN, spki)]
        )
