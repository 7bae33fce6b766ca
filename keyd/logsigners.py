"""Whom the log's checkpoints are signed by: the log key of today; older ones still verify."""

from __future__ import annotations

from keyd.audit.checkpointer import LogSigner
from keyd.audit.log import Log
from keyd.audit.note import VerifierKey
from keyd.logkey import LogKey


class LogSigners:
    """Tells the log of its key. ``origin``: the log's name as it was configured."""

    def __init__(self, log: Log, log_key: LogKey, *, origin: str) -> None:
        self._log = log
        self._log_key = log_key
        self._origin = origin

    def set(self) -> None:
        """Have the log key sign, if there is one by now."""
        public_key = self._log_key.find_public_key()
        if public_key is None:
            return
        older = [
            VerifierKey.from_public_key(self._origin, key)
            for key in self._log_key.public_keys()
            if key != public_key
        ]
        signer = LogSigner(
            VerifierKey.from_public_key(self._origin, public_key), self._log_key.sign
        )
        self._log.checkpointer.set_signers([signer], older)

    async def log_key_made(self) -> None:
        """Have a new log key sign. The first one is also the first that can check the checkpoint
        file outside the state folder."""
        before = self._log.checkpointer.keys
        self.set()
        if not before:
            await self._log.check_outside()
