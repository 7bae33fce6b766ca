"""The bench itself: it starts fast, several beside each other, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench
from tests.yubikey.model import Model
from tests.yubikey.process import CONTROL_SOCKET
from tests.yubikey.worker import Worker, WorkerError

_ROOT = Path(__file__).parents[2]


def is_alive(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def all_dead(pids: tuple[int, ...], within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def core_seconds(pid: int) -> float:
    """What a process has taken of a core so far (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_bench_with_a_key_takes_less_than_half_a_second_of_a_core(ykcs11: Path) -> None:
    """Not of the clock: that would say how busy the machine is."""
    with Bench.start() as bench:
        assert bench.add(Model(1234567)).state.powered
        assert sum(core_seconds(pid) for pid in bench.pids) < 0.5


def test_benches_beside_each_other_do_not_know_each_other(ykcs11: Path) -> None:
    with Bench.start() as first, Bench.start() as second:
        first.add(Model(1111111))
        second.add(Model(2222222))
        with Worker(first.environment) as one, Worker(second.environment) as two:
            assert one.call(by_yubikit.look, 1111111).serial == 1111111
            assert two.call(by_yubikit.look, 2222222).serial == 2222222
            with pytest.raises(WorkerError, match="no YubiKey 2222222"):
                one.call(by_yubikit.look, 2222222)


def inhabitants(namespace: str) -> list[str]:
    """Processes in this network namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "ns/net").readlink()) == namespace:
                found.append(process.name)
    return found


def as_it_is(_: Bench) -> None:
    """Nothing happened."""


@pytest.mark.parametrize(
    "happens", [as_it_is, Bench.kill_pcscd, lambda bench: bench.start_pcscd(), Bench.suspend]
)
def test_a_stopped_bench_leaves_no_process_namespace_or_file(
    ykcs11: Path, happens: Callable[[Bench], None]
) -> None:
    with Bench.start() as bench:
        bench.add(Model(1234567))
        pids = bench.pids
        namespace = str(Path(f"/proc/{pids[0]}/ns/net").readlink())
        assert all(is_alive(pid) for pid in pids)
        isolated = bench.isolated
        happens(bench)
    assert all_dead(pids)
    if isolated:
        assert not inhabitants(namespace)
    assert not bench.socket_path.parent.exists()


def test_a_killed_test_leaves_no_process(ykcs11: Path) -> None:
    script = (
        "import time\n"
        "from tests.yubikey.bench import Bench\n"
        "bench = Bench.start()\n"
        "print(*bench.pids, bench.socket_path.parent, flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        assert child.stdout is not None
        *pids, folder = child.stdout.readline().split()
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)
    assert all_dead(tuple(int(pid) for pid in pids))
    assert not Path(folder).exists()


def test_the_readers_port_is_not_open_to_the_network(ykcs11: Path) -> None:
    with Bench.start() as bench:
        if not bench.isolated:
            pytest.skip("this kernel gives us no network namespace")
        listening = Path("/proc/net/tcp").read_text()
        inside = Path(f"/proc/{bench.pids[0]}/net/tcp").read_text()
    # 8C7B is the port; the state 0A is LISTEN.
    assert "00000000:8C7B 00000000:0000 0A" in inside
    assert "00000000:8C7B 00000000:0000 0A" not in listening


def test_an_order_that_makes_no_sense_is_told(ykcs11: Path) -> None:
    with Bench.start() as bench:
        key = bench.add(Model(1234567))
        with pytest.raises(RuntimeError, match="plugged in"):
            key.insert()
        assert not key.touch()


def test_pcscd_comes_back_however_many_files_the_card_process_has_open(ykcs11: Path) -> None:
    with Bench.start(readers=2) as bench:
        keys = [bench.add(Model(1000000 + slot), slot) for slot in range(4)]
        controls = []
        for _ in range(12):
            # Each is a descriptor of the card process.
            control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            control.connect(str(bench.socket_path.parent / CONTROL_SOCKET))
            controls.append(control)
        try:
            bench.kill_pcscd()
            bench.start_pcscd()
            assert all(key.state.powered for key in keys)
        finally:
            for control in controls:
                control.close()
