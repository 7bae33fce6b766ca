"""Asks PC/SC, and PKCS#11 modules, in a process of its own, as `keyd-server doctor` needs it.

A module may hang, crash or print; nothing of that reaches the command. The child runs as the user
of the service, so that it is let in where the daemon is. It never logs in.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keyd

_TIMEOUT_S = 15.0
_PASSED_ON = (
    "PATH",
    "HOME",
    "SOFTHSM2_CONF",
    "PCSCLITE_CSOCK_NAME",
    "YUBIHSM_PKCS11_CONF",
    "P11NETHSM_CONFIG_FILE",
)


@dataclass(frozen=True, slots=True)
class Readers:
    """``problem``: why PC/SC does not answer; empty when it does. ``missing``: the Python library
    that was to ask it, and is not installed. ``names``: of all readers; ``filled``: of those with a
    card."""

    problem: str = ""
    names: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True)
class ProbedToken:
    """What a token says of itself. ``flags``: of CK_TOKEN_INFO (PKCS#11 v2.40, section 3.2)."""

    label: str
    serial: str
    flags: int


@dataclass(frozen=True, slots=True)
class ProbedModule:
    """``problem``: why the module says nothing; empty when it does."""

    problem: str = ""
    tokens: tuple[ProbedToken, ...] = ()


def probe_readers(user: pwd.struct_passwd | None, *, timeout_s: float = _TIMEOUT_S) -> Readers:
    """Ask pcscd for its readers. ``user``: who asks; None for this process's own."""
    problem, answer = _ask(["readers"], {}, user, timeout_s)
    if problem:
        return Readers(problem)
    missing = " and ".join(answer["missing"])
    problem = "".join(answer["problem"])
    return Readers(problem, tuple(answer["names"]), tuple(answer["filled"]), missing)


def probe_module(
    module: Path,
    softhsm_conf: Path | None,
    user: pwd.struct_passwd | None,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> ProbedModule:
    """Load a PKCS#11 module and list its tokens."""
    env = {} if softhsm_conf is None else {"SOFTHSM2_CONF": str(softhsm_conf)}
    problem, answer = _ask(["module", str(module)], env, user, timeout_s)
    if problem:
        return ProbedModule(problem)
    return ProbedModule("", tuple(ProbedToken(*token) for token in answer["tokens"]))


def _ask(
    words: Sequence[str], env: Mapping[str, str], user: pwd.struct_passwd | None, timeout_s: float
) -> tuple[str, dict[str, list[str]]]:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {**env, "PYTHONPATH": str(Path(keyd.__path__[0]).resolve().parent)}
    command = [sys.executable, "-m", "keyd.cli.server_doctor_probe", *words]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd="/",
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else os.getgrouplist(user.pw_name, user.pw_gid),
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s", {}
    except OSError as e:
        who = user.pw_name if user else "this user"
        return f"cannot be asked, as {who} cannot run {sys.executable}: {e.strerror}", {}
    if done.returncode < 0:
        return f"it crashed (signal {-done.returncode})", {}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines()
        return (said[-1] if said else f"exit code {done.returncode}")[-300:], {}
    # A module may print before us.
    return "", json.loads(lines[-1])


# ------------------------------------------------------------- from here on: the child process


_NEEDED = ("smartcard", "yubikit")
"""Of the extra ``yubikey``."""

_PCSCLITE = "libpcsclite.so.1"
_SCOPE_SYSTEM = 2
"""SCARD_SCOPE_SYSTEM (PC/SC part 5)."""


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))


class _TokenInfo(ctypes.Structure):  # CK_TOKEN_INFO, section 3.2
    _fields_ = (
        ("label", ctypes.c_ubyte * 32),
        ("manufacturer", ctypes.c_ubyte * 32),
        ("model", ctypes.c_ubyte * 16),
        ("serial", ctypes.c_ubyte * 16),
        ("flags", ctypes.c_ulong),
        ("numbers", ctypes.c_ulong * 10),
        ("hardware", _Version),
        ("firmware", _Version),
        ("utc_time", ctypes.c_ubyte * 16),
    )


def _text(field: ctypes.Array[ctypes.c_ubyte]) -> str:
    return bytes(field).decode("utf-8", "replace").strip(" \0")


def _tokens(path: str) -> list[tuple[str, str, int]]:
    try:
        library = ctypes.CDLL(path)
    except OSError as e:
        sys.exit(f"it does not load: {e}")

    def call(name: str, *arguments: object) -> None:
        code = library[name](*arguments) & 0xFFFFFFFF
        if code != 0:
            sys.exit(f"{name}: CKR 0x{code:x}")

    call("C_Initialize", None)
    count = ctypes.c_ulong()
    call("C_GetSlotList", ctypes.c_ubyte(1), None, ctypes.byref(count))
    slots = (ctypes.c_ulong * count.value)()
    call("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
    found = []
    for slot in slots[: count.value]:
        info = _TokenInfo()
        if library["C_GetTokenInfo"](ctypes.c_ulong(slot), ctypes.byref(info)) == 0:
            found.append((_text(info.label), _text(info.serial), int(info.flags)))
    return found


def _pcscd_problem() -> str:
    """Why pcscd does not answer; asked without pyscard, which may be missing."""
    try:
        library = ctypes.CDLL(_PCSCLITE)
    except OSError as e:
        return f"{_PCSCLITE} does not load: {e}"
    library.SCardEstablishContext.restype = ctypes.c_long  # LONG: the codes do not fit an int
    context = ctypes.c_long()
    code = library.SCardEstablishContext(
        ctypes.c_ulong(_SCOPE_SYSTEM), None, None, ctypes.byref(context)
    )
    if code != 0:
        library.pcsc_stringify_error.restype = ctypes.c_char_p
        return str(library.pcsc_stringify_error(ctypes.c_long(code)).decode())
    library.SCardReleaseContext(context)
    return ""


def _readers() -> dict[str, list[str]]:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    problem = _pcscd_problem()
    if missing or problem:
        return {
            "missing": missing,
            "problem": [problem] if problem else [],
            "names": [],
            "filled": [],
        }
    from smartcard import scard

    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
    if code != scard.SCARD_S_SUCCESS:
        sys.exit(str(scard.SCardGetErrorMessage(code)))
    code, names = scard.SCardListReaders(context, [])
    if code not in (scard.SCARD_S_SUCCESS, scard.SCARD_E_NO_READERS_AVAILABLE):
        sys.exit(str(scard.SCardGetErrorMessage(code)))
    filled: list[str] = []
    if names:
        wanted = [(name, scard.SCARD_STATE_UNAWARE) for name in names]
        code, states = scard.SCardGetStatusChange(context, 0, wanted)
        filled = [str(n) for n, state, _ in states if state & scard.SCARD_STATE_PRESENT]
    scard.SCardReleaseContext(context)
    return {"missing": [], "problem": [], "names": [str(name) for name in names], "filled": filled}


def main() -> None:
    """The child: ``readers``, or ``module PATH``; prints one line of JSON."""
    what = sys.argv[1]
    answer = _readers() if what == "readers" else {"tokens": _tokens(sys.argv[2])}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
