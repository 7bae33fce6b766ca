"""Commands that have to work, and programs that run until the demo ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

WAIT_S = 30.0


class DemoError(Exception):
    """A step did not do what it has to; the text says which and why."""


def run(*words: str | Path, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """Run a command that has to work; what it printed."""
    done = subprocess.run(
        [*map(str, words)],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise DemoError(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def start(
    stack: ExitStack,
    name: str,
    command: Sequence[str],
    *,
    port: int,
    folder: Path,
    env: Mapping[str, str],
) -> None:
    """Start a program and wait until it listens at the port; it ends with the stack.

    In the folder are then what it says (NAME.output) and its process id (NAME.pid), for end_left().
    """
    output = folder / f"{name}.output"
    with output.open("wb") as written:
        # Ctrl-C is for the demo, which ends them in their order.
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stack.callback(end, process)
    (folder / f"{name}.pid").write_text(str(process.pid))
    until = time.monotonic() + WAIT_S
    while not listens(port):
        if process.poll() is not None or time.monotonic() > until:
            said = output.read_text(errors="replace")[-1500:]
            raise DemoError(f"{name} did not start:\n{said}")
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a child and wait for it; by force if it does not go."""
    process.terminate()
    try:
        process.wait(WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(WAIT_S)


def end_left(folder: Path) -> None:
    """End by force what a demo that was killed has left running with something of the folder."""
    until = time.monotonic() + WAIT_S
    for file in folder.glob("*.pid"):
        pid = int(file.read_text())
        # Another program may have that number by now.
        while f"{folder}/".encode() in _arguments_of(pid) and time.monotonic() < until:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _arguments_of(pid: int) -> bytes:
    """Empty for a process that is gone."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def free_ports(number: int) -> list[int]:
    """Where nobody listens now."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def listens(port: int) -> bool:
    """True when somebody answers there."""
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0
