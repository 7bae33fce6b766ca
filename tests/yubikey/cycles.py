"""``python -m tests.yubikey.cycles COUNT``: a YubiKey that is pulled and plugged in so many times
under one running pool of keyd's token hosts; what that left behind, as one line of JSON.

A process of its own, because libpcsclite reads its environment once: several share the wall time,
of which a virtual reader spends four fifths waiting for pcscd's next look at it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier

from keyd.device.events import EventKind
from keyd.device.pool import DevicePool
from keyd.errors import DeviceGoneError, KeydError
from keyd.model import TokenState
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.counted import CountedModule, Sessions
from tests.yubikey.desk import SLOT, Desk, check, eventually, is_state, job, sign, status
from tests.yubikey.model import Model
from tests.yubikey.pause import Moment
from tests.yubikey.requirements import require
from tests.yubikey.worker import Worker

WARM_UP = 4
"""What is loaded, cached and pooled by then stays."""
_PATIENCE_S = 30.0
"""Two cores that are busy with other tests."""
_STRANGER_EVERY = 8
_THREADS = 3


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds: open files, threads, resident memory, and its children."""

    files: int
    threads: int
    rss_kib: int
    children: int


@dataclass(frozen=True, slots=True)
class Report:
    """Before and after the cycles: the token host, pcscd (each context of a client is a thread and
    a file of it) and the daemon's side, and the sessions of libykcs11 in the host. ``logins`` and
    ``cut_short``, those that came to nothing: as keyd told of them. ``pins_offered``: as the card
    counted; ``strangers``: the same of the other serial, with its signatures."""

    cycles: int
    took_s: float
    logins: int
    cut_short: int
    host_deaths: int
    same_host: bool
    pins_offered: int
    pin_tries: int
    strangers: int
    broken_off: int
    signed: int
    host: tuple[Held, Held]
    pcscd: tuple[Held, Held]
    daemon: tuple[Held, Held]
    sessions: tuple[Sessions, Sessions]


def _held(pid: int) -> Held:
    process = Path(f"/proc/{pid}")
    facts = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    children = (process / f"task/{pid}/children").read_text().split()
    return Held(
        files=sum(1 for _ in (process / "fd").iterdir()),
        threads=int(facts["Threads"]),
        rss_kib=int(facts["VmRSS"].split()[0]),
        children=len(children),
    )


def host_pids() -> list[int]:
    """The token hosts of this process."""
    return [
        pid
        for pid in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
        if b"keyd.device.host" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


class _Cycles:
    """One key, one stranger, one pool."""

    def __init__(self, desk: Desk, bench: Bench, pool: DevicePool) -> None:
        self._desk = desk
        self._bench = bench
        self._pool = pool
        self._stranger = bench.add(Model(7654321), slot=None)
        self.broken_off = 0
        self.signed = 0

    @property
    def stranger(self) -> EmulatedKey:
        """The YubiKey that is nobody's token."""
        return self._stranger

    def snapshot(self) -> tuple[int, tuple[Held, Held, Held]]:
        """Process id of the host, and what the host, pcscd and this process hold."""
        gc.collect()
        (host,) = host_pids()
        pids = (host, self._bench.pids[1], os.getpid())
        return host, (_held(pids[0]), _held(pids[1]), _held(pids[2]))

    async def run(self, number: int, plain: bytes, touched: bytes) -> None:
        """Pull it idle, in a signature, idle, while it blinks; back in one slot or the other."""
        key = self._desk.key
        if number % 4 == 1:
            key.stop_at(Moment.SIGN)
            await self._pulled_from(plain, b"\x05", key.wait_until_stopped)
        elif number % 4 == 3:
            await self._pulled_from(touched, b"\x06", key.wait_for_blinking)
        else:
            await asyncio.to_thread(key.remove)
        await eventually(is_state(self._pool, TokenState.ABSENT), _PATIENCE_S)
        if number % _STRANGER_EVERY == 0:
            await asyncio.to_thread(self._stranger.insert)
            await eventually(lambda: "7654321" in status(self._pool).detail, _PATIENCE_S)
            await asyncio.to_thread(self._stranger.remove)
        await asyncio.to_thread(key.insert, number % 2)
        await eventually(is_state(self._pool, TokenState.READY), _PATIENCE_S)
        check(plain, (await sign(self._pool, job(plain)))[0])
        self.signed += 1

    async def _pulled_from(self, public_key: bytes, object_id: bytes, underway: object) -> None:
        assert callable(underway)
        signing = asyncio.ensure_future(sign(self._pool, job(public_key, object_id)))
        await asyncio.to_thread(underway)
        await asyncio.to_thread(self._desk.key.remove)
        (answer,) = await signing
        if not isinstance(answer, DeviceGoneError):
            raise AssertionError(f"a signature with a pulled key came to {answer!r}")
        self.broken_off += 1


async def _start_threads() -> None:
    """All that to_thread() will ever have: they would start one by one."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    meeting = Barrier(_THREADS)
    await asyncio.gather(*(asyncio.to_thread(meeting.wait) for _ in range(_THREADS)))


async def _main(count: int, folder: Path) -> Report:
    await _start_threads()
    with Bench.start() as bench:
        os.environ.update(bench.environment)
        with Worker(bench.environment) as worker:
            counted = CountedModule(require(), folder)
            desk = Desk(bench.add(Model(1234567)), worker, counted.module, folder)
            plain, touched = desk.make(), desk.make(touch="ALWAYS", slot=SLOT + 1)
        async with desk.running() as pool:
            cycles = _Cycles(desk, bench, pool)
            await eventually(is_state(pool, TokenState.READY), _PATIENCE_S)
            for number in range(WARM_UP):
                await cycles.run(number, plain, touched)
            host, before = cycles.snapshot()
            sessions_before = counted.sessions
            started = time.monotonic()
            for number in range(count):
                await cycles.run(number, plain, touched)
            took_s = time.monotonic() - started
            same_host, after = cycles.snapshot()
            sessions = counted.sessions
            state, other = desk.key.state, cycles.stranger.state
        told = Counter(desk.kinds())
        return Report(
            cycles=count,
            took_s=took_s,
            logins=told[EventKind.UNLOCKED] + told[EventKind.RETURNED],
            cut_short=sum("while logging in" in event.detail for event in desk.events),
            host_deaths=told[EventKind.HOST_DIED],
            same_host=host == same_host,
            pins_offered=state.pins_offered,
            pin_tries=state.pin_tries,
            strangers=other.pins_offered + other.signatures,
            broken_off=cycles.broken_off,
            signed=cycles.signed,
            host=(before[0], after[0]),
            pcscd=(before[1], after[1]),
            daemon=(before[2], after[2]),
            sessions=(sessions_before, sessions),
        )


def main() -> int:
    """Run so many cycles."""
    folder = Path(tempfile.mkdtemp(prefix="keyd-cycles-"))
    try:
        report = asyncio.run(_main(int(sys.argv[1]), folder))
    except KeydError as error:
        print(f"{error.message}; {error.hint}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
