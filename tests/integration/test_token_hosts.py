"""Token hosts over real SoftHSM: what dies, hangs, vanishes or is refused, and what heals."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from keyd.device.events import EventKind, TokenEvent
from keyd.device.pool import DevicePool
from keyd.device.settings import TokenConfig
from keyd.errors import (
    DeviceBusyError,
    DeviceFaultError,
    DeviceGoneError,
    MechanismMissingError,
    PinRefusedError,
    TokenLockedError,
)
from keyd.model import (
    KeyAlgorithm,
    Pin,
    PinAttempts,
    Scheme,
    SignJob,
    TokenObject,
    TokenState,
    TokenStatus,
)
from tests.fakes import FakePinAttempts
from tests.softhsm import COUNT_LOW, FINAL_TRY, LOCKED, PIN, ShimmedModule, SoftHsm
from tests.waiting import eventually

pytestmark = pytest.mark.softhsm

P256 = Scheme.ECDSA_P256_SHA256


class FileAttempts:
    """model.PinAttempts in files, so that a new process life finds what the last one wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def begin(self, serial: str, source: str) -> bool:
        try:
            with (self._folder / serial).open("x") as file:
                file.write(source)
        except FileExistsError:
            return False
        return True

    def clear(self, serial: str) -> None:
        (self._folder / serial).unlink(missing_ok=True)

    def find(self, serial: str) -> str | None:
        path = self._folder / serial
        return path.read_text() if path.exists() else None


class Bench:
    """A pool over one SoftHSM, and what it told."""

    def __init__(self, hsm: SoftHsm, attempts: PinAttempts) -> None:
        self.hsm = hsm
        self.attempts = attempts
        self.events: list[TokenEvent] = []
        self.frames: list[tuple[int, float, float]] = []

    @contextlib.asynccontextmanager
    async def running(self, *configs: TokenConfig) -> AsyncIterator[DevicePool]:
        def measured(token: str, count: int, queue_s: float, token_s: float) -> None:
            self.frames.append((count, queue_s, token_s))

        pool = DevicePool(
            configs or [self.hsm.config()],
            self.attempts,
            run_dir=self.hsm.run_dir,
            on_event=self.events.append,
            on_signed=measured,
        )
        await pool.start()
        try:
            yield pool
        finally:
            await pool.stop()
            assert self.hosts() == []

    def hosts(self) -> list[int]:
        """Process ids of the living hosts of this bench."""
        return host_pids(os.getpid(), self.hsm.run_dir)

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]


def host_pids(parent: int, run_dir: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            if str(run_dir) not in (entry / "cmdline").read_text():
                continue
            state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state != "Z":
                found.append(int(entry.name))
    return sorted(found)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    hsm = SoftHsm(tmp_path)
    hsm.init_token("main")
    hsm.pin_file()
    return Bench(hsm, FakePinAttempts())


async def stays(condition: Callable[[], bool]) -> None:
    """Watch for longer than the time after which an idle token is looked at again."""
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        assert condition(), "it did not stay so"
        await asyncio.sleep(0.01)


def status(pool: DevicePool) -> TokenStatus:
    return pool.tokens()[0]


def is_state(pool: DevicePool, state: TokenState) -> Callable[[], bool]:
    return lambda: status(pool).state is state


async def make_key(
    pool: DevicePool, algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256
) -> TokenObject:
    return await pool.generate("main", algorithm, os.urandom(16), "acme/root/1")


def p256_job(key: TokenObject, digest: bytes | None = None) -> SignJob:
    return SignJob(
        key.object_id,
        key.public_key,
        KeyAlgorithm.ECDSA_P256,
        P256,
        digest if digest is not None else os.urandom(32),
        key.serial,
    )


def verify(job: SignJob, signature: bytes) -> None:
    key = serialization.load_der_public_key(job.public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    der = utils.encode_dss_signature(r, s)
    key.verify(der, job.payload, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


class Load:
    """Callers that sign all the time; every signature they get is verified."""

    def __init__(self, pool: DevicePool, key: TokenObject, callers: int = 8) -> None:
        self._pool = pool
        self._key = key
        self._stop = False
        self.signed = 0
        self.signed_at = 0.0
        self.errors: list[Exception] = []
        self._tasks = [asyncio.create_task(self._sign(at)) for at in range(callers)]

    async def _sign(self, caller: int) -> None:
        while not self._stop:
            jobs = [p256_job(self._key) for _ in range(1 + caller % 3)]
            try:
                results = await self._pool.sign("main", jobs)
            except (DeviceGoneError, TokenLockedError) as error:
                self.errors.append(error)
                await asyncio.sleep(0.02)
                continue
            for job, result in zip(jobs, results, strict=True):
                if isinstance(result, bytes):
                    verify(job, result)
                    self.signed += 1
                    self.signed_at = time.monotonic()
                else:
                    self.errors.append(result)

    async def more(self, count: int = 50) -> None:
        """Wait until so many more signatures were made."""
        wanted = self.signed + count
        await eventually(lambda: self.signed >= wanted or any(t.done() for t in self._tasks))

    async def end(self) -> None:
        """Stop; raises what a caller stumbled over."""
        self._stop = True
        async with asyncio.timeout(10):
            await asyncio.gather(*self._tasks)


# -- hosts that die and hang -------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_host_killed_under_load_is_replaced_and_no_call_fails(
    bench: Bench, how: signal.Signals, hosts: int
) -> None:
    async with bench.running(bench.hsm.config(hosts=hosts)) as pool:
        await eventually(lambda: status(pool).hosts == hosts)
        load = Load(pool, await make_key(pool))
        killed = set()
        for _ in range(3):
            await load.more()
            await eventually(lambda: status(pool).hosts == hosts)
            killed.add(bench.hosts()[0])
            os.kill(bench.hosts()[0], how)
        await load.more()
        await load.end()

        assert len(killed) == 3
        assert not killed & set(bench.hosts())
    assert load.errors == []
    assert bench.kinds().count(EventKind.HOST_DIED) == 3
    assert any(how.name in event.detail for event in bench.events)


async def test_a_job_that_kills_its_hosts_is_tried_twice_and_then_answered(bench: Bench) -> None:
    shim = ShimmedModule(bench.hsm)
    async with bench.running(bench.hsm.config(module=shim.module)) as pool:
        key = await make_key(pool)
        (poison,) = await pool.sign("main", [p256_job(key, b"CRASH".ljust(32))])
        (good,) = await pool.sign("main", [p256_job(key)])

        assert isinstance(poison, DeviceGoneError) and poison.retry_after_s
        assert "SIGABRT" in poison.message
        assert isinstance(good, bytes)
    assert bench.kinds().count(EventKind.HOST_DIED) == 2


async def test_a_host_that_hangs_is_killed_at_the_token_timeout_and_its_jobs_are_signed(
    bench: Bench,
) -> None:
    async with bench.running(bench.hsm.config(token_timeout_s=0.8)) as pool:
        key = await make_key(pool)
        await pool.sign("main", [p256_job(key)])
        (stopped,) = bench.hosts()
        os.kill(stopped, signal.SIGSTOP)
        jobs = [p256_job(key) for _ in range(600)]

        started = time.monotonic()
        results = await asyncio.wait_for(pool.sign("main", jobs), 5)
        took_s = time.monotonic() - started

        for job, result in zip(jobs, results, strict=True):
            assert isinstance(result, bytes)
            verify(job, result)
        assert stopped not in bench.hosts()
    assert 0.4 < took_s < 2.5
    assert any("no answer from the PKCS#11 module for 0.8 s" in e.detail for e in bench.events)


async def test_a_slow_token_is_not_taken_for_a_hanging_one(bench: Bench) -> None:
    # A busy machine may take longer than the first of these for one single call; a host that is
    # killed for the length of all its calls together is killed at each of them.
    for timeout_s in (0.6, 2.4, 9.6):
        bench.events.clear()
        results: list[object] = []
        async with bench.running(bench.hsm.config(token_timeout_s=timeout_s)) as pool:
            with contextlib.suppress(DeviceGoneError):
                # Both an RSA key pair and the first frame may well take longer than one call.
                key = await make_key(pool, KeyAlgorithm.RSA_4096)
                wanted = SignJob(
                    key.object_id,
                    key.public_key,
                    KeyAlgorithm.RSA_4096,
                    Scheme.RSA_PKCS1_SHA512,
                    os.urandom(64),
                )
                results += await pool.sign("main", [wanted] * round(200 * timeout_s / 0.6))
        if EventKind.HOST_DIED not in bench.kinds():
            break
    assert results and all(isinstance(result, bytes) for result in results)
    assert EventKind.HOST_DIED not in bench.kinds()


_ORPHANS = """
import asyncio, sys
from pathlib import Path
from keyd.device.pool import DevicePool
from tests.fakes import FakePinAttempts
from tests.softhsm import MODULE
from keyd.device.settings import TokenConfig

async def main():
    folder = Path(sys.argv[1])
    config = TokenConfig("main", MODULE, label="main", hosts=2,
                         pin_source=f"file:{folder / 'pin'}",
                         softhsm_conf=folder / "softhsm2.conf")
    pool = DevicePool([config], FakePinAttempts(), run_dir=folder / "run")
    await pool.start()
    while pool.tokens()[0].hosts < 2:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_no_logged_in_host_outlives_a_killed_daemon(bench: Bench) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", _ORPHANS, str(bench.hsm.folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert daemon.stdout is not None
        assert await asyncio.wait_for(asyncio.to_thread(daemon.stdout.readline), 10) == b"ready\n"
        hosts = host_pids(daemon.pid, bench.hsm.run_dir)
        # Stopped, so that they cannot leave because their socket ended: the kernel must do it.
        for host in hosts:
            os.kill(host, signal.SIGSTOP)
    finally:
        daemon.kill()
        daemon.wait(10)
        assert daemon.stdout is not None
        daemon.stdout.close()

    assert len(hosts) == 2
    await eventually(lambda: not any(is_alive(host) for host in hosts), 2)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_host_whose_parent_is_not_the_daemon_refuses_to_run(bench: Bench) -> None:
    run_dir = bench.hsm.run_dir
    done = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "keyd.device.host",
            "--parent=1",
            "--fd=0",
            "--name=main",
            f"--module={bench.hsm.module}",
            f"--lock={run_dir / 'lock'}",
            f"--init-lock={run_dir / 'init'}",
        ],
        timeout=20,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )

    assert done.returncode == 3
    assert not (run_dir / "lock").exists()


def test_a_host_imports_little_and_the_daemon_never_imports_pkcs11() -> None:
    code = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"

    def modules(name: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        return set(done.stdout.split())

    heavy = {"sqlalchemy", "grpc", "tuf", "pydantic", "cryptography", "asyncio"}
    assert not heavy & modules("keyd.device.host")
    assert not {"pkcs11", "sqlalchemy", "grpc"} & modules("keyd.device.pool")


async def test_hosts_get_a_clean_environment_no_pin_in_argv_and_leave_no_core(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYD_PASSWORD", "in the environment of the daemon")
    async with bench.running() as pool:
        assert status(pool).state is TokenState.READY
        (pid,) = bench.hosts()
        proc = Path(f"/proc/{pid}")
        limits = (proc / "limits").read_text()
        arguments = (proc / "cmdline").read_bytes()
        try:
            environment = (proc / "environ").read_bytes()
        except PermissionError:
            environment = b""  # Not dumpable: only root may look.
        threads = len(list((proc / "task").iterdir()))

    assert "Max core file size        0" in limits
    assert PIN.encode() not in arguments + environment
    assert b"KEYD" not in environment
    assert threads == 1


async def test_a_module_that_crashes_its_hosts_faults_the_token_until_it_works(
    bench: Bench,
) -> None:
    shim = ShimmedModule(bench.hsm)
    shim.crash_at_load(True)
    good = bench.hsm.config("good", label="main")
    async with bench.running(bench.hsm.config(module=shim.module), good) as pool:
        await eventually(is_state(pool, TokenState.FAULTED))
        assert "SIGABRT" in status(pool).detail
        assert pool.tokens()[1].state is TokenState.READY
        with pytest.raises(DeviceGoneError):
            await pool.objects("main")
        shim.crash_at_load(False)

        await eventually(is_state(pool, TokenState.READY))


# -- tokens that come and go -------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2])
async def test_a_token_taken_away_under_load_heals_within_a_second_of_its_return(
    bench: Bench, hosts: int
) -> None:
    async with bench.running(bench.hsm.config(hosts=hosts)) as pool:
        await eventually(lambda: status(pool).hosts == hosts)
        load = Load(pool, await make_key(pool))
        before = bench.hosts()
        for away_s in (0.0, 0.05, 1.0):
            await load.more()
            bench.hsm.take_away()
            await asyncio.sleep(away_s)
            bench.hsm.bring_back()
            returned_at, signed = time.monotonic(), load.signed
            await eventually(lambda signed=signed: load.signed > signed + 20)  # type: ignore[misc]
            assert time.monotonic() - returned_at < 1.0
        await eventually(lambda: status(pool).hosts == hosts)
        await load.end()

        assert bench.hosts() == before
        assert isinstance(bench.attempts, FakePinAttempts)
        assert bench.attempts.find(status(pool).serial) is None
    assert EventKind.RETURNED in bench.kinds()
    assert load.errors and all(isinstance(e, DeviceGoneError) for e in load.errors)
    assert all(error.retry_after_s for error in load.errors if isinstance(error, DeviceGoneError))


async def test_an_idle_tokens_absence_and_return_are_noticed_by_themselves(bench: Bench) -> None:
    async with bench.running() as pool:
        key = await make_key(pool)
        bench.hsm.take_away()
        await eventually(is_state(pool, TokenState.ABSENT), 1.0)
        with pytest.raises(DeviceGoneError) as gone:
            await pool.sign("main", [p256_job(key)])
        bench.hsm.bring_back()
        await eventually(is_state(pool, TokenState.READY), 1.0)

        assert gone.value.retry_after_s == 1.0
        assert await pool.objects("main") == [key]
    assert bench.kinds() == [EventKind.UNLOCKED, EventKind.ABSENT, EventKind.RETURNED]


async def test_an_absent_token_never_looks_like_an_empty_one(bench: Bench) -> None:
    async with bench.running() as pool:
        key = await make_key(pool)
        for _ in range(5):
            await eventually(is_state(pool, TokenState.READY), 1.0)
            bench.hsm.take_away()
            with pytest.raises(DeviceGoneError):
                await pool.objects("main")
            bench.hsm.bring_back()
            await eventually(is_state(pool, TokenState.READY), 1.0)
            bench.hsm.take_away()
            with pytest.raises(DeviceGoneError):
                await pool.destroy("main", key.object_id, key.public_key)
            bench.hsm.bring_back()

        await eventually(is_state(pool, TokenState.READY), 1.0)
        assert await pool.objects("main") == [key]


async def test_a_prompt_token_heals_alone_while_its_host_lives(bench: Bench) -> None:
    async with bench.running(bench.hsm.config(pin_source="prompt")) as pool:
        assert status(pool).state is TokenState.LOCKED
        assert "keydctl token unlock main" in status(pool).detail
        await pool.unlock("main", Pin(PIN))
        bench.hsm.take_away()
        await eventually(is_state(pool, TokenState.ABSENT))
        bench.hsm.bring_back()

        await eventually(is_state(pool, TokenState.READY), 1.0)


async def test_a_prompt_token_whose_host_died_is_locked_and_says_so(bench: Bench) -> None:
    async with bench.running(bench.hsm.config(pin_source="prompt")) as pool:
        await pool.unlock("main", Pin(PIN))
        key = await make_key(pool)
        (host,) = bench.hosts()
        os.kill(host, signal.SIGKILL)
        await eventually(is_state(pool, TokenState.LOCKED))
        # The next host changes nothing about that.
        await eventually(lambda: bench.hosts() not in ([], [host]))
        await stays(is_state(pool, TokenState.LOCKED))

        assert "its host ended (killed by SIGKILL)" in status(pool).detail
        with pytest.raises(TokenLockedError) as locked:
            await pool.sign("main", [p256_job(key)])
        assert locked.value.hint == "keydctl token unlock main"
        await pool.unlock("main", Pin(PIN))
        assert isinstance((await pool.sign("main", [p256_job(key)]))[0], bytes)


async def test_a_token_made_after_the_start_is_found(tmp_path: Path) -> None:
    bench = Bench(SoftHsm(tmp_path), FakePinAttempts())
    bench.hsm.pin_file()
    async with bench.running() as pool:
        assert status(pool).state is TokenState.ABSENT
        assert "no token has label main" in status(pool).detail
        bench.hsm.init_token("main")

        await eventually(is_state(pool, TokenState.READY), 1.5)


async def test_another_token_with_the_same_label_never_gets_the_pin(bench: Bench) -> None:
    shim = ShimmedModule(bench.hsm)
    async with bench.running(bench.hsm.config(module=shim.module)) as pool:
        serial = status(pool).serial
        logins = shim.logins
        bench.hsm.take_away()
        await eventually(is_state(pool, TokenState.ABSENT))
        bench.hsm.tokens.mkdir()
        bench.hsm.init_token("main")
        await eventually(is_state(pool, TokenState.FAULTED))

        assert "another token is in the place of main" in status(pool).detail
        assert serial in status(pool).detail
        assert shim.logins == logins


# -- PINs ----------------------------------------------------------------------------------------


async def test_a_wrong_credential_spends_one_try_across_three_hosts_and_five_restarts(
    bench: Bench,
) -> None:
    shim = ShimmedModule(bench.hsm)
    bench.hsm.pin_file("00000000")
    config = bench.hsm.config(module=shim.module, hosts=3)
    for _ in range(5):
        bench.attempts = FileAttempts(bench.hsm.folder / "attempts")
        async with bench.running(config) as pool:
            await stays(is_state(pool, TokenState.LOCKED))
            assert "keydctl token unlock main" in status(pool).detail
            with pytest.raises(TokenLockedError):
                await pool.objects("main")

    assert shim.logins == 1
    assert bench.kinds().count(EventKind.PIN_REFUSED) == 1


async def test_a_persons_unlock_clears_the_refusal_and_logs_all_hosts_in(bench: Bench) -> None:
    bench.hsm.pin_file("00000000")
    attempts = FileAttempts(bench.hsm.folder / "attempts")
    bench.attempts = attempts
    async with bench.running(bench.hsm.config(hosts=3)) as pool:
        serial = status(pool).serial
        assert attempts.find(serial) == bench.hsm.config().pin_source
        with pytest.raises(PinRefusedError):
            await pool.unlock("main", Pin("11111111"))
        assert attempts.find(serial) is not None
        await pool.unlock("main", Pin(PIN))

        assert status(pool).hosts == 3
        assert attempts.find(serial) is None
    assert [e.by_person for e in bench.events if e.kind is EventKind.PIN_REFUSED] == [False, True]
    assert not any(
        pin in str(event) for event in bench.events for pin in (PIN, "00000000", "11111111")
    )


async def test_a_pin_that_was_refused_is_not_sent_again_after_a_person_unlocked_with_another(
    bench: Bench,
) -> None:
    shim = ShimmedModule(bench.hsm)
    bench.hsm.pin_file("00000000")
    async with bench.running(bench.hsm.config(module=shim.module)) as pool:
        await pool.unlock("main", Pin(PIN))
        assert shim.logins == 2
        (host,) = bench.hosts()
        os.kill(host, signal.SIGKILL)
        await eventually(is_state(pool, TokenState.LOCKED))
        assert shim.logins == 2
        bench.hsm.pin_file(PIN)

        await eventually(is_state(pool, TokenState.READY))


async def test_unlock_without_a_pin_takes_the_corrected_source(bench: Bench) -> None:
    bench.hsm.pin_file("00000000")
    async with bench.running() as pool:
        with pytest.raises(PinRefusedError):
            await pool.unlock("main", None)
        bench.hsm.pin_file(PIN)
        await pool.unlock("main", None)

        assert status(pool).state is TokenState.READY


async def test_a_login_cut_short_by_kill_9_is_not_tried_again(bench: Bench) -> None:
    shim = ShimmedModule(bench.hsm)
    shim.hang_in_login(True)
    config = bench.hsm.config(module=shim.module)
    bench.attempts = FileAttempts(bench.hsm.folder / "attempts")
    pool = DevicePool([config], bench.attempts, run_dir=bench.hsm.run_dir)
    starting = asyncio.create_task(pool.start())
    try:
        await eventually(lambda: shim.logins == 1)
        os.kill(bench.hosts()[0], signal.SIGKILL)
        await eventually(is_state(pool, TokenState.LOCKED))
        shim.hang_in_login(False)
        await stays(is_state(pool, TokenState.LOCKED))
    finally:
        await starting
        await pool.stop()

    async with bench.running(config) as restarted:
        assert status(restarted).state is TokenState.LOCKED
        assert shim.logins == 1
        await restarted.unlock("main", Pin(PIN))
        assert status(restarted).state is TokenState.READY


async def test_stopping_in_the_middle_of_a_start_leaves_no_refusal_behind(bench: Bench) -> None:
    bench.attempts = FileAttempts(bench.hsm.folder / "attempts")
    for step in range(9):
        pool = DevicePool([bench.hsm.config()], bench.attempts, run_dir=bench.hsm.run_dir)
        starting = asyncio.create_task(pool.start())
        try:
            if step < 4:
                await asyncio.sleep(0.03 * step)
            else:
                # The moment the attempt is on record, and a little later.
                folder = bench.hsm.folder / "attempts"
                await eventually(
                    lambda folder=folder, pool=pool: (  # type: ignore[misc]
                        any(folder.iterdir()) or status(pool).state is TokenState.READY
                    )
                )
                await asyncio.sleep(0.0005 * (step - 4))
        finally:
            await pool.stop()
            await starting
        assert list((bench.hsm.folder / "attempts").iterdir()) == []

    async with bench.running() as last:
        assert status(last).state is TokenState.READY


async def test_a_good_pin_is_tried_again_after_a_host_died_in_a_later_login(bench: Bench) -> None:
    shim = ShimmedModule(bench.hsm)
    async with bench.running(bench.hsm.config(module=shim.module)) as pool:
        shim.hang_in_login(True)
        os.kill(bench.hosts()[0], signal.SIGKILL)
        await eventually(lambda: shim.logins == 2)
        os.kill(bench.hosts()[0], signal.SIGKILL)
        shim.hang_in_login(False)

        await eventually(lambda: status(pool).hosts == 1)
        assert shim.logins == 3


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        (COUNT_LOW, TokenState.LOCKED),
        (COUNT_LOW | FINAL_TRY, TokenState.LOCKED),
        (LOCKED, TokenState.PIN_LOCKED),
    ],
)
async def test_a_token_that_counted_wrong_pins_gets_none_from_keyd_itself(
    bench: Bench, flags: int, state: TokenState
) -> None:
    shim = ShimmedModule(bench.hsm)
    shim.show_flags(flags)
    async with bench.running(bench.hsm.config(module=shim.module)) as pool:
        await stays(is_state(pool, state))

        assert shim.logins == 0


async def test_the_last_try_is_spent_only_by_a_person_who_says_so(bench: Bench) -> None:
    shim = ShimmedModule(bench.hsm)
    shim.show_flags(FINAL_TRY)
    async with bench.running(bench.hsm.config(module=shim.module)) as pool:
        assert status(pool).pin_state == "final-try"
        with pytest.raises(TokenLockedError) as refused:
            await pool.unlock("main", Pin(PIN))
        assert shim.logins == 0
        await pool.unlock("main", Pin(PIN), spend_last_try=True)

        assert "--spend-last-try" in refused.value.hint
        assert shim.logins == 1
        assert status(pool).state is TokenState.READY


async def test_a_pin_file_that_others_can_read_is_refused_until_it_is_corrected(
    bench: Bench,
) -> None:
    pin_file = bench.hsm.pin_file()
    pin_file.chmod(0o644)
    async with bench.running() as pool:
        assert status(pool).state is TokenState.LOCKED
        assert f"chmod 600 {pin_file}" in status(pool).detail
        pin_file.chmod(0o600)

        await eventually(is_state(pool, TokenState.READY), 1.0)


async def test_a_credential_is_read_from_the_credentials_directory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(bench.hsm.folder))
    async with bench.running(bench.hsm.config(pin_source="credential:pin")) as pool:
        assert status(pool).state is TokenState.READY


async def test_a_token_locked_by_hand_stays_locked_though_its_pin_is_configured(
    bench: Bench,
) -> None:
    async with bench.running() as pool:
        before = bench.hosts()
        await pool.lock("main")
        await eventually(lambda: bench.hosts() not in ([], before))
        await stays(is_state(pool, TokenState.LOCKED))
        assert "locked by hand" in status(pool).detail
        await pool.unlock("main", None)

        assert status(pool).state is TokenState.READY
    assert EventKind.HOST_DIED not in bench.kinds()


async def test_an_unlock_waits_for_the_new_host_of_a_locked_token_and_is_not_told_to_unlock_it(
    bench: Bench,
) -> None:
    async with bench.running(bench.hsm.config(pin_source="prompt")) as pool:
        await pool.unlock("main", Pin(PIN))
        with (bench.hsm.run_dir / f"init-{bench.hsm.module.name}.lock").open("ab") as held:
            # A host waits five seconds for it: it may be another one's that hangs.
            fcntl.flock(held, fcntl.LOCK_EX)
            await pool.lock("main")
            await pool.unlock("main", Pin(PIN))

        assert status(pool).state is TokenState.READY


# -- configurations that cannot work -------------------------------------------------------------


async def test_a_label_that_matches_two_tokens_is_told_with_their_serials(bench: Bench) -> None:
    bench.hsm.init_token("main")
    serials = sorted(bench.hsm.serials())
    async with bench.running() as pool:
        assert status(pool).state is TokenState.FAULTED
        assert ", ".join(serials) in status(pool).detail
        assert "set the serial" in status(pool).detail

    async with bench.running(bench.hsm.config(serial=serials[1])) as pool:
        assert status(pool).serial == serials[1]
        assert status(pool).state is TokenState.READY


async def test_a_module_that_is_missing_or_no_module_is_told_by_its_path(bench: Bench) -> None:
    text = bench.hsm.folder / "text.so"
    text.write_text("not a library")
    absent = bench.hsm.folder / "absent.so"
    configs = [
        bench.hsm.config("gone", module=absent, label="main"),
        bench.hsm.config("text", module=text, label="main"),
        bench.hsm.config("main"),
    ]
    async with bench.running(*configs) as pool:
        gone, no_module, good = pool.tokens()

        assert gone.state is no_module.state is TokenState.FAULTED
        assert f"there is no PKCS#11 module {absent}" in gone.detail
        assert f"{text} is not a PKCS#11 module" in no_module.detail
        with pytest.raises(DeviceFaultError):
            await pool.objects("gone")
        assert good.state is TokenState.READY


async def test_a_missing_mechanism_is_told_before_anything_is_made(bench: Bench) -> None:
    with bench.hsm.conf.open("a") as conf:
        conf.write("slots.mechanisms = -CKM_EDDSA,CKM_EC_EDWARDS_KEY_PAIR_GEN\n")
    async with bench.running() as pool:
        with pytest.raises(MechanismMissingError) as missing:
            await make_key(pool, KeyAlgorithm.ED25519)

        assert "CKM_E" in missing.value.message
        assert await pool.objects("main") == []
        await make_key(pool, KeyAlgorithm.ECDSA_P256)


# -- the queue -----------------------------------------------------------------------------------


async def test_several_hosts_share_the_work_and_each_holds_its_own_place(bench: Bench) -> None:
    async with bench.running(bench.hsm.config(hosts=3)) as pool:
        await eventually(lambda: status(pool).hosts == 3)
        key = await make_key(pool)
        hosts = bench.hosts()
        before = [cpu_ticks(pid) for pid in hosts]
        results = await pool.sign("main", [p256_job(key) for _ in range(9_000)])
        after = [cpu_ticks(pid) for pid in hosts]

        assert all(isinstance(result, bytes) for result in results)
        assert len(hosts) == 3
        assert len(list(bench.hsm.run_dir.glob("token-main-*.lock"))) == 3
    worked = [later - earlier for later, earlier in zip(after, before, strict=True)]
    assert min(worked) > 0


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_requests_that_wait_together_travel_in_one_frame(bench: Bench) -> None:
    async with bench.running() as pool:
        key = await make_key(pool)
        await asyncio.gather(*(pool.sign("main", [p256_job(key)]) for _ in range(200)))

    assert sum(count for count, _, _ in bench.frames) == 200
    assert len(bench.frames) <= 3
    assert all(queue_s >= 0 and token_s > 0 for _, queue_s, token_s in bench.frames)


async def test_a_full_queue_sends_callers_away_with_a_time_to_come_back(bench: Bench) -> None:
    async with bench.running(bench.hsm.config(queue_limit=1_000)) as pool:
        key = await make_key(pool)
        first = asyncio.create_task(pool.sign("main", [p256_job(key)] * 1_000))
        await asyncio.sleep(0)
        with pytest.raises(DeviceBusyError) as busy:
            await pool.sign("main", [p256_job(key)] * 900)
        results = await first

        assert len(results) == 1_000
        assert busy.value.retry_after_s is not None and busy.value.retry_after_s > 0
        assert sum(count for count, _, _ in bench.frames) == 1_000


async def test_one_signature_does_not_wait_behind_a_batch(bench: Bench) -> None:
    async with bench.running() as pool:
        key = await make_key(pool)
        batch = asyncio.create_task(pool.sign("main", [p256_job(key)] * 10_000))
        await asyncio.sleep(0.05)
        await pool.sign("main", [p256_job(key)])

        assert not batch.done()
        assert len(await batch) == 10_000


async def test_jobs_of_a_caller_that_left_never_reach_the_token(bench: Bench) -> None:
    async with bench.running() as pool:
        key = await make_key(pool)
        leaving = asyncio.create_task(pool.sign("main", [p256_job(key)] * 10_000))
        await asyncio.sleep(0.05)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert status(pool).queued == 0
        assert isinstance((await pool.sign("main", [p256_job(key)]))[0], bytes)

    assert sum(count for count, _, _ in bench.frames) < 9_000


async def test_an_ed25519_message_of_16_mib_is_signed(bench: Bench) -> None:
    message = os.urandom(16 * 1024 * 1024)
    async with bench.running() as pool:
        key = await make_key(pool, KeyAlgorithm.ED25519)
        job = SignJob(key.object_id, key.public_key, KeyAlgorithm.ED25519, Scheme.ED25519, message)
        (signature,) = await pool.sign("main", [job])

    assert isinstance(signature, bytes)
    public_key = serialization.load_der_public_key(key.public_key)
    assert isinstance(public_key, ed25519.Ed25519PublicKey)
    public_key.verify(signature, message)


async def test_stopping_answers_those_who_wait(bench: Bench) -> None:
    async with bench.running() as pool:
        key = await make_key(pool)
        signing = asyncio.create_task(pool.sign("main", [p256_job(key)] * 10_000))
        await asyncio.sleep(0.02)
        await pool.stop()
        results = await asyncio.wait_for(signing, 2)

    assert any(isinstance(result, DeviceGoneError) for result in results)
