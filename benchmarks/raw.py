"""The yardsticks: raw_pkcs11.c, compiled and run against a SoftHSM token of its own."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from keyd.cli.softhsm_token import create_token, find_softhsm
from keyd.model import Pin

_SOURCE = Path(__file__).with_name("raw_pkcs11.c")
_TIMEOUT_S = 60.0
_PIN = Pin("bench-1234")


@dataclass(frozen=True, slots=True)
class Rate:
    """Operations a second, and where they were timed one by one, their latency in microseconds.
    ``count``: operations in all, where that is of interest."""

    per_s: float
    p50_us: float | None = None
    p99_us: float | None = None
    count: int = 0


class RawLoop:
    """The compiled loop and its token, in one folder."""

    def __init__(self, folder: Path) -> None:
        """Compile it and make the token; takes under a second."""
        folder.mkdir(parents=True, exist_ok=True)
        self._binary = folder / "raw_pkcs11"
        subprocess.run(
            ["cc", "-O2", "-o", str(self._binary), str(_SOURCE), "-ldl"],
            check=True,
            timeout=_TIMEOUT_S,
        )
        (folder / "tokens").mkdir(mode=0o700)
        self._conf = folder / "softhsm2.conf"
        self._conf.write_text(
            f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n"
            "log.level = ERROR\n"
        )
        self._module = find_softhsm()
        self._slot = create_token(self._module, self._conf, "bench", Pin("bench-so-pin"), _PIN)

    def run(self, processes: int, seconds: float) -> Rate:
        """Sign in that many processes at once; the rate is their sum, the latency the worst's."""
        running = [self._start(seconds) for _ in range(processes)]
        try:
            for process in running:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            results = [process.communicate(timeout=_TIMEOUT_S)[0].split() for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait(_TIMEOUT_S)
        return Rate(
            sum(int(count) / float(took) for count, took, _, _ in results),
            max(float(p50) for _, _, p50, _ in results),
            max(float(p99) for _, _, _, p99 in results),
        )

    def _start(self, seconds: float) -> subprocess.Popen[str]:
        """Start one and wait until it is logged in: SoftHSM does not like two at that moment."""
        process = subprocess.Popen(
            [str(self._binary), str(self._module), str(self._slot), str(seconds)],
            env={**os.environ, "SOFTHSM2_CONF": str(self._conf)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{_PIN.reveal()}\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != "ready":
            process.kill()
            process.wait(_TIMEOUT_S)
            raise RuntimeError("raw_pkcs11 did not start")
        time.sleep(0.05)
        return process
