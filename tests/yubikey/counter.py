"""A daemon with two YubiKeys in its readers, and people who type commands at terminals."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

from keyd.cli.server_dev import make_folder
from keyd.pki import Authority, new_request
from tests import keydctl_forks
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import Model
from tests.yubikey.terminal import Terminal
from tests.yubikey.touch import Person

PIN, PUK = "73910462", "58203971"
RUNNER = "uri:spiffe://acme/ci"
"""Reaches the daemon over TCP; may sign, and see neither tokens nor keys that it does not use."""

_CHECKOUT = Path(__file__).resolve().parents[2]
_POLICY = f"""
[[grant]]
name = "certifier"
principals = ["socket:dev"]
actions = ["certify"]
keys = ["acme/*"]

[[grant]]
name = "runner"
principals = ["{RUNNER}"]
actions = ["sign"]
keys = ["acme/*"]
"""


@dataclass(frozen=True)
class Counter:
    """``yubi`` holds acme/root in 9c, ``spare`` acme/spare, and the token ``dev`` is a SoftHSM.
    Both YubiKeys are set up and unlocked; their keys want a touch each time."""

    folder: Path
    daemon: DaemonProcess
    yubi: EmulatedKey
    spare: EmulatedKey
    runner_env: dict[str, str]

    @property
    def ctl(self) -> Keydctl:
        """keydctl without a terminal."""
        return Keydctl(self.daemon.endpoint, self.folder / "state")

    @property
    def env(self) -> dict[str, str]:
        """For commands of whoever runs the daemon."""
        return {
            "HOME": str(self.folder),
            "PATH": f"{self.folder / 'tools'}:/usr/bin:/bin",
            "KEYD_ENDPOINT": self.daemon.endpoint,
            "TERM": "dumb",
        }

    def begins(self, script: str, env: dict[str, str] | None = None) -> Terminal:
        """Commands at a terminal, under way."""
        return Terminal(script, {**self.env, **(env or {})}, self.folder)

    def file(self, text: str) -> str:
        """The name of a file to sign; other bytes each time, since a stored signature is given
        again without a touch."""
        name = f"file-{text}"
        (self.folder / name).write_text(text)
        return name

    def waits(self) -> None:
        """People at the YubiKeys who wait to be told."""
        for key in (self.yubi, self.spare):
            key.person(Person.WAITS)


@contextmanager
def a_counter(module: Path, port: int) -> Iterator[Counter]:
    """``module``: libykcs11. ``port``: for TCP."""
    # Short, because a unix socket's path has at most 107 bytes.
    folder = Path(mkdtemp(prefix="keyd-counter-"))
    try:
        (folder / "tools").mkdir()
        script = folder / "tools/keydctl"
        script.write_text(
            f'#!/bin/sh\nPYTHONPATH={_CHECKOUT} exec {sys.executable} -m keyd.cli.keydctl "$@"\n'
        )
        script.chmod(0o755)
        with Bench.start() as bench:
            yubi, spare = bench.add(Model(1234567)), bench.add(Model(2345678), slot=1)
            now = datetime.now(UTC)
            made = make_folder(folder / "d", tcp=f"127.0.0.1:{port}", hosts=1, now=now)
            roots = folder / "bench.pem"
            roots.write_text(bench.call("describe")["root"])
            config = made.config.read_text().replace(
                "[server]", f'[server]\nattestation_roots = ["{roots}"]', 1
            )
            for name, key in (("yubi", yubi), ("spare", spare)):
                config += f'\n[[token]]\nname = "{name}"\nmodule = "{module}"\n'
                config += f'serial = "{key.serial}"\npin = "prompt"\n'
            made.config.write_text(config)
            with (folder / "d/policy.toml").open("a") as policy:
                policy.write(_POLICY)
            run = ("run", "--config", str(made.config))
            cards = bench.environment
            with DaemonProcess(folder / "d", command=run, env=cards, forked=True) as daemon:
                env = _runner(folder, port, now)
                counter = Counter(folder, daemon, yubi, spare, env)
                _set_up(counter)
                yield counter
    finally:
        shutil.rmtree(folder)


def _runner(folder: Path, port: int, now: datetime) -> dict[str, str]:
    """A certificate, and where the daemon listens."""
    tls = folder / "d" / "tls"
    request = new_request([RUNNER])
    (folder / "runner.key").write_bytes(request.key_pem)
    (folder / "runner.key").chmod(0o600)
    certificate = Authority.open(tls / "ca", now).sign_client(request.csr_pem, now)
    (folder / "runner.pem").write_bytes(certificate)
    return {
        "KEYD_ENDPOINT": f"dns:127.0.0.1:{port}",
        "KEYD_CA": str(tls / "ca" / "ca.pem"),
        "KEYD_CERT": str(folder / "runner.pem"),
        "KEYD_KEY": str(folder / "runner.key"),
    }


def _set_up(counter: Counter) -> None:
    ctl = counter.ctl
    for name, key, made in (
        ("yubi", counter.yubi, "acme/root"),
        ("spare", counter.spare, "acme/spare"),
    ):
        fds = ("--pin-fd", "0", "--puk-fd", "0")
        _typed(ctl, f"{PIN}\n{PUK}\n", "yubikey", "init", name, "--factory", "--yes", *fds)
        _typed(ctl, f"{PIN}\n", "token", "unlock", name, "--pin-stdin")
        key.person(Person.TOUCHES)
        ctl("key", "create", made, "--token", name, "--slot", "9c", "--touch", "always")
    counter.waits()


def _typed(ctl: Keydctl, secrets: str, *words: str) -> None:
    done = keydctl_forks.run_text(words, ctl.env, stdin=secrets)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
