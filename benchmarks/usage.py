"""Processor time: what a signature costs each process, however busy the machine is besides."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.raw import Rate
from tests.e2e.daemon_process import DaemonProcess

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Microseconds of processor time for one signature, in all threads. ``client``: this process,
    the making of the requests included."""

    daemon_us: float
    hosts_us: float
    client_us: float


def measured(daemon: DaemonProcess, run: Callable[[], Rate]) -> tuple[Rate, Usage]:
    """Run a load and say what it cost."""
    before = _spent(daemon)
    rate = run()
    spent = [after - at_start for after, at_start in zip(_spent(daemon), before, strict=True)]
    return rate, Usage(*(seconds / rate.count * 1e6 for seconds in spent))


def _spent(daemon: DaemonProcess) -> tuple[float, float, float]:
    hosts = sum(_cpu_seconds(pid) for pid in daemon.hosts())
    return _cpu_seconds(daemon.pid), hosts, time.process_time()


def _cpu_seconds(pid: int) -> float:
    """utime and stime of proc(5), exact to a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
