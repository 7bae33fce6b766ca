"""keyd-server doctor as people use it, beside a daemon that runs and one that is stopped."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from keyd.client import Client
from keyd.model import TokenState
from tests.e2e.commands import run_to_end
from tests.e2e.daemon_process import DaemonProcess

pytestmark = pytest.mark.softhsm


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    folder = Path(mkdtemp(prefix="keyd-doc-"))  # a short one: sun_path has room for 107 bytes
    process = DaemonProcess(folder / "dev")
    try:
        process.start()
        yield process
    finally:
        process.kill()
        shutil.rmtree(folder)


def keyd_server(daemon: DaemonProcess, *words: str | Path) -> tuple[int, str]:
    config = daemon.folder / "keyd.toml"
    done = run_to_end(sys.executable, "-m", "keyd.cli.server", *words, "--config", config)
    return done.returncode, done.stdout


def wait_until_signed(daemon: DaemonProcess) -> None:
    """Until the token is ready and the log has its first checkpoint."""
    deadline = time.monotonic() + 20
    with Client(daemon.endpoint, keep_checkpoints=False) as client:
        while True:
            status, tokens = client.status(), client.list_tokens()
            ready = all(token.state is TokenState.READY for token in tokens)
            if ready and status.health == "SERVING" and (daemon.folder / "checkpoint").exists():
                return
            assert time.monotonic() < deadline, (status, tokens)
            time.sleep(0.05)


def test_the_doctor_finds_what_is_to_be_done_and_is_content_when_it_is(
    daemon: DaemonProcess,
) -> None:
    wait_until_signed(daemon)
    hosts = daemon.hosts()

    code, said = keyd_server(daemon, "doctor", "--json")
    wrong = [f["area"] for f in json.loads(said)["findings"] if not f["ok"]]
    assert (code, wrong) == (1, ["backup"])

    assert keyd_server(daemon, "backup", daemon.folder.parent / "copy.db")[0] == 0
    code, said = keyd_server(daemon, "doctor")
    assert (code, f"pid {daemon.pid}" in said, "dev is READY" in said) == (0, True, True), said
    assert daemon.hosts() == hosts

    assert daemon.stop() == 0
    pin = daemon.folder / "pin"
    code, said = keyd_server(daemon, "doctor")
    assert (code, "stopped" in said, "dev is there" in said) == (0, True, True), said
    assert pin.read_text().strip() not in said
    daemon.start()  # nothing is in its way


def test_a_token_that_is_gone_is_found_while_the_daemon_is_stopped(daemon: DaemonProcess) -> None:
    wait_until_signed(daemon)
    daemon.stop()
    shutil.rmtree(daemon.folder / "tokens")
    (daemon.folder / "tokens").mkdir(0o700)

    code, said = keyd_server(daemon, "doctor", "--except", "backup")

    assert code == 1
    assert "0 tokens fit dev" in said


def test_an_area_that_there_is_not_is_refused_with_those_there_are(daemon: DaemonProcess) -> None:
    code, said = keyd_server(daemon, "doctor", "--except", "weather")

    assert code == 2
    assert "unbound-keys" in said
