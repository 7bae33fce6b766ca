"""The scene of docs/recovery.md: a daemon with three tokens and a second person, repositories, and
clients that trust their first root. The page's blocks are run in a repository's folder.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

from tuf.api.metadata import Metadata, Root

from keyd.cli.server_dev import make_folder
from keyd.cli.softhsm_token import create_token, find_softhsm
from keyd.client import Client
from keyd.model import KeyAlgorithm, Pin, TokenState
from tests.e2e.commands import run_to_end
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import ROLES, StockClient
from tests.waiting import until

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "recovery.md").read_text()
EXTRA_TOKEN = '\n[[token]]\nname = "{0}"\nmodule = "{1}"\nlabel = "{0}"\npin = "file:{2}"\n'
EXTRA_TOKEN += 'softhsm_conf = "{3}"\n'


def block(mark: str) -> str:
    """The page's code block with this mark."""
    found = re.findall(rf"^```{re.escape(mark)}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"docs/recovery.md has {len(found)} blocks marked {mark!r}"
    return str(found[0])


@dataclass(frozen=True)
class Site:
    """A folder with repo/ in it, and a client that trusts its first root."""

    place: Place
    name: str
    home: Path

    @property
    def repo(self) -> Path:
        return self.home / "repo"

    @property
    def ctl(self) -> Keydctl:
        return Keydctl(self.place.daemon.endpoint, self.home / "state")

    def client(self, name: str = "client") -> StockClient:
        return StockClient(self.home / name, self.repo)

    def add(self, file: str) -> None:
        (self.home / file).write_text(file)
        self.ctl("tuf", "add", self.repo, self.home / file)

    def root(self, version: int) -> Metadata[Root]:
        return Metadata.from_file(str(self.repo / f"metadata/{version}.root.json"))

    def keyid(self, key: str) -> str:
        """Of the key's first version."""
        return str(self.ctl("key", "show", f"{self.name}/{key}")["versions"][0]["keyids"]["tuf"])

    def does(
        self,
        mark: str,
        *,
        who: str = "keyd",
        code: int = 0,
        types: str = "",
        names: Mapping[str, str] | None = None,
    ) -> str:
        """Run a block of the page; what it printed. ``types``: answers at a terminal, one line
        for each question. ``names``: words of the page, and what they are here."""
        script = block(f"sh {mark}")
        for word, here in (names or {}).items():
            assert word in script, f"{word} is not in block {mark}"
            script = script.replace(word, here)
        return self.run(script, who=who, code=code, types=types)

    def run(self, script: str, *, who: str = "keyd", code: int = 0, types: str = "") -> str:
        """Run commands of the page that are in no block."""
        script = script.replace("acme", self.name)
        keyboard, terminal = os.openpty()
        try:
            os.write(keyboard, types.encode())
            done = subprocess.run(
                ["sh", "-e", "-c", script],
                cwd=self.home,
                env={
                    "HOME": str(self.home),
                    "PATH": f"{self.place.tools}:/usr/bin:/bin",
                    "KEYD_ENDPOINT": f"unix:{self.place.daemon.socket.with_name(f'{who}.sock')}",
                },
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            os.close(keyboard)
            os.close(terminal)
        assert "Traceback" not in done.stdout
        assert done.returncode == code, f"{script}\n{done.stdout}"
        return done.stdout


@dataclass(frozen=True)
class Place:
    """A daemon with the tokens dev, release and spare; bob is a second person."""

    folder: Path
    daemon: DaemonProcess
    tokens: dict[str, Path]

    @property
    def tools(self) -> Path:
        return self.folder / "tools"

    @property
    def config(self) -> Path:
        return self.daemon.folder / "keyd.toml"

    def client(self) -> Client:
        return Client(self.daemon.endpoint, keep_checkpoints=False)

    def server(self, *words: str | Path) -> None:
        """Run keyd-server."""
        done = run_to_end(self.tools / "keyd-server", *words, "--config", self.config)
        assert done.returncode == 0, done.stdout

    def create(self, name: str, token: str = "dev") -> None:
        with self.client() as keyd:
            until(lambda: self.state(token) is TokenState.READY, f"{token} is there")
            keyd.create_key(name, KeyAlgorithm.ECDSA_P256, token=token)

    def state(self, token: str) -> TokenState:
        with self.client() as keyd:
            return next(t.state for t in keyd.list_tokens() if t.name == token)

    def adds_to_policy(self, text: str) -> None:
        """Write it, and reload."""
        with self.client() as keyd:
            before = keyd.status().policy_sha256
            with (self.daemon.folder / "policy.toml").open("a") as policy:
                policy.write(f"\n{text}")
            self.daemon.signal(signal.SIGHUP)
            until(lambda: keyd.status().policy_sha256 != before, "the policy is another one")

    def site(self, *roots: str, threshold: int = 1, token: str = "dev") -> Site:
        """A published repository with one target. ``token``: where the targets key is."""
        name = f"site{time.monotonic_ns()}"
        made = Site(self, name, self.folder / name)
        made.home.mkdir()
        names = [f"{name}/{key}" for key in (*(roots or ("root",)), *ROLES[2:])]
        for key in names:
            self.create(key)
        self.create(f"{name}/targets", token)
        given = [word for key in names[: len(roots) or 1] for word in ("--root", key)]
        options = ("--root-threshold", str(threshold))
        made.ctl("tuf", "init", made.repo, "--repository", name, *given, *options)
        made.add("one")
        shutil.copy(made.repo / "metadata/1.root.json", made.home / "shipped-root.json")
        return made


@contextmanager
def a_place() -> Iterator[Place]:
    folder = Path(mkdtemp(prefix="keyd-rec-"))
    try:
        (folder / "tools").mkdir()
        for command, module in (("keydctl", "keydctl"), ("keyd-server", "server")):
            script = folder / "tools" / command
            script.write_text(
                f"#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} "
                f'-m keyd.cli.{module} "$@"\n'
            )
            script.chmod(0o755)
        made = make_folder(folder / "d", tcp=None, hosts=1, now=datetime.now(UTC), persons=["bob"])
        tokens: dict[str, Path] = {}
        library, pin = find_softhsm(), Pin("314159")
        for label in ("release", "spare"):
            before = set((folder / "d/tokens").iterdir())
            conf = folder / "d/softhsm2.conf"
            create_token(library, conf, label, Pin("271828"), pin)
            (tokens[label],) = set((folder / "d/tokens").iterdir()) - before
            file = folder / "d" / f"pin-{label}"
            file.write_text(f"{pin.reveal()}\n")
            file.chmod(0o600)
            with made.config.open("a") as config:
                config.write(EXTRA_TOKEN.format(label, library, file, conf))
        run = ("run", "--config", str(made.config))
        with DaemonProcess(folder / "d", command=run, forked=True) as daemon:
            yield Place(folder, daemon, tokens)
    finally:
        shutil.rmtree(folder)


def waiting(site: Site) -> list[str]:
    """Ids of approvals that wait for this repository's people."""
    listed = site.ctl("approvals")
    return [a["id"] for a in listed if a["subject"].startswith(f"{site.name}/")]
