"""A whole daemon with a YubiKey: what keydctl says while it waits, and what comes of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyd.cli.server_dev import make_folder
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.yubikey import by_yubikit
from tests.yubikey.bench import Bench, EmulatedKey
from tests.yubikey.desk import SLOT
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_PIN, Model
from tests.yubikey.touch import Person
from tests.yubikey.worker import Worker

pytestmark = pytest.mark.softhsm

_TOKEN = """
[[token]]
name = "yubi"
module = "{module}"
serial = "{serial}"
pin = "file:{pin}"
"""


class Desk:
    """keydctl beside a YubiKey, and a file to sign."""

    def __init__(self, key: EmulatedKey, ctl: Keydctl, folder: Path) -> None:
        self.key = key
        self.ctl = ctl
        self._requests_before = 0
        self._file = folder / "file"
        self._file.write_text("hello")
        self._said = folder / "said"
        self._times = 0

    def count_touches(self) -> None:
        """From now on."""
        self._requests_before = self.key.state.touch_requests

    @property
    def touch_requests(self) -> int:
        """Since they are counted."""
        return self.key.state.touch_requests - self._requests_before

    def signs(self) -> subprocess.Popen[str]:
        """keydctl sign, under way."""
        self._times += 1
        # Other bytes each time: a stored signature is given again without a touch.
        self._file.write_text(f"hello {self._times}")
        words = ("sign", str(self._file), "--key", "acme/root", "--encoding", "der")
        with self._said.open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "keyd.cli.keydctl", *words],
                env=self.ctl.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def said(self, what: str, within_s: float = 10.0) -> str:
        """What it said beside the result, once that is in it."""
        until = time.monotonic() + within_s
        while what not in (text := self._said.read_text()):
            assert time.monotonic() < until, text
            time.sleep(0.02)
        return text

    def ends(self, command: subprocess.Popen[str]) -> int:
        """Its exit code."""
        try:
            command.communicate(timeout=40)
            return command.returncode
        finally:
            if command.poll() is None:
                command.kill()
                command.wait(10)


@pytest.fixture(scope="module")
def registered(ykcs11: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A daemon that knows a key on a YubiKey."""
    folder = tmp_path_factory.mktemp("desk")
    made = make_folder(folder / "d", tcp=None, hosts=1, now=datetime.now(UTC))
    pin = folder / "d" / "yubi-pin"
    pin.touch(mode=0o600)
    pin.write_text(FACTORY_PIN)
    with Bench.start() as bench, Worker(bench.environment) as worker:
        key = bench.add(Model(1234567))
        order = (key.serial, FACTORY_MANAGEMENT_KEY, SLOT, "ECCP256", "ONCE", "ALWAYS")
        worker.call(by_yubikit.generate, *order)
        with made.config.open("a") as config:
            config.write(_TOKEN.format(module=ykcs11, serial=key.serial, pin=pin))
        arguments = ("--config", str(made.config))
        with DaemonProcess(
            folder / "d", *arguments, command=("run",), env=bench.environment
        ) as daemon:
            ctl = Keydctl(daemon.endpoint, folder)
            (found,) = ctl("token", "objects", "yubi")
            # A key is registered once it has signed, which takes a touch.
            key.person(Person.TOUCHES)
            ctl("key", "adopt", "acme/root", "--token", "yubi", "--object-id", found["object_id"])
            yield Desk(key, ctl, folder)


@pytest.fixture
def desk(registered: Desk) -> Desk:
    """The same, with a person who waits to be told."""
    registered.key.person(Person.WAITS)
    registered.count_touches()
    return registered


def test_keydctl_says_which_token_to_touch_for_what_and_signs_when_it_was_touched(
    desk: Desk,
) -> None:
    command = desk.signs()
    said = desk.said("s left")
    desk.key.wait_for_blinking()
    desk.key.touch()

    assert desk.ends(command) == 0
    assert "touch token 1234567 (acme/root, asked by socket:" in said


def test_a_touch_that_never_comes_ends_keydctl_with_words_and_exit_code_4(desk: Desk) -> None:
    desk.key.person(Person.SLEEPS, window_s=1.0)
    command = desk.signs()

    assert desk.ends(command) == 4
    said = desk.said("error:")
    assert "touch token 1234567: yubi was not touched within 15 s" in said
    assert "it was for acme/root, asked by socket:" in said
    assert desk.touch_requests == 1


def test_a_key_pulled_while_it_blinks_and_back_in_time_signs_for_the_same_command(
    desk: Desk,
) -> None:
    command = desk.signs()
    desk.said("s left")
    desk.key.remove()
    desk.key.insert(1)
    desk.key.wait_for_blinking()
    desk.key.touch()

    assert desk.ends(command) == 0
    assert desk.touch_requests == 2


def test_a_signature_that_was_released_is_not_touched_for_twice(desk: Desk) -> None:
    desk.key.person(Person.TOUCHES)
    words = ("sign", "--digest", "sha256:" + "ab" * 32, "--key", "acme/root", "--encoding", "der")
    first, second = desk.ctl(*words), desk.ctl(*words)

    assert second["replayed"]
    assert first["signature"] == second["signature"]
    assert desk.touch_requests == 1
