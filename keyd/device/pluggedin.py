"""YubiKeys that lie in readers and that no token host knows.

Who asks is a process of its own, for the length of one question: the daemon itself loads neither
pyscard nor yubikit, and a YubiKey that another program holds lets everybody wait. It offers no PIN.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path

from keyd.device.failures import INSTALL_YUBIKIT, NO_CARD_SERVICE, TROUBLE_HINTS
from keyd.model import PluggedIn

_PATIENCE_S = 5.0
_LIBRARIES = Path("/usr/lib")
_LIBRARY = "libykcs11.so*"
_MANY_BYTES = 65536
_CODE = re.compile(r"\s*\(0x[0-9A-Fa-f]+\)")
"""Of PC/SC, which nobody looks up."""


async def find_plugged_in(
    configured: Collection[str], module: Path | None, *, patience_s: float = _PATIENCE_S
) -> tuple[list[PluggedIn], str]:
    """The YubiKeys with other serials than ``configured``, and why there may be more; empty when
    all were looked at. ``module``: libykcs11, where a token names it already."""
    return await asyncio.to_thread(_ask, configured, module or _library(), patience_s)


def _ask(
    configured: Collection[str], module: Path, patience_s: float
) -> tuple[list[PluggedIn], str]:
    """Popen starts it by vfork(2), past grpc's fork handlers. The event loop's own way runs them:
    they start threads in the child, which now and then dies of that (SIGSEGV, grpcio 1.85.1)."""
    process = subprocess.Popen(
        (sys.executable, "-P", "-m", "keyd.device.pluggedin", *sorted(configured)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    end = threading.Timer(patience_s, process.kill)
    end.start()
    found: list[PluggedIn] = []
    try:
        assert process.stdout is not None
        # One line for each, so that what was told before a silence counts.
        for line in process.stdout:
            told = json.loads(line)
            if "done" in told:
                return found, str(told["done"])
            found.append(PluggedIn(**told, module=str(module)))
        code = process.wait()
        if code == -signal.SIGKILL:
            return found, f"a YubiKey did not answer within {patience_s:g} s; is it being touched?"
        return found, f"the search ended early (exit code {code}); see the daemon's journal"
    finally:
        end.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _library() -> Path:
    """libykcs11 on this machine: the newest of those there are, else where Debian would put it."""
    found = sorted(_LIBRARIES.glob(f"**/{_LIBRARY}"), key=lambda file: len(file.name))
    return found[0] if found else _LIBRARIES / "x86_64-linux-gnu/libykcs11.so.2"


# ------------------------------------------------------------- from here on: the child process


def _look(configured: Collection[str]) -> str:
    """Print a line for each; the problem, or nothing."""
    try:
        from smartcard.Exceptions import SmartcardException
        from smartcard.pcsc.PCSCExceptions import BaseSCardException
        from yubikit.core import CommandError
        from yubikit.management import ManagementSession
        from yubikit.piv import PivSession

        from keyd.device.yubikey_card import open_alone, readers
    except ImportError as error:
        return f"{error.name} is missing on the daemon's machine: {INSTALL_YUBIKIT}"
    problem = ""
    try:
        for reader in readers():
            try:
                with open_alone(reader) as connection:
                    if connection is None:
                        continue
                    serial = str(PivSession(connection).get_serial())
                    if serial in configured:
                        continue
                    info = ManagementSession(connection).read_device_info()
            except (CommandError, SmartcardException) as error:
                problem = f"the YubiKey in {reader.name} does not answer: {error}"
                continue
            _tell(
                serial=serial,
                firmware=str(info.version),
                form_factor=str(info.form_factor),
                reader=reader.name,
            )
    except (SmartcardException, BaseSCardException) as error:
        why = _CODE.sub("", str(error))
        todo = TROUBLE_HINTS[NO_CARD_SERVICE]
        return f"pcscd does not answer on the daemon's machine ({why}); {todo}"
    return problem


def _tell(**words: str) -> None:
    sys.stdout.write(f"{json.dumps(words)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _tell(done=_look(sys.argv[1:]))
