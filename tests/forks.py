"""keyd's programs as child processes that are forked from one which has loaded them: the same
program, with arguments, environment, folder, standard input and output, exit code and signals of
its own, less the half second that loading takes. tests/warm.py is what they are forked from.

tests/e2e/test_forks.py compares them with the commands themselves.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 60.0


class Warm:
    """``program``: keydctl or keyd-server. Loaded when the first run is wanted."""

    def __init__(self, program: str) -> None:
        self.program = program
        self._lock = Lock()
        self._control: socket.socket | None = None

    def ask(self, descriptors: list[int]) -> socket.socket:
        """Begin a run; what the four are says tests/warm.py. Where it is reported on."""
        with self._lock:
            if self._control is None:
                self._control = self._start()
        report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [b"run"], [*descriptors, theirs.fileno()])
        report.settimeout(_TIMEOUT_S)
        return report

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", self.program, str(theirs.fileno())],
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
        assert ours.recv(16) == b"warm", f"{self.program} cannot be loaded; standard error says why"
        return ours


class Fork:
    """One run, begun at once. ``streams``: standard input, output and error, as descriptors that
    stay the caller's. ``folder``: where it works, the caller's where there is none.
    ``largest_file_bytes``: it can write no larger file, as on a full disk."""

    def __init__(
        self,
        warm: Warm,
        words: Sequence[str | Path],
        env: Mapping[str, str],
        streams: tuple[int, int, int],
        *,
        folder: Path | None = None,
        largest_file_bytes: int = 0,
    ) -> None:
        request = {
            "words": [str(word) for word in words],
            "env": dict(env),
            "folder": str(folder or Path.cwd()),
            "largest_file_bytes": largest_file_bytes,
        }
        self.returncode: int | None = None
        order = os.memfd_create("request")
        try:
            os.write(order, json.dumps(request).encode())
            os.lseek(order, 0, os.SEEK_SET)
            self._report = warm.ask([order, *streams])
        finally:
            os.close(order)
        pid, (self._pidfd,), _, _ = socket.recv_fds(self._report, 32, 1)
        self.pid = int(pid)
        self._name = f"{warm.program} ({self.pid})"

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens to one that has ended."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        """kill -9, and wait until it does nothing any more; any thread may."""
        self.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([self._pidfd], [], [], _TIMEOUT_S)
        assert ended, f"{self._name} did not end"

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self.ended(0)

    def ended(self, timeout_s: float) -> int | None:
        """As :meth:`poll`, after waiting for the end for so long."""
        if self.returncode is None and select.select([self._report], [], [], timeout_s)[0]:
            # Nothing comes where what it was forked from was killed, and it with that.
            self.returncode = int(self._report.recv(32) or -signal.SIGKILL)
        return self.returncode

    def close(self) -> None:
        """It is over: killed where it still runs. Again does nothing."""
        if self._pidfd < 0:
            return
        if self.returncode is None:
            self.kill()
        self._report.close()
        os.close(self._pidfd)
        self._pidfd = -1
