"""Many collections on one SoftHSM token: what it takes to make their keys, and to sign.

``python -m benchmarks.notary_guns [GUNS...]``, by default 10 and 1000. Each collection gets a
timestamp and a snapshot key; then keys of random collections sign, first each for its first time,
then again; and after a restart each for the first time since. Eight callers at once.
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
_AFTER_RESTART = 40


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


async def _sign_after_restart(sandbox: Sandbox, keys: list[str]) -> Rate:
    async with asking(sandbox.certificates, sandbox.signer_port) as signer:
        return await _timed([(keyid, 100) for keyid in keys[:_AFTER_RESTART]], signer)


async def _measure(sandbox: Sandbox, guns: int, keys: list[str]) -> dict[str, Rate]:
    """``keys``: where the ids of timestamp keys are put."""
    chance = random.Random(guns)
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
            keys: list[str] = []
            rows = asyncio.run(_measure(sandbox, guns, keys))
            sandbox.keyd.stop()
            start_s = sandbox.keyd.start()
            rows["first signatures after that"] = asyncio.run(_sign_after_restart(sandbox, keys))
            memory_mb = sandbox.keyd.resident_bytes() / 2**20
            print(f"{guns} collections, listening after {start_s:.2f} s, {memory_mb:.0f} MB")
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
            print(f"  {what:28} {found.per_s:8.1f}/s   p50 {p50:8.2f} ms   p99 {p99:8.2f} ms")
        report[str(guns)] = {what: round(found.per_s, 2) for what, found in rows.items()}
    file = Path("build/bench-notary-guns.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
