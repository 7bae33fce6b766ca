"""``make bench``: how fast keyd signs, next to a raw PKCS#11 loop of the same run.

ECDSA P-256 over 32 bytes on SoftHSM. Absolute figures depend on the machine and drift with its
load; compare the ratio to raw1 (one session, one cached handle, C_SignInit + C_Sign in C), and
where others use the machine too, the processor time of a signature. Policy, self-check and the
durable audit entry are on. Takes about a minute; the figures also go to build/bench.json.
docs/performance.md says what to make of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import load
from benchmarks.raw import Rate, RawLoop
from benchmarks.usage import Usage, measured
from keyd.client import Client, Encoding, KeyAlgorithm
from keyd.errors import KeydError
from tests.e2e.daemon_process import DaemonProcess

KEY = "bench/p256"
BATCH = 10_000
REPORT = Path("build/bench.json")
_START_TIMEOUT_S = 30.0


def main() -> None:
    """Measure, print the table, write the report."""
    rows: dict[str, Rate] = {}
    usage: dict[str, Usage] = {}
    with tempfile.TemporaryDirectory(prefix="keyd-bench-") as name:
        folder = Path(name)
        raw = RawLoop(folder / "raw")
        before = raw.run(1, 2.0)
        rows["raw2p: two raw processes"] = raw.run(2, 2.0)
        with DaemonProcess(folder / "dev") as daemon:
            _wait_and_create(daemon)
            end = daemon.endpoint
            asyncio.run(load.bare_batch(end, KEY, 1000))  # caches and code paths are warm
            loads: dict[str, Callable[[], Rate]] = {
                f"batch of {BATCH}": lambda: asyncio.run(load.batch(end, KEY, BATCH)),
                f"batch of {BATCH}, bare stub": lambda: asyncio.run(
                    load.bare_batch(end, KEY, BATCH)
                ),
                "64 unary callers": lambda: asyncio.run(load.callers(end, KEY, 64, 5.0)),
                "64 unary callers, bare stub": lambda: asyncio.run(
                    load.bare_callers(end, KEY, 64, 5.0)
                ),
                "one caller": lambda: load.one_caller(end, KEY, 3.0),
            }
            for name, run in loads.items():
                # A batch is over in a second or two.
                times = 3 if "batch" in name else 1
                found = [measured(daemon, run) for _ in range(times)]
                rows[name] = _median([rate for rate, _ in found])
                usage[name] = min((used for _, used in found), key=lambda used: used.daemon_us)
            rss_bytes = daemon.resident_bytes()
            daemon.stop()
            start_s = _start_to_first_signature(daemon)
        after = raw.run(1, 2.0)
    raw1 = _median([before, after])
    rows = {"raw1: raw PKCS#11 loop in C": raw1, **rows}
    _print(rows, usage, raw1, start_s, rss_bytes)
    _write(rows, usage, raw1, start_s, rss_bytes)


def _wait_and_create(daemon: DaemonProcess) -> None:
    with Client(daemon.endpoint, keep_checkpoints=False) as client:
        _until_signed(lambda: client.create_key(KEY, KeyAlgorithm.ECDSA_P256))


def _start_to_first_signature(daemon: DaemonProcess) -> float:
    began = time.perf_counter()
    daemon.start(wait=False)
    while not daemon.socket.exists():
        if time.perf_counter() - began > _START_TIMEOUT_S:
            raise RuntimeError(f"the daemon did not start:\n{daemon.tail()}")
        time.sleep(0.002)

    def sign() -> None:
        # Anew each time: a channel that was refused once waits before it connects again.
        with Client(daemon.endpoint, keep_checkpoints=False) as client:
            client.sign(KEY, digest=load.fresh_digest(), encoding=Encoding.RAW)

    _until_signed(sign)
    return time.perf_counter() - began


def _until_signed(attempt: Callable[[], object]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            attempt()
        except KeydError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _median(rates: list[Rate]) -> Rate:
    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return Rate(
        statistics.median(rate.per_s for rate in rates),
        middle([rate.p50_us for rate in rates]),
        middle([rate.p99_us for rate in rates]),
    )


def _print(
    rows: dict[str, Rate], usage: dict[str, Usage], raw1: Rate, start_s: float, rss_bytes: int
) -> None:
    print(f"{'':57} {'p50':>8} {'p99':>8} {'CPU us a signature':>24}")
    heads = f"{'ops/s':>9} {'of raw1':>8} {'ms':>8} {'ms':>8}"
    print(f"{'':39} {heads} {'daemon':>8} {'host':>7} {'client':>7}")
    for name, rate in rows.items():
        p50, p99 = (
            f"{value / 1000:8.3f}" if value is not None else f"{'-':>8}"
            for value in (rate.p50_us, rate.p99_us)
        )
        cost = ""
        if name in usage:
            used = usage[name]
            cost = f" {used.daemon_us:8.0f} {used.hosts_us:7.0f} {used.client_us:7.0f}"
        print(f"{name:39} {rate.per_s:9.0f} {rate.per_s / raw1.per_s:8.2f} {p50} {p99}{cost}")
    print(f"{'start to first signature':39} {start_s:9.2f} s")
    print(f"{'memory, daemon and hosts':39} {rss_bytes / 2**20:9.0f} MB")


def _write(
    rows: dict[str, Rate], usage: dict[str, Usage], raw1: Rate, start_s: float, rss_bytes: int
) -> None:
    REPORT.parent.mkdir(exist_ok=True)
    report = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "rows": {
            name: {
                **asdict(rate),
                "of_raw1": round(rate.per_s / raw1.per_s, 3),
                "cpu": asdict(usage[name]) if name in usage else None,
            }
            for name, rate in rows.items()
        },
        "start_to_first_signature_s": round(start_s, 3),
        "resident_bytes": rss_bytes,
    }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
