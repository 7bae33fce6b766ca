"""Export of the log as JSON lines, and its verification without a daemon. Pure.

Each line is one JSON object and ends in a newline: an entry's canonical JSON, byte for byte, or
``{"checkpoint":NOTE}``. Entries come by index from 0; a checkpoint stands behind the entries it
covers, and the last line is a checkpoint over all of them. After an entry that accepts a loss
checkpoints have another origin (origins.py), which that entry names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from keyd.audit import merkle
from keyd.audit.checkpoint import parse_checkpoint, verify_checkpoint
from keyd.audit.entry import parse_entry
from keyd.audit.note import VerifierKey
from keyd.audit.origins import under_all
from keyd.errors import LogProofError
from keyd.model import AuditRows, Checkpoint, Entry

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
class AcceptedLoss:
    """An entry says that a person accepted a loss. ``index``: of that entry. ``text``: what was
    lost, who accepted it and under which origin the log went on; printable."""

    index: int
    old_origin: str
    origin: str
    intact: int
    text: str


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What a verified export holds."""

    entries: int
    checkpoints: int
    newest: Checkpoint
    losses: tuple[AcceptedLoss, ...] = ()


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
    kept = _verify_note(kept_checkpoint, keys) if kept_checkpoint is not None else None
    size, frontier = 0, ()  # type: int, tuple[bytes, ...]
    newest: Checkpoint | None = None
    count = 0
    origin = ""
    losses: list[AcceptedLoss] = []
    contradiction: LogProofError | None = None
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
            raise LogProofError(f"line {number} is cut off or too long", line=number)
        if line.startswith(_MARK):
            newest = _verify_line(line, number, keys, size, frontier, newest, origin)
            origin = newest.origin
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
        loss = _find_loss(entry)
        if loss is not None:
            if origin not in ("", loss.old_origin):
                raise LogProofError(f"line {number} ends the origin of another log", line=number)
            origin = loss.origin
            losses.append(loss)
        frontier, _ = merkle.append(size, frontier, [merkle.leaf_hash(body)])
        size += 1
        if kept is not None and kept.size == size:
            try:
                _compare(kept, frontier, "the checkpoint you kept")
            except LogProofError as error:
                contradiction = error
    if newest is None or newest.size != size:
        covered = newest.size if newest else 0
        raise LogProofError(f"no checkpoint covers the last {size - covered} entries")
    if kept is not None:
        _check_kept(kept, newest, size, losses, contradiction)
    return ExportReport(size, count, newest, tuple(losses))


def _verify_note(note: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    return verify_checkpoint(note, _known_as(parse_checkpoint(note).origin, keys))


def _known_as(origin: str, keys: Sequence[VerifierKey]) -> tuple[VerifierKey, ...]:
    """The keys, also under a name that one of their logs has after an accepted loss: it is the
    same key pair that signs."""
    later = [key for key in keys if origin.startswith(f"{key.name}/")]
    return (*keys, *under_all(later, [origin]))


def _find_loss(entry: Entry) -> AcceptedLoss | None:
    """What an entry says of an accepted loss that changed the origin; None for other entries."""
    details = entry.fields.get("details")
    if entry.fields.get("action") != "checkpoint-accept" or not isinstance(details, dict):
        return None
    old, new = details.get("old_origin"), details.get("origin")
    if not isinstance(old, str) or not isinstance(new, str):
        return None
    start, end = str(details.get("lost_from")), str(details.get("lost_to"))
    text = (
        f"entry {entry.index}: {entry.fields.get('principal')} accepted that entries of {old} from "
        f"{start} on are lost (known up to {end}); the log goes on as {new}"
    )
    return AcceptedLoss(entry.index, old, new, int(start) if start.isdecimal() else 0, text)


def _check_kept(
    kept: Checkpoint,
    newest: Checkpoint,
    size: int,
    losses: Sequence[AcceptedLoss],
    contradiction: LogProofError | None,
) -> None:
    """The checkpoint somebody kept, after everything else was found sound."""
    loss = next((loss for loss in losses if loss.old_origin == kept.origin), None)
    if loss is not None and kept.size > loss.intact and (contradiction or kept.size > loss.index):
        raise LogProofError(
            f"the checkpoint you kept covers {kept.size} entries of {kept.origin}, some of which "
            f"are lost; {loss.text}",
            hint="find out whether that was right; then keep a checkpoint of the new origin",
            lost_from=loss.intact,
        )
    if contradiction is not None:
        raise contradiction
    if loss is None and kept.origin != newest.origin:
        raise LogProofError(f"the export is of {newest.origin}, not of {kept.origin}")
    if kept.size > size:
        raise LogProofError(
            f"the export ends after {size} entries, the checkpoint you kept covers {kept.size}"
        )


def _verify_line(
    line: bytes,
    number: int,
    keys: Sequence[VerifierKey],
    size: int,
    frontier: Sequence[bytes],
    before: Checkpoint | None,
    origin: str,
) -> Checkpoint:
    try:
        note = json.loads(line)["checkpoint"]
        # One spelling only: no bit of the line may be without meaning.
        if not isinstance(note, str) or checkpoint_line(note) != line:
            raise LogProofError("the checkpoint line is not in its canonical form")
        checkpoint = _verify_note(note, keys)
    except LogProofError as error:
        raise LogProofError(f"line {number}: {error.message}", line=number) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LogProofError(f"line {number} is no checkpoint", line=number) from error
    if checkpoint.size != size:
        raise LogProofError(
            f"line {number} is a checkpoint of {checkpoint.size} entries after {size}", line=number
        )
    if origin not in ("", checkpoint.origin):
        raise LogProofError(f"line {number} is a checkpoint of another log", line=number)
    since = before.size if before else 0
    _compare(
        checkpoint, frontier, f"an entry from {since} to {size - 1} was changed: line {number}"
    )
    return checkpoint


def _compare(checkpoint: Checkpoint, frontier: Sequence[bytes], what: str) -> None:
    if merkle.root_hash(frontier) != checkpoint.root_hash:
        raise LogProofError(f"{what} does not fit the entries before it")
