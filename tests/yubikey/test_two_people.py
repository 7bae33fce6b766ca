"""Two people, a YubiKey each, and a root that takes both: the blocks of docs/ceremonies.md, word
for word, with pcscd, libykcs11 and python-tuf's own client."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from keyd.client import Client
from keyd.model import Binding, KeyAlgorithm, Pin, Slot, TouchPolicy
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import StockClient
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.model import Model
from tests.yubikey.site import PIN, PUK, ROOT, Site, a_site
from tests.yubikey.terminal import Terminal
from tests.yubikey.touch import Person

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]

PAGE = (ROOT / "docs" / "ceremonies.md").read_text()
ALICE, BOB = 1111111, 2222222


def block(mark: str) -> str:
    """The page's code block with this mark."""
    found = re.findall(rf"^```{re.escape(mark)}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"docs/ceremonies.md has {len(found)} blocks marked {mark!r}"
    return str(found[0])


@dataclass(frozen=True)
class Holder:
    """A person at a terminal, with a YubiKey that they touch when it blinks."""

    endpoint: str
    folder: Path
    key: EmulatedKey

    @property
    def env(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "PATH": f"{self.folder / 'tools'}:/usr/bin:/bin",
            "KEYD_ENDPOINT": self.endpoint,
            "TERM": "dumb",
        }

    @property
    def ctl(self) -> Keydctl:
        return Keydctl(self.endpoint, self.folder / "state")

    def makes_tools(self) -> None:
        (self.folder / "tools").mkdir(parents=True)
        script = self.folder / "tools/keydctl"
        script.write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m keyd.cli.keydctl "$@"\n'
        )
        script.chmod(0o755)

    def does(self, mark: str, *dialogue: tuple[str, str], code: int = 0) -> str:
        """Run a block to its end: what it showed."""
        with self.begins(mark) as typed:
            typed.answers(*dialogue)
            ended = typed.ends()
            assert ended == code, f"{mark}: {ended}\n{typed.shown}"
            return typed.shown

    def begins(self, mark: str) -> Terminal:
        """A block under way."""
        return Terminal(block(f"sh {mark}"), self.env, self.folder)


def take_up(keyd: Client, token: str) -> None:
    """A new YubiKey comes to be READY."""
    keyd.init_yubikey(token, Pin(PIN), Pin(PUK), factory=True)
    keyd.unlock(token, Pin(PIN))


def root_of(repo: Path, version: int) -> Root:
    return Metadata[Root].from_file(str(repo / f"metadata/{version}.root.json")).signed


def carry(file: Path, to: Path) -> None:
    shutil.copy(file, to / file.name)


def test_every_marked_block_of_the_page_is_run_here() -> None:
    marked = set(re.findall(r"^```(?:sh|toml) ([a-z-]+)$", PAGE, re.MULTILINE))
    source = Path(__file__).read_text()
    run = set(re.findall(r'\.(?:does|begins)\(\s*"([a-z-]+)"', source))
    assert marked == run | {"two-people"}


def people(site: Site, keys: list[EmulatedKey]) -> list[Holder]:
    """Alice and Bob at one machine, in one folder, each by a socket of their own."""
    desk = site.folder / "shared"
    made = [
        Holder(f"unix:{site.folder / 'd/run'}/{name}.sock", desk, key)
        for name, key in zip(("alice", "bob"), keys, strict=True)
    ]
    made[0].makes_tools()
    return made


@contextlib.contextmanager
def a_holder(name: str, serial: int, module: Path) -> Iterator[Holder]:
    """A machine: its own readers, pcscd, daemon, YubiKey and desk."""
    with Bench.start() as bench:
        key = bench.add(Model(serial))
        key.person(Person.TOUCHES, after_s=0.1)
        with a_site(bench, module, key) as site:
            holder = Holder(site.daemon.endpoint, site.folder / name, key)
            holder.makes_tools()
            with site.client() as keyd:
                take_up(keyd, "yubi")
            yield holder


def test_two_machines_one_root_and_only_files_between_them(ykcs11: Path) -> None:
    with a_holder("alice", ALICE, ykcs11) as alice, a_holder("bob", BOB, ykcs11) as bob:
        repo = alice.folder / "repo"
        bob.does("bob-key")
        carry(bob.folder / "bob.json", alice.folder)
        waits = alice.does("alice-key", code=3)
        assert "needs 1 more signature" in waits
        carry(repo / "staged/1.root.json", bob.folder)
        bob.does("bob-first", ("Type root", "root"))
        carry(bob.folder / "1.root.json", repo / "staged")
        alice.does("alice-first")
        client = StockClient(alice.folder / "client", repo)
        client.update()

        alice.does("alice-start", ("Type acme", "acme"), code=3)
        alice.does("alice-export")
        carry(alice.folder / "root2.bundle", bob.folder)

        # Pulled while it blinks, and back: the same command goes on.
        bob.key.person(Person.WAITS)
        touches = bob.key.state.touches
        with bob.begins("bob-sign") as signing:
            signing.answers(("Type acme", "acme"))
            bob.key.wait_for_blinking()
            bob.key.remove()
            bob.key.insert()
            bob.key.wait_for_blinking()
            assert bob.key.touch()
            assert signing.ends() == 0, signing.shown
        assert bob.key.state.touches == touches + 1
        carry(bob.folder / "root2.response", alice.folder)
        before = alice.key.state.touches
        alice.does("alice-finish")

        assert alice.key.state.touches == before, "she has touched for root 2 already"
        assert root_of(repo, 2).roles["root"].threshold == 2
        client.update()
        client = StockClient(alice.folder / "new-client", repo)
        client.update()


def test_one_machine_two_yubikeys_and_each_signs_with_their_own(bench: Bench, ykcs11: Path) -> None:
    keys = [bench.add(Model(serial), slot=slot) for slot, serial in enumerate((ALICE, BOB))]
    for key in keys:
        key.person(Person.TOUCHES, after_s=0.1)
    with a_site(
        bench, ykcs11, keys[0], more={"bob": BOB}, people=("alice", "bob"), starts=False
    ) as site:
        (site.folder / "d/policy.toml").write_text(block("toml two-people"))
        site.daemon.start()
        with site.client() as keyd:
            for token, name in (("yubi", "alice"), ("bob", "bob")):
                take_up(keyd, token)
                keyd.create_key(
                    f"{name}/root",
                    KeyAlgorithm.ECDSA_P256,
                    token=token,
                    slot=Slot.parse("9c"),
                    touch=TouchPolicy.ALWAYS,
                    bindings=[Binding("acme", "root")],
                )
            for role in ("targets", "snapshot", "timestamp"):
                keyd.create_key(
                    f"acme/{role}",
                    KeyAlgorithm.ECDSA_P256,
                    token="dev",
                    bindings=[Binding("acme", role)],
                )
        alice, bob = people(site, keys)
        repo = alice.folder / "repo"
        public = alice.folder / "bob.json"
        public.write_text(bob.ctl.run("key", "show", "bob/root", "--format", "tuf").stdout)
        roots = ("--root", "alice/root", "--root", f"@{public}", "--root-threshold", "2")
        alice.ctl("tuf", "init", repo, "--repository", "acme", *roots, code=3)
        staged = repo / "staged/1.root.json"

        # Neither can do the other's part.
        for who, other in ((alice, "bob/root"), (bob, "alice/root")):
            sign = ("tuf", "sign", staged, "--key", f"keyd:{other}?repository=acme", "--yes")
            before = [key.state.touch_requests for key in keys]
            refused = who.ctl.run(*sign)
            assert refused.returncode != 0
            assert "denied, or no such" in refused.stderr
            assert [key.state.touch_requests for key in keys] == before, "nothing blinks"

        bob.ctl("tuf", "sign", staged, "--key", "keyd:bob/root?repository=acme", "--yes")
        alice.ctl("tuf", "refresh", repo)
        client = StockClient(alice.folder / "client", repo)
        client.update()

        keys[1].person(Person.WAITS)
        alice.does("alice-shared", code=3)
        with bob.begins("bob-shared") as signing:
            signing.answers(("Type root", "root"))
            signing.sees(f"touch token {BOB} (bob/root")
            keys[1].wait_for_blinking()
            assert not keys[0].state.blinking
            assert keys[1].touch()
            assert signing.ends() == 0, signing.shown
        alice.does("alice-publish")

        client.update()
        assert root_of(repo, 2).version == 2
