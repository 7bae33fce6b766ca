"""Export of the log as JSON lines, and its verification without a daemon. Pure.

Each line is one JSON object and ends in a newline: an entry's canonical JSON, byte for byte, or
``{"checkpoint":NOTE}``. Entries come by index from 0; a checkpoint stands behind the entries it
covers, and the last line is a checkpoint over all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from keyd.audit import merkle
from keyd.audit.checkpoint import verify_checkpoint
from keyd.audit.entry import parse_entry
from keyd.audit.note import VerifierKey
from keyd.errors import LogProofError
from keyd.model import AuditRows, Checkpoint

MAX_LINE_BYTES = 1_000_000
_RANGE = 1000
_MARK = b'{"checkpoint":'


def checkpoint_line(note: str) -> bytes:
    """A checkpoint's line, with its newline."""
    text = json.dumps({"checkpoint": note}, ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def export_lines(rows: AuditRows) -> Iterator[bytes]:
    """The log up to its newest checkpoint, which the caller has made fresh; blocks.

    Raises:
        LogProofError: no checkpoint was ever signed.
    """
    newest = rows.newest_checkpoint()
    if newest is None:
        raise LogProofError("the log has no checkpoint yet", hint="is the log key's token there?")
    written = 0
    kept = [c for c in rows.checkpoints() if c.size < newest.size]
    for checkpoint in (*kept, newest):
        while written < checkpoint.size:
            bodies = rows.bodies(written, min(written + _RANGE, checkpoint.size))
            if not bodies:
                raise LogProofError(f"the log lacks entry {written}")
            written += len(bodies)
            yield from (body + b"\n" for body in bodies)
        yield checkpoint_line(checkpoint.note)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What a verified export holds."""

    entries: int
    checkpoints: int
    newest: Checkpoint


def verify_export(
    lines: Iterable[bytes],
    keys: Sequence[VerifierKey],
    kept_checkpoint: str | None = None,
) -> ExportReport:
    """Check every byte of an export (lines as a binary file yields them).

    ``kept_checkpoint``: a note somebody kept; with it a log that was cut at a checkpoint, or
    written anew, is found too.

    Raises:
        LogProofError: with the line, or the entries between which something was changed.
    """
    kept = verify_checkpoint(kept_checkpoint, keys) if kept_checkpoint is not None else None
    size, frontier = 0, ()  # type: int, tuple[bytes, ...]
    newest: Checkpoint | None = None
    count = 0
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
            raise LogProofError(f"line {number} is cut off or too long", line=number)
        if line.startswith(_MARK):
            newest = _verify_line(line, number, keys, size, frontier, newest)
            count += 1
            continue
        body = line[:-1]
        try:
            entry = parse_entry(body)
        except LogProofError as error:
            raise LogProofError(f"line {number}: {error.message}", line=number) from error
        if entry.index != size:
            raise LogProofError(
                f"line {number} is entry {entry.index}, entry {size} is expected", line=number
            )
        frontier, _ = merkle.append(size, frontier, [merkle.leaf_hash(body)])
        size += 1
        if kept is not None and kept.size == size:
            _compare(kept, frontier, "the checkpoint you kept")
    if newest is None or newest.size != size:
        covered = newest.size if newest else 0
        raise LogProofError(f"no checkpoint covers the last {size - covered} entries")
    if kept is not None:
        if kept.origin != newest.origin:
            raise LogProofError(f"the export is of {newest.origin}, not of {kept.origin}")
        if kept.size > size:
            raise LogProofError(
                f"the export ends after {size} entries, the checkpoint you kept covers {kept.size}"
            )
    return ExportReport(size, count, newest)


def _verify_line(
    line: bytes,
    number: int,
    keys: Sequence[VerifierKey],
    size: int,
    frontier: Sequence[bytes],
    before: Checkpoint | None,
) -> Checkpoint:
    try:
        note = json.loads(line)["checkpoint"]
        # One spelling only: no bit of the line may be without meaning.
        if not isinstance(note, str) or checkpoint_line(note) != line:
            raise LogProofError("the checkpoint line is not in its canonical form")
        checkpoint = verify_checkpoint(note, keys)
    except LogProofError as error:
        raise LogProofError(f"line {number}: {error.message}", line=number) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LogProofError(f"line {number} is no checkpoint", line=number) from error
    if checkpoint.size != size:
        raise LogProofError(
            f"line {number} is a checkpoint of {checkpoint.size} entries after {size}", line=number
        )
    if before is not None and before.origin != checkpoint.origin:
        raise LogProofError(f"line {number} is a checkpoint of another log", line=number)
    since = before.size if before else 0
    _compare(
        checkpoint, frontier, f"an entry from {since} to {size - 1} was changed: line {number}"
    )
    return checkpoint


def _compare(checkpoint: Checkpoint, frontier: Sequence[bytes], what: str) -> None:
    if merkle.root_hash(frontier) != checkpoint.root_hash:
        raise LogProofError(f"{what} does not fit the entries before it")
