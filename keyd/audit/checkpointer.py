"""Signs checkpoints while the log grows, keeps them outside the state folder, hands them out.

The log key lies on a token. While that token is away entries go on without checkpoints; how many
may is the log's to say (LogSettings.max_uncheckpointed).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from keyd.audit import merkle
from keyd.audit.checkpoint import checkpoint_text
from keyd.audit.note import NoteSignature, VerifierKey, write_note
from keyd.audit.origins import Origins, under_all
from keyd.durable import sync_folder
from keyd.errors import AuditUnavailableError, KeydError
from keyd.model import AuditRows, Checkpoint, Clock, TreeHead

log = logging.getLogger("keyd.audit")

_JOURNAL_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class LogSigner:
    """A log key; checkpoints carry the log's name, whatever its own is.

    ``sign``: the checkpoint's text -> the note's signature bytes (Ed25519: 64 bytes; ECDSA P-256:
    DER over the text's SHA-256); raises a KeydError while its token is away.
    """

    key: VerifierKey
    sign: Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """``file``: outside the state folder, None for none. A checkpoint is due ``interval_s``
    seconds after the one before or when ``entries`` entries wait for it, whichever is first."""

    origin: str
    file: Path | None
    interval_s: float = 1.0
    entries: int = 1_000
    sign_timeout_s: float = 30.0


class Checkpointer:
    """Runs on the event loop; the log tells it of each commit.

    ``elapsed_s``: seconds on a clock that nobody sets. Log keys may come later and change
    (``set_signers``); with several, each checkpoint carries all their signatures.
    """

    def __init__(
        self,
        rows: AuditRows,
        clock: Clock,
        settings: CheckpointSettings,
        *,
        elapsed_s: Callable[[], float],
        signers: Sequence[LogSigner] = (),
        older_keys: Sequence[VerifierKey] = (),
    ) -> None:
        self._rows = rows
        self._clock = clock
        self._settings = settings
        self._elapsed_s = elapsed_s
        self._origins = Origins(settings.origin)
        self._signers = tuple(signers)
        self._older_keys = tuple(older_keys)
        self._head = TreeHead(0, (), None)
        self._newest: Checkpoint | None = None
        self._signed_at = float("-inf")
        self._journaled_at = float("-inf")
        self._grown = asyncio.Event()
        self._turn = asyncio.Lock()
        self.paused = ""
        """Why nothing is signed: the log is behind a checkpoint of its own. Empty: signing."""
        self.problem = ""
        """Why the newest checkpoint is not as it should be; empty when all is well."""
        self.problem_since: datetime | None = None

    @property
    def origin(self) -> str:
        """The log's name; another one after a loss was accepted."""
        return self._origins.current

    @property
    def origins(self) -> Origins:
        """All names of the log."""
        return self._origins

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """All keys whose checkpoints are this log's: those that sign, and older ones, under each
        of its names."""
        keys = (*(signer.key for signer in self._signers), *self._older_keys)
        return under_all(keys, self._origins.names)

    @property
    def newest(self) -> Checkpoint | None:
        """The newest checkpoint, to hand out."""
        return self._newest

    @property
    def uncheckpointed(self) -> int:
        """Entries that no checkpoint covers."""
        return max(0, self._head.size - (self._newest.size if self._newest else 0))

    def set_signers(
        self, signers: Sequence[LogSigner], older_keys: Sequence[VerifierKey] = ()
    ) -> None:
        """Use these log keys from now on; ``older_keys`` still verify what clients kept."""
        self._signers, self._older_keys = tuple(signers), tuple(older_keys)
        self._grown.set()

    def set_origins(self, origins: Origins) -> None:
        """Sign under this name from now on."""
        self._origins = origins
        self._grown.set()

    def begin(self, head: TreeHead, newest: Checkpoint | None) -> None:
        """Start from what the database holds."""
        self._head, self._newest = head, newest
        self._grown.set()

    def grown(self, head: TreeHead) -> None:
        """A group was committed."""
        self._head = head
        self._grown.set()

    def read_file(self) -> str | None:
        """The note in the file outside the state folder, or None when there is none; blocks."""
        file = self._settings.file
        try:
            return file.read_text(encoding="utf-8") if file is not None else None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self._fail(f"the checkpoint file {file} cannot be read: {error}")
            return None

    async def run(self) -> None:
        """Sign whenever one is due, until cancelled."""
        while True:
            await self._grown.wait()
            self._grown.clear()
            if not self.uncheckpointed or self.paused:
                continue
            wait_s = self._signed_at + self._settings.interval_s - self._elapsed_s()
            if wait_s > 0 and self.uncheckpointed < self._settings.entries:
                await self._wait_for_entries(wait_s)
            try:
                await self.fresh()
            except KeydError as error:
                self._fail(error.message)
                await asyncio.sleep(self._settings.interval_s)
                self._grown.set()

    async def _wait_for_entries(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while self.uncheckpointed < self._settings.entries:
                    await self._grown.wait()
                    self._grown.clear()
        except TimeoutError:
            pass

    async def fresh(self) -> Checkpoint:
        """A checkpoint over all entries there are now, signed now where needed.

        Raises:
            KeydError: the log key's token is away, or the log is behind a checkpoint of its own.
        """
        async with self._turn:
            head, newest = self._head, self._newest
            if newest is not None and newest.size == head.size:
                return newest
            if self.paused:
                raise AuditUnavailableError(f"no checkpoint is signed: {self.paused}")
            checkpoint, partly = await self._sign(head)
            self._signed_at = self._elapsed_s()
            problem = await asyncio.to_thread(self._keep, checkpoint)
            # Handed out only once it is outside, so that no client knows more than the file.
            self._newest = checkpoint
            if problem:
                self._fail(problem)
            elif not partly:
                self._well()
            self._journal(checkpoint)
            return checkpoint

    async def _sign(self, head: TreeHead) -> tuple[Checkpoint, bool]:
        """A checkpoint, and whether one of several keys did not sign it."""
        if not self._signers:
            raise AuditUnavailableError("there is no log key yet", retry_after_s=1.0)
        root = merkle.root_hash(head.frontier)
        origin = self.origin
        text = checkpoint_text(origin, head.size, root)
        signatures: list[NoteSignature] = []
        failure: KeydError | None = None
        for signer in self._signers:
            try:
                async with asyncio.timeout(self._settings.sign_timeout_s):
                    signature = await signer.sign(text.encode())
                key = replace(signer.key, name=origin)
                key.verify(text.encode(), signature)
            except TimeoutError:
                failure = AuditUnavailableError(f"the log key {signer.key.name} did not answer")
            except KeydError as error:
                failure = error
            else:
                signatures.append(NoteSignature(key.name, key.key_id, signature))
        if failure is not None:
            # With two keys, as while one replaces the other, either keeps the log going.
            if not signatures:
                raise failure
            self._fail(failure.message)
        note = write_note(text, signatures)
        return Checkpoint(origin, head.size, root, note), failure is not None

    def _keep(self, checkpoint: Checkpoint) -> str:
        """Write the file, then the database; return what went wrong, if anything."""
        problem = ""
        if self._settings.file is not None:
            try:
                _replace(self._settings.file, checkpoint.note)
            except OSError as error:
                problem = f"the checkpoint file {self._settings.file} cannot be written: {error}"
        try:
            self._rows.save_checkpoint(checkpoint, self._clock.now())
        except AuditUnavailableError as error:
            problem = problem or error.message
        return problem

    def _journal(self, checkpoint: Checkpoint) -> None:
        """Checkpoints leave the machine with its journal too, one a minute."""
        now = self._elapsed_s()
        if now - self._journaled_at >= _JOURNAL_INTERVAL_S:
            self._journaled_at = now
            self.journal(checkpoint)

    def journal(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint to the daemon's own log."""
        log.info("checkpoint", extra={"log_size": checkpoint.size, "checkpoint": checkpoint.note})

    def _fail(self, problem: str) -> None:
        if not self.problem:
            self.problem_since = self._clock.now()
            log.warning("checkpoint problem", extra={"problem": problem})
        self.problem = problem

    def _well(self) -> None:
        if self.problem:
            log.info("checkpoints are signed again")
        self.problem, self.problem_since = "", None


def _replace(file: Path, note: str) -> None:
    """Put the note into the file at once and durably: the old one or the new one, never half."""
    partial = file.with_name(f".{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, note.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(file)
    sync_folder(file.parent)
