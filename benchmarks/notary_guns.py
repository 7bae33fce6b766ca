"""Many collections on one SoftHSM token: what it takes to make their keys, and to sign.

``python -m benchmarks.notary_guns [GUNS...]``, by default 10, 1000 and 10000. Each collection has
a timestamp and a snapshot key. The last hundred collections get theirs through Notary's protocol,
eight callers at once; those before them come from raw PKCS#11 on the same token and as rows in the
registry, since making 20 000 pairs one by one would measure SoftHSM for an hour. Then keys of
random collections sign, first each for its first time, then again; and after a restart each for
the first time since. The token lies in memory where /dev/shm is, keyd's own state on the disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio

from benchmarks.load import rate
from benchmarks.notary import Asking, asking, missing
from benchmarks.raw import Rate
from keyd import gunnames, publickeys
from keyd.machine import SystemClock
from keyd.model import (
    Binding,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Scheme,
    VersionState,
)
from keyd.store.key_rows import write_changes
from keyd.store.registry import Changes
from keyd.store.store import open_store
from tests.notary_programs import Sandbox
from tests.softhsm import PIN

_AT_ONCE = 8
_MADE_BY_KEYD = 100
"""Collections; the others are there before."""
_RAW_SAMPLE = 100
_SIGNED = 400
_AFTER_RESTART = 40
_MEMORY = Path("/dev/shm")
_FILL_S = 3000.0
_START_S = 120.0


@contextmanager
def _sandbox(guns: int) -> Iterator[Sandbox]:
    with (
        tempfile.TemporaryDirectory(prefix="keyd-guns-") as name,
        tempfile.TemporaryDirectory(
            prefix="keyd-guns-", dir=_MEMORY if _MEMORY.is_dir() else None
        ) as token,
    ):
        folder = Path(name)
        (folder / "hsm").symlink_to(token)
        sandbox = Sandbox(folder, keys_at_once=3 * guns)
        try:
            yield sandbox
        finally:
            sandbox.keyd.stop()


def _gun(number: int) -> str:
    return f"bench.example/team/app-{number}"


def _raw(sandbox: Sandbox, pairs: int) -> list[str]:
    """Make that many pairs; what raw_pairs printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.raw_pairs", str(sandbox.hsm.module), "online"),
            *(str(pairs), str(_RAW_SAMPLE)),
        ],
        env={**os.environ, "SOFTHSM2_CONF": str(sandbox.hsm.conf)},
        input=f"{PIN}\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=_FILL_S,
    )
    return done.stdout.splitlines()


def _fill(sandbox: Sandbox, guns: int) -> list[str]:
    """The timestamp keys' ids of that many collections, on the token and in the registry."""
    lines = _raw(sandbox, 2 * guns)[:-1]
    now = datetime.now(UTC)
    (serial,) = sandbox.hsm.serials()
    keys = [
        _key(_gun(at // 2), ("timestamp", "snapshot")[at % 2], serial, line, now)
        for at, line in enumerate(lines)
    ]
    # The daemon has made its database before.
    store = open_store(sandbox.folder / "state", clock=SystemClock())
    try:
        with store.write() as connection:
            write_changes(connection, {}, Changes({key.name: key for key in keys}, {}, {}))
    finally:
        store.close()
    return [key.versions[0].keyids["notary"] for key in keys[::2]]


def _key(gun: str, role: str, serial: str, line: str, now: datetime) -> Key:
    """A row of the registry for a pair that raw_pairs printed."""
    object_id, public_key = (bytes.fromhex(word) for word in line.split())
    name, by, scheme = gunnames.key_name(gun, role), "dns:notary-server", Scheme.ECDSA_P256_SHA256
    version = KeyVersion(
        key=name,
        number=1,
        state=VersionState.ENABLED,
        origin=Origin.GENERATED,
        token_serial=serial,
        object_id=object_id,
        public_key=public_key,
        keyids=publickeys.keyids(public_key, scheme),
        created_at=now,
        created_by=by,
    )
    return Key(
        name=name,
        token="online",
        algorithm=KeyAlgorithm.ECDSA_P256,
        scheme=scheme,
        created_at=now,
        created_by=by,
        bindings=frozenset({Binding(gun, role)}),
        labels={"gun": gun, gunnames.MADE_FOR: gunnames.SERVER, "role": role},
        active_version=1,
        versions=(version,),
    )


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


async def _ready(signer: Asking, keyid: str, version: int) -> float:
    """Seconds until the token is open and the first signature made."""
    began = time.perf_counter()
    while True:
        try:
            await signer.sign(keyid, version)
        except grpc.aio.AioRpcError as error:
            took_s = time.perf_counter() - began
            if error.code() is not grpc.StatusCode.UNAVAILABLE or took_s > _START_S:
                raise
            await asyncio.sleep(0.02)
        else:
            return time.perf_counter() - began


async def _sign_after_restart(sandbox: Sandbox, keys: list[str]) -> tuple[float, Rate]:
    """Seconds until the first signature, and the rate of those after it."""
    async with asking(sandbox.certificates, sandbox.signer_port) as signer:
        first_s = await _ready(signer, keys[0], 100)
        return first_s, await _timed([(k, 100) for k in keys[1 : 1 + _AFTER_RESTART]], signer)


async def _measure(sandbox: Sandbox, numbers: range, keys: list[str]) -> dict[str, Rate]:
    """``keys``: the ids of timestamp keys, to which those made here are added."""
    chance = random.Random(numbers.stop)
    took: list[float] = []
    async with asking(sandbox.certificates, sandbox.signer_port) as signer:
        if keys:
            await _ready(signer, keys[0], 1)
        names = iter(numbers)
        began = time.perf_counter()

        async def make() -> None:
            for number in names:
                for role in ("timestamp", "snapshot"):
                    start = time.perf_counter()
                    keyid = await signer.create(_gun(number), role)
                    took.append(time.perf_counter() - start)
                    if role == "timestamp":
                        keys.append(keyid)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(make())
        created = rate(took, time.perf_counter() - began)
        chosen = chance.sample(keys, min(len(keys), _SIGNED))
        first = await _timed([(keyid, 2) for keyid in chosen], signer)
        rounds = _SIGNED // len(chosen)
        again = [(keyid, n) for n in range(3, 3 + rounds) for keyid in chosen]
        return {
            "keys made": created,
            "a key's first signature": first,
            "further signatures": await _timed(again, signer),
        }


def run(guns: int) -> dict[str, Rate]:
    """One daemon with that many collections."""
    with _sandbox(guns) as sandbox:
        keyd = sandbox.keyd
        keyd.start()
        keyd.stop()
        before = max(0, guns - _MADE_BY_KEYD)
        began = time.perf_counter()
        keys = _fill(sandbox, before)
        print(f"{guns} collections; {before} of them filled in {time.perf_counter() - began:.0f} s")
        opened_s, searched_s, made, signed = map(float, _raw(sandbox, 0)[-1].split()[1:])
        print(
            f"  raw: login and first search {opened_s:.2f} s, a further search {searched_s:.3f} s"
        )
        keyd.start()
        rows = {"raw: pairs made": Rate(made), "raw: signatures": Rate(signed)}
        rows |= asyncio.run(_measure(sandbox, range(before, guns), keys))
        keyd.stop()
        random.Random(guns).shuffle(keys)
        start_s = keyd.start()
        first_s, after = asyncio.run(_sign_after_restart(sandbox, keys))
        rows["keys' first after a restart"] = after
        memory_mb = keyd.resident_bytes() / 2**20
        print(
            f"  after a restart: listening in {start_s:.2f} s, the first signature {first_s:.2f} s "
            f"later; {memory_mb:.0f} MB"
        )
        return rows


def _print(rows: dict[str, Rate]) -> None:
    for what, found in rows.items():
        raw = rows["raw: pairs made" if "made" in what else "raw: signatures"]
        times = ""
        if found.p50_us is not None:
            p50, p99 = ((value or 0) / 1000 for value in (found.p50_us, found.p99_us))
            times = f"   p50 {p50:8.2f} ms   p99 {p99:8.2f} ms"
        print(f"  {what:28} {found.per_s:8.1f}/s {found.per_s / raw.per_s:7.3f} of raw{times}")


def main() -> None:
    """Print each size, and write build/bench-notary-guns.json."""
    if lacks := missing():
        sys.exit(f"notary_guns: {lacks}")
    report: dict[str, dict[str, float]] = {}
    for guns in [int(word) for word in sys.argv[1:]] or [10, 1000, 10_000]:
        rows = run(guns)
        _print(rows)
        report[str(guns)] = {what: round(found.per_s, 2) for what, found in rows.items()}
    file = Path("build/bench-notary-guns.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
