"""docs/ci.md, word for word: its commands are run, the runner's in a network namespace of its own
with nothing but the base install.

The page marks its blocks (```sh runner); this file reads them from there, so that page and program
cannot drift apart.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp

import pytest

from keyd.cli.server_dev import make_folder
from keyd.client import Client, KeyAlgorithm
from keyd.errors import KeydError
from keyd.pki.authority import Authority
from tests.e2e.commands import run_to_end
from tests.e2e.daemon_process import DaemonProcess

pytestmark = [
    pytest.mark.root,
    pytest.mark.softhsm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text()
HOST = "keyd.example.org"
SERVER_ADDRESS = "10.213.77.1"
RUNNER_ADDRESS = "10.213.77.2"


def block(mark: str) -> str:
    """The page's code block with this mark."""
    found = re.findall(rf"^```{re.escape(mark)}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"docs/ci.md has {len(found)} blocks marked {mark!r}"
    return str(found[0])


def must(*command: str | Path) -> str:
    """Run a command that has to succeed; its output."""
    done = run_to_end(*command, timeout_s=240)
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def base_install() -> Iterator[Path]:
    """A venv with keyd's wheel and what that needs, without any extra."""
    folder = Path(mkdtemp(prefix="keyd-base-"))
    try:
        pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
        must(*pip, "wheel", "--no-deps", "-w", folder, ROOT)
        must(sys.executable, "-m", "venv", folder / "venv")
        (wheel,) = folder.glob("keyd-*.whl")
        must(folder / "venv/bin/python", "-m", "pip", "-q", "install", wheel)
        yield folder / "venv"
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A second network namespace, joined to this one by a cable, that knows HOST by name."""
    assert shutil.which("ip"), "iproute2 is missing"
    name = f"keyd-ci-{os.getpid()}"
    ours, theirs = f"kci{os.getpid() % 100000}a", f"kci{os.getpid() % 100000}b"
    names = Path("/etc/netns") / name
    try:
        # Root in a container or a chroot may not be allowed to.
        for attempt in (("add", name), ("exec", name, "true")):
            done = run_to_end("ip", "netns", *attempt)
            if done.returncode != 0:
                pytest.skip(f"no network namespaces on this machine: {done.stdout.strip()}")
        must("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        must("ip", "address", "add", f"{SERVER_ADDRESS}/30", "dev", ours)
        must("ip", "link", "set", ours, "up")
        must("ip", "-n", name, "address", "add", f"{RUNNER_ADDRESS}/30", "dev", theirs)
        must("ip", "-n", name, "link", "set", theirs, "up")
        must("ip", "-n", name, "link", "set", "lo", "up")
        names.mkdir(parents=True)
        (names / "hosts").write_text(f"127.0.0.1 localhost\n{SERVER_ADDRESS} {HOST}\n")
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", ours], check=False, timeout=30)
        subprocess.run(["ip", "netns", "delete", name], check=False, timeout=30)
        shutil.rmtree(names, ignore_errors=True)


@dataclass(frozen=True)
class Side:
    """A shell with a home: the runner's in the namespace, the authority's in this one."""

    home: Path
    path: Path
    namespace: str = ""

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script, stopping at its first failure; stdout and stderr together."""
        enter = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        clean = [f"HOME={self.home}", f"PATH={self.path}:/usr/bin:/bin"]
        return run_to_end(*enter, "env", "-i", *clean, "sh", "-e", "-c", script, cwd=self.home)

    def does(self, script: str) -> str:
        """Run a script that has to succeed."""
        done = self.run(script)
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout


@dataclass
class Scene:
    """Everything docs/ci.md speaks of, after its steps up to the grant."""

    daemon: DaemonProcess
    authority: Side
    runner: Side
    policy: Path
    admin_endpoint: str

    def runs(self, script: str) -> subprocess.CompletedProcess[str]:
        """On the runner, with its environment."""
        return self.runner.run(block("sh runner-env") + script)

    def reload(self) -> None:
        """systemctl reload keyd-server."""
        self.daemon.signal(signal.SIGHUP)

    def until(self, code: int, script: str) -> str:
        """Repeat on the runner until the exit code is this one; bounded."""
        deadline = time.monotonic() + 15
        while True:
            done = self.runs(script)
            if done.returncode == code:
                return done.stdout
            assert time.monotonic() < deadline, f"exit code {done.returncode}: {done.stdout}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def scene(base_install: Path, namespace: str) -> Iterator[Scene]:
    folder = Path(mkdtemp(prefix="keyd-ci-"))
    tools = folder / "tools"
    daemon = DaemonProcess(
        folder / "d", "--config", str(folder / "dev/keyd.toml"), command=("run",)
    )
    try:
        for side in ("authority", "runner", "tools"):
            (folder / side).mkdir()
        for command, module in (("keydctl", "keydctl"), ("keyd-server", "server")):
            script = tools / command
            script.write_text(
                f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m keyd.cli.{module} "$@"\n'
            )
            script.chmod(0o755)
        authority = Side(folder / "authority", tools)
        runner = Side(folder / "runner", base_install / "bin", namespace)

        authority.does(block("sh authority"))
        made = make_folder(folder / "dev", tcp=None, hosts=1, now=datetime.now(UTC))
        tls = folder / "dev" / "tls"
        tls.mkdir()
        for name in ("server.pem", "server.key", "ca/ca.pem"):
            shutil.copy(authority.home / name, tls)
        listener = block("toml listener").replace("0.0.0.0", SERVER_ADDRESS)
        with made.config.open("a") as config:
            config.write(f"\n{listener}")

        runner.does(block("sh runner-request"))
        shutil.copy(runner.home / "runner.csr", authority.home)
        authority.does(block("sh authority-sign"))
        shutil.copy(authority.home / "runner.pem", runner.home)
        shutil.copy(authority.home / "ca/ca.pem", runner.home)
        policy = folder / "dev" / "policy.toml"
        policy.write_text(policy.read_text() + "\n" + block("toml grant"))
        (runner.home / "artifact.tar.gz").write_bytes(os.urandom(1000))

        daemon.start()
        create_key(f"unix:{made.socket}")
        yield Scene(daemon, authority, runner, policy, f"unix:{made.socket}")
        daemon.stop()
    finally:
        daemon.kill()
        shutil.rmtree(folder)


def create_key(endpoint: str) -> None:
    """Once the token is ready."""
    deadline = time.monotonic() + 20
    with Client(endpoint, keep_checkpoints=False) as client:
        while True:
            try:
                client.create_key("acme/release", KeyAlgorithm.ECDSA_P256)
                return
            except KeydError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def test_a_runner_asks_who_it_is_signs_and_verifies(scene: Scene) -> None:
    done = scene.runs(block("sh runner"))

    assert done.returncode == 0, done.stdout
    assert "uri:spiffe://example.org/ci/release" in done.stdout
    assert "verified" in done.stdout
    assert (scene.runner.home / "artifact.sig").stat().st_size > 60


def test_the_private_key_stays_on_the_runner_and_is_private(scene: Scene) -> None:
    assert (scene.runner.home / "runner.key").stat().st_mode & 0o777 == 0o600
    assert not (scene.authority.home / "runner.key").exists()


def test_a_request_made_with_openssl_is_as_good(scene: Scene) -> None:
    scene.runner.does(block("sh openssl"))
    shutil.copy(scene.runner.home / "runner-openssl.csr", scene.authority.home)
    scene.authority.does(
        "keyd-server tls sign runner-openssl.csr --ca-dir ca --output runner-openssl.pem"
    )
    shutil.copy(scene.authority.home / "runner-openssl.pem", scene.runner.home)

    done = scene.runs(
        "KEYD_CERT=$PWD/runner-openssl.pem KEYD_KEY=$PWD/runner-openssl.key keydctl whoami"
    )

    assert done.returncode == 0, done.stdout
    assert "uri:spiffe://example.org/ci/release" in done.stdout


def test_the_base_install_has_no_server_parts_and_says_so(scene: Scene) -> None:
    done = scene.runner.run("keyd-server check")

    assert done.returncode == 1, done.stdout
    assert "pip install 'keyd[server]'" in done.stdout
    missing = "import importlib.util as u; print([m for m in ('pkcs11', 'sqlalchemy', 'pydantic')"
    assert scene.runner.does(f'python -c "{missing} if u.find_spec(m)])"').strip() == "[]"


SIGN = "keydctl sign artifact.tar.gz --key acme/release --encoding der --output again.sig"


def test_an_expired_certificate_is_named_and_needs_people(scene: Scene) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=100)
    authority = Authority.open(scene.authority.home / "ca", datetime.now(UTC))
    csr = (scene.authority.home / "runner.csr").read_bytes()
    (scene.runner.home / "expired.pem").write_bytes(authority.sign_client(csr, long_ago))

    done = scene.runs("KEYD_CERT=$PWD/expired.pem keydctl whoami")

    assert done.returncode == 3, done.stdout
    assert "the client certificate" in done.stdout
    assert "expired" in done.stdout
    assert "hint:" in done.stdout


def test_a_removed_grant_is_a_plain_denial_after_reload(scene: Scene) -> None:
    granted = scene.policy.read_text()
    try:
        scene.policy.write_text(granted.replace(block("toml grant"), ""))
        scene.reload()

        said = scene.until(1, SIGN)

        assert "error: sign acme/release: denied, or no such name" in said
        assert "keydctl whoami" in said
    finally:
        scene.policy.write_text(granted)
        scene.reload()
    scene.until(0, SIGN)


def test_a_stopped_daemon_is_worth_another_try_and_a_restarted_one_answers(scene: Scene) -> None:
    scene.daemon.stop()
    try:
        done = scene.runs(SIGN)
    finally:
        scene.daemon.start()

    assert done.returncode == 4, done.stdout
    assert "error: no daemon answers" in done.stdout
    assert f"{HOST}:7443" in done.stdout
    scene.until(0, SIGN)


def test_a_locked_token_needs_people(scene: Scene) -> None:
    (scene.runner.home / "artifact.tar.gz").write_bytes(os.urandom(1000))
    with Client(scene.admin_endpoint, keep_checkpoints=False) as admin:
        admin.lock("dev")
        try:
            done = scene.runs(SIGN)
        finally:
            admin.unlock("dev")

    assert done.returncode == 3, done.stdout
    assert "locked" in done.stdout.lower()
    assert "keydctl token unlock dev" in done.stdout
    scene.until(0, SIGN)


def test_the_page_names_every_outcome_this_file_proves() -> None:
    rows = dict(re.findall(r"^\| ([^|]+?) \| [^|]+ \| (\d) \|$", PAGE, re.MULTILINE))

    assert set(rows.values()) == {"1", "2", "3", "4"}
    assert rows["the certificate expired"] == "3"
    assert rows["the grant was removed"] == "1"
    assert rows["the daemon is stopped or restarting"] == "4"
    assert rows["the token is LOCKED"] == "3"
