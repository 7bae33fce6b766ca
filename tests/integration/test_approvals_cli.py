"""Consent by keydctl: what is shown is what is consented to, whatever the daemon says."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from keyd import sshsig
from keyd.cli.keydctl import run
from keyd.client import Client
from keyd.content import canonical
from keyd.errors import RateLimitedError, ServerGoneError
from keyd.v1 import approvals_pb2
from tests.scripted_approvals import BOB
from tests.scripted_daemon import ScriptedDaemon, a_daemon_with_keys
from tests.tuf_documents import ALICE as ALICE_KEY
from tests.tuf_documents import BOB as BOB_KEY
from tests.tuf_documents import MALLORY, a_root, a_targets, write

REPOSITORY_ROOT = Path(__file__).parents[2]
ALICE = "email:alice@example.org"
CAROL = "email:carol@example.org"
ROOT_1 = a_root(1, ALICE_KEY.public_key, BOB_KEY.public_key, threshold=2)
ROOT_2 = a_root(2, ALICE_KEY.public_key, threshold=1)
EVIL_2 = a_root(2, MALLORY.public_key, threshold=1)


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ctl = Callable[..., Said]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with a_daemon_with_keys(tmp_path) as started:
        started.principal = ALICE
        yield started


def environment(folder: Path) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith("KEYD_")}
    return kept | {
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "KEYD_ENDPOINT": f"unix:{folder}/keyd.sock",
    }


@pytest.fixture
def ctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ctl:
    for name in [n for n in os.environ if n.startswith("KEYD_")]:
        monkeypatch.delenv(name)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)

    def command(*args: object, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run([str(a) for a in args])
        captured = capfd.readouterr()
        return Said(int(code), captured.out, captured.err)

    return command


def at_terminal(folder: Path, *args: object, typed: str) -> Said:
    """A real process with a person at its terminal."""
    person, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "keyd.cli.keydctl", *(str(a) for a in args)],
            cwd=REPOSITORY_ROOT,
            env=environment(folder),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            os.write(person, f"{typed}\n".encode())
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait(10)
        return Said(process.returncode, out, err)
    finally:
        os.close(person)
        os.close(terminal)


@contextmanager
def under_way(folder: Path, *args: object) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A real process, and what it says; it is ended with the block, or after 30 seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "keyd.cli.keydctl", *(str(a) for a in args)],
        cwd=REPOSITORY_ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    guard = threading.Timer(30, process.kill)
    guard.start()
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        guard.cancel()
        process.kill()
        process.wait(10)
        process.stdout.close()


def a_root_change(daemon: ScriptedDaemon, content: bytes = ROOT_2.signed_bytes) -> str:
    return daemon.ask(
        content, context=("acme", "root"), version=2, previous=ROOT_1.signed_bytes, needed=2
    )


def sent(daemon: ScriptedDaemon) -> int:
    return daemon.asked["Approve"]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------------ consent


def test_a_person_sees_the_change_and_consents_to_exactly_that(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    asked = a_root_change(daemon)

    said = at_terminal(tmp_path, "approve", asked, "--reason", "looked at it", typed="yes")

    assert said.code == 0, said.err
    assert f"sha256: {sha256(ROOT_2.signed_bytes)}" in said.err
    assert f"asked by:          {BOB}" in said.err
    assert "reason:            release 7" in said.err
    assert "claimed to be for: acme:root v2" in said.err
    assert f"you are:           {ALICE}" in said.err
    assert "content: root v2 (tuf), expires 2030-01-31" in said.err
    assert "! ~ threshold root: 2 of 2 -> 1 of 1" in said.err
    assert f"you consented to {asked}; it is PENDING: 1 of 2 consented ({ALICE})" in said.out
    assert "missing: 1 of email:*@example.org" in said.out
    request = daemon.requests["Approve"]
    assert request.digest == hashlib.sha256(ROOT_2.signed_bytes).digest()
    assert request.reason == "looked at it"


@pytest.mark.parametrize("typed", ["no", "", "y", "acme"])
def test_whoever_types_anything_else_sends_nothing(
    daemon: ScriptedDaemon, tmp_path: Path, typed: str
) -> None:
    said = at_terminal(tmp_path, "approve", a_root_change(daemon), typed=typed)

    assert said.code == 130
    assert "not confirmed; nothing was sent" in said.err
    assert sent(daemon) == 0


def test_a_script_has_to_name_what_it_consents_to(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    asked = a_root_change(daemon)
    digest = sha256(ROOT_2.signed_bytes)

    blind, unasked = ctl("approve", asked, "--yes"), ctl("approve", asked, "--digest", digest)
    assert (blind.code, unasked.code, sent(daemon)) == (2, 2, 0)
    named = ctl("approve", asked, "--yes", "--digest", f"sha256:{digest}", "--json")

    assert named.code == 0, named.err
    assert named.json["votes"][0]["principal"] == ALICE
    assert named.json["state"] == "PENDING"


def test_what_changed_between_show_and_approve_gets_no_consent(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    asked = a_root_change(daemon)
    shown = ctl("approvals", "show", asked, "--json").json["sha256"]
    stored = daemon.approvals[asked]
    stored.content = EVIL_2.signed_bytes
    stored.digest = hashlib.sha256(EVIL_2.signed_bytes).digest()

    said = ctl("approve", asked, "--yes", "--digest", shown)

    assert said.code == 1
    assert f"is about sha256 {sha256(EVIL_2.signed_bytes)}, not {shown}" in said.err
    assert sent(daemon) == 0


def test_consent_is_for_the_bytes_that_were_shown_when_the_daemon_swaps_them_meanwhile(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    asked = a_root_change(daemon)

    def swap(method: str) -> None:
        if method == "Approve":
            stored = daemon.approvals[asked]
            stored.content = EVIL_2.signed_bytes
            stored.digest = hashlib.sha256(EVIL_2.signed_bytes).digest()

    daemon.delay = swap
    said = ctl("approve", asked, "--yes", "--digest", sha256(ROOT_2.signed_bytes))

    assert said.code == 2
    assert "digest: not what the approval is about" in said.err
    assert daemon.requests["Approve"].digest == hashlib.sha256(ROOT_2.signed_bytes).digest()
    assert not daemon.approvals[asked].votes


# ------------------------------------------------------------------------------ a daemon that lies

Lie = Callable[[approvals_pb2.Approval], None]


def _other_content(a: approvals_pb2.Approval) -> None:
    a.content = EVIL_2.signed_bytes


def _other_digest(a: approvals_pb2.Approval) -> None:
    a.digest = hashlib.sha256(EVIL_2.signed_bytes).digest()


def _no_content(a: approvals_pb2.Approval) -> None:
    a.ClearField("content")


def _other_version(a: approvals_pb2.Approval) -> None:
    a.metadata_version = 3


def _other_role(a: approvals_pb2.Approval) -> None:
    a.role = "targets"


def _previous_of_another_role(a: approvals_pb2.Approval) -> None:
    a.previous = a_targets(1, "a").signed_bytes


def _unreadable_previous(a: approvals_pb2.Approval) -> None:
    a.previous = b"{}"


def _other_action(a: approvals_pb2.Approval) -> None:
    a.action = "destroy"


def _no_metadata(a: approvals_pb2.Approval) -> None:
    a.content = b"hello"
    a.digest = hashlib.sha256(a.content).digest()


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (_other_content, "its content has the SHA-256"),
        (_other_digest, "its content has the SHA-256"),
        (_no_content, "without the content it is about"),
        (_other_version, "shall be version 3, and the content says version 2"),
        (_other_role, "shall be for the role targets, and the content is a root"),
        (_previous_of_another_role, "is targets v1 (tuf)"),
        (_unreadable_previous, "earlier version it came with cannot be read"),
        (_other_action, "shall be for action destroy, and the content says null"),
        (_no_metadata, "shall be version 2 of a role, and the content does not say so"),
    ],
)
def test_a_daemon_that_lies_about_an_approval_gets_no_consent(
    daemon: ScriptedDaemon, ctl: Ctl, lie: Lie, words: str
) -> None:
    asked = a_root_change(daemon)
    daemon.lie_about_approval = lie

    shown = ctl("approvals", "show", asked)
    for named in (ROOT_2, EVIL_2):
        said = ctl("approve", asked, "--yes", "--digest", sha256(named.signed_bytes))
        assert said.code == 1
        assert f"keydctl: error: the daemon lies about approval {asked}" in said.err
        assert words in said.err
        assert "do not consent, tell whoever runs the daemon" in said.err

    assert shown.code == 1
    assert "THE DAEMON SAYS OTHERWISE" in shown.out
    assert sent(daemon) == 0


def test_an_approval_under_another_id_is_refused(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    asked = a_root_change(daemon)

    def other_id(a: approvals_pb2.Approval) -> None:
        a.id = "ap-9"

    daemon.lie_about_approval = other_id
    said = ctl("approve", asked, "--yes", "--digest", sha256(ROOT_2.signed_bytes))

    assert said.code == 1
    assert "the daemon answered with approval ap-9, not ap-1" in said.err
    assert sent(daemon) == 0


def test_a_previous_version_that_is_the_content_itself_hides_no_change_silently(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    asked = a_root_change(daemon)
    daemon.approvals[asked].previous = ROOT_2.signed_bytes

    said = ctl("approvals", "show", asked)

    assert "mind: the earlier version it came with is the very same" in said.out


def test_the_approvers_own_copy_finds_a_swapped_previous_version(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    asked = a_root_change(daemon)
    own = write(tmp_path / "1.root.json", ROOT_1)
    honest = ctl("approvals", "show", asked, "--against", own)
    daemon.approvals[asked].previous = a_root(1, ALICE_KEY.public_key).signed_bytes

    said = ctl("approve", asked, "--against", own, "--yes", "--digest", sha256(ROOT_2.signed_bytes))

    assert honest.code == 0, honest.out
    assert "! ~ threshold root: 2 of 2 -> 1 of 1" in honest.out
    assert said.code == 1
    assert f"is not the version 1 in {own}" in said.err
    assert "! ~ threshold root: 2 of 2 -> 1 of 1" in said.err
    assert sent(daemon) == 0


def test_a_daemon_that_shows_another_operation_after_the_consent_is_told_on(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    asked = a_root_change(daemon)

    def lie(a: approvals_pb2.Approval) -> None:
        if a.votes:
            a.digest = bytes(32)

    daemon.lie_about_approval = lie
    said = ctl("approve", asked, "--yes", "--digest", sha256(ROOT_2.signed_bytes))

    assert said.code == 1
    assert "after your consent to ap-1 the daemon shows another operation" in said.err


# ---------------------------------------------------------------------------- what can be shown


@pytest.mark.parametrize("previous", [b"", ROOT_1.signed_bytes])
def test_an_approval_that_is_over_is_no_lie_when_its_long_content_is_kept_no_longer(
    daemon: ScriptedDaemon, ctl: Ctl, previous: bytes
) -> None:
    asked = a_root_change(daemon)
    daemon.end(asked, approvals_pb2.APPROVAL_STATE_REJECTED)
    daemon.approvals[asked].content = b""
    daemon.approvals[asked].previous = previous

    shown = ctl("approvals", "show", asked)

    assert shown.code == 0, shown.err
    assert "REJECTED" in shown.out
    assert "it is over" in shown.out


def test_other_operations_show_their_parameters(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    parameters = {"action": "destroy", "key": "acme/root", "version": 1, "fingerprint": "ab12"}
    content = canonical.encode(parameters)
    asked = daemon.ask(content, action="destroy", needed=1)

    shown = ctl("approvals", "show", asked)
    said = ctl("approve", asked, "--yes", "--digest", sha256(content))

    assert shown.code == 0, shown.out
    assert '  fingerprint: "ab12"' in shown.out.splitlines()
    assert "  version: 1" in shown.out.splitlines()
    assert said.code == 0, said.err
    assert f"next: {BOB} repeats the command" in said.out


@pytest.mark.parametrize(
    "parameters",
    [
        {"action": "destroy", "key": "acme/other", "version": 1},
        {"action": "rotate", "key": "acme/root", "version": 1},
        {"action": "destroy", "key": "acme/root", "version": 2},
        {"key": "acme/root", "version": 1},
        ["destroy"],
    ],
)
def test_parameters_that_are_not_what_the_daemon_says_get_no_consent(
    daemon: ScriptedDaemon, ctl: Ctl, parameters: object
) -> None:
    content = canonical.encode(parameters)
    asked = daemon.ask(content, action="destroy")

    said = ctl("approve", asked, "--yes", "--digest", sha256(content))

    assert said.code == 1
    assert "the daemon lies" in said.err
    assert sent(daemon) == 0


def test_a_finished_digest_and_opaque_bytes_are_called_what_they_are(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    finished = daemon.ask(b"", digest=b"\x07" * 48, subject="acme/ed")
    opaque = daemon.ask(b"hello \x1b[2J", subject="acme/ed")
    file = tmp_path / "content"

    digest, content = (
        ctl("approvals", "show", finished),
        ctl("approvals", "show", opaque, "--content", file),
    )

    assert f"digest: {'07' * 48}, of bytes that are not here" in digest.out
    assert "mind: it is for a finished digest" in digest.out
    assert "content: opaque" in content.out
    assert "\x1b" not in content.out
    assert file.read_bytes() == b"hello \x1b[2J"


def test_words_of_the_requester_cannot_steer_the_terminal(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    asked = daemon.ask(b"x", reason="fine\x1b[1A\x1b[2K\nyou are: nobody", subject="acme/ed")

    shown, listed = ctl("approvals", "show", asked), ctl("approvals")

    assert "\x1b" not in shown.out + listed.out
    assert not any(line.startswith("you are:") for line in shown.out.splitlines())


def test_what_is_over_gets_no_consent(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    asked = a_root_change(daemon)
    daemon.end(asked, approvals_pb2.APPROVAL_STATE_EXPIRED)

    said = ctl("approve", asked, "--yes", "--digest", sha256(ROOT_2.signed_bytes))

    assert said.code == 1
    assert f"approval {asked} is EXPIRED" in said.err
    assert sent(daemon) == 0


# ------------------------------------------------------------------------------ signed consent


def test_consent_is_signed_over_what_was_shown_with_a_key_of_ones_own(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    asked = a_root_change(daemon)
    key = tmp_path / "id_ed25519"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(make, check=True, timeout=30, stdin=subprocess.DEVNULL)
    digest = sha256(ROOT_2.signed_bytes)

    said = ctl("approve", asked, "--yes", "--digest", digest, "--ssh-key", key)

    assert said.code == 0, said.err
    stored = daemon.approvals[asked]
    text = json.dumps(
        {
            "action": "sign",
            "approval": asked,
            "digest": f"sha256:{digest}",
            "expires": stored.expires_at.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "key": "acme/root",
            "key_version": 1,
            "metadata_version": 2,
            "principal": ALICE,
            "repository": "acme",
            "requester": BOB,
            "role": "root",
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    public = Path(f"{key}.pub").read_text()
    signature = daemon.requests["Approve"].signature
    assert sshsig.verify(text, signature, ALICE, [public]).startswith("SHA256:")


def test_a_key_that_cannot_sign_sends_no_consent(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    asked = a_root_change(daemon)

    said = ctl(
        "approve",
        asked,
        "--yes",
        "--digest",
        sha256(ROOT_2.signed_bytes),
        "--ssh-key",
        tmp_path / "missing",
    )

    assert said.code == 2
    assert "there is no key file" in said.err
    assert sent(daemon) == 0


# ---------------------------------------------------------------------------- no, and taking back


def test_no_needs_a_reason(daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path) -> None:
    first, second = a_root_change(daemon), a_root_change(daemon, EVIL_2.signed_bytes)

    mute = ctl("reject", first)
    said = ctl("reject", first, "--reason", "wrong keys")
    assert daemon.requests["Reject"].reason == "wrong keys"
    asked = at_terminal(tmp_path, "reject", second, typed="not ours")

    assert mute.code == 2
    assert said.code == 0
    assert f"you rejected {first}; it is REJECTED" in said.out
    assert asked.code == 0, asked.err
    assert "content: root v2" in asked.err
    assert daemon.requests["Reject"].reason == "not ours"


def test_consent_is_taken_back(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    asked = a_root_change(daemon)

    said = ctl("approvals", "revoke", asked, "--reason", "on second thoughts")

    assert said.code == 0
    assert daemon.requests["Revoke"].reason == "on second thoughts"
    assert f"approval {asked} is WITHDRAWN" in said.out


# ------------------------------------------------------------------------------- lists, watching


def test_the_list_says_what_waits_for_whom(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    waits = a_root_change(daemon)
    mine = daemon.ask(b"x", subject="acme/ed", requester=ALICE)
    ended = daemon.ask(b"y", subject="acme/ed")
    daemon.end(ended, approvals_pb2.APPROVAL_STATE_REJECTED)

    def ids(*args: str) -> list[str]:
        return [a["id"] for a in ctl("approvals", *args, "--json").json]

    assert ids() == [mine, waits]
    assert ids("--mine") == [mine]
    assert ids("--waiting") == [waits]
    assert ids("--all") == [ended, mine, waits]
    text = ctl("approvals").out
    assert f"acme/root/versions/1 acme:root v2  {BOB}" in text
    assert f"0/2       keydctl approve {waits}" in text
    daemon.approvals.clear()
    assert ctl("approvals").out == "no such approvals\n"


def test_watch_names_each_that_waits_once_with_the_command(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    waits = a_root_change(daemon)
    daemon.ask(b"x", subject="acme/ed", requester=ALICE)
    with under_way(tmp_path, "watch") as (watching, said):
        first = said.readline()
        daemon.vote(waits, CAROL)
        new = daemon.ask(b"z", subject="acme/ed")
        second = said.readline()
        watching.send_signal(signal.SIGINT)
        rest = said.read()

    assert first.startswith(f"{waits}  sign acme/root/versions/1 acme:root v2  asked by {BOB}")
    assert first.rstrip().endswith(f"keydctl approve {waits}")
    assert second.startswith(new)
    assert "Traceback" not in rest


# ------------------------------------------------------------------------------- the requester


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "payload"
    file.write_bytes(b"hello")
    return file


def test_sign_without_waiting_says_who_is_asked_and_how_to_come_back(
    daemon: ScriptedDaemon, ctl: Ctl, payload: Path
) -> None:
    daemon.demanded["acme/ed"] = 1

    first = ctl("sign", payload, "--key", "acme/ed")
    daemon.vote("ap-1", ALICE)
    again = ctl("sign", payload, "--key", "acme/ed")
    third = ctl("sign", payload, "--key", "acme/ed")

    assert first.code == 3
    assert "keydctl approve ap-1; then run this same command again" in first.err
    assert again.code == 0
    assert third.code == 3
    assert "ap-2" in third.err


def _votes(daemon: ScriptedDaemon, *people: str) -> threading.Thread:
    """People who consent one after the other, once somebody waits."""

    def consent() -> None:
        until = time.monotonic() + 20
        while not daemon.asked["WatchApprovals"] and time.monotonic() < until:
            time.sleep(0.02)
        for who in people:
            time.sleep(0.2)
            daemon.vote("ap-1", who)

    thread = threading.Thread(target=consent)
    thread.start()
    return thread


@pytest.mark.parametrize("wait", ["--wait", "--wait=1m"])
def test_sign_waits_shows_progress_and_signs(
    daemon: ScriptedDaemon, ctl: Ctl, payload: Path, tmp_path: Path, wait: str
) -> None:
    daemon.demanded["acme/ed"] = 2
    people = _votes(daemon, ALICE, CAROL)
    sig = tmp_path / "sig"
    try:
        said = ctl("sign", "--key", "acme/ed", "-o", sig, wait, payload)
    finally:
        people.join(30)

    assert said.code == 0, said.err
    assert "waiting for approval ap-1" in said.err
    assert "0 of 2 consented; missing: 2 of email:*@example.org" in said.err
    assert f"1 of 2 consented ({ALICE}); missing: 1 of email:*@example.org" in said.err
    assert f"2 of 2 consented ({ALICE}, {CAROL})" in said.err
    assert len(sig.read_bytes()) == 64
    assert daemon.approvals["ap-1"].state == approvals_pb2.APPROVAL_STATE_USED


def test_sign_waits_no_longer_than_it_was_told(
    daemon: ScriptedDaemon, ctl: Ctl, payload: Path, tmp_path: Path
) -> None:
    daemon.demanded["acme/ed"] = 2
    sig = tmp_path / "sig"

    said = ctl("sign", payload, "--key", "acme/ed", "--wait=1s", "-o", sig)

    assert said.code == 3
    assert "run this same command again" in said.err
    assert not sig.exists()
    assert daemon.approvals["ap-1"].state == approvals_pb2.APPROVAL_STATE_PENDING


@pytest.mark.parametrize(
    "state",
    [
        approvals_pb2.APPROVAL_STATE_REJECTED,
        approvals_pb2.APPROVAL_STATE_WITHDRAWN,
        approvals_pb2.APPROVAL_STATE_EXPIRED,
    ],
)
def test_sign_stops_waiting_when_nothing_can_come_of_it(
    daemon: ScriptedDaemon,
    ctl: Ctl,
    payload: Path,
    state: approvals_pb2.ApprovalState.ValueType,
) -> None:
    daemon.demanded["acme/ed"] = 1
    asked = daemon.ask(b"hello", subject="acme/ed", needed=1)
    daemon.delay = lambda method: daemon.end(asked, state) if method == "WatchApprovals" else None

    said = ctl("sign", payload, "--key", "acme/ed", "--wait")

    name = approvals_pb2.ApprovalState.Name(state).rpartition("_")[2]
    assert said.code == 1
    assert f"approval {asked} is {name}; nothing was signed" in said.err


def test_a_daemon_that_restarts_does_not_end_the_wait(
    daemon: ScriptedDaemon, ctl: Ctl, payload: Path
) -> None:
    daemon.demanded["acme/ed"] = 1
    daemon.ask(b"hello", subject="acme/ed", needed=1)
    daemon.vote("ap-1", ALICE)
    daemon.approvals["ap-1"].state = approvals_pb2.APPROVAL_STATE_PENDING
    daemon.errors["WatchApprovals"] = [ServerGoneError("gone")]
    daemon.delay = lambda method: (
        daemon.end("ap-1", approvals_pb2.APPROVAL_STATE_APPROVED)
        if method == "WatchApprovals" and daemon.asked[method] == 2
        else None
    )

    said = ctl("sign", payload, "--key", "acme/ed", "--wait=30s")

    assert said.code == 0, said.err
    assert daemon.asked["WatchApprovals"] == 2


def test_a_daemon_that_streams_to_too_many_already_is_asked_again_and_again(
    daemon: ScriptedDaemon, ctl: Ctl, payload: Path, tmp_path: Path
) -> None:
    daemon.demanded["acme/ed"] = 1
    daemon.errors["WatchApprovals"] = [RateLimitedError("8 streams", retry_after_s=0.1)] * 9
    people = _votes(daemon, ALICE)
    try:
        said = ctl("sign", "--key", "acme/ed", "-o", tmp_path / "sig", "--wait=30s", payload)
    finally:
        people.join(30)

    assert said.code == 0, said.err
    assert daemon.asked["GetApproval"] > 0
    assert daemon.errors["WatchApprovals"], "it waited for a stream"


def test_whoever_stops_waiting_learns_that_the_request_stands(
    daemon: ScriptedDaemon, payload: Path, tmp_path: Path
) -> None:
    daemon.demanded["acme/ed"] = 1
    sign = ("sign", "--key", "acme/ed", "--wait", payload)
    with under_way(tmp_path, *sign) as (waiting, said):
        while "0 of 1 consented" not in (line := said.readline()):
            assert line, "it ended by itself"
        waiting.send_signal(signal.SIGINT)
        out = said.read()
        waiting.wait(30)

    assert waiting.returncode == 130, out
    assert "approval ap-1 stays open" in out
    assert "keydctl approvals revoke ap-1" in out
    assert "Traceback" not in out


# ------------------------------------------------------------------------------------ dry runs


def test_a_dry_run_says_what_was_checked_and_whose_consent_is_missing(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file = write(tmp_path / "2.root.json", ROOT_2)

    def tell(answer: Any) -> None:
        answer.checks.extend(["root 2 follows root 1", "expires within 3660 days"])
        answer.needs.append("rule release: 2 of email:*@example.org")

    daemon.lie = tell
    explained = ctl("explain", file, "--key", "acme/root")
    machine = ctl("explain", file, "--key", "acme/root", "--json")
    dry = ctl("sign", file, "--key", "acme/root", "--encoding", "der", "--dry-run")

    assert (explained.code, machine.code, dry.code) == (3, 3, 3)
    for said in (explained, dry):
        assert "root 2 follows root 1" in said.out
        assert "rule release: 2 of email:*@example.org" in said.out
    assert "needs people" in explained.out
    assert "people have to approve exactly these bytes" in explained.out
    assert machine.json["decision"]["verdict"] == "needs people"
    assert machine.json["decision"]["needs"] == ["rule release: 2 of email:*@example.org"]


# -------------------------------------------------------------------------------- the library


async def test_the_async_client_watches_until_it_is_over(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    from keyd.client import ApprovalState, AsyncClient

    asked = a_root_change(daemon)
    seen = []
    async with AsyncClient(daemon.endpoint, checkpoints=tmp_path / "kept") as client:
        async for approval in client.watch_approvals(asked):
            seen.append(approval.state)
            if len(seen) == 1:
                daemon.end(asked, approvals_pb2.APPROVAL_STATE_REJECTED)

    assert seen == [ApprovalState.PENDING, ApprovalState.REJECTED]


def test_the_client_brings_content_only_where_it_was_asked_for(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    asked = a_root_change(daemon)
    with Client(daemon.endpoint, checkpoints=tmp_path / "kept") as client:
        whole = client.get_approval(asked)
        (listed,) = client.list_approvals(waits_for_me=True)
        streamed = next(iter(client.watch_approvals()))

    assert whole.content == ROOT_2.signed_bytes
    assert whole.previous == ROOT_1.signed_bytes
    assert (listed.content, streamed.content) == (b"", b"")
    assert (listed.counts[0].needed, listed.counts[0].have) == (2, 0)
    assert listed.waits_for_me
