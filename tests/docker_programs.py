"""The real programs around images (Debian's docker-registry, skopeo and docker.io): a registry with
TLS, images made here and pushed into it, and an engine that touches nothing of the machine's own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.notary_programs import Certificates, Program, a_port

_START_S = 20.0
_RUN_S = 60.0

_ENGINE = """
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /etc/docker &&
mount -t tmpfs tmpfs /etc/docker &&
exec dockerd --storage-driver=vfs --iptables=false --ip6tables=false --bridge=none \
  --ip-forward=false --ip-masq=false --data-root "$1/data" --exec-root "$1/exec" \
  --pidfile "$1/pid" --host "unix://$1/socket"
"""
"""In a mount namespace of its own. What dockerd writes under /run and /etc whatever its flags are
is gone with it."""


def require(*programs: str) -> None:
    """Skip the test where programs are missing, unless KEYD_TESTS_REQUIRE lists ``docker``."""
    missing = [name for name in programs if not shutil.which(name)]
    if missing and "docker" in os.environ.get("KEYD_TESTS_REQUIRE", "").split(","):
        pytest.fail(f"{', '.join(missing)} is required here and not installed")
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (docker-registry, skopeo, docker.io)")


def require_engine() -> None:
    """Skip the test where no docker engine can run: it takes root, and a mount namespace."""
    if os.geteuid() != 0:
        pytest.skip("an engine takes root")
    require("dockerd", "containerd", "docker", "unshare")
    tried = subprocess.run(
        ["unshare", "-m", "true"], capture_output=True, text=True, timeout=_RUN_S, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"an engine takes a mount namespace: {tried.stderr.strip()}")


class DockerRegistry(Program):
    """docker-registry with TLS and an empty store. ``auth``: who may come in, as its configuration
    has it: ``htpasswd`` or ``token``, with options; everybody where it is left out."""

    def __init__(
        self,
        folder: Path,
        certificates: Certificates,
        auth: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        folder.mkdir()
        config = folder / "registry.yml"
        super().__init__("docker-registry", config, a_port())
        self._command = ["docker-registry", "serve", str(config)]
        self._folder = folder
        config.write_text(
            json.dumps(  # which is YAML as well
                {
                    "version": "0.1",
                    "log": {"level": "warn"},
                    "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
                    "http": {
                        "addr": f"127.0.0.1:{self.port}",
                        "secret": "of this run",
                        "tls": {
                            "certificate": certificates.file("server.crt"),
                            "key": certificates.file("server.key"),
                        },
                    },
                    **({"auth": auth} if auth else {}),
                }
            )
        )
        (folder / "ca").mkdir()
        shutil.copy(certificates.ca, folder / "ca" / "ca.crt")

    @property
    def host(self) -> str:
        """HOST:PORT."""
        return f"localhost:{self.port}"

    def trusted_by(self, docker: Path) -> None:
        """Put the registry's CA where a docker folder has it."""
        folder = docker / "tls" / self.host
        folder.mkdir(parents=True)
        shutil.copy(self._folder / "ca" / "ca.crt", folder / "ca.crt")

    def push(self, image: str, says: str, login: str = "") -> str:
        """Make an image that holds one file and push it with skopeo; its ``sha256:`` digest.

        ``login``: USER:PASSWORD.
        """
        by = ("--dest-creds", login) if login else ("--dest-no-creds",)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            digest = _an_image(Path(folder), says)
            pushed = subprocess.run(
                [
                    *("skopeo", "--insecure-policy", "copy", "--preserve-digests"),
                    *("--dest-cert-dir", str(self._folder / "ca"), *by),
                    *(f"dir:{folder}", f"docker://{image}"),
                ],
                capture_output=True,
                text=True,
                timeout=_RUN_S,
                check=False,
            )
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
        return digest


def _an_image(folder: Path, says: str) -> str:
    """In skopeo's ``dir:`` layout. The digest of its manifest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("says")
        entry.size = len(says.encode())
        tar.addfile(entry, io.BytesIO(says.encode()))
    packed = gzip.compress(layer.getvalue(), mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/says"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
    }
    docker = "application/vnd.docker"

    def blob(media_type: str, body: bytes) -> dict[str, object]:
        (folder / _digest(body).removeprefix("sha256:")).write_bytes(body)
        return {"mediaType": f"{docker}.{media_type}", "size": len(body), "digest": _digest(body)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{docker}.distribution.manifest.v2+json",
            "config": blob("container.image.v1+json", json.dumps(config).encode()),
            "layers": [blob("image.rootfs.diff.tar.gzip", packed)],
        }
    ).encode()
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    return _digest(manifest)


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@contextmanager
def an_engine() -> Iterator[str]:
    """A docker engine with an empty store; what DOCKER_HOST has to be. It is gone in the end."""
    # Not below pytest's folders: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="keyd-engine-"))
    output = folder / "output"
    with output.open("wb") as written:
        engine = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", _ENGINE, "sh", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    host = f"unix://{folder}/socket"
    try:
        until = time.monotonic() + _START_S
        while not _answers(host):
            if engine.poll() is not None or time.monotonic() > until:
                said = output.read_text(errors="replace")[-3000:]
                raise AssertionError(f"dockerd did not start:\n{said}")
            time.sleep(0.1)
        yield host
    finally:
        _end(engine, folder / "exec" / "containerd" / "containerd.pid")
        shutil.rmtree(folder, ignore_errors=True)


def _answers(host: str) -> bool:
    asked = subprocess.run(
        ["docker", "--host", host, "version"], capture_output=True, timeout=_RUN_S, check=False
    )
    return asked.returncode == 0


def _end(engine: subprocess.Popen[bytes], containerd: Path) -> None:
    """dockerd ends its containerd; where it does not end itself, both are killed."""
    engine.send_signal(signal.SIGTERM)
    try:
        engine.wait(_START_S)
    except subprocess.TimeoutExpired:
        engine.kill()
        engine.wait(_START_S)
        if containerd.exists():
            os.kill(int(containerd.read_text()), signal.SIGKILL)
