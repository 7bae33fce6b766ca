"""Runs a command as a person would, to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


def run_to_end(
    *command: str | Path,
    timeout_s: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it without input, whatever it answers; stdout and stderr together in ``stdout``."""
    return subprocess.run(
        [str(word) for word in command],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
