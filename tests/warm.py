"""The process that runs of one of keyd's programs are forked from (tests/forks.py): it has loaded
the program, and done nothing else. ``python -m tests.warm PROGRAM DESCRIPTOR``, a socket; it ends,
and what it forked with it, when the other end of that is closed.

One message for each run, with five descriptors: a file with the request in JSON, the run's
standard input, output and error, and a socket to report on. Reported is the pid, with a pidfd
(pidfd_open(2): no other process is ever meant), and at the end the exit code, or minus a signal.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import keyd.cli

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_MODULES = {"keydctl": "keydctl", "keyd-server": "server"}


class Warm:
    """``control``: where requests come from."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reports: dict[int, socket.socket] = {}
        self._woken, wakes = os.pipe()
        for end in (self._woken, wakes):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> dict[str, Any] | None:
        """Returns None at the end; and in a process that was just forked what it has to do."""
        while True:
            ready, _, _ = select.select([self._control.fileno(), self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if self._control.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(self._control, 1, 5)
                if not message:
                    for pid in self._reports:
                        os.kill(pid, signal.SIGKILL)
                    return None
                request = self._fork(descriptors)
                if request is not None:
                    return request

    def _fork(self, descriptors: list[int]) -> dict[str, Any] | None:
        pid = os.fork()
        if not pid:
            return _become(descriptors)
        report = socket.socket(fileno=descriptors.pop())
        for descriptor in descriptors:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(report, [str(pid).encode()], [pidfd])
        os.close(pidfd)
        self._reports[pid] = report
        return None

    def _reap(self) -> None:
        while self._reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._reports.pop(pid) as report:
                try:
                    report.send(str(os.waitstatus_to_exitcode(status)).encode())
                except BrokenPipeError:
                    continue  # nobody waits for it


def _become(descriptors: list[int]) -> dict[str, Any]:
    """Whatever a process has from its parent, as the request wants it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard, descriptor in enumerate(descriptors[1:4]):
        os.dup2(descriptor, standard)
    with os.fdopen(descriptors[0], "rb") as file:
        request: dict[str, Any] = json.load(file)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    if request["largest_file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file_bytes"],) * 2)
    return request


def _loaded(program: str) -> ModuleType:
    """The program's module, with all that its commands load when they are wanted."""
    for module in pkgutil.iter_modules(keyd.cli.__path__):
        if module.name.startswith("server") == (program == "keyd-server"):
            importlib.import_module(f"keyd.cli.{module.name}")
    return sys.modules[f"keyd.cli.{_MODULES[program]}"]


def main() -> None:
    """Load, and serve; what was forked goes on as the program, and ends as Python does."""
    program, descriptor = sys.argv[1:]
    loaded = _loaded(program)
    # A fork of a process with threads may hang.
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    gc.freeze()
    control = socket.socket(fileno=int(descriptor))
    control.send(b"warm")
    request = Warm(control).serve()
    if request is not None:
        sys.argv = [program, *request["words"]]
        loaded.main()


if __name__ == "__main__":
    main()
