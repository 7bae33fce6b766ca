"""Two people's consent by keydctl, against a real daemon with a real SoftHSM token."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from tests import keydctl_forks
from tests.e2e.daemon_process import DaemonProcess
from tests.waiting import until

pytestmark = pytest.mark.softhsm

RULES = """
[[rule]]
name = "two for targets"
keys = ["acme/targets"]
actions = ["sign"]
approvals = 2
approvers = ["socket:alice", "socket:bob"]

[[rule]]
name = "signed rotation"
keys = ["acme/*"]
actions = ["rotate"]
approvals = 1
signed = true

[[approver]]
principal = "socket:alice"
ssh_keys = ["{key}"]
"""


@dataclass
class Release:
    """A daemon, its user, and two people whose consent counts."""

    folder: Path
    daemon: DaemonProcess

    def env(self, who: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KEYD_", "XDG_"))}
        socket = self.daemon.folder / "run" / f"{who}.sock"
        return clean | {"HOME": str(self.folder / "home"), "KEYD_ENDPOINT": f"unix:{socket}"}

    def start(self, who: str, *args: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "keyd.cli.keydctl", *(str(a) for a in args)],
            env=self.env(who),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, who: str, *args: object) -> tuple[int, str, str]:
        done = keydctl_forks.run_text([str(arg) for arg in args], self.env(who))
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def json(self, who: str, *args: object) -> Any:
        code, out, err = self.run(who, *args, "--json")
        assert code == 0, out + err
        return json.loads(out)

    def waiting(self, who: str, subject: str) -> str:
        """The newest approval about this key that waits for this person."""
        found = self.json(who, "approvals", "--waiting")
        return str(next(a["id"] for a in found if a["subject"] == subject))

    def targets(self, version: int, *paths: str) -> Path:
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
        made = Targets(version, expires=expires)
        for path in paths:
            made.targets[path] = TargetFile(3, {"sha256": "07" * 32}, path)
        file = self.folder / f"{version}.targets.payload"
        file.write_bytes(Metadata(made).signed_bytes)
        return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    folder = Path(mkdtemp(prefix="keyd-appr-"))
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "alice_key")]
    try:
        subprocess.run(make, check=True, timeout=30, stdin=subprocess.DEVNULL)
        people = ("--person", "alice", "--person", "bob")
        with DaemonProcess(folder / "dev", *people, forked=True) as daemon:
            made = Release(folder, daemon)
            for role in ("root", "targets"):
                asked = ("key", "create", f"acme/{role}", "--algorithm", "ecdsa-p256")
                made.json("keyd", *asked, "--bind", f"acme:{role}")
            public = (folder / "alice_key.pub").read_text().strip()
            # Its exit code is 1 until the log key is made, after the token's first login.
            until(lambda: made.run("keyd", "status")[0] == 0, "a daemon without problems")
            before = made.json("keyd", "status")["policy_sha256"]
            with (folder / "dev" / "policy.toml").open("a") as policy:
                policy.write(RULES.format(key=public))
            daemon.signal(signal.SIGHUP)
            until(
                lambda: made.json("keyd", "status")["policy_sha256"] != before,
                "the policy with its new rules",
            )
            yield made
    finally:
        shutil.rmtree(folder)


def test_a_release_waits_for_two_people_who_see_what_it_changes(release: Release) -> None:
    first, second = release.targets(1, "app/1"), release.targets(2, "app/1", "app/2")
    sign = ("--key", "acme/targets", "--encoding", "der")

    dry, told, _ = release.run("keyd", "sign", first, *sign, "--dry-run")
    code, _, asked = release.run("keyd", "sign", first, *sign, "--reason", "release 1")
    approval = release.waiting("alice", "acme/targets")
    consent = ("--yes", "--digest", sha256(first))
    assert release.run("keyd", "approve", approval, *consent)[0] == 1  # who asks does not count
    assert release.run("alice", "approve", approval, *consent)[0] == 0
    assert release.run("alice", "approve", approval, *consent)[0] == 1  # nobody counts twice
    waiting = release.start("keyd", "sign", first, *sign, "--json", "--wait=50s")
    try:
        assert release.run("bob", "approve", approval, *consent)[0] == 0
        out, progress = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        waiting.wait(10)
    release.run("keyd", "sign", second, *sign)
    shown = release.json("bob", "approvals", "show", release.waiting("bob", "acme/targets"))

    assert dry == 3
    assert "rule two for targets: 2 of socket:alice, socket:bob" in told
    assert code == 3
    assert f"keydctl approve {approval}" in asked
    assert waiting.returncode == 0, progress
    assert json.loads(out)["digest"] == f"sha256:{sha256(first)}"
    assert [c["subject"] for c in shown["changes"] if c["kind"] == "target"] == ["app/2"]
    assert shown["against"].startswith("targets v1")
    assert shown["lies"] == []


def test_consent_signed_with_an_ssh_key_is_verified_in_the_exported_log(release: Release) -> None:
    code, _, _ = release.run("keyd", "key", "rotate", "acme/root")
    approval = release.waiting("alice", "acme/root")
    digest = release.json("alice", "approvals", "show", approval)["sha256"]
    consent = ("approve", approval, "--yes", "--digest", digest)
    bare = release.run("alice", *consent)
    signed = release.run("alice", *consent, "--ssh-key", release.folder / "alice_key")
    rotated = release.run("keyd", "key", "rotate", "acme/root")
    log, key = release.folder / "log.jsonl", release.folder / "log.key"
    signers = release.folder / "allowed_signers"
    signers.write_text(f"socket:alice {(release.folder / 'alice_key.pub').read_text()}")
    release.json("keyd", "audit", "log-key", "-o", key)
    release.json("keyd", "audit", "export", "-o", log)
    verify = ("audit", "verify", log, "--log-key", key, "--allowed-signers", signers)
    report = release.json("keyd", *verify)
    signers.write_text(f"socket:bob {(release.folder / 'alice_key.pub').read_text()}")
    foreign = release.run("keyd", *verify)

    assert code == 3
    assert bare[0] == 2
    assert "--ssh-key FILE" in bare[2]
    assert signed[0] == 0, signed[2]
    assert rotated[0] == 0, rotated[2]
    assert (report["consents"], report["consents_verified"]) == (1, True)
    assert foreign[0] == 1
    assert "does not verify" in foreign[2]


def test_one_no_ends_it_and_the_requester_is_told(release: Release) -> None:
    file = release.targets(3, "app/3")
    sign = ("sign", file, "--key", "acme/targets", "--encoding", "der")
    release.run("keyd", *sign)
    approval = release.waiting("bob", "acme/targets")
    waiting = release.start("keyd", *sign, "--wait=50s")
    try:
        assert waiting.stderr is not None
        while "0 of 2 consented" not in (line := waiting.stderr.readline()):
            assert line, "it ended by itself"
        said = release.run("bob", "reject", approval, "--reason", "not this one")
        _, progress = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        waiting.wait(10)

    assert said[0] == 0, said[2]
    assert "REJECTED" in said[1]
    assert waiting.returncode == 1
    assert f"approval {approval} is REJECTED; nothing was signed" in progress
