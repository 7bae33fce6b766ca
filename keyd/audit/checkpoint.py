"""Checkpoints: signed tree heads (C2SP tlog-checkpoint). Pure.

The signed text is ``origin\\nsize\\nbase64(root)\\n``: the log's name, the number of entries in
decimal, the RFC 6962 root. keyd writes no extension lines and accepts none, so that a checkpoint
means one thing only.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from keyd.audit.note import Note, VerifierKey, check_key_name
from keyd.errors import LogProofError
from keyd.model import Checkpoint

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


def checkpoint_text(origin: str, size: int, root_hash: bytes) -> str:
    """The text a checkpoint's signatures cover."""
    check_key_name(origin)
    return f"{origin}\n{size}\n{base64.b64encode(root_hash).decode()}\n"


def parse_checkpoint(note: str) -> Checkpoint:
    """Read a checkpoint WITHOUT verifying its signatures.

    Raises:
        LogProofError: it is malformed.
    """
    return _from_note(Note.parse(note), note)


def verify_checkpoint(note: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Read a checkpoint that at least one of the keys signed, in the name of its origin.

    Raises:
        LogProofError: malformed, not signed by a known key, or a signature that does not verify.
    """
    parsed = Note.parse(note)
    checkpoint = _from_note(parsed, note)
    for key in parsed.verify(keys):
        if key.name != checkpoint.origin:
            raise LogProofError(f"a key of {key.name} signed for the log {checkpoint.origin}")
    return checkpoint


def _from_note(parsed: Note, note: str) -> Checkpoint:
    lines = parsed.text.split("\n")
    if len(lines) != 4 or not _SIZE.fullmatch(lines[1]):
        raise LogProofError("the note is no checkpoint: origin, size and root hash are expected")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except ValueError as error:
        raise LogProofError("the checkpoint's root hash is malformed") from error
    checkpoint = Checkpoint(lines[0], int(lines[1]), root, note)
    if len(root) != 32 or checkpoint_text(lines[0], int(lines[1]), root) != parsed.text:
        raise LogProofError("the checkpoint is not in its canonical form")
    return checkpoint
