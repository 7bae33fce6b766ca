"""A machine that nobody has used, for pages that begin at the beginning: a mount, network and
process namespace of its own, in which ports are free, /etc/docker, /etc/hosts and /run may be
written, and everything that runs ends with it. Takes root.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pages import Block
from tests.yubikey import terminal

_CHECKOUT = Path(__file__).resolve().parents[1]
_START_S = 30.0
_RUN_S = 60.0
_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
_BEGIN = """
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /etc/docker &&
mount -t tmpfs tmpfs /etc/docker && printf '127.0.0.1 localhost\\n' >"$1" &&
mount --bind "$1" /etc/hosts && ip link set lo up && echo ready && exec sleep infinity
"""
_NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
# What a person has exported, and where they are, is so for their next block as well.
_SESSION = """
set -e
[ ! -e "$SESSION" ] || . "$SESSION"
trap '{ export -p; printf "cd %s\\n" "$PWD"; } >"$SESSION"' EXIT
"""


def require_machine() -> None:
    """Skip the test where there can be no such machine."""
    if os.geteuid() != 0:
        pytest.skip("a machine of its own takes root")
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "true"],
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip(f"a machine of its own takes namespaces: {tried.stderr.strip()}")


class Machine:
    """The machine. ``home``: alice's; the other people of a page say where theirs is."""

    def __init__(self, folder: Path, init: int) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._init = init
        self._root = Path("/proc") / str(init) / "root"
        self._programs: list[subprocess.Popen[bytes]] = []
        tools = folder / "tools"
        self.home.mkdir()
        tools.mkdir()
        for name, module in (("keydctl", "keydctl"), ("keyd-server", "server")):
            script = tools / name
            script.write_text(
                f"#!/bin/sh\nPYTHONPATH={_CHECKOUT} exec {sys.executable} "
                f'-m keyd.cli.{module} "$@"\n'
            )
            script.chmod(0o755)
        self._env = {
            "HOME": str(self.home),
            "PATH": f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }

    def state(self) -> list[Path]:
        """The folders in which everything is that was written here."""
        return [self.folder, self._root / "run", self._root / "etc" / "docker"]

    def name_of(self, file: Path) -> str:
        """A file's path from alice's home, or as the machine sees it."""
        if file.is_relative_to(self.home):
            return str(file.relative_to(self.home))
        return "/" + str(file.relative_to(self._root))

    def does(self, block: Block, dialogue: Sequence[tuple[str, str]] = ()) -> str:
        """Run a block to its end: what it showed.

        Raises:
            AssertionError: it failed, or did not fail as it has to, or showed something else.
        """
        if block.fails:
            said = "".join(self._fails(block, line) for line in block.text.splitlines())
        elif dialogue:
            command = shlex.join(self._enter(self._inside(block.person, block.text)))
            said = terminal.run(command, self._env, self.home, dialogue)
        else:
            code, said = self._run(block.person, block.text)
            assert code == 0, f"{block.place}: exit code {code}:\n{block.text}\n{said}"
        assert block.shown_by(said), (
            f"{block.place}: {block.text}\nhas to show\n\n{block.shows}\nand shows\n\n{said}"
        )
        return said

    def begins(self, block: Block, listens: int | str) -> None:
        """Start a program that goes on, and wait until it listens on a port, or a path."""
        output = self.folder / f"{block.name}.output"
        with output.open("wb") as written:
            program = subprocess.Popen(
                self._enter(self._inside(block.person, block.text)),
                env=self._env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
            )
        self._programs.append(program)
        until = time.monotonic() + _START_S
        while not self._is_listening(listens):
            if program.poll() is not None or time.monotonic() > until:
                said = output.read_text(errors="replace")[-3000:]
                raise AssertionError(f"{block.place}: nobody listens on {listens}:\n{said}")
            time.sleep(0.05)

    def ended(self) -> None:
        """Wait for what was begun, when the machine is gone."""
        for program in self._programs:
            program.wait(_START_S)

    def _fails(self, block: Block, line: str) -> str:
        code, said = self._run(block.person, line)
        assert code != 0, f"{block.place}: {line}\nworked:\n{said}"
        return said

    def _run(self, person: str, script: str) -> tuple[int, str]:
        done = subprocess.run(
            self._enter(self._inside(person, script)),
            env=self._env,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_RUN_S,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def _inside(self, person: str, script: str) -> list[str]:
        session = self.folder / f"{person}.session"
        return ["sh", "-c", f"SESSION={session}\n{_SESSION}\n{script}"]

    def _enter(self, command: Sequence[str]) -> list[str]:
        into = ("--mount", "--net", "--pid", f"--wd={self.home}")
        return ["nsenter", "--target", str(self._init), *into, "--", *command]

    def _is_listening(self, wanted: int | str) -> bool:
        net = Path("/proc") / str(self._init) / "net"
        if isinstance(wanted, str):
            return any(line.endswith(f" {wanted}") for line in _lines(net / "unix"))
        rows = [line.split() for name in ("tcp", "tcp6") for line in _lines(net / name)]
        ports = {row[1].rpartition(":")[2] for row in rows if row[3] == _LISTENING}
        return f"{wanted:04X}" in ports


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()[1:]


@contextmanager
def a_machine() -> Iterator[Machine]:
    """A machine, gone in the end with all that ran there."""
    require_machine()
    # Short, because a unix socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="keyd-machine-"))
    unshare = subprocess.Popen(
        ["unshare", *_NAMESPACES, "sh", "-c", _BEGIN, "sh", str(folder / "hosts")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    init, machine = 0, None
    try:
        assert unshare.stdout is not None
        assert unshare.stdout.readline() == "ready\n"
        children = Path("/proc") / f"{unshare.pid}/task/{unshare.pid}/children"
        init = int(children.read_text())
        machine = Machine(folder, init)
        yield machine
    finally:
        _end(unshare, init)
        if machine is not None:
            machine.ended()
        shutil.rmtree(folder, ignore_errors=True)


def _end(unshare: subprocess.Popen[str], init: int) -> None:
    """The first process is killed with its parent; with it the namespace loses all others."""
    unshare.kill()
    unshare.wait(_START_S)
    if unshare.stdout is not None:
        unshare.stdout.close()
    until = time.monotonic() + _START_S
    while init and Path(f"/proc/{init}").exists() and time.monotonic() < until:
        time.sleep(0.05)
