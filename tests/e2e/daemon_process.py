"""`keyd-server dev` as a child process, for tests and benchmarks that want the real thing.

Readiness comes through NOTIFY_SOCKET, as systemd would learn it; output goes to a file, never to a
pipe that somebody has to read to its end.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.server_forks import ForkedServer

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


class DaemonProcess:
    """One daemon under ``folder``; may be killed and started again, ends with the block."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        command: Sequence[str] = ("dev",),
        env: dict[str, str] | None = None,
        forked: bool = False,
    ) -> None:
        """``arguments`` are added to ``keyd-server dev --dir FOLDER``. With another ``command``
        they follow that, and ``folder`` only keeps output and readiness. ``forked``: from a process
        that has loaded keyd-server (tests/forks.py), for stages that only want a daemon there."""
        self.folder = folder
        self.socket = folder / "run" / "keyd.sock"
        self.output = folder.parent / f"{folder.name}.output"
        self._arguments = [*command, *(["--dir", str(folder)] if command == ("dev",) else [])]
        self._arguments += arguments
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | ForkedServer | None = None
        self._is_forked = forked

    @property
    def endpoint(self) -> str:
        """As clients take it."""
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int:
        """Of the daemon's process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def __enter__(self) -> DaemonProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, *, wait: bool = True) -> float:
        """Start it; with ``wait`` return the seconds until it said READY=1."""
        assert self._process is None, "already started"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A path of its own: sun_path has room for 107 bytes only.
        with tempfile.TemporaryDirectory(prefix="keyd-") as short:
            address = f"{short}/notify"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.bind(address)
                notify.settimeout(0.1)
                began = time.monotonic()
                with self.output.open("ab") as output:
                    self._process = self._begin(
                        output, {**os.environ, "NOTIFY_SOCKET": address, **self._env}
                    )
                if wait:
                    self._await_ready(notify, began + START_TIMEOUT_S)
                return time.monotonic() - began

    def _begin(
        self, output: IO[bytes], env: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | ForkedServer:
        if self._is_forked:
            return ForkedServer(self._arguments, env, output)
        return subprocess.Popen(
            [sys.executable, "-m", "keyd.cli.server", *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
        )

    def _await_ready(self, notify: socket.socket, deadline: float) -> None:
        assert self._process is not None
        while True:
            try:
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
            except TimeoutError:
                pass
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                what = "ended" if ended else "was not ready in time"
                raise AssertionError(f"keyd-server {what}:\n{self.tail()}")

    def tail(self, size: int = 4000) -> str:
        """The end of what it printed."""
        return self.output.read_text(errors="replace")[-size:] if self.output.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def stop(self) -> int:
        """SIGTERM, and its exit code; killed when it takes too long."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"keyd-server did not end:\n{self.tail()}") from None
        self._process = None
        return code

    def hosts(self) -> list[int]:
        """Process ids of its token hosts."""
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        pids = [int(pid) for file in children for pid in file.read_text().split()]
        return [pid for pid in pids if b"keyd.device.host" in _command_line(pid)]

    def waited_s(self) -> float:
        """How long its main thread has waited for a processor that others used (proc(5))."""
        schedule = Path(f"/proc/{self.pid}/schedstat").read_text().split()
        return int(schedule[1]) / 1e9

    def resident_bytes(self) -> int:
        """Memory of the daemon and its hosts (VmRSS)."""
        return sum(_resident_bytes(pid) for pid in (self.pid, *self.hosts()))


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
