"""Many collections on one SoftHSM token: what it takes to make their keys, and to sign.

``python -m benchmarks.notary_guns [GUNS...]``, by default 10 and 1000. Each collection gets a
timestamp and a snapshot key; then keys of random collections sign, first each for its first time,
then again. Eight callers at once, as notary-server would be. Ends with the time a restart takes.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.load import rate
from benchmarks.notary import Asking, asking
from benchmarks.raw import Rate
from tests.notary_programs import Sandbox

_AT_ONCE = 8
_SIGNED = 400


async def _timed(works: list[tuple[str, int]], signer: Asking) -> Rate:
    """Sign (key id, version) after (key id, version)."""
    took: list[float] = []
    began = time.perf_counter()
    left = iter(works)

    async def caller() -> None:
        for keyid, version in left:
            start = time.perf_counter()
            await signer.sign(keyid, version)
            took.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(caller())
    return rate(took, time.perf_counter() - began)


async def _measure(sandbox: Sandbox, guns: int) -> dict[str, Rate]:
    chance = random.Random(guns)
    keys: list[str] = []
    took: list[float] = []
    async with asking(sandbox.certificates, sandbox.signer_port) as signer:
        names = iter(range(guns))
        began = time.perf_counter()

        async def make() -> None:
            for number in names:
                for role in ("timestamp", "snapshot"):
                    start = time.perf_counter()
                    keyid = await signer.create(f"bench.example/team/app-{number}", role)
                    took.append(time.perf_counter() - start)
                    if role == "timestamp":
                        keys.append(keyid)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(make())
        created = rate(took, time.perf_counter() - began)
        last = rate(took[-20:], sum(took[-20:]) / _AT_ONCE)
        chosen = chance.sample(keys, min(len(keys), _SIGNED))
        first = await _timed([(keyid, 1) for keyid in chosen], signer)
        rounds = _SIGNED // len(chosen)
        again = [(keyid, n) for n in range(2, 2 + rounds) for keyid in chosen]
        return {
            "keys made": created,
            "the last 20 keys made": last,
            "a key's first signature": first,
            "further signatures": await _timed(again, signer),
        }


def run(guns: int) -> dict[str, Rate]:
    """One daemon with that many collections."""
    with tempfile.TemporaryDirectory(prefix="keyd-guns-") as name:
        sandbox = Sandbox(Path(name), keys_at_once=3 * guns)
        try:
            sandbox.keyd.start()
            rows = asyncio.run(_measure(sandbox, guns))
            sandbox.keyd.stop()
            rows["a restart"] = Rate(1 / sandbox.keyd.start())
            print(f"{guns} collections, memory {sandbox.keyd.resident_bytes() / 2**20:.0f} MB")
            return rows
        finally:
            sandbox.keyd.stop()


def main() -> None:
    """Print each size, and write build/bench-notary-guns.json."""
    report: dict[str, dict[str, float]] = {}
    for guns in [int(word) for word in sys.argv[1:]] or [10, 1000]:
        rows = run(guns)
        for what, found in rows.items():
            p50, p99 = ((value or 0) / 1000 for value in (found.p50_us, found.p99_us))
            print(f"  {what:26} {found.per_s:8.1f}/s   p50 {p50:8.2f} ms   p99 {p99:8.2f} ms")
        report[str(guns)] = {what: round(found.per_s, 2) for what, found in rows.items()}
    file = Path("build/bench-notary-guns.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
