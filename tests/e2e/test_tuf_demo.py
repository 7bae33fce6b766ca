"""make demo, as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 150


def run_demo(folder: Path) -> list[str]:
    """The lines it prints; it has to succeed."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs/demo/demo.py", "--dir", folder],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def still_running(folder: Path) -> list[str]:
    """Processes that name the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It ended while we looked.
        if str(folder) in words:
            found.append(words)
    return found


@pytest.mark.softhsm
@pytest.mark.timeout(2 * TIMEOUT_S + 30)
def test_the_demo_verifies_on_a_clean_folder_and_again_on_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "demo"

    first = run_demo(folder)
    second = run_demo(folder)

    assert [first[-1], second[-1]] == ["demo: verified"] * 2
    assert all(line.startswith("demo: ") for line in first + second)
    assert still_running(folder) == []
