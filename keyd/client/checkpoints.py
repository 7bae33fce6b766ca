"""The newest checkpoint of each daemon, kept by its clients.

A daemon whose log was cut, or set back with an old backup, cannot know it by itself: it is behind a
checkpoint somebody kept. So every client keeps the newest one it was given in
``$XDG_STATE_HOME/keyd/checkpoints/`` (files of mode 0600), and shows it to the daemon once for each
connection.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from keyd.audit.checkpoint import parse_checkpoint
from keyd.audit.origins import base_of
from keyd.durable import replacing
from keyd.errors import LogProofError
from keyd.model import Checkpoint

log = logging.getLogger(__name__)

_MAX_NOTE_BYTES = 64 * 1024
_BAD = {
    "behind": "its log is shorter than a checkpoint of its own: a restored backup, or entries "
    "were cut off",
    "inconsistent": "its log is not the one it signed a checkpoint of: entries were changed",
    "succeeded": "entries of its log were lost, as with a restored backup, and a person accepted "
    "that; the log goes on under a new origin (who and why: keydctl audit list --action "
    "checkpoint-accept)",
    "foreign": "it does not know the log of the kept checkpoint: another daemon is at this "
    "endpoint, or it was set up anew (then: keydctl audit checkpoint --forget)",
}


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where checkpoints are kept for this user."""
    state = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME', '~')}/.local/state"
    return Path(state).expanduser() / "keyd" / "checkpoints"


class KeptCheckpoint:
    """The kept checkpoint of one endpoint.

    Never raises over its own files: a client that cannot keep checkpoints still signs.
    ``verdict`` is what the daemon said about it: empty before it was asked, else same, ahead,
    behind, inconsistent, succeeded or foreign.
    """

    def __init__(self, target: str, folder: Path | None) -> None:
        """``target``: the endpoint. ``folder`` None: nothing is kept."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", target).strip("-.")[-80:]
        name = f"{readable}-{hashlib.sha256(target.encode()).hexdigest()[:12]}"
        self.file = folder / name if folder else None
        self.verdict = ""
        self._target = target
        self._newest = -1
        self._offered: set[str] = set()

    def read(self) -> Checkpoint | None:
        """The kept checkpoint, or None; a damaged file counts as none."""
        if self.file is None:
            return None
        try:
            return parse_checkpoint(self.file.read_bytes()[:_MAX_NOTE_BYTES].decode())
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, LogProofError) as e:
            log.debug("cannot read the kept checkpoint %s: %s", self.file, e)
            return None

    def offer(self, note: str) -> None:
        """Keep a checkpoint when it is larger than the kept one of the same log.

        One under the log's next origin takes its place once the daemon said how it stands to the
        kept one; where that is about lost entries the old one stays beside it, as NAME.lost.
        """
        if self.file is None or not note:
            return
        try:
            given = parse_checkpoint(note)
            self._offered.add(given.origin)
            if given.size <= self._newest:
                return
            with self._locked(self.file.parent):
                kept = self.read()
                if kept is None or self._goes_on(kept, given):
                    _replace(self.file, note)
                elif (kept.origin, kept.size) == (given.origin, given.size) and (
                    kept.root_hash != given.root_hash
                ):
                    self.judge("inconsistent")
            self._newest = given.size
        except (OSError, LogProofError) as e:
            log.debug("cannot keep a checkpoint of %s: %s", self._target, e)

    def _goes_on(self, kept: Checkpoint, given: Checkpoint) -> bool:
        """True for a larger one of the same name; for one of the log's next name, when the daemon
        said under it how it stands to the kept one.

        A verdict from before its log changed the name says nothing of what was lost: the kept one
        has to be shown again, on the next connection."""
        if kept.origin == given.origin:
            return given.size > kept.size
        told = self.verdict == "succeeded" or (
            self.verdict in ("same", "ahead") and kept.origin not in self._offered
        )
        return told and base_of(kept.origin) == base_of(given.origin)

    def forget(self) -> bool:
        """Drop the kept checkpoint, after a daemon was set up anew; False when there was none."""
        self._newest = -1
        if self.file is None or not self.file.exists():
            return False
        self.file.unlink()
        return True

    def judge(self, verdict: str) -> None:
        """Remember what the daemon said about the kept checkpoint, and warn when it is bad."""
        self.verdict = verdict
        self._newest = -1  # what was not kept before may be now
        if verdict in _BAD and not (verdict == "succeeded" and self._was_told()):
            log.warning("the daemon at %s (%s): %s", self._target, verdict, _BAD[verdict])

    def _was_told(self) -> bool:
        """True when this user was told of the accepted loss before; else remember it.

        Many commands may pass until one brings a checkpoint of the next origin. The note of what
        is lost is kept beside the file: it says that a person was warned, and is evidence."""
        try:
            kept = self.read()
            if self.file is None or kept is None:
                return False
            lost = self.file.with_name(f"{self.file.name}.lost")
            with self._locked(self.file.parent):
                if lost.is_file() and lost.read_bytes() == kept.note.encode():
                    return True
                _replace(lost, kept.note)
        except OSError as e:
            log.debug("cannot keep the lost checkpoint of %s: %s", self._target, e)
        return False

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Two processes that compare and replace at once could bring the smaller one back.
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _replace(file: Path, note: str) -> None:
    with replacing(file, prefix=".new-") as new:
        new.write(note.encode())
