"""keydctl as child processes that are forked from one which has loaded it: the same program, less
the half second that loading takes. Where a test kills it forty times that adds up."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "keyd.cli.keydctl",
        "keyd.cli.trustdelegations",
        "keyd.cli.trustimages",
        "keyd.cli.trustkeys",
        "keyd.cli.trustmigrate",
        "keyd.cli.trusttargets",
        "keyd.client",
    ]
)
_TIMEOUT_S = 60.0


class Fork:
    """One run, begun at once. ``folder``: where its output goes. LARGEST_FILE_BYTES in ``env``:
    it can write no larger one, as on a full disk."""

    def __init__(self, folder: Path, words: tuple[str, ...], env: Mapping[str, str]) -> None:
        self._output = folder / "forked.out", folder / "forked.err"
        self._process = _FORKS.Process(target=_run, args=(words, dict(env), self._output))
        self._process.start()

    def kill(self) -> None:
        """kill -9, and wait until it does nothing any more; any thread may."""
        pid = self._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + _TIMEOUT_S
        while _lives(pid):
            assert time.monotonic() < until, f"keydctl ({pid}) did not die"
            time.sleep(0.001)

    def wait(self) -> tuple[int, str, str]:
        """Exit code, or minus the signal that ended it, and what it printed."""
        self._process.join(_TIMEOUT_S)
        code = self._process.exitcode
        self._process.kill()
        self._process.join(_TIMEOUT_S)
        self._process.close()
        out, err = (file.read_text() for file in self._output)
        assert code is not None, f"keydctl did not end:\n{out}\n{err}"
        assert "Traceback" not in err, err
        return code, out, err


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _run(words: tuple[str, ...], env: dict[str, str], output: tuple[Path, Path]) -> None:
    os.environ.clear()
    os.environ.update(env)
    largest = os.environ.pop("LARGEST_FILE_BYTES", "")
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    for descriptor, file in zip((1, 2), output, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    from keyd.cli.keydctl import run

    sys.exit(run(words))
