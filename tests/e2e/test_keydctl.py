"""keydctl as people use it, against a real `keyd-server dev` with a real SoftHSM token."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests import keydctl_forks
from tests.e2e.daemon_process import DaemonProcess
from tests.tuf_documents import ALICE, BOB, a_root, a_targets, write

pytestmark = pytest.mark.softhsm


@dataclass
class Machine:
    """One daemon, and a user with a home folder of its own."""

    folder: Path
    daemon: DaemonProcess

    @property
    def environ(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KEYD_", "XDG_"))}
        home = str(self.folder / "home")
        return {**clean, "HOME": home, "KEYD_ENDPOINT": self.daemon.endpoint}

    def run(self, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = keydctl_forks.run_text([str(a) for a in args], self.environ, stdin=stdin)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *args: object) -> Any:
        done = self.run(*args, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def a_machine() -> Iterator[Machine]:
    folder = Path(mkdtemp(prefix="keyd-ctl-"))
    try:
        with DaemonProcess(folder / "dev") as daemon:
            yield Machine(folder, daemon)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with a_machine() as made:
        yield made


@pytest.fixture
def machine_with_own_daemon() -> Iterator[Machine]:
    with a_machine() as made:
        yield made


def at_a_terminal(
    machine: Machine, *args: str, answers: list[tuple[bytes, bytes]]
) -> tuple[int, str]:
    """Run keydctl on a terminal of its own; type each answer after its question."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable, [sys.executable, "-m", "keyd.cli.keydctl", *args], machine.environ
        )
    shown, code = b"", -1
    deadline = time.monotonic() + 40
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([terminal], [], [], 0.2)
            if ready:
                try:
                    shown += os.read(terminal, 4096)
                except OSError:  # the other end is closed: it has ended
                    break
            if answers and answers[0][0] in shown:
                os.write(terminal, answers.pop(0)[1] + b"\n")
    finally:
        os.close(terminal)
        ended, status = os.waitpid(pid, os.WNOHANG)
        for _ in range(50):
            if ended:
                break
            time.sleep(0.1)
            ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        else:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return code, shown.decode()


def test_a_first_signature_with_every_algorithm_the_token_has(machine: Machine) -> None:
    file, sig = machine.folder / "file", machine.folder / "file.sig"
    file.write_bytes(b"release 1.0\n")

    for algorithm in ("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048"):
        name = f"first/{algorithm}"
        made = machine.json("key", "create", name, "--algorithm", algorithm)
        encoding = ["--encoding", "der"] if algorithm.startswith("ecdsa") else []
        signed = machine.json("sign", file, "--key", name, *encoding, "-o", sig)
        online = machine.json("verify", file, sig, "--key", name)
        pem = machine.folder / "key.pem"
        pem.write_text(machine.run("key", "show", name, "--format", "pem").stdout)
        offline = machine.run("verify", file, sig, "--public-key", pem)

        assert made["versions"][0]["origin"] == "generated"
        assert signed["key_version"] == online["key"] == f"{name}/versions/1"
        assert offline.returncode == 0, offline.stderr
        load_pem_public_key(pem.read_bytes())


def test_the_same_request_is_given_the_stored_signature_again(machine: Machine) -> None:
    file = machine.folder / "again"
    file.write_bytes(b"again")
    machine.json("key", "create", "again")

    first = machine.json("sign", file, "--key", "again", "--encoding", "der")
    second = machine.json("sign", file, "--key", "again", "--encoding", "der")

    assert (first["replayed"], second["replayed"]) == (False, True)
    assert first["signature"] == second["signature"]
    assert first["log_index"] == second["log_index"]


def test_a_bound_key_is_rotated_staged_only_and_says_what_to_do(machine: Machine) -> None:
    machine.json("key", "create", "bound/targets", "--bind", "bound:targets")

    at_once = machine.run("key", "rotate", "bound/targets", "--at-once")
    staged = machine.json("key", "rotate", "bound/targets")
    active = machine.json("key", "activate", "bound/targets", "2")

    assert at_once.returncode == 1
    assert "keydctl tuf rotate" in at_once.stderr
    assert [v["staged"] for v in staged["versions"]] == [False, True]
    assert active["active_version"] == 2


def test_a_key_is_destroyed_only_after_its_waiting_time_and_by_a_person(machine: Machine) -> None:
    machine.json("key", "create", "short/lived")

    scheduled = machine.json("key", "destroy", "short/lived", "1", "--yes")
    early = machine.run("key", "destroy", "short/lived", "1", "--confirm", "--yes")
    kept = machine.json("key", "cancel-destroy", "short/lived", "1")

    assert scheduled["versions"][0]["state"] == "DESTROY_SCHEDULED"
    assert early.returncode == 1
    assert "request id" in early.stderr
    assert kept["versions"][0]["state"] == "DISABLED"


def test_at_a_terminal_the_name_has_to_be_typed(machine: Machine) -> None:
    machine.json("key", "create", "asked/for")
    full = "asked/for/versions/1"

    no, asked = at_a_terminal(
        machine, "key", "destroy", "asked/for", "1", answers=[(b"to go on", b"yes")]
    )
    after_no = machine.json("key", "show", "asked/for")
    yes, _ = at_a_terminal(
        machine, "key", "destroy", "asked/for", "1", answers=[(b"to go on", full.encode())]
    )
    after_yes = machine.json("key", "show", "asked/for")

    assert no == 130, asked
    assert f"Type {full} to go on" in asked
    assert after_no["versions"][0]["state"] == "ENABLED"
    assert yes == 0
    assert after_yes["versions"][0]["state"] == "DESTROY_SCHEDULED"


def test_freeze_stops_signing_until_it_ends(machine: Machine) -> None:
    file = machine.folder / "frozen"
    file.write_bytes(b"x")
    machine.json("key", "create", "to/freeze", "--algorithm", "ed25519")

    machine.run("freeze", "to/freeze", "--reason", "leaked?")
    frozen = machine.run("sign", file, "--key", "to/freeze")
    machine.run("unfreeze", "to/freeze")
    thawed = machine.run("sign", file, "--key", "to/freeze")

    assert (frozen.returncode, thawed.returncode) == (3, 0)
    assert "leaked?" in frozen.stderr
    assert "keydctl unfreeze to/freeze" in frozen.stderr


def test_the_log_accounts_for_a_signature_and_leaves_the_daemon_verified(machine: Machine) -> None:
    file = machine.folder / "logged"
    file.write_bytes(b"logged")
    export, key, proof = (machine.folder / n for n in ("log.jsonl", "log.key", "p.tlog-proof"))
    machine.json("key", "create", "to/log", "--algorithm", "ed25519")
    signed = machine.json("sign", file, "--key", "to/log", "--reason", "release 7")

    listed = machine.json("audit", "list", "--key", "to/log", "--action", "sign")
    shown = machine.json("audit", "show", signed["log_index"])
    machine.run("audit", "log-key", "-o", key)
    exported = machine.json("audit", "export", "-o", export)
    verified = machine.json("audit", "verify", export, "--log-key", key)
    proved = machine.json("audit", "prove", signed["log_index"], "-o", proof, "--log-key", key)
    checkpoint = machine.run("audit", "checkpoint", "--fresh")
    export.write_bytes(export.read_bytes().replace(b"release 7", b"release 8"))
    tampered = machine.run("audit", "verify", export, "--log-key", key)

    assert [e["said"] for e in listed] == ["release 7"]
    assert shown == listed[0]
    assert shown["digest"] == signed["digest"]
    assert verified["entries"] == exported["entries"] > signed["log_index"]
    assert proved["checkpoint_verified"] is True
    assert proof.read_text().startswith(f"c2sp.org/tlog-proof@v1\nindex {signed['log_index']}\n")
    assert "the log only grew" in checkpoint.stderr
    assert tampered.returncode == 1


def test_a_signature_is_explained_before_anybody_asks_for_it(machine: Machine) -> None:
    machine.json("key", "create", "explained/root")
    machine.json("key", "create", "explained/blind", "--algorithm", "ed25519")
    keys = [ALICE.public_key, BOB.public_key]
    old = write(machine.folder / "1.json", a_root(1, *keys, threshold=2, signed_by=[ALICE, BOB]))
    new = a_root(2, ALICE.public_key, signed_by=[ALICE])
    file = write(machine.folder / "2.json", new)
    bare, odd = machine.folder / "bare", machine.folder / "odd"
    bare.write_bytes(new.signed_bytes)
    odd.write_bytes(new.signed_bytes.replace(b"{", b"{ ", 1))
    size = machine.json("status")["log_size"]

    explained = machine.json("explain", file, "--key", "explained/root", "--against", old)
    text = machine.run("explain", file, "--key", "explained/root", "--against", old)
    blind = machine.run("explain", odd, "--key", "explained/blind")
    nothing_signed = machine.json("status")["log_size"]
    signed = machine.json("sign", bare, "--key", "explained/root", "--encoding", "der")

    decision = explained["decision"]
    assert nothing_signed == size
    assert decision["allowed"], decision
    for name in ("key_version", "scheme", "encoding", "keyid", "rule"):
        assert decision[name] == signed[name], name
    assert signed["digest"] == f"sha256:{explained['sha256']}"
    assert [s["state"] for s in explained["signatures"]] == ["valid"]
    assert [(c["signers"], c["threshold"]) for c in explained["counts"]] == [(1, 1), (1, 2)]
    assert text.stdout.index("! ~ threshold root: 2 of 2 -> 1 of 1") < text.stdout.index("verdict:")
    assert "would be signed" in text.stdout
    assert blind.returncode == 0
    assert "not canonical JSON: byte 1" in blind.stdout
    assert "bound to nothing" in blind.stderr


def test_a_refusal_is_explained_with_its_exit_code_and_what_must_change(
    machine_with_own_daemon: Machine,
) -> None:
    machine = machine_with_own_daemon
    name = "app\x9b2J\nverdict: would be signed"
    file = write(machine.folder / "targets.json", a_targets(1, name))
    machine.json("key", "create", "acme/targets", "--bind", "acme:targets")
    ask = ("explain", file, "--key", "acme/targets")

    elsewhere = machine.run(*ask, "--context", "other:targets")
    machine.run("freeze", "acme/targets", "--reason", "leaked?")
    frozen = machine.run(*ask)
    policy = machine.daemon.folder / "policy.toml"
    policy.write_text(policy.read_text().replace('actions = ["signer"]', 'actions = ["list"]'))
    machine.daemon.stop()
    gone = machine.run(*ask)
    machine.daemon.start()
    denied = machine.run(*ask, "--json")

    assert elsewhere.returncode == 2
    assert "bound to acme:targets, not to other:targets" in elsewhere.stdout
    assert frozen.returncode == 3
    assert "leaked?" in frozen.stdout
    assert "keydctl unfreeze acme/targets" in frozen.stdout
    assert gone.returncode == 4
    assert "SERVER_GONE" in gone.stdout
    assert denied.returncode == 1
    assert json.loads(denied.stdout)["decision"]["must_change"].startswith("a grant for you")
    assert "  app\\x9b2J\\nverdict: would be signed: 3 bytes" in frozen.stdout
    for said in (elsewhere, frozen, gone, denied):
        assert "\x9b" not in said.stdout + said.stderr
    assert [line for line in frozen.stdout.splitlines() if line.startswith("verdict")] == [
        "verdict:     needs people (FROZEN)"
    ]


def test_an_unknown_key_and_bad_input_are_told_in_words(machine: Machine) -> None:
    file = machine.folder / "file"
    file.write_bytes(b"x")

    unknown = machine.run("sign", file, "--key", "no/such", "--encoding", "der")
    odd = machine.run("key", "create", "Odd Name")
    taken = [machine.run("key", "create", "taken").returncode for _ in range(2)]
    undecided = machine.run("sign", file, "--key", "taken")

    assert unknown.returncode == 1
    assert odd.returncode == 2
    assert "lower-case" in odd.stderr
    assert taken == [0, 1]
    assert undecided.returncode == 2
    assert "--encoding der or --encoding raw" in undecided.stderr


def test_the_token_is_locked_and_unlocked_by_pin_at_the_terminal_and_by_source(
    machine_with_own_daemon: Machine,
) -> None:
    machine = machine_with_own_daemon
    file = machine.folder / "file"
    file.write_bytes(b"x")
    machine.json("key", "create", "k", "--algorithm", "ed25519")
    (token,) = machine.json("token", "list")

    machine.run("token", "lock", token["name"])
    locked = machine.run("sign", file, "--key", "k")
    code, shown = at_a_terminal(
        machine, "token", "unlock", token["name"], answers=[(b"PIN of", b"00000000")]
    )
    by_source = machine.run("token", "unlock", token["name"], "--configured")
    signed = machine.run("sign", file, "--key", "k")
    entries = machine.run("audit", "list", "--limit", "0", "--json").stdout

    assert locked.returncode == 3
    assert f"keydctl token unlock {token['name']}" in locked.stderr
    assert code == 3, shown
    assert "00000000" not in shown
    assert "00000000" not in entries
    assert by_source.returncode == 0, by_source.stderr
    assert signed.returncode == 0


def test_a_daemon_that_is_gone_is_try_again_and_one_that_returns_signs(
    machine_with_own_daemon: Machine,
) -> None:
    machine = machine_with_own_daemon
    file = machine.folder / "file"
    file.write_bytes(b"x")
    machine.json("key", "create", "k", "--algorithm", "ed25519")

    machine.daemon.stop()
    gone = machine.run("sign", file, "--key", "k")
    machine.daemon.start()
    back = machine.run("sign", file, "--key", "k")
    # Right after the start it may be DEGRADED: the log's token is not logged in yet.
    status = json.loads(machine.run("status", "--json").stdout)

    assert gone.returncode == 4
    assert machine.daemon.endpoint in gone.stderr
    assert back.returncode == 0, back.stderr
    assert status["checkpoint_verdict"] in ("same", "ahead")
