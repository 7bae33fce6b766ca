"""keydctl trust against real programs: keyd on SoftHSM, notary-server, notary, and a registry of
manifests. Everything on loopback."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keyd.adapters.notary.cache import Cache
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.keyring import Held, KeyRing
from keyd.adapters.notary.pinning import Pinning
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.settings import TlsFiles
from keyd.adapters.notary.web import Web
from keyd.client import Client
from keyd.content.envelope import FileSignature
from tests import keydctl_forks
from tests.keydctl_forks import Fork
from tests.notary_client import PASSPHRASE
from tests.notary_programs import POLICY, Sandbox, running

TRUST_POLICY = POLICY.replace('"signer",', '"signer", "certify", "approve",', 1)
_TIMEOUT_S = 60.0
_NUMBERS = itertools.count(1)


class Registry:
    """Serves manifests over plain http, as docker takes them on loopback. ``wanted``: the login it
    demands (``Basic ...``), none where empty."""

    def __init__(self) -> None:
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.wanted = ""
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def host(self) -> str:
        """HOST:PORT."""
        return f"localhost:{self._server.server_address[1]}"

    def push(self, path: str, tag: str, content: object) -> bytes:
        """Put a manifest under a tag; its digest."""
        body = json.dumps(content).encode()
        self.manifests[path, tag] = body
        return hashlib.sha256(body).digest()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """One GET."""
        path, _, tag = request.path.removeprefix("/v2/").partition("/manifests/")
        body = self.manifests.get((path, tag))
        status = 200 if body else 404
        if self.wanted and request.headers.get("Authorization") != self.wanted:
            status, body = 401, None
        request.send_response(status)
        if status == 401:
            request.send_header("Www-Authenticate", 'Basic realm="registry"')
        if body is not None:
            digest = hashlib.sha256(body).hexdigest()
            request.send_header("Docker-Content-Digest", f"sha256:{digest}")
        request.end_headers()
        request.wfile.write(body or b"{}")

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for that."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class Person:
    """keydctl trust with a docker folder, and so a trust directory, of somebody's own. ``url`` and
    ``endpoint``: other ways to notary-server and to keyd than the straight ones."""

    def __init__(self, sandbox: Sandbox, folder: Path, url: str = "", endpoint: str = "") -> None:
        self.folder = folder
        self.docker = folder / "docker"
        self.trust_dir = self.docker / "trust"
        server = url or sandbox.url
        tls = self.docker / "tls" / server.removeprefix("https://")
        tls.mkdir(parents=True)
        shutil.copy(sandbox.certificates.ca, tls / "ca.crt")
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "KEYD_ENDPOINT": endpoint or f"unix:{sandbox.folder}/run/keyd.sock",
            "XDG_STATE_HOME": str(folder / "state"),
            "DOCKER_CONFIG": str(self.docker),
            "DOCKER_CONTENT_TRUST_SERVER": server,
            "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": PASSPHRASE,
            "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": PASSPHRASE,
            "PCSCLITE_CSOCK_NAME": "/nonexistent",
        }

    def run(
        self, *words: str | Path, stdin: bytes = b"", **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Any keydctl command, whatever it answers."""
        return keydctl_forks.run(words, {**self.env, **env}, stdin=stdin)

    def __call__(self, *words: str | Path, code: int = 0, **env: str) -> Any:
        """``keydctl trust WORDS --json``: its answer, or its error."""
        done = self.run("trust", *words, "--json", stdin=b"", **env)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout or done.stderr.splitlines()[-1])

    def fork(self, *words: str | Path, **env: str) -> Fork:
        """Begin ``keydctl trust WORDS``, to be killed on the way. LARGEST_FILE_BYTES in ``env``:
        it can write no larger file, as on a full disk."""
        largest = int(env.pop("LARGEST_FILE_BYTES", "0"))
        return Fork(("trust", *words), {**self.env, **env}, largest_file_bytes=largest)

    def docker_cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The docker client, which needs no engine for trust."""
        return subprocess.run(
            ["docker", *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )

    def file(self, name: str, text: str) -> Path:
        """A file to sign."""
        path = self.folder / name
        path.write_text(text)
        return path


class HeldUp(KeyRing):
    """A key ring that lets something happen after its first signature."""

    def __init__(self, gun: str, connect: Callable[[], Client], happens: Callable[[], object]):
        super().__init__(gun, connect)
        self._happens = [happens]

    def sign(self, payload: bytes, role: str, keyid: str, held: Held) -> FileSignature:
        """As every key ring."""
        signed = super().sign(payload, role, keyid, held)
        while self._happens:
            self._happens.pop()()
        return signed


class Stage:
    """A running sandbox, its registry, and people."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.registry = Registry()

    def person(self, url: str = "", endpoint: str = "") -> Person:
        """Somebody who never saw anything."""
        return Person(self.sandbox, self.sandbox.folder / f"person{next(_NUMBERS)}", url, endpoint)

    def gun(self) -> str:
        """A collection that is not there yet, in the registry."""
        return f"{self.registry.host}/team/app{next(_NUMBERS)}"

    def listed(self, gun: str) -> dict[str, str]:
        """What the real notary lists with a fresh trust directory: name -> role."""
        return self.sandbox.client(f"fresh{next(_NUMBERS)}").targets(gun)

    def server(self, gun: str) -> NotaryServer:
        """The server's calls for one collection."""
        return NotaryServer(Web(self.sandbox.url, TlsFiles((self.sandbox.certificates.ca,))), gun)

    @contextmanager
    def collection(
        self,
        gun: str,
        *,
        trust_dir: Path | None = None,
        server: NotaryServer | None = None,
        pinning: Pinning | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        when_signed: Callable[[], object] | None = None,
    ) -> Iterator[Collection]:
        """The engine in this process, with a trust directory of its own unless one is given."""
        folder = trust_dir or self.sandbox.folder / f"trust{next(_NUMBERS)}"
        with self.sandbox.admin() as keyd:
            ring = KeyRing(gun, lambda: keyd)
            if when_signed is not None:
                ring = HeldUp(gun, lambda: keyd, when_signed)
            asked = server or self.server(gun)
            yield Collection(asked, Cache(folder, gun), ring, pinning or Pinning(), now)


@contextmanager
def a_stage(
    folder: Path,
    *,
    policy: str = TRUST_POLICY,
    storage: dict[str, str] | None = None,
    settings: str = "",
) -> Iterator[Stage]:
    """Started, and in the end stopped whatever happened."""
    with running(Sandbox(folder, policy=policy, storage=storage, settings=settings)) as sandbox:
        stage = Stage(sandbox)
        stage.registry.start()
        try:
            yield stage
        finally:
            stage.registry.stop()
