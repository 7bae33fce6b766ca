"""make dct-demo: Docker Content Trust to play with, and every key that signs is on a token.

Under one folder (build/dct unless --dir says otherwise) and on loopback only: keyd with a SoftHSM
token, Debian's notary-server with keyd as its signer, and docker-registry with TLS. An image is
pushed and signed; then everything runs until Ctrl-C. `make dct-clean` takes the folder away. It
uses the commands a person would use; nothing of keyd is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import tiny_image
from processes import DemoError, end_left, free_ports, run, start

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("notary-server", "notary", "docker-registry", "skopeo", "openssl")
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so")
NEW_KEY = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
DAYS = "90"  # of a certificate; less than 30 left is something that keyd-server doctor warns of
SOCKET_PATH_BYTES = 107  # sun_path of Linux, less its final NUL
POLICY = """\
[[grant]]
name = "you"
principals = ["socket:you"]
actions = ["admin", "signer", "certify", "approve", "auditor"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "notary-server"
principals = ["dns:notary-server"]
actions = ["create", "sign", "list"]
keys = ["notary/*"]
kinds = ["snapshot", "timestamp"]
"""


def say(text: str) -> None:
    """One line for one step."""
    print(f"dct-demo: {text}", flush=True)


class Sandbox:
    """The folder, and what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tls = folder / "tls"
        self.socket = folder / "run" / "keyd.sock"
        self.signer, self.server, self.registry = free_ports(3)
        self.gun = f"localhost:{self.registry}/team/app"
        self.settings = {
            "KEYD_ENDPOINT": f"unix:{self.socket}",
            "XDG_STATE_HOME": str(folder / "state-home"),
            "DOCKER_CONFIG": str(folder / "docker"),
            "DOCKER_CONTENT_TRUST": "1",
            "DOCKER_CONTENT_TRUST_SERVER": f"https://localhost:{self.server}",
            "PCSCLITE_CSOCK_NAME": "/nonexistent",  # keeps notary away from card readers
        }
        self.env = {**os.environ, **self.settings, "PYTHONPATH": str(ROOT)}

    def keydctl(self, *words: str) -> str:
        """Run keydctl; what it printed."""
        return run(sys.executable, "-m", "keyd.cli.keydctl", *words, env=self.env)

    def write(self, name: str, text: str) -> Path:
        """A file that only its owner reads."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def make(self) -> None:
        """Certificates, the token and all configurations."""
        self.folder.mkdir(mode=0o700, parents=True)
        self.tls.mkdir()
        run(*NEW_KEY, "-x509", "-days", DAYS, "-subj", "/CN=dct-demo CA",
            "-keyout", self.tls / "ca.key", "-out", self.tls / "ca.crt")  # fmt: skip
        self.certificate("localhost", "serverAuth")
        self.certificate("notary-server", "clientAuth")
        for port in (self.server, self.registry):
            trusted = self.folder / "docker" / "tls" / f"localhost:{port}"
            trusted.mkdir(parents=True)
            shutil.copy(self.tls / "ca.crt", trusted)
        self.write("policy.toml", POLICY)
        self.write("keyd.toml", self.keyd_settings(self.token()))
        pair = {"crt": str(self.tls / "localhost.crt"), "key": str(self.tls / "localhost.key")}
        server = {
            "server": {
                "http_addr": f"127.0.0.1:{self.server}",
                "tls_cert_file": pair["crt"],
                "tls_key_file": pair["key"],
            },
            "trust_service": {
                "type": "remote",
                "hostname": "localhost",
                "port": str(self.signer),
                "key_algorithm": "ecdsa",
                "tls_ca_file": str(self.tls / "ca.crt"),
                "tls_client_cert": str(self.tls / "notary-server.crt"),
                "tls_client_key": str(self.tls / "notary-server.key"),
            },
            "storage": {"backend": "memory"},
        }
        self.write("server.json", json.dumps(server, indent=2))
        registry = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "images")}},
            "http": {
                "addr": f"127.0.0.1:{self.registry}",
                "secret": secrets.token_hex(16),
                "tls": {"certificate": pair["crt"], "key": pair["key"]},
            },
        }
        self.write("registry.yml", json.dumps(registry, indent=2))  # which is YAML as well
        client = {
            "trust_dir": str(self.folder / "notary"),
            "remote_server": {
                "url": f"https://localhost:{self.server}",
                "root_ca": str(self.tls / "ca.crt"),
            },
        }
        self.write("notary.json", json.dumps(client, indent=2))
        lines = [f"export {name}='{value}'\n" for name, value in self.settings.items()]
        self.write("env", "".join(lines) + f"PATH='{Path(sys.executable).parent}':$PATH\n")

    def certificate(self, name: str, usage: str) -> None:
        """One by the CA of this folder, and its key."""
        key, request = self.tls / f"{name}.key", self.tls / f"{name}.csr"
        run(*NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        says = f"subjectAltName=DNS:{name}\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n"
        extensions = self.write(f"tls/{name}.ext", says)
        run(*("openssl", "x509", "-req", "-in", request, "-CA", self.tls / "ca.crt"),
            *("-CAkey", self.tls / "ca.key", "-CAcreateserial", "-days", DAYS),
            *("-extfile", extensions, "-out", self.tls / f"{name}.crt"))  # fmt: skip

    def token(self) -> str:
        """Make a token of SoftHSM; the library."""
        found = [*MODULES, *map(str, Path("/usr/lib").glob("*/softhsm/libsofthsm2.so"))]
        module = next((each for each in found if Path(each).exists()), None)
        if module is None:
            raise DemoError("SoftHSM is not installed; .ci/setup installs it")
        (self.folder / "tokens").mkdir()
        conf = self.write("softhsm2.conf", f"directories.tokendir = {self.folder}/tokens\n")
        pin = secrets.token_hex(8)
        self.write("pin", pin)
        # A PIN is no argument, where softhsm2-util takes it: everybody can see those.
        run(sys.executable, "-m", "keyd.cli.softhsm_token", module, "dct",
            env={**self.env, "SOFTHSM2_CONF": str(conf)}, stdin=f"{pin}\n{pin}\n")  # fmt: skip
        return module

    def keyd_settings(self, module: str) -> str:
        """keyd.toml."""
        return f"""\
[server]
state_dir = "state"
run_dir = "run"
policy = "policy.toml"
[log]
origin = "dct-demo.example.org/{secrets.token_hex(8)}"
token = "dct"
checkpoint_file = "checkpoint"
[[listener]]
kind = "unix"
path = "run/keyd.sock"
principal = "socket:you"
[[listener]]
kind = "notary"
address = "127.0.0.1:{self.signer}"
cert = "{self.tls}/localhost.crt"
key = "{self.tls}/localhost.key"
client_ca = "{self.tls}/ca.crt"
[[notary]]
guns = ["*"]
token = "dct"
[[token]]
name = "dct"
module = "{module}"
label = "dct"
pin = "file:{self.folder}/pin"
softhsm_conf = "{self.folder}/softhsm2.conf"
"""

    def start(self, stack: ExitStack) -> None:
        """All three; they end with the stack, the last one first."""
        keyd = (sys.executable, "-m", "keyd.cli.server", "run", "--config")
        server = ("notary-server", "-logf", "logfmt", "-config", f"{self.folder}/server.json")
        registry = ("docker-registry", "serve", f"{self.folder}/registry.yml")
        programs: tuple[tuple[str, Sequence[str], int], ...] = (
            ("keyd", (*keyd, f"{self.folder}/keyd.toml"), self.signer),
            ("notary-server", server, self.server),
            ("registry", registry, self.registry),
        )
        for name, command, port in programs:
            start(stack, name, command, port=port, folder=self.folder, env=self.env)

    def push(self, image: str, says: str) -> None:
        """Make an image that holds one file, and push it."""
        folder = Path(tempfile.mkdtemp(prefix="image-", dir=self.folder))
        tiny_image.write(folder, says)
        trusted = self.folder / "docker" / "tls" / f"localhost:{self.registry}"
        run("skopeo", "--insecure-policy", "copy", "--dest-no-creds", "--dest-cert-dir", trusted,
            f"dir:{folder}", f"docker://{image}")  # fmt: skip


def clean(folder: Path) -> str:
    """End what a demo that was killed has left running, and take the folder away; what was done."""
    end_left(folder)
    if not folder.exists():
        return f"there is no {folder}; nothing was removed"
    if not (folder / "keyd.toml").exists():
        raise DemoError(f"{folder} is none that this demo has made; nothing was removed")
    try:
        shutil.rmtree(folder)
    except OSError as e:
        raise DemoError(f"{folder} is not removed whole ({e}); remove the rest by hand") from e
    return f"removed {folder}"


def show(sandbox: Sandbox) -> None:
    """Sign an image, and see that others believe it."""
    image = f"{sandbox.gun}:1.0"
    sandbox.push(image, "hello")
    sandbox.keydctl("trust", "sign", image, "--signer", "alice")
    resolved = sandbox.keydctl("trust", "resolve", image).strip()
    say(f"signed {image}, which is {resolved.partition('@')[2]}")
    sandbox.push(image, "not what was signed")
    if sandbox.keydctl("trust", "resolve", image).strip() != resolved:
        raise DemoError("a tag that moved in the registry resolves to what nobody signed")
    say("moved 1.0 in the registry: it still resolves to what was signed")
    listed = run("notary", "-c", sandbox.folder / "notary.json", "list", sandbox.gun,
                 env=sandbox.env)  # fmt: skip
    if resolved.rpartition(":")[2] not in listed:
        raise DemoError(f"notary does not list {resolved}: {listed}")
    say("notary lists it, with a trust directory of its own")


def main() -> int:
    """Run the demo; 0 when every step did what it has to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "dct")
    parser.add_argument("--once", action="store_true", help="end when the image is signed")
    parser.add_argument("--clean", action="store_true", help="take the folder away instead")
    asked = parser.parse_args()
    sandbox = Sandbox(asked.dir.resolve())
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        if asked.clean:
            say(clean(sandbox.folder))
            return 0
        if missing := [name for name in PROGRAMS if not shutil.which(name)]:
            raise DemoError(f"{', '.join(missing)} not found; .ci/setup installs what is missing")
        if sandbox.folder.exists():
            raise DemoError(f"{sandbox.folder} is there already; make dct-clean takes it away")
        if len(os.fsencode(sandbox.socket)) > SOCKET_PATH_BYTES:
            raise DemoError(f"{sandbox.socket} is too long for a socket; take a shorter --dir")
        with ExitStack() as stack:
            sandbox.make()
            sandbox.start(stack)
            say(f"keyd signs for notary-server; images are at localhost:{sandbox.registry}")
            show(sandbox)
            if not asked.once:
                say(f"in another shell: . {sandbox.folder}/env")
                say(f"then: keydctl trust inspect --pretty {sandbox.gun}")
                say(f"  or: notary -c {sandbox.folder}/notary.json list {sandbox.gun}")
                say("Ctrl-C ends it")
                stopped.wait()
    except DemoError as e:
        print(f"dct-demo: failed: {e}", file=sys.stderr)
        return 1
    say("ended; make dct-clean takes the folder away")
    return 0


if __name__ == "__main__":
    sys.exit(main())
