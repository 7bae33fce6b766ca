"""A PostgreSQL of its own for tests: one cluster in a folder, on a unix socket and on loopback.

initdb refuses root, so that its programs run as the user ``postgres`` there.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest

_TIMEOUT_S = 60.0


def find_programs() -> Path | None:
    """The folder of initdb and postgres, the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def require() -> Path:
    """The folder; skips the test where PostgreSQL is missing, unless KEYD_TESTS_REQUIRE lists
    ``postgres``."""
    programs = find_programs()
    usable = programs is not None and (os.geteuid() != 0 or shutil.which("runuser"))
    if usable and programs is not None:
        return programs
    if "postgres" in os.environ.get("KEYD_TESTS_REQUIRE", "").split(","):
        pytest.fail("PostgreSQL is required here and not installed")
    pytest.skip("PostgreSQL is not installed (package postgresql)")


class Postgres:
    """One server; it and its folder end with the block."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._programs = require()
        # Short, for the socket's path; and where the other user can enter.
        self._folder = Path(tempfile.mkdtemp(prefix="keyd-pg-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """As Go programs take it."""
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def __enter__(self) -> Postgres:
        try:
            self._make()
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def query(self, sql: str, database: str = "postgres") -> str:
        """What psql prints, unaligned."""
        return subprocess.run(
            [
                str(self._programs / "psql"),
                *("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"),
                *("-d", database, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"),
            ],
            input=sql,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT_S,
        ).stdout.strip()

    def _make(self) -> None:
        data = self._folder / "data"
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        subprocess.run(
            self._as_user("initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-D", str(data)),
            check=True,
            capture_output=True,
            timeout=_TIMEOUT_S,
            cwd="/",
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        data = self._folder / "data"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            self._as_user("postgres", "-D", str(data), *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        until = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                self.query("select 1")
            except subprocess.CalledProcessError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it at once, as a crash would; what was committed is there after :meth:`start`."""
        if self._process is not None:
            stop = ("stop", "-m", "immediate", "-D", str(self._folder / "data"))
            subprocess.run(
                self._as_user("pg_ctl", *stop),
                check=True,
                capture_output=True,
                timeout=_TIMEOUT_S,
                cwd="/",
            )
            self._process.wait(_TIMEOUT_S)
            self._process = None

    def _end(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _as_user(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() != 0:
            return command
        return ["runuser", "-u", "postgres", "--", *command]
