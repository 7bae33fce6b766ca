"""keydctl as child processes that are forked from one which has loaded it: the same program, with
arguments, environment, folder, standard input and output, exit code and signals of its own, less
the half second that loading takes. Tests run it hundreds of times, and kill it dozens of times.

tests/e2e/test_keydctl_forks.py compares it with the command itself.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 60.0
_MOST_INPUT_BYTES = 60_000
"""Less than a pipe has room for (pipe(7): 65536), so that it is written before anybody reads."""


class Fork:
    """One run of keydctl, begun at once. ``folder``: where it works, the caller's where there is
    none. ``stdin``: all it can read. ``largest_file_bytes``: it can write no larger file, as on a
    full disk."""

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
        request = {
            "words": [str(word) for word in words],
            "env": dict(env),
            "folder": str(folder or Path.cwd()),
            "largest_file_bytes": largest_file_bytes,
        }
        order = os.memfd_create("request")
        os.write(order, json.dumps(request).encode())
        os.lseek(order, 0, os.SEEK_SET)
        reads, writes = os.pipe()
        os.write(writes, stdin)
        os.close(writes)
        self._out, self._err = os.memfd_create("out"), os.memfd_create("err")
        try:
            self._report = _WARM.ask([order, reads, self._out, self._err])
        finally:
            os.close(order)
            os.close(reads)
        self._report.settimeout(_TIMEOUT_S)
        pid, (self._pidfd,), _, _ = socket.recv_fds(self._report, 32, 1)
        self.pid = int(pid)
        self._code: int | None = None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, and wait until it does nothing any more; any thread may."""
        signal.pidfd_send_signal(self._pidfd, number)
        ended, _, _ = select.select([self._pidfd], [], [], _TIMEOUT_S)
        assert ended, f"keydctl ({self.pid}) did not end"

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

    def ended(self, timeout_s: float) -> int | None:
        """Its exit code; None when it did not end in time."""
        if self._code is None:
            until = time.monotonic() + timeout_s
            ready, _, _ = select.select([self._report], [], [], max(0.0, until - time.monotonic()))
            self._code = int(self._report.recv(32)) if ready else None
        return self._code

    def printed(self) -> tuple[bytes, bytes]:
        """Standard output and error so far."""
        out, err = (_content(file) for file in (self._out, self._err))
        return out, err

    def close(self) -> None:
        """It is over: killed where it still runs. Again does nothing."""
        if self._pidfd < 0:
            return
        if self._code is None:
            self.kill()
        self._report.close()
        for descriptor in (self._out, self._err, self._pidfd):
            os.close(descriptor)
        self._pidfd = -1


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


class _Warm:
    """The process that they are forked from, started when the first one is wanted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._control: socket.socket | None = None

    def ask(self, descriptors: list[int]) -> socket.socket:
        """Begin a run; what the four are says tests/keydctl_warm.py. Where it is reported on."""
        with self._lock:
            if self._control is None:
                self._control = self._start()
        report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [b"run"], [*descriptors, theirs.fileno()])
        return report

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.keydctl_warm", str(theirs.fileno())],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

        def end() -> None:
            ours.close()
            process.wait(_TIMEOUT_S)

        atexit.register(end)
        ours.settimeout(_TIMEOUT_S)
        assert ours.recv(16) == b"warm", "keydctl cannot be loaded; standard error says why"
        return ours


_WARM = _Warm()
