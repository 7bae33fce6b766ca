"""The programs of a bench as forks of one process that has loaded them: less the time that loading
takes, they are what ``python -m tests.yubikey.process`` and ``...worker`` are, each with standard
streams, environment and namespaces of its own. There are hundreds of them in a run of the tests.

``python -m tests.yubikey.warm FD`` is that process. It serves over a socket, ends when the other
end is closed, and is started when the first program is wanted.
"""

from __future__ import annotations

import atexit
import gc
import importlib
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

_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 60.0
_LOADED = (
    "tests.yubikey.process",
    "tests.yubikey.worker",
    "tests.yubikey.by_pcsc",
    "tests.yubikey.by_pkcs11",
    "tests.yubikey.by_yubikit",
)
"""None of them has touched PC/SC then, which reads its environment once per process."""


class Fork:
    """One of these programs, begun at once, with the few methods of subprocess.Popen that a test
    needs. ``module``: of tests.yubikey, its main() is called. ``streams``: descriptors of its
    standard input, output and error."""

    def __init__(
        self, module: str, words: Sequence[str], env: Mapping[str, str], streams: Sequence[int]
    ) -> None:
        request = json.dumps({"module": module, "words": list(words), "env": dict(env)})
        order = os.memfd_create("request")
        try:
            os.write(order, request.encode())
            os.lseek(order, 0, os.SEEK_SET)
            self._report = _WARM.ask([order, *streams])
        finally:
            os.close(order)
        self._report.settimeout(_TIMEOUT_S)
        pid, (self._pidfd,), _, _ = socket.recv_fds(self._report, 32, 1)
        self.pid = int(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or minus a signal; None while it runs."""
        return self._code if self._code is not None else self._ended(0.0)

    def wait(self, timeout_s: float) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        code = self._code if self._code is not None else self._ended(timeout_s)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout_s)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """To this process and never to another, also when it has ended."""
        if self._code is None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                self._ended(_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, within_s: float) -> int | None:
        ready, _, _ = select.select([self._report], [], [], within_s)
        if ready:
            # Nothing is read when the process that forked it was killed: so was all it forked.
            self._code = int(self._report.recv(32) or -signal.SIGKILL)
            self._report.close()
            os.close(self._pidfd)
        return self._code


class _Warm:
    """This process's side."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._control: socket.socket | None = None

    def ask(self, descriptors: list[int]) -> socket.socket:
        """Begin a program; where it is reported on."""
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
                [sys.executable, "-P", "-m", "tests.yubikey.warm", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

        def end() -> None:
            ours.close()
            process.wait(_TIMEOUT_S)

        atexit.register(end)
        ours.settimeout(_TIMEOUT_S)
        assert ours.recv(16) == b"warm", "the bench cannot be loaded; standard error says why"
        return ours


_WARM = _Warm()


# ------------------------------------------------------------- from here on: the warm process


def _serve(control: socket.socket) -> list[int] | None:
    """Fork whatever is asked for. Returns None at the end, and in a process that was just forked
    the descriptors that it was given."""
    reports: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), *reports], [], [])
        for pidfd in reports.keys() & set(ready):
            pid, report = reports.pop(pidfd)
            _, status = os.waitpid(pid, 0)
            os.close(pidfd)
            with report:
                try:
                    report.send(str(os.waitstatus_to_exitcode(status)).encode())
                except BrokenPipeError:
                    continue  # nobody waits for it
        if control.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 16, 5)
        if not message:
            # What was forked ends by itself: its standard input does too.
            return None
        pid = os.fork()
        if not pid:
            return descriptors
        report = socket.socket(fileno=descriptors.pop())
        for descriptor in descriptors:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(report, [str(pid).encode()], [pidfd])
        reports[pidfd] = pid, report


def main() -> int:
    """Load all, serve, and become what was asked for."""
    for name in _LOADED:
        importlib.import_module(name)
    # A fork of a process with threads may hang.
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    gc.freeze()
    # Ctrl-C reaches the whole group: the test ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    control.send(b"warm")
    descriptors = _serve(control)
    if descriptors is None:
        return 0
    with os.fdopen(descriptors[0], "rb") as file:
        request = json.load(file)
    for standard, descriptor in enumerate(descriptors[1:4]):
        os.dup2(descriptor, standard)
    control.detach()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [request["module"], *request["words"]]
    code: int = importlib.import_module(f"tests.yubikey.{request['module']}").main()
    return code


if __name__ == "__main__":
    sys.exit(main())
