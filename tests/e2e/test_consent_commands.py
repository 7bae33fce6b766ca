"""Every command whose action a rule gates says so alike: exit code 3, the approval, the way on.

A real daemon with a SoftHSM token; keydctl runs in this process. Bob consents at his own socket.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyd.adapters.tuf import tuf_key
from keyd.cli.keydctl import run
from keyd.client import Client
from keyd.model import Binding, Context, KeyAlgorithm
from keyd.model import Encoding as SignatureEncoding
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.softhsm import require
from tests.tuf_documents import ALICE, a_root
from tests.tuf_repositories import ROLES

pytestmark = pytest.mark.softhsm

POLICY = """\
[[grant]]
name = "developer"
principals = ["socket:dev"]
actions = ["admin", "signer"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "bob"
principals = ["socket:bob"]
actions = ["approver"]
keys = ["*"]
"""
RULES = """
[[rule]]
name = "four eyes"
keys = ["gated/*"]
actions = ["create", "rotate", "activate", "enable", "disable", "destroy", "adopt", "bind",
           "freeze", "role", "ceremony"]
approvals = 1
approvers = ["socket:bob"]

[[rule]]
name = "four eyes on tokens"
tokens = ["dev"]
actions = ["unlock"]
approvals = 1
"""
DER = SignatureEncoding.DER


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Place:
    """A daemon whose rules gate everything, with what the commands need."""

    daemon: DaemonProcess
    folder: Path

    def client(self, who: str = "keyd") -> Client:
        socket = self.daemon.socket.with_name(f"{who}.sock")
        return Client(f"unix:{socket}", keep_checkpoints=False)

    def approve(self, approval: str) -> None:
        with self.client("bob") as bob:
            bob.approve(approval, bob.get_approval(approval).digest)

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    @property
    def pin(self) -> str:
        return (self.daemon.folder / "pin").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("p")
    dev = folder / "d"
    dev.mkdir(mode=0o700)
    (dev / "policy.toml").write_text(POLICY)
    with DaemonProcess(dev, "--person", "bob", forked=True) as daemon:
        made = Place(daemon, folder)
        with made.client() as keyd:
            for name in ("activated", "disabled", "enabled", "destroyed"):
                keyd.create_key(f"gated/{name}", KeyAlgorithm.ECDSA_P256)
                keyd.rotate(f"gated/{name}")
            for name in ("rotated", "bound", "frozen", "thawed"):
                keyd.create_key(f"gated/{name}", KeyAlgorithm.ECDSA_P256)
            keyd.disable("gated/enabled", 2)
            keyd.freeze("gated/thawed", reason="looked odd")
            _sign_drafts(keyd)
            _make_repository(made)
            _put_foreign_key(made)
            before = keyd.status().policy_sha256
            (dev / "policy.toml").write_text(POLICY + RULES)
            daemon.signal(signal.SIGHUP)
            until = time.monotonic() + 20
            while keyd.status().policy_sha256 == before:
                assert time.monotonic() < until, daemon.tail()
                time.sleep(0.05)
        yield made


def _sign_drafts(keyd: Client) -> None:
    """A signed root draft of two repositories, one to give up and one to forget."""
    for name in ("given-up", "forgotten"):
        key = keyd.create_key(
            f"gated/{name}", KeyAlgorithm.ECDSA_P256, bindings={Binding(name, "root")}
        )
        assert key.active is not None
        own = tuf_key(key.active.public_key, key.scheme)
        draft = a_root(1, own, ALICE.public_key, threshold=2)
        keyd.sign(key.name, draft.signed_bytes, context=Context(name, "root"), encoding=DER)


def _make_repository(place: Place) -> None:
    ctl = Keydctl(place.daemon.endpoint, place.folder)
    ctl.create(*(f"gated/repo/{role}" for role in ROLES))
    given = [word for role in ROLES for word in (f"--{role}", f"gated/repo/{role}")]
    ctl("tuf", "init", place.repo, "--repository", "site", *given)


def _put_foreign_key(place: Place) -> None:
    """A key pair on the token that keyd did not make."""
    require()
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    file = place.folder / "foreign.pem"
    file.write_bytes(pem)
    subprocess.run(
        [
            *("softhsm2-util", "--import", str(file), "--token", "dev", "--pin", place.pin.strip()),
            *("--label", "foreign", "--id", "0a0b"),
        ],
        env={**os.environ, "SOFTHSM2_CONF": str(place.daemon.folder / "softhsm2.conf")},
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )


Ctl = Callable[..., Said]


@pytest.fixture
def ctl(place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ctl:
    for name in [n for n in os.environ if n.startswith("KEYD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(place.folder / "state"))
    monkeypatch.setenv("KEYD_ENDPOINT", place.daemon.endpoint)

    def command(*words: object, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run([str(word) for word in words])
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return command


COMMANDS = [
    "key create gated/new --algorithm ecdsa-p256",
    "key rotate gated/rotated",
    "key activate gated/activated 2",
    "key disable gated/disabled 2",
    "key enable gated/enabled 2",
    "key destroy gated/destroyed 2 --yes",
    "key update gated/bound --bind other:targets",
    "key adopt gated/adopted --token dev --object-id 0a0b",
    "freeze gated/frozen --reason odd",
    "unfreeze gated/thawed --reason looked-at",
    "token unlock dev --pin-stdin",
    "role supersede given-up root --reason typo --yes",
    "role reset forgotten root --reason again --yes",
    "tuf rotate {repo} timestamp",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_gated_command_names_the_approval_and_is_finished_by_running_it_again(
    ctl: Ctl, place: Place, line: str
) -> None:
    words = line.format(repo=place.repo).split()
    stdin = place.pin if "--pin-stdin" in words else ""

    seen: list[str] = []
    for _ in range(6):  # A command of several steps may need consent to each.
        first = ctl(*words, stdin=stdin)
        if first.code == 0 and seen:
            break
        again = ctl(*words, stdin=stdin)
        shown = first.out + first.err
        assert (first.code, again.code) == (3, 3), shown + again.err
        found = set(re.findall(r"keydctl approve ([a-z2-7]{26})", shown))
        assert found == set(re.findall(r"keydctl approve ([a-z2-7]{26})", again.out + again.err))
        assert found.isdisjoint(seen)
        assert "same command" in shown
        for approval in sorted(found):
            place.approve(approval)
        seen += found
    else:
        raise AssertionError(f"{line} is never done")
    assert seen


def test_a_ceremony_says_in_every_phase_whose_consent_it_waits_for(ctl: Ctl, place: Place) -> None:
    start = ("tuf", "ceremony", "start", place.repo, "--rotate", "targets", "--yes")
    status = ("tuf", "ceremony", "status", place.repo)
    (plan,) = re.findall(r"keydctl approve ([a-z2-7]{26})", ctl(*start).err)
    place.approve(plan)

    phases = []
    outcome = ctl(*start, "--json")
    while outcome.code == 3:
        (approval,) = outcome.json["waiting"]["approvals"]
        waits, told = ctl(*status, "--json"), ctl(*status)
        place.approve(approval)
        free = ctl(*status)
        phases.append((outcome.json["phase"], *(a["action"] for a in waits.json["approvals"])))

        assert (waits.code, told.code, free.code) == (3, 3, 0), told.out + free.out
        assert [a["id"] for a in waits.json["approvals"]] == [approval]
        assert waits.json["next"][0] == f"keydctl approve {approval}"
        assert "0 of 1 consented; missing: 1 of socket:bob" in told.out
        assert f"next: keydctl approve {approval}\nnext: keydctl tuf ceremony resume" in told.out
        assert "all have consented" in free.out
        assert "keydctl approve" not in free.out
        outcome = ctl("tuf", "ceremony", "resume", place.repo, "--json")

    assert outcome.json["phase"] == "DONE", outcome.err
    assert phases == [("GENERATE", "rotate"), ("RETIRE", "activate"), ("RETIRE", "disable")]


def test_requests_of_others_are_not_taken_for_those_of_a_ceremony(ctl: Ctl, place: Place) -> None:
    start = ("tuf", "ceremony", "start", place.repo, "--rotate", "snapshot", "--yes")
    (plan,) = re.findall(r"keydctl approve ([a-z2-7]{26})", ctl(*start).err)
    place.approve(plan)
    assert ctl("key", "rotate", "gated/bound").code == 3
    (own,) = ctl(*start, "--json").json["waiting"]["approvals"]

    standing = ctl("tuf", "ceremony", "status", place.repo, "--json").json

    assert [a["id"] for a in standing["approvals"]] == [own]
