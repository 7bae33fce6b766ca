"""The real programs of Notary v1 (Debian's package ``notary``) around a real keyd on SoftHSM.

Everything listens on loopback and ends with its block. The client is kept away from card readers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from keyd.client import Client, EntryFilter
from tests.certificates import a_server, an_authority, issue
from tests.e2e.daemon_process import DaemonProcess
from tests.notary_client import NotaryClient
from tests.softhsm import SoftHsm

PROGRAMS = ("notary", "notary-server", "notary-signer")
PRINCIPAL = "dns:notary-server"
ADMIN = "socket:admin"
_START_S = 15.0
_RUN_S = 40.0

POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin", "signer", "auditor"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "notary-server"
principals = ["dns:notary-server"]
actions = ["create", "sign", "list"]
keys = ["notary/*"]
kinds = ["snapshot", "timestamp"]
"""


def require() -> None:
    """Skip the test where the programs are missing, unless KEYD_TESTS_REQUIRE lists ``notary``."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing and "notary" in os.environ.get("KEYD_TESTS_REQUIRE", "").split(","):
        pytest.fail(f"{', '.join(missing)} is required here and not installed")
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (package notary)")


def a_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Certificates:
    """One CA, a certificate for localhost, and the one by which keyd knows notary-server."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = an_authority()
        made = {
            "server": a_server(authority),
            "client": issue(x509.DNSName("notary-server"), by=authority),
            "stranger": issue(x509.DNSName("stranger"), by=authority),
        }
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(authority.pem)
        for name, issued in made.items():
            (folder / f"{name}.crt").write_bytes(issued.pem)
            key = folder / f"{name}.key"
            key.touch(mode=0o600)
            key.write_bytes(issued.key_pem)
        self.folder = folder

    def file(self, name: str) -> str:
        """A file's path, as configurations take it."""
        return str(self.folder / name)


class Program:
    """One server as a child process; may be killed and started again."""

    def __init__(self, name: str, config: Path, port: int) -> None:
        self.port = port
        self.output = config.with_suffix(".output")
        self._command = [name, "-config", str(config), "-logf", "logfmt"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + _START_S
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"{self._command[0]} did not start:\n{self.tail()}")
            time.sleep(0.02)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_S)
            self._process = None

    def tail(self, size: int = 3000) -> str:
        """The end of what it printed."""
        return self.output.read_text(errors="replace")[-size:] if self.output.exists() else ""


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(1)
        return tried.connect_ex(("127.0.0.1", port)) == 0


class Sandbox:
    """keyd with one token ``online``, a notary-server that has it for a signer, and clients.

    ``auth``: the options of the token server whose tokens notary-server wants, if it wants any.
    """

    def __init__(
        self,
        folder: Path,
        *,
        algorithm: str = "ecdsa",
        storage: dict[str, str] | None = None,
        policy: str = POLICY,
        keys_at_once: int = 1000,
        settings: str = "",
        certificates: Certificates | None = None,
        auth: dict[str, str] | None = None,
    ) -> None:
        require()
        self.folder = folder
        self.certificates = certificates or Certificates(folder / "tls")
        self.hsm = SoftHsm(folder / "hsm")
        self.hsm.init_token("online")
        pin = self.hsm.pin_file()
        self.signer_port, self.server_port = a_port(), a_port()
        tls = self.certificates
        (folder / "policy.toml").write_text(policy)
        (folder / "keyd.toml").write_text(f"""
[server]
state_dir = "state"
run_dir = "run"
policy = "policy.toml"
drain_timeout_s = 5.0
[log]
origin = "keyd.example.org/notary"
token = "online"
checkpoint_file = "log/checkpoint"
[[listener]]
kind = "unix"
path = "run/keyd.sock"
principal = "{ADMIN}"
[[listener]]
kind = "notary"
address = "127.0.0.1:{self.signer_port}"
cert = "{tls.file("server.crt")}"
key = "{tls.file("server.key")}"
client_ca = "{tls.ca}"
{settings}
[[notary]]
guns = ["*"]
token = "online"
keys_per_hour = 10000
keys_at_once = {keys_at_once}
[[token]]
name = "online"
module = "{self.hsm.module}"
label = "online"
pin = "file:{pin}"
softhsm_conf = "{self.hsm.conf}"
""")
        self.keyd = DaemonProcess(
            folder / "daemon", "--config", str(folder / "keyd.toml"), command=("run",), forked=True
        )
        config = folder / "server.json"
        config.write_text(
            json.dumps(
                {
                    "server": {
                        "http_addr": f"127.0.0.1:{self.server_port}",
                        "tls_key_file": tls.file("server.key"),
                        "tls_cert_file": tls.file("server.crt"),
                    },
                    "trust_service": {
                        "type": "remote",
                        "hostname": "localhost",
                        "port": str(self.signer_port),
                        "key_algorithm": algorithm,
                        "tls_ca_file": str(tls.ca),
                        "tls_client_cert": tls.file("client.crt"),
                        "tls_client_key": tls.file("client.key"),
                    },
                    "storage": storage or {"backend": "memory"},
                    "logging": {"level": "info"},
                    **({"auth": {"type": "token", "options": auth}} if auth else {}),
                }
            )
        )
        self.server = Program("notary-server", config, self.server_port)

    @property
    def url(self) -> str:
        """Of notary-server."""
        return f"https://localhost:{self.server_port}"

    def admin(self) -> Client:
        """Who may do everything."""
        return Client(f"unix:{self.folder}/run/keyd.sock", keep_checkpoints=False)

    def client(
        self, name: str = "alice", keys_of: NotaryClient | None = None, login: str = ""
    ) -> NotaryClient:
        """A person with a trust directory of their own, and maybe the keys of another one.

        ``login``: USER:PASSWORD.
        """
        client = NotaryClient(self.url, self.certificates.ca, self.folder / "people" / name, login)
        if keys_of is not None:
            private = Path("trust") / "private"
            shutil.copytree(keys_of.folder / private, client.folder / private)
        return client

    def start(self) -> None:
        """Start both, and wait until notary-server finds keyd healthy."""
        self.keyd.start()
        self.server.start()

    def stop(self) -> None:
        """End both."""
        self.server.kill()
        self.keyd.stop()

    def get(self, path: str, method: str = "GET", token: str = "") -> tuple[int, bytes]:
        """Ask notary-server by HTTP; status and body."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        context = ssl.create_default_context(cafile=str(self.certificates.ca))
        try:
            with urllib.request.urlopen(request, timeout=_RUN_S, context=context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()

    def metadata(self, gun: str, role: str) -> dict[str, object]:
        """A role's published file, parsed."""
        status, body = self.get(f"/v2/{gun}/_trust/tuf/{role}.json")
        assert status == 200, (status, body)
        parsed: dict[str, object] = json.loads(body)
        return parsed

    def version(self, gun: str, role: str) -> int:
        """The version that is published."""
        signed = self.metadata(gun, role)["signed"]
        assert isinstance(signed, dict)
        return int(signed["version"])

    def entries(self, action: str = "sign") -> list[dict[str, object]]:
        """What the log says of an action, oldest first."""
        with self.admin() as keyd:
            return [dict(e.fields) for e in keyd.list_entries(EntryFilter(action=action))]


@contextlib.contextmanager
def running(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Started, and in the end stopped whatever happened."""
    try:
        sandbox.start()
        yield sandbox
    finally:
        with contextlib.suppress(AssertionError):
            sandbox.stop()
        sandbox.keyd.kill()


TABLES = """
CREATE TABLE tuf_files (
    id serial PRIMARY KEY, created_at timestamp, updated_at timestamp, deleted_at timestamp,
    gun varchar(255) NOT NULL, role varchar(255) NOT NULL, version integer NOT NULL,
    data bytea NOT NULL, sha256 char(64), UNIQUE (gun, role, version)
);
CREATE TABLE changefeed (
    id serial PRIMARY KEY, created_at timestamp DEFAULT current_timestamp,
    gun varchar(255) NOT NULL, version integer NOT NULL, sha256 char(64),
    category varchar(20) NOT NULL
);
"""
"""What notary-server keeps in a database."""
