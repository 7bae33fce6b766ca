"""keydctl, forked (tests/forks.py): what it is given to read, and what it printed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import forks

_KEYDCTL = forks.Warm("keydctl")
_TIMEOUT_S = 60.0
_MOST_INPUT_BYTES = 60_000
"""Less than a pipe has room for (pipe(7): 65536), so that it is written before anybody reads."""


class Fork(forks.Fork):
    """One run, begun at once. ``stdin``: all it can read."""

    def __init__(
        self,
        words: Sequence[str | Path],
        env: Mapping[str, str],
        *,
        stdin: bytes = b"",
        folder: Path | None = None,
        largest_file_bytes: int = 0,
    ) -> None:
        assert len(stdin) <= _MOST_INPUT_BYTES
        reads, writes = os.pipe()
        os.write(writes, stdin)
        os.close(writes)
        self._out, self._err = os.memfd_create("out"), os.memfd_create("err")
        try:
            super().__init__(
                _KEYDCTL,
                words,
                env,
                (reads, self._out, self._err),
                folder=folder,
                largest_file_bytes=largest_file_bytes,
            )
        finally:
            os.close(reads)

    def wait(self, timeout_s: float = _TIMEOUT_S) -> tuple[int, str, str]:
        """Exit code, or minus the signal that ended it, and what it printed.

        Raises:
            AssertionError: it did not end, and was killed, or it printed a traceback.
        """
        code = self.ended(timeout_s)
        out, err = self.printed()
        self.close()
        assert code is not None, f"keydctl did not end:\n{out.decode()}\n{err.decode()}"
        assert b"Traceback" not in err, err.decode()
        return code, out.decode(), err.decode()

    def printed(self) -> tuple[bytes, bytes]:
        """Standard output and error so far."""
        return _content(self._out), _content(self._err)

    def close(self) -> None:
        """It is over: killed where it still runs. Again does nothing."""
        super().close()
        for descriptor in (self._out, self._err):
            if descriptor >= 0:
                os.close(descriptor)
        self._out = self._err = -1


def run(
    words: Sequence[str | Path],
    env: Mapping[str, str],
    *,
    stdin: bytes = b"",
    folder: Path | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end, whatever it answers.

    Raises:
        subprocess.TimeoutExpired: it did not end, and was killed.
    """
    fork = Fork(words, env, stdin=stdin, folder=folder)
    try:
        code = fork.ended(timeout_s)
        out, err = fork.printed()
    finally:
        fork.close()
    if code is None:
        raise subprocess.TimeoutExpired(["keydctl", *map(str, words)], timeout_s, out, err)
    return subprocess.CompletedProcess(["keydctl", *map(str, words)], code, out, err)


def run_text(
    words: Sequence[str | Path],
    env: Mapping[str, str],
    *,
    stdin: str = "",
    folder: Path | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """As :func:`run`, in UTF-8."""
    done = run(words, env, stdin=stdin.encode(), folder=folder, timeout_s=timeout_s)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
