"""keydctl as a child process, talking to one daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyd.client import Client
from keyd.model import KeyAlgorithm
from tests import keydctl_forks

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Keydctl:
    """keydctl as a child process, talking to one daemon."""

    endpoint: str
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "KEYD_ENDPOINT": self.endpoint,
            "XDG_STATE_HOME": str(self.home),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "keyd.cli.keydctl", *map(str, words)],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return keydctl_forks.run_text(words, self.env)

    def create(self, *names: str, algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256) -> None:
        """Make keys, without a process for each."""
        with Client(self.endpoint, keep_checkpoints=False) as keyd:
            for name in names:
                keyd.create_key(name, algorithm)

    def __call__(self, *words: str | Path, code: int = 0) -> Any:
        """Run with --json and return the answer; the exit code has to be ``code``."""
        done = self.run(*words, "--json")
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout or done.stderr.splitlines()[-1])
