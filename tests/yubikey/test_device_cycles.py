"""Pulled and plugged in again, over and over: nothing is left behind, no PIN is spent.

libykcs11's sessions are counted as they are opened and closed (counted.py), pcscd's clients are a
thread each; memory, files and processes are counted before and after. `make test` runs a few
cycles, `make soak` all thousand: some in a signature, some while the key blinks, in both slots,
with a stranger between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.yubikey.counted import Sessions
from tests.yubikey.cycles import WARM_UP, Held, Report

_ROOT = Path(__file__).parents[2]
_GROWN_KIB = 4096
"""What a process may grow over all cycles: a leak of 32 KiB in each of 125 shows. Python's own
heap and the allocator's arenas move by less."""


def run(desks: int, cycles: int, within_s: float) -> list[Report]:
    """So many cycles on each of so many desks beside each other."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.yubikey.cycles", str(cycles)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        for _ in range(desks)
    ]
    try:
        ended = [process.communicate(timeout=within_s) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()
    reports = []
    for process, (said, complained) in zip(started, ended, strict=True):
        assert process.returncode == 0, complained.decode()
        reports.append(_report(json.loads(said)))
    return reports


def _report(fields: dict[str, Any]) -> Report:
    for who in ("host", "pcscd", "daemon"):
        before, after = fields[who]
        fields[who] = Held(**before), Held(**after)
    before, after = fields["sessions"]
    fields["sessions"] = Sessions(**before), Sessions(**after)
    return Report(**fields)


@pytest.mark.parametrize(
    ("desks", "cycles"),
    [
        pytest.param(2, 8, id="a-few"),
        pytest.param(8, 125, id="a-thousand", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
def test_keys_that_are_pulled_and_return_leave_no_session_file_thread_or_process_behind(
    ykcs11: Path, desks: int, cycles: int
) -> None:
    reports = run(desks, cycles, within_s=100 if cycles < 100 else 1700)
    for report in reports:
        print(report)
        assert report.signed == cycles + WARM_UP, "each return ends with a good signature"
        # The first login, and one for each return: none more, none wrong, none to the stranger.
        assert report.logins == cycles + WARM_UP + 1
        start, end = report.sessions
        assert end.accepted == report.logins
        # On a busy machine pcscd may power a card once more when libykcs11 has found it already:
        # the PIN of that login goes to no applet, or is answered to nobody. keyd tells of it.
        assert 0 <= report.pins_offered - end.accepted <= end.refused
        assert report.cut_short <= end.refused <= cycles // 8
        assert bool(report.cut_short) == bool(end.refused)
        # One is open at the start and at the end, as at any time, and libykcs11 says so too.
        assert (start.open, end.open, end.most, end.counted) == (1, 1, 1, 1)
        assert (report.pin_tries, report.strangers) == (3, 0)
        assert report.broken_off == (cycles + WARM_UP) // 2
        assert report.same_host
        assert report.host_deaths == 0
        for before, after in (report.host, report.pcscd, report.daemon):
            assert (after.files, after.threads, after.children) == (
                before.files,
                before.threads,
                before.children,
            )
            assert after.rss_kib - before.rss_kib < _GROWN_KIB
