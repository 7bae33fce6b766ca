"""keyd-server, forked (tests/forks.py): commands to their end, and daemons."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests import forks

_SERVER = forks.Warm("keyd-server")


class ForkedServer(forks.Fork):
    """A daemon; ends and is waited for as subprocess.Popen does. ``output``: where standard output
    and error go."""

    def __init__(
        self, words: Sequence[str | Path], env: Mapping[str, str], output: IO[bytes]
    ) -> None:
        with Path(os.devnull).open("rb") as nothing:
            streams = nothing.fileno(), output.fileno(), output.fileno()
            super().__init__(_SERVER, words, env, streams)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended, and goes on.
        """
        code = self.ended(timeout_s)
        if code is None:
            raise subprocess.TimeoutExpired("keyd-server", timeout_s)
        self.close()
        return code


def run_to_end(
    *words: str | Path, env: Mapping[str, str], timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Any command without input, whatever it answers; stdout and stderr together in ``stdout``."""
    descriptor = os.memfd_create("output")
    with os.fdopen(descriptor, "r+b") as output:
        fork = ForkedServer(words, env, output)
        try:
            code = fork.wait(timeout_s)
        finally:
            fork.close()
        told = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()
    return subprocess.CompletedProcess(["keyd-server", *map(str, words)], code, told)
