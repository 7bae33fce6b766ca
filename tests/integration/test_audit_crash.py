"""kill -9 at random moments: every receipt that left the daemon is in the log afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keyd.audit import merkle
from keyd.audit.entry import parse_entry
from keyd.store.store import Store, open_store
from tests.fakes import FakeClock

ROUNDS = 20

# Forks a writer for each line it is sent, so that only one process has to import; says the
# writer's pid, and when it is dead. A writer commits in groups of random size, entries with keys
# among them, and writes each receipt to its stdout once it is durable, as a daemon answers.
WRITER = """
import asyncio, os, random, sys
from datetime import UTC, datetime
from pathlib import Path
from keyd.audit.checkpointer import Checkpointer, CheckpointSettings
from keyd.audit.log import Log, LogSettings
from keyd.model import *
from keyd.store.store import open_store

class WallClock:
    def now(self):
        return datetime.now(UTC)

async def caller(log, name):
    number = 0
    while True:
        items = []
        for _ in range(random.choice((1, 3, 50))):
            number += 1
            key = f"k-{name}-{number}"
            draft = EntryDraft(
                "create", Outcome.ALLOWED, Caller(Principal("socket:ci", "unix"), name), key=key
            )
            effects = ()
            if random.random() < 0.2:
                time = datetime(2030, 1, 1, tzinfo=UTC)
                made = Key(key, "main", KeyAlgorithm.ED25519, Scheme.ED25519, time, "me")
                effects = (InsertKey(made),)
            items.append((draft, effects))
        receipts = await log.record_many(items)
        lines = [
            f"{receipt.index} {draft.key} {len(effects)}\\n"
            for receipt, (draft, effects) in zip(receipts, items)
        ]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()

async def main():
    store = open_store(Path(sys.argv[1]), clock=WallClock())
    loop = asyncio.get_running_loop()
    settings = CheckpointSettings("log", None)
    log = Log(
        store, WallClock(), Checkpointer(store, WallClock(), settings, elapsed_s=loop.time),
        LogSettings(),
    )
    await log.start()
    run = random.randrange(1 << 60)
    await asyncio.gather(*(caller(log, f"{run}-{n}") for n in range(4)))

told = os.fdopen(int(sys.argv[2]), "w", buffering=1)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        random.seed()
        asyncio.run(main())
    print(pid, file=told)
    os.waitpid(pid, 0)
    print("dead", file=told)
"""


class Writers:
    """One writer after another on a store, each killed some time after its first receipt."""

    def __init__(self, folder: Path) -> None:
        reading, writing = os.pipe()
        try:
            self._forker = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder), str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[writing],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        finally:
            os.close(writing)
        self._told = os.fdopen(reading, "rb", buffering=0)

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.kill()
        self._forker.wait(timeout=10)
        for pipe in (self._forker.stdin, self._forker.stdout, self._told):
            pipe.close()

    def run_and_kill(self, after_s: float) -> list[tuple[int, str, bool]]:
        """Let a writer run; all whole receipts that left it."""
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(b"go\n")
        self._forker.stdin.flush()
        pid = int(self._word())
        pipe = self._forker.stdout.fileno()
        try:
            received = _read_for(pipe, after_s)
        finally:
            os.kill(pid, signal.SIGKILL)
        assert self._word() == b"dead"
        # What it had written before it died still stands in the pipe.
        os.set_blocking(pipe, False)
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(pipe, 1 << 16):
                received += chunk
        os.set_blocking(pipe, True)
        whole = received[: received.rfind(b"\n") + 1].decode().split("\n")[:-1]
        receipts = [line.split(" ") for line in whole]
        return [(int(index), key, has_key == "1") for index, key, has_key in receipts]

    def _word(self) -> bytes:
        """The next line from the forker."""
        ready, _, _ = select.select([self._told], [], [], 30)
        assert ready, "the forker says nothing"
        return self._told.readline().strip()


def _read_for(pipe: int, after_s: float) -> bytes:
    """What comes until that long after the first of it."""
    received = b""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            break
        if not received:
            end = time.monotonic() + after_s
        chunk = os.read(pipe, 1 << 16)
        assert chunk, "the writer ended by itself"
        received += chunk
    assert received, "the writer gave no receipt in time"
    return received


def check_log(store: Store, receipts: list[tuple[int, str, bool]]) -> None:
    head = store.head()
    bodies = store.bodies(0, head.size + 1)
    frontier, nodes = merkle.append(0, (), [merkle.leaf_hash(body) for body in bodies])
    assert frontier == head.frontier
    assert store.leaf_hashes(0, head.size) == [merkle.leaf_hash(body) for body in bodies]
    assert store.nodes(8, 0, head.size) == [node.hash for node in nodes if node.level == 8]
    assert receipts
    for index, key, has_key in receipts:
        entry = parse_entry(bodies[index])
        assert (entry.index, entry.fields["key"]) == (index, key)
        assert (store.registry.find(key) is not None) is has_key


@pytest.mark.timeout(240)
def test_every_reported_receipt_survives_kill_9_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(20300101)
    receipts: list[tuple[int, str, bool]] = []

    with Writers(tmp_path) as writers:
        for nth in range(ROUNDS):
            given = writers.run_and_kill(chance.uniform(0.0, 0.15))
            receipts += given

            store = open_store(tmp_path, clock=FakeClock())
            try:
                check_log(store, receipts if nth == ROUNDS - 1 else given)
            finally:
                store.close()

    assert len({index for index, _, _ in receipts}) == len(receipts)
