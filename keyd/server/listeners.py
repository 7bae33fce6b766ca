"""Doors: where the daemon listens, one grpc server behind each.

grpc does not tell a call which port it came through, so each listener has a server of its own, and
with it a resolver that knows who comes in here. The way of a door is: make it (locks, reads its
files), make a server with ``options``, add the services with ``identity``, ``bind``, start the
server, ``expose``; in the end stop the server and ``close``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import ipaddress
import logging
import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from keyd.errors import ConfigError
from keyd.model import Clock
from keyd.server.identity import CertificateIdentity, SocketIdentity
from keyd.server.tls import TlsFiles, TlsMaterial

MAX_SOCKET_PATH_BYTES = 107
"""sun_path of Linux holds 108 bytes with the final NUL (unix(7))."""

_PRIVATE_UMASK = 0o177

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnixListener:
    """A unix socket. ``principal``: whoever can open it; ``mode``: its permission bits;
    ``group``: a group's name, or None for the service's own."""

    path: Path
    principal: str
    mode: int = 0o600
    group: str | None = None

    @property
    def is_group(self) -> bool:
        """True when others than the service's own user can open it: then it is not a person."""
        return bool(self.mode & 0o077)


@dataclass(frozen=True, slots=True)
class TcpListener:
    """A TCP port with mutual TLS. ``host``: an IP address; ``port`` 0: one the kernel chooses."""

    host: str
    port: int
    files: TlsFiles

    @property
    def address(self) -> str:
        """``127.0.0.1:7443`` or ``[::1]:7443``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Transport:
    """Bounds on connections of one listener.

    ``max_connections``: open at once, well below the file descriptor limit, since token hosts and
    database need theirs. ``handshake_timeout_s``: until TLS and HTTP/2 stand.
    ``max_connection_age_s``: after which grpc asks clients to connect anew (to another replica
    too) while calls and streams that run go on. ``max_streams``: calls at once on one connection,
    a backstop far above what the call wrapper counts.
    """

    max_connections: int = 1000
    handshake_timeout_s: float = 10.0
    max_connection_age_s: float = 3600.0
    max_streams: int = 4096

    @property
    def options(self) -> list[tuple[str, int]]:
        """The grpc server options that fit."""
        return [
            # Else a second daemon on the same port gets half of the connections, silently.
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.server_handshake_timeout_ms", int(self.handshake_timeout_s * 1000)),
            ("grpc.max_connection_age_ms", int(self.max_connection_age_s * 1000)),
            ("grpc.max_concurrent_streams", self.max_streams),
            # A peer that vanished without a word is noticed within 80 s.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # Clients may keep their connection alive every 20 s; more often is noise.
            ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]


class Door(Protocol):
    """One listener, from its lock to its removal."""

    @property
    def identity(self) -> SocketIdentity | CertificateIdentity:
        """Who comes in here: called with each call's context, raises UnknownCallerError."""

    @property
    def address(self) -> str:
        """The gRPC target that leads here: ``unix:/run/...`` or ``127.0.0.1:7443``."""

    def bind(self, server: grpc.aio.Server) -> None:
        """Give the server, not yet started, its port. Raises ConfigError."""

    def expose(self) -> None:
        """Let callers in; the server has started. Raises ConfigError."""

    def close(self) -> None:
        """Take down what this door put up; the server has stopped. Can be called twice."""


def open_door(listener: UnixListener | TcpListener, clock: Clock) -> Door:
    """The door for a listener.

    Raises:
        ConfigError: another daemon serves the socket, or the TLS files are not usable.
    """
    if isinstance(listener, UnixListener):
        return UnixDoor(listener)
    return TcpDoor(listener, clock)


class UnixDoor:
    """A unix socket, ours alone: a second server on its path would take all new connections
    without an error, so a lock on ``<path>.lock`` is held for life."""

    def __init__(self, listener: UnixListener) -> None:
        """Take the lock.

        Raises:
            ConfigError: ``already served by pid N``, a path that is too long, taken by another
                kind of file, or in a folder where anybody may replace it.
        """
        self._listener = listener
        self._hidden: Path | None = None
        self._exposed: tuple[int, int] | None = None
        self.identity = SocketIdentity(listener.principal, is_group=listener.is_group)
        _check_socket_path(listener.path)
        self._lock: int | None = _lock(listener.path)

    @property
    def address(self) -> str:
        """``unix:PATH``."""
        return f"unix:{self._listener.path}"

    def bind(self, server: grpc.aio.Server) -> None:
        """Bind in a folder only this user can enter; nobody can connect yet."""
        path = self._listener.path
        folder = ""
        try:
            folder = tempfile.mkdtemp(prefix=".k", dir=path.parent)  # mode 0700
            hidden = Path(folder) / "s"
            umask = os.umask(_PRIVATE_UMASK)
            try:
                server.add_insecure_port(f"unix:{hidden}")
            finally:
                os.umask(umask)
        except (OSError, RuntimeError) as e:
            if folder:
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            why = e.strerror if isinstance(e, OSError) else "grpc could not bind it"
            raise ConfigError(f"{path}: cannot be served: {why}", file=path) from e
        self._hidden = hidden

    def expose(self) -> None:
        """Set group and mode, then move the socket to its path in one step."""
        hidden, path = self._hidden, self._listener.path
        assert hidden is not None, "bind comes first"
        if self._listener.group is not None:
            _give_to_group(hidden, self._listener.group, path)
        try:
            hidden.chmod(self._listener.mode)
            found = hidden.lstat()
            hidden.rename(path)  # replaces what a dead daemon left
            hidden.parent.rmdir()
        except OSError as e:
            raise ConfigError(f"{path}: cannot be served: {e.strerror}", file=path) from e
        self._hidden = None
        self._exposed = (found.st_dev, found.st_ino)

    def close(self) -> None:
        """Remove the socket if it still is ours, and give up the lock. The lock file stays:
        removing it would let two daemons lock two files of one name."""
        path = self._listener.path
        if self._exposed is not None:
            try:
                found = path.lstat()
                if (found.st_dev, found.st_ino) == self._exposed:
                    path.unlink()
            except OSError as e:
                log.warning("socket not removed", extra={"path": str(path), "why": e.strerror})
            self._exposed = None
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)
            self._hidden.parent.rmdir()
            self._hidden = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class TcpDoor:
    """A TCP port with mutual TLS, ours alone (no SO_REUSEPORT: see Transport.options)."""

    def __init__(self, listener: TcpListener, clock: Clock) -> None:
        """Read the TLS files.

        Raises:
            ConfigError: they are missing, malformed or do not belong together.
        """
        self._listener = listener
        self._port = listener.port
        self._tls = TlsMaterial(listener.files)
        self.identity = CertificateIdentity(self._tls.trust, clock)

    @property
    def address(self) -> str:
        """``HOST:PORT``, with the real port once it is bound."""
        return TcpListener(self._listener.host, self._port, self._listener.files).address

    def bind(self, server: grpc.aio.Server) -> None:
        """Bind. Connections are taken once the server starts."""
        address = self._listener.address
        try:
            self._port = server.add_secure_port(address, self._tls.server_credentials())
        except RuntimeError:
            why = _why_not_bound(self._listener)
            raise ConfigError(f"cannot listen on {address}: {why}", address=address) from None

    def expose(self) -> None:
        """The start of the server exposes a port."""

    def close(self) -> None:
        """The stop of the server closes a port."""


def _check_socket_path(path: Path) -> None:
    # Bound as "<folder>/.kXXXXXXXX/s", which may be longer than the name it gets.
    longest = max(len(os.fsencode(path)), len(os.fsencode(path.parent / ".k12345678" / "s")))
    if longest > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{path}: too long for a unix socket, which takes {MAX_SOCKET_PATH_BYTES} bytes",
            file=path,
        )
    try:
        folder = path.parent.stat()
    except OSError as e:
        raise ConfigError(
            f"{path}: its folder cannot be used: {e.strerror}",
            hint=f"mkdir {path.parent}, owned by the service's user",
            file=path,
        ) from e
    if folder.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and not folder.st_mode & stat.S_ISVTX:
        raise ConfigError(
            f"{path}: others may replace files in {path.parent}",
            hint=f"chmod go-w {path.parent}",
            file=path,
        )
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path}: exists and is not a socket", file=path)
    except FileNotFoundError:
        pass


def _lock(path: Path) -> int:
    """Lock ``<path>.lock`` with our pid in it; the lock ends with the process, whatever ends it."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise ConfigError(f"{lock_path}: cannot be locked: {e.strerror}", file=lock_path) from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(fd, 20, 0).decode("ascii", errors="replace").strip()
        os.close(fd)
        pid = said if said.isdecimal() else "unknown"
        raise ConfigError(
            f"{path}: already served by pid {pid}",
            hint="stop that daemon, or give this one another socket path",
            file=path,
            pid=pid,
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _give_to_group(hidden: Path, group: str, path: Path) -> None:
    try:
        os.chown(hidden, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        raise ConfigError(f"{path}: there is no group {group!r}", file=path) from None
    except OSError as e:
        raise ConfigError(
            f"{path}: cannot be given to group {group!r}: {e.strerror}",
            hint=f"the service's user must be in it: SupplementaryGroups={group}",
            file=path,
        ) from e


def _why_not_bound(listener: TcpListener) -> str:
    """grpc only says that it failed; the kernel tells us why."""
    family = socket.AF_INET6 if ipaddress.ip_address(listener.host).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listener.host, listener.port))
            probe.listen()
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                return "already served by another process"
            return (e.strerror or str(e)).lower()
    return "grpc could not bind it"
