"""An emulated YubiKey on a desk: the test's side.

``Bench.start()`` gives a private pcscd with two reader slots; ``add()`` makes YubiKeys, which are
plugged in and pulled, touched and not touched, locked and reset. Programs under test reach it by
``environment``, which libpcsclite reads once per process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from cryptography import x509

from tests.yubikey.model import Model
from tests.yubikey.pause import Moment
from tests.yubikey.process import CONTROL_SOCKET
from tests.yubikey.touch import WINDOW_S, Person
from tests.yubikey.warm import Fork

_START_S = 10.0
_CALL_S = 30.0
_NOTICE_S = 5.0
"""pcscd looks at its readers every 0.4 s."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """What the card itself knows, read without disturbing it.

    ``pins_offered``: PINs that reached it, right or wrong. ``commands``: all instructions.
    """

    plugged_in: bool
    powered: bool
    blinking: bool
    touch_requests: int
    touches: int
    pin_tries: int
    puk_tries: int
    pins_offered: int
    signatures: int
    selects: int
    commands: int


class Bench:
    """One card process with its pcscd. A context manager: nothing is left when it ends."""

    def __init__(self, folder: Path, process: Fork, its_life: IO[bytes]) -> None:
        self._folder = folder
        self._process = process
        self._its_life = its_life
        self._control: socket.socket | None = None
        self._lines = b""
        self.socket_path = folder / "pcscd.comm"

    @classmethod
    def start(cls, readers: int = 1) -> Bench:
        """Start one; it answers when this returns. One or two readers, each with
        two slots: 0 and 1, 2 and 3.

        Raises:
            RuntimeError: it did not come up; the text holds what it said.
        """
        # Short, because a unix socket's path has at most 107 bytes.
        folder = Path(tempfile.mkdtemp(prefix="yubikey-"))
        its_input, ours = os.pipe()
        try:
            with (folder / "card.log").open("wb") as said:
                streams = (its_input, said.fileno(), said.fileno())
                process = Fork("process", (str(folder), str(readers)), os.environ, streams)
        finally:
            os.close(its_input)
        bench = cls(folder, process, os.fdopen(ours, "wb"))
        try:
            bench._connect(time.monotonic() + _START_S)
        except BaseException:
            bench.stop()
            raise
        return bench

    def stop(self) -> None:
        """End the processes and remove the folder."""
        if self._control is not None:
            self._control.close()
            self._control = None
        self.resume()
        self._its_life.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    # -- what programs under test need -----------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What a program has in its environment to meet this pcscd and no other."""
        return {"PCSCLITE_CSOCK_NAME": str(self.socket_path)}

    @property
    def readers(self) -> list[str]:
        """The names of the reader's slots, the first one first."""
        return [str(name) for name in self.call("describe")["readers"]]

    @property
    def attestation_root(self) -> x509.Certificate:
        """The root of this bench's YubiKeys; no other bench has it."""
        return x509.load_pem_x509_certificate(self.call("describe")["root"].encode())

    @property
    def isolated(self) -> bool:
        """True when it has namespaces of its own."""
        return bool(self.call("describe")["isolated"])

    @property
    def pids(self) -> tuple[int, int]:
        """The card process and its pcscd (0 while that is dead)."""
        return self._process.pid, int(self.call("describe")["pcscd"])

    # -- what happens on the desk ------------------------------------------------------------

    def add(self, model: Model, slot: int | None = 0) -> EmulatedKey:
        """A new YubiKey, plugged into this slot; None leaves it beside the reader."""
        self.call(
            "add",
            serial=model.serial,
            firmware=list(model.firmware),
            form_factor=int(model.form_factor),
        )
        key = EmulatedKey(self, model)
        if slot is not None:
            key.insert(slot)
        return key

    def kill_pcscd(self) -> None:
        """pcscd crashes and is not there."""
        self.call("kill_pcscd")

    def start_pcscd(self) -> None:
        """pcscd is there again, the same socket, the same readers, and has seen the cards."""
        self.call("start_pcscd", within_s=_NOTICE_S)

    def suspend(self) -> None:
        """The readers and their cards say nothing any more, as on a machine that falls asleep;
        no other order reaches them until resume()."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """They go on where they were."""
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """What pcscd said."""
        return str(self.call("log"))

    def call(self, name: str, **arguments: Any) -> Any:
        """One order to the card process.

        Raises:
            RuntimeError: it could not be done.
        """
        assert self._control is not None
        order = json.dumps({"call": name, **arguments})
        self._control.settimeout(_CALL_S)
        self._control.sendall(order.encode() + b"\n")
        while b"\n" not in self._lines:
            part = self._control.recv(65536)
            if not part:
                raise RuntimeError(f"the card process is gone: {self._said()}")
            self._lines += part
        line, _, self._lines = self._lines.partition(b"\n")
        answer = json.loads(line)
        if "failed" in answer:
            raise RuntimeError(f"{name}: {answer['failed']}")
        return answer["done"]

    def _connect(self, until: float) -> None:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                control.connect(str(self._folder / CONTROL_SOCKET))
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    control.close()
                    raise RuntimeError(f"the bench did not start: {self._said()}") from None
                time.sleep(0.01)
        self._control = control

    def _said(self) -> str:
        return (self._folder / "card.log").read_text(errors="replace")


class EmulatedKey:
    """One YubiKey of a bench."""

    def __init__(self, bench: Bench, model: Model) -> None:
        self._bench = bench
        self.model = model

    @property
    def serial(self) -> int:
        """As printed on it."""
        return self.model.serial

    def insert(self, slot: int = 0, *, noticed: bool = True) -> None:
        """Plug it in; ``noticed``: return when pcscd has switched it on."""
        self._call("insert", slot=slot, within_s=_NOTICE_S if noticed else 0)

    def remove(self) -> None:
        """Pull it, whatever it is doing. pcscd notices within 0.4 s, a running command at once."""
        self._call("remove")

    def swap_for(self, other: EmulatedKey, slot: int = 0) -> None:
        """Pull it and plug another one into the same slot as fast as pcscd can tell."""
        self.remove()
        other.insert(slot)

    def person(self, does: Person, after_s: float = 0.0, window_s: float = WINDOW_S) -> None:
        """How whoever sits there behaves from now on, and how long the card blinks."""
        self._call("person", does=does.value, after_s=after_s, window_s=window_s)

    def touch(self) -> bool:
        """A finger, now; False when the card did not wait for one."""
        return bool(self._call("touch"))

    def age_touch(self, seconds: float) -> None:
        """The last touch is so much longer ago: a touch is cached for 15 s."""
        self._call("age_touch", seconds=seconds)

    def wait_for_blinking(self, within_s: float = 10.0) -> None:
        """Return when the card waits for a touch.

        Raises:
            AssertionError: it does not.
        """
        blinks = self._call("wait_for_blinking", within_s=within_s)
        assert blinks, f"YubiKey {self.serial} did not ask for a touch"

    def latency(self, command_s: float, key_s: float) -> None:
        """From now on each command and each private-key operation takes this long. A real
        YubiKey 5 takes some 3 ms, and 60 ms (P-256) to 250 ms (RSA 2048)."""
        self._call("latency", command_s=command_s, key_s=key_s)

    def stop_at(self, moment: Moment, *, is_after: bool = False, skip: int = 0) -> None:
        """The next command of this kind hangs until go_on() or a pull: before the card did
        anything, or when it is done and not answered. ``skip``: so many pass first."""
        self._call("stop_at", instruction=int(moment), is_after=is_after, skip=skip)

    def wait_until_stopped(self, within_s: float = 10.0) -> None:
        """Return when a command hangs.

        Raises:
            AssertionError: none does.
        """
        stopped = self._call("wait_until_stopped", within_s=within_s)
        assert stopped, f"YubiKey {self.serial} was not asked for that"

    def go_on(self) -> None:
        """The command that hangs goes on, and none hangs from now on."""
        self._call("go_on")

    def fail_once(self, moment: Moment) -> None:
        """The next command of this kind fails with 6F00."""
        self._call("fail_once", instruction=int(moment))

    def tries_left(self, pin: int = 3, puk: int = 3) -> None:
        """Somebody has tried: so many are left. 0 is blocked."""
        self._call("tries", pin=pin, puk=puk)

    def factory_reset(self) -> None:
        """Another program reset the PIV applet under everybody's hands."""
        self._call("factory_reset")

    @property
    def state(self) -> KeyState:
        """As it is now."""
        return KeyState(**self._call("state"))

    def _call(self, name: str, **arguments: Any) -> Any:
        return self._bench.call(name, serial=self.serial, **arguments)
