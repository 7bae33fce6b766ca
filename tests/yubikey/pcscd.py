"""A pcscd of our own: its socket handed over as systemd does, its one virtual reader.

vpcd listens on every address of the machine, and a pcscd that runs as root would open any YubiKey
that is really plugged in. So where the kernel allows it this process enters a network namespace
with nothing but a loopback, and a mount namespace without USB drivers and without the system's
/run; the filesystem's sockets reach through both.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

with contextlib.suppress(ImportError):  # requirements.py says what is missing
    from smartcard import scard

PCSCD = Path("/usr/sbin/pcscd")
DRIVERS = Path("/usr/lib/pcsc/drivers")
DRIVER = DRIVERS / "serial/libifdvpcd.so"
READERS = ("Yubico YubiKey OTP+FIDO+CCID", "Yubico YubiKey FIDO+CCID")
"""libykcs11 wants a name that starts with Yubico, yubikit one that contains "yubico yubikey".
vpcd makes two slots of each: "... 00 00" and "... 00 01"."""
SLOTS = 2
"""Of one reader."""

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_FIRST_PORT_ALONE = 35963
_CHANGES_SHIFT = 16
"""pcscd counts changes of a reader in the upper half of its state."""


def isolate() -> bool:
    """Enter namespaces of our own; False where the kernel does not let us. One thread only."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET):
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount(libc, b"none", b"/", b"", _MS_REC_PRIVATE)
    for folder in (b"/run", bytes(DRIVERS)):
        _mount(libc, b"bench", folder, b"tmpfs", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        flags = struct.unpack_from("16sh", request)[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    return True


def _mount(libc: ctypes.CDLL, source: bytes, target: bytes, kind: bytes, flags: int) -> None:
    if libc.mount(source, target, kind, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target.decode())


class PrivatePcscd:
    """pcscd and its socket below ``folder``. Start it from the main thread: it dies with it."""

    def __init__(self, folder: Path, readers: int) -> None:
        self.socket_path = folder / "pcscd.comm"
        self._log = folder / "pcscd.log"
        self._configuration = folder / "readers"
        self._configuration.mkdir()
        # vpcd keeps its slots in variables of the library: one copy for each reader.
        drivers = [folder / f"{number}-{DRIVER.name}" for number in range(readers)]
        for driver in drivers:
            shutil.copy(DRIVER, driver)
        self.isolated = isolate()
        self.port = _FIRST_PORT_ALONE if self.isolated else _free_ports(readers * SLOTS)
        ports = range(self.port, self.port + readers * SLOTS, SLOTS)
        (self._configuration / "yubikey").write_text(
            "".join(
                f'FRIENDLYNAME "{name}"\nDEVICENAME /dev/null:{port:#x}\nLIBPATH {driver}\n'
                f"CHANNELID {port:#x}\n"
                for name, port, driver in zip(READERS[:readers], ports, drivers, strict=True)
            )
        )
        self.readers = [
            f"{name} 00 {slot:02}" for name in READERS[:readers] for slot in range(SLOTS)
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 while none runs."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it; clients can connect from now on and wait until it answers."""
        self.kill()
        self.socket_path.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
            self._log.open("ab") as log,
        ):
            listener.bind(str(self.socket_path))
            self.socket_path.chmod(0o666)
            listener.listen(16)
            # sd_listen_fds(3): the socket is descriptor 3, for the process LISTEN_PID names.
            # By way of standard input, for dash knows descriptors of one digit only.
            script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -f -c "$1" 3<&0 </dev/null'
            command = [str(PCSCD), str(self._configuration)]
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "sh", "-c", script, *command],
                stdin=listener.fileno(),
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL, as a crash would; its socket is left behind and nobody answers."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(10)
        self._process = None

    def changes(self, slot: int) -> tuple[int, bool]:
        """How often pcscd has told its clients that a card was put into this slot or pulled, and
        whether one is there. It must be running; no card is asked."""
        os.environ["PCSCLITE_CSOCK_NAME"] = str(self.socket_path)
        _, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
        try:
            _, states = scard.SCardGetStatusChange(
                context, 0, [(self.readers[slot], scard.SCARD_STATE_UNAWARE)]
            )
            state = int(states[0][1])
            return state >> _CHANGES_SHIFT, bool(state & scard.SCARD_STATE_PRESENT)
        finally:
            scard.SCardReleaseContext(context)

    def log(self) -> str:
        """What it said, for a failing test."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for _ in range(50):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            first = held.enter_context(socket.socket())
            first.bind(("", 0))
            port = int(first.getsockname()[1])
            for offset in range(1, count):
                held.enter_context(socket.socket()).bind(("", port + offset))
            return port
    raise OSError("no ports for the virtual reader")
