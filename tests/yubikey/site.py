"""A daemon with YubiKeys beside its SoftHSM token, and keydctl for its admin."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from keyd.cli.server_dev import make_folder
from keyd.client import Client
from tests import keydctl_forks
from tests.e2e.daemon_process import DaemonProcess
from tests.yubikey.bench import Bench, EmulatedKey

ROOT = Path(__file__).parents[2]
PIN, PUK, OTHER = "73910462", "58203971", "40961738"
FDS = ("--pin-fd", "0", "--puk-fd", "0")
"""How init reads both secrets from its standard input."""


class Site:
    """Token ``yubi`` is ``key``."""

    def __init__(self, daemon: DaemonProcess, key: EmulatedKey, folder: Path) -> None:
        self.daemon = daemon
        self.key = key
        self.folder = folder

    @property
    def env(self) -> dict[str, str]:
        """keydctl's."""
        return {
            **os.environ,
            "KEYD_ENDPOINT": self.daemon.endpoint,
            "XDG_STATE_HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
        }

    def client(self) -> Client:
        """For what a test only needs done: no process is started for it."""
        return Client(self.daemon.endpoint, keep_checkpoints=False)

    def begin(self, *words: str | Path) -> subprocess.Popen[str]:
        """keydctl under way; secrets go to its standard input."""
        return subprocess.Popen(
            [sys.executable, "-m", "keyd.cli.keydctl", *map(str, words)],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str | Path, secrets: str = "") -> subprocess.CompletedProcess[str]:
        """keydctl to its end."""
        return keydctl_forks.run_text(words, self.env, stdin=secrets)

    def do(self, *words: str | Path, secrets: str = "", code: int = 0) -> Any:
        """Run with --json: the answer, or with another code the error."""
        done = self.run(*words, "--json", secrets=secrets)
        assert done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout or done.stderr.splitlines()[-1])

    def init(self, token: str = "yubi", code: int = 0) -> Any:
        """Set it up."""
        secrets = f"{PIN}\n{PUK}\n"
        words = ("yubikey", "init", token, "--factory", "--yes", *FDS)
        return self.do(*words, secrets=secrets, code=code)

    def unlock(self, pin: str = PIN, token: str = "yubi") -> None:
        """Log in."""
        self.do("token", "unlock", token, "--pin-stdin", secrets=f"{pin}\n")

    def state(self, token: str = "yubi") -> str:
        """Of a token."""
        with self.client() as keyd:
            (found,) = [t for t in keyd.list_tokens() if t.name == token]
            return found.state.value

    def touched(self, *words: str | Path) -> Any:
        """Run what waits for one touch."""
        running = self.begin(*words, "--json")
        try:
            self.key.wait_for_blinking(15)
            assert self.key.touch()
            out, err = running.communicate(timeout=30)
        finally:
            running.kill()
            running.wait(10)
        assert running.returncode == 0, err
        return json.loads(out)

    def entries(self, *words: str) -> str:
        """The log."""
        done = self.run("audit", "list", *words, "--json")
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def a_site(
    bench: Bench,
    module: Path,
    key: EmulatedKey,
    *,
    more: Mapping[str, int] | None = None,
    policy: str = "",
    people: Sequence[str] = (),
    starts: bool = True,
) -> Iterator[Site]:
    """Started, unless ``starts`` is false. ``more``: further tokens, name to serial. ``policy``: is
    added to policy.toml. ``people``: have sockets of their own, d/run/NAME.sock."""
    # Short, because a unix socket's path has at most 107 bytes.
    folder = Path(mkdtemp(prefix="keyd-site-"))
    daemon = None
    try:
        made = make_folder(folder / "d", tcp=None, hosts=1, now=datetime.now(UTC), persons=people)
        roots = folder / "bench.pem"
        roots.write_text(bench.call("describe")["root"])
        trusts = f'[server]\nattestation_roots = ["{roots}"]'
        config = made.config.read_text().replace("[server]", trusts, 1)
        for name, serial in {"yubi": key.serial, **(more or {})}.items():
            config += (
                f'\n[[token]]\nname = "{name}"\nmodule = "{module}"\n'
                f'serial = "{serial}"\npin = "prompt"\n'
            )
        made.config.write_text(config)
        with (folder / "d/policy.toml").open("a") as file:
            file.write(policy)
        command = ("run", "--config", str(made.config))
        daemon = DaemonProcess(folder / "d", command=command, env=bench.environment, forked=True)
        if starts:
            daemon.start()
        yield Site(daemon, key, folder)
    finally:
        if daemon is not None:
            daemon.kill()
        shutil.rmtree(folder)
