"""Makes a SoftHSM token for development, without a PIN on any command line.

softhsm2-util takes PINs as arguments or from a terminal, and python-pkcs11 cannot initialise a
token; so the few PKCS#11 calls it takes (v2.40, sections 5.5 and 5.6) are made here, in a process
of their own: ``python -m keyd.cli.softhsm_token MODULE LABEL`` with the two PINs on standard input.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from keyd.errors import ConfigError
from keyd.model import Pin

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
_TIMEOUT_S = 30.0


def find_softhsm() -> Path:
    """The SoftHSM module of this machine.

    Raises:
        ConfigError: where it was looked for, and what to install.
    """
    for place in _MODULES:
        if Path(place).is_file():
            return Path(place)
    raise ConfigError(
        f"SoftHSM is not installed: no libsofthsm2.so in {', '.join(_MODULES)}",
        hint="on Debian or Ubuntu: apt-get install softhsm2",
    )


def create_token(module: Path, conf: Path, label: str, so_pin: Pin, pin: Pin) -> int:
    """Initialise a new token in the store that the SoftHSM configuration ``conf`` names.

    Returns its slot number.

    Raises:
        ConfigError: what the module answered.
    """
    env = {"PATH": os.environ.get("PATH", os.defpath), "SOFTHSM2_CONF": str(conf)}
    if "PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, "-m", "keyd.cli.softhsm_token", str(module), label],
        input=f"{so_pin.reveal()}\n{pin.reveal()}\n",
        env=env,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError(
            f"the token {label!r} could not be made with {module}: {done.stderr.strip()[-300:]}",
            hint=f"look at the folder named in {conf}",
        )
    return int(done.stdout)


# ------------------------------------------------------------- from here on: the child process

_CKF_TOKEN_INITIALIZED = 0x400
_CKF_RW_SERIAL_SESSION = 0x6
_CKU_SO = 0


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))


class _TokenInfo(ctypes.Structure):  # CK_TOKEN_INFO, section 3.2
    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", ctypes.c_ulong),
        ("numbers", ctypes.c_ulong * 10),
        ("hardware", _Version),
        ("firmware", _Version),
        ("utc_time", ctypes.c_char * 16),
    )


class _Module:
    """The module's functions, called by name; any CKR other than OK ends the process."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def call(self, name: str, *arguments: object) -> None:
        rv = self._library[name](*arguments)
        if rv != 0:
            sys.exit(f"{name}: CKR 0x{rv & 0xFFFFFFFF:x}")

    def slots(self) -> dict[int, _TokenInfo]:
        count = ctypes.c_ulong()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), None, ctypes.byref(count))
        numbers = (ctypes.c_ulong * count.value)()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), numbers, ctypes.byref(count))
        infos = {}
        for number in numbers[: count.value]:
            infos[number] = _TokenInfo()
            self.call("C_GetTokenInfo", ctypes.c_ulong(number), ctypes.byref(infos[number]))
        return infos


def _initialise(path: str, label: str, so_pin: bytes, pin: bytes) -> int:
    module = _Module(path)
    padded = label.encode().ljust(32)  # blank-padded, not terminated (C_InitToken)
    module.call("C_Initialize", None)
    slot = next(n for n, i in module.slots().items() if not i.flags & _CKF_TOKEN_INITIALIZED)
    module.call("C_InitToken", ctypes.c_ulong(slot), so_pin, ctypes.c_ulong(len(so_pin)), padded)
    session = ctypes.c_ulong()
    module.call(
        "C_OpenSession",
        ctypes.c_ulong(slot),
        ctypes.c_ulong(_CKF_RW_SERIAL_SESSION),
        None,
        None,
        ctypes.byref(session),
    )
    so = (ctypes.c_ulong(_CKU_SO), so_pin, ctypes.c_ulong(len(so_pin)))
    module.call("C_Login", session, *so)
    module.call("C_InitPIN", session, pin, ctypes.c_ulong(len(pin)))
    # SoftHSM numbers its slots by the tokens' serials, anew at each C_Initialize.
    module.call("C_Finalize", None)
    module.call("C_Initialize", None)
    return next(n for n, i in module.slots().items() if i.label == padded.rstrip(b"\0"))


def main() -> None:
    """The child: arguments MODULE and LABEL, SO PIN and PIN as two lines; prints the slot."""
    path, label = sys.argv[1:3]
    so_pin, pin = sys.stdin.buffer.read().split(b"\n")[:2]
    sys.stdout.write(f"{_initialise(path, label, so_pin, pin)}\n")


if __name__ == "__main__":
    main()
