"""Load and violence: what must hold while callers press and processes die.

Each test has a form of a few seconds, part of `make test`, and a long one, `make soak`
(KEYD_SOAK_SECONDS each, default 60).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest

from keyd.audit import merkle
from keyd.client import (
    AsyncClient,
    Client,
    Digest,
    Encoding,
    EntryFilter,
    HashAlgorithm,
    KeyAlgorithm,
    Retries,
    Signature,
)
from keyd.errors import KeydError, ServerGoneError
from tests.e2e.daemon_process import DaemonProcess

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(600)]

KEY = "soak/p256"
CALLERS = 64
HOSTS = 2
HEALED_WITHIN_S = 5.0
"""A token is used again within a second of its return; the rest is room for two busy cores."""
LONG_S = float(os.environ.get("KEYD_SOAK_SECONDS", "60"))

both_lengths = pytest.mark.parametrize(
    "seconds",
    [pytest.param(5.0, id="short"), pytest.param(LONG_S, id="long", marks=pytest.mark.soak)],
)


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    folder = Path(mkdtemp(prefix="keyd-soak-"))  # sun_path is too short for pytest's own
    process = DaemonProcess(folder / "dev", "--hosts", str(HOSTS))
    try:
        process.start()
        create_key(process)
        yield process
        process.stop()
    finally:
        process.kill()
        shutil.rmtree(folder)


def create_key(daemon: DaemonProcess) -> None:
    """Once the token is ready."""
    deadline = time.monotonic() + 20
    with Client(daemon.endpoint, keep_checkpoints=False) as client:
        while True:
            try:
                client.create_key(KEY, KeyAlgorithm.ECDSA_P256)
                return
            except KeydError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


class Load:
    """Callers that sign one fresh digest after another, and what they got.

    The library verifies each signature before it returns it, so what is in ``released`` is valid.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.released: list[Signature] = []
        self.refused: Counter[str] = Counter()
        self._stopping = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The callers run inside this block; each ends with its call in flight."""
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS // 8):
                group.create_task(self._connection(number))
            try:
                yield
            finally:
                self._stopping = True

    async def _connection(self, number: int) -> None:
        async with (
            AsyncClient(
                self._endpoint, deadline_s=20, retries=Retries(most=0), keep_checkpoints=False
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for caller in range(8):
                group.create_task(self._caller(client, f"soak-{number}-{caller}"))

    async def _caller(self, client: AsyncClient, name: str) -> None:
        while not self._stopping:
            digest = Digest(HashAlgorithm.SHA256, os.urandom(32))
            try:
                signed = await client.sign(KEY, digest=digest, encoding=Encoding.DER, reason=name)
            except KeydError as e:
                self.refused[e.reason] += 1
                await asyncio.sleep(0.05)
            else:
                assert signed.digest == digest
                self.released.append(signed)


def entries_of_signatures(daemon: DaemonProcess) -> dict[int, dict[str, object]]:
    """Index -> fields of every entry about an allowed signature."""
    wanted = EntryFilter(key=KEY, action="sign", decision="allowed")
    with Client(daemon.endpoint, keep_checkpoints=False) as client:
        return {entry.index: dict(entry.fields) for entry in client.list_entries(wanted)}


def check_log(daemon: DaemonProcess, released: list[Signature]) -> None:
    """Every released signature has exactly one entry, which tells of it and nothing else."""
    entries = entries_of_signatures(daemon)
    indices = Counter(signed.log_index for signed in released)
    assert [index for index, count in indices.items() if count > 1] == []
    for signed in released:
        fields = entries[signed.log_index]
        assert fields["digest"] == str(signed.digest)
        assert fields["signature_sha256"] == hashlib.sha256(signed.signature).hexdigest()
        assert fields["key"] == KEY
    digests = Counter(str(fields["digest"]) for fields in entries.values())
    assert [digest for digest, count in digests.items() if count > 1] == []
    verify_log(daemon)


def verify_log(daemon: DaemonProcess) -> None:
    """The tree over all entries is the one the daemon signs now."""
    with Client(daemon.endpoint, keep_checkpoints=False) as client:
        checkpoint = client.checkpoint(fresh=True)
        bodies = [entry.body for entry in client.list_entries()][: checkpoint.size]
    assert len(bodies) == checkpoint.size
    frontier, _ = merkle.append(0, (), [merkle.leaf_hash(body) for body in bodies])
    assert merkle.root_hash(frontier) == checkpoint.root_hash


def signs(daemon: DaemonProcess) -> bool:
    """One signature, asked for over a new connection."""
    with (
        suppress(KeydError),
        Client(
            daemon.endpoint, deadline_s=10, retries=Retries(most=0), keep_checkpoints=False
        ) as client,
    ):
        client.sign(KEY, os.urandom(16), encoding=Encoding.DER)
        return True
    return False


async def until_logged_in(daemon: DaemonProcess) -> None:
    """Every host of the token is logged in, so that none of them writes.

    C_Login of SoftHSM 2.6.1 empties the file token.object and writes it anew: a process that dies
    in between takes the token with it, which no hardware does and nobody can undo.
    """

    def all_in() -> bool:
        with suppress(KeydError), Client(daemon.endpoint, keep_checkpoints=False) as client:
            return [(token.hosts, token.detail) for token in client.list_tokens()] == [(HOSTS, "")]
        return False

    async with asyncio.timeout(20):
        while not await asyncio.to_thread(all_in):
            await asyncio.sleep(0.05)


async def until_it_signs(daemon: DaemonProcess, within_s: float) -> float:
    """Seconds until a signature succeeds."""
    began = time.monotonic()
    while not await asyncio.to_thread(signs, daemon):
        waited = time.monotonic() - began
        assert waited < within_s, f"no signature after {waited:.1f} s:\n{daemon.tail()}"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@both_lengths
async def test_64_callers_get_only_valid_signatures_with_one_entry_each(
    daemon: DaemonProcess, seconds: float
) -> None:
    load = Load(daemon.endpoint)

    async with load.running():
        await asyncio.sleep(seconds)

    assert load.refused == Counter()
    assert len(load.released) > CALLERS
    assert len(entries_of_signatures(daemon)) == len(load.released)
    check_log(daemon, load.released)


@both_lengths
async def test_killing_the_daemon_never_leaves_a_released_signature_without_entry(
    daemon: DaemonProcess, seconds: float
) -> None:
    chance = random.Random(seconds)
    load = Load(daemon.endpoint)
    kills = 0

    async with load.running():
        end = time.monotonic() + seconds
        while kills < 2 or time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            await until_logged_in(daemon)
            await asyncio.to_thread(daemon.kill)
            kills += 1
            await asyncio.to_thread(daemon.start)
            await until_it_signs(daemon, 20)

    assert kills >= 2
    assert load.refused[ServerGoneError.reason] > 0
    check_log(daemon, load.released)


@both_lengths
async def test_killing_token_hosts_costs_calls_and_no_entry(
    daemon: DaemonProcess, seconds: float
) -> None:
    chance = random.Random(seconds)
    load = Load(daemon.endpoint)
    kills = 0
    daemon_pid = daemon.pid

    async with load.running():
        end = time.monotonic() + seconds
        while kills < 2 or time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            await until_logged_in(daemon)
            for pid in chance.sample(daemon.hosts(), k=min(1, len(daemon.hosts()))):
                with suppress(ProcessLookupError):
                    os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGSEGV]))
                    kills += 1
        healed_s = await until_it_signs(daemon, 20)

    assert kills >= 2
    assert healed_s < 20
    assert daemon.pid == daemon_pid
    assert len(load.released) > CALLERS
    check_log(daemon, load.released)


@both_lengths
async def test_a_token_that_goes_and_comes_back_heals_every_time(
    daemon: DaemonProcess, seconds: float
) -> None:
    chance = random.Random(seconds)
    tokens = daemon.folder / "tokens"
    away = daemon.folder / "tokens-away"
    load = Load(daemon.endpoint)
    rounds = 0

    async with load.running():
        end = time.monotonic() + seconds
        while rounds < 2 or time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.2, 0.5))
            tokens.rename(away)
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            # The module may have made the folder anew meanwhile.
            shutil.rmtree(tokens, ignore_errors=True)
            away.rename(tokens)
            before = len(load.released)
            await until_it_signs(daemon, HEALED_WITHIN_S)
            await asyncio.sleep(0.2)
            assert len(load.released) > before, "the callers that waited never got on"
            rounds += 1

    assert sum(load.refused.values()) > 0, "the token was never missed"
    check_log(daemon, load.released)
