"""The walk-through of docs/yubikey.md, word for word, at a terminal: a daemon, pcscd and libykcs11,
three YubiKeys of which one is lost, and python-tuf's own client, which trusts the first root.

The page marks its blocks (```sh init); this file and test_page.py read them from there, so that
page and program cannot drift apart.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

import pytest
from tuf.api.metadata import Metadata, Root

from keyd.cli.server_dev import make_folder
from keyd.client import Client
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import StockClient
from tests.yubikey import terminal
from tests.yubikey.bench import Bench
from tests.yubikey.model import Model
from tests.yubikey.terminal import Terminal
from tests.yubikey.touch import Person

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "yubikey.md").read_text()
PIN, PUK = "73910462", "58203971"


def block(mark: str) -> str:
    """The page's code block with this mark."""
    found = re.findall(rf"^```{re.escape(mark)}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"docs/yubikey.md has {len(found)} blocks marked {mark!r}"
    return str(found[0])


def sets_up(token: str) -> list[tuple[str, str]]:
    """What init and unlock ask, and a person's answers."""
    return [
        ("Type ", token),
        (f"New PIN of {token}", PIN),
        ("once more", PIN),
        (f"New PUK of {token}", PUK),
        ("once more", PUK),
        (f"PIN of {token}: ", PIN),
    ]


@dataclass(frozen=True)
class Walk:
    """A folder with a daemon, and commands that run there."""

    folder: Path
    daemon: DaemonProcess

    @property
    def env(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "PATH": f"{self.folder / 'tools'}:/usr/bin:/bin",
            "KEYD_ENDPOINT": self.daemon.endpoint,
            "TERM": "dumb",
        }

    @property
    def ctl(self) -> Keydctl:
        return Keydctl(self.daemon.endpoint, self.folder / "state")

    def does(self, mark: str, *dialogue: tuple[str, str]) -> str:
        """Run a block to its end: what it showed."""
        return terminal.run(block(f"sh {mark}"), self.env, self.folder, dialogue)

    def begins(self, mark: str) -> Terminal:
        """A block under way."""
        return Terminal(block(f"sh {mark}"), self.env, self.folder)

    def client(self) -> Client:
        """For what is no command of the page."""
        return Client(self.daemon.endpoint, keep_checkpoints=False)

    def loses_registry(self) -> None:
        """The daemon's disk is gone; its configuration was elsewhere."""
        self.daemon.stop()
        for file in (self.folder / "d/state").glob("*"):
            file.unlink()
        (self.folder / "d/checkpoint").unlink(missing_ok=True)
        self.daemon.start()

    def root(self, version: int) -> Root:
        file = self.folder / f"repo/metadata/{version}.root.json"
        return Metadata[Root].from_file(str(file)).signed

    def keyid(self, key: str) -> str:
        return str(self.ctl("key", "show", key)["versions"][0]["keyids"]["tuf"])


@contextmanager
def a_walk(bench: Bench, module: Path) -> Iterator[Walk]:
    # Short, because a unix socket's path has at most 107 bytes.
    folder = Path(mkdtemp(prefix="keyd-walk-"))
    try:
        (folder / "tools").mkdir()
        script = folder / "tools/keydctl"
        script.write_text(
            f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m keyd.cli.keydctl "$@"\n'
        )
        script.chmod(0o755)
        made = make_folder(folder / "d", tcp=None, hosts=1, now=datetime.now(UTC))
        roots = folder / "bench.pem"
        roots.write_text(bench.call("describe")["root"])
        tokens = re.sub(r"/usr/lib/\S+/libykcs11\.so\.2", str(module), block("toml tokens"))
        trusts = f'[server]\nattestation_roots = ["{roots}"]'
        config = made.config.read_text().replace("[server]", trusts, 1)
        made.config.write_text(f"{config}\n{tokens}")
        with (folder / "d/policy.toml").open("a") as policy:
            policy.write(f"\n{block('toml rule')}")
        run = ("run", "--config", str(made.config))
        with DaemonProcess(folder / "d", command=run, env=bench.environment) as daemon:
            yield Walk(folder, daemon)
    finally:
        shutil.rmtree(folder)


def test_from_the_factory_to_a_lost_key_and_its_successor(bench: Bench, ykcs11: Path) -> None:
    yubi = bench.add(Model(1234567))
    spare = bench.add(Model(2345678), slot=1)
    for key in (yubi, spare):
        key.person(Person.TOUCHES, after_s=0.2)
    with a_walk(bench, ykcs11) as walk:
        walk.does("init", *sets_up("yubi"), *sets_up("spare"))
        walk.does("create")
        proven = walk.does("attest")
        assert "made in slot 9c of YubiKey 1234567" in proven

        before = yubi.state.touches
        walk.does("sign")
        assert yubi.state.touches > before
        client = StockClient(walk.folder / "client", walk.folder / "repo")
        assert client.download("one") == b"one\n"

        # Pulled while it blinks, and back in the time that keydctl has.
        yubi.person(Person.WAITS)
        before = yubi.state.touches
        with walk.begins("again") as again:
            again.sees("touch token 1234567 (acme/root-a")
            yubi.wait_for_blinking()
            yubi.remove()
            yubi.insert(0)
            yubi.wait_for_blinking()
            assert yubi.touch()
            assert again.ends() == 0, again.shown
        assert yubi.state.touches == before + 1
        client.update()

        yubi.person(Person.TOUCHES, after_s=0.2)
        walk.does("again")
        client.update()
        assert walk.root(3).version == 3

        yubi.remove()
        fresh = bench.add(Model(3456789), slot=0)
        fresh.person(Person.TOUCHES, after_s=0.2)
        walk.does("lost", *sets_up("yubi-2"))

        client.update()
        keys = {walk.keyid(f"acme/root-{letter}") for letter in "bc"}
        assert set(walk.root(4).roles["root"].keyids) == keys
        assert client.download("one") == b"one\n"
        everything = json.dumps(walk.ctl("audit", "list")) + walk.daemon.tail(1_000_000)
        assert PIN not in everything
        assert PUK not in everything
