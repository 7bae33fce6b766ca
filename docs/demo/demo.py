"""make demo: release files become a TUF repository whose keys never leave a token.

Nothing of root is signed before a second person, bob at a socket of his own, has consented; and
what would split or trick clients is refused.

Everything it makes is under one folder (build/demo unless --dir says otherwise): the daemon with
its SoftHSM token, the repository, and two clients. A second run goes on with the same folder, or
makes a new one. It uses the commands a person would use, and python-tuf's own client; nothing of
keyd is imported here.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import private_keys
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from processes import DemoError, end
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("root", "targets", "snapshot", "timestamp")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 60.0
BUILD_TIMEOUT_S = 120.0
BOB = "bob"
POLICY = f"""\
[[grant]]
name = "developer"
principals = ["socket:dev"]
actions = ["admin", "signer"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "{BOB}"
principals = ["socket:{BOB}"]
actions = ["approver"]
keys = ["*"]

# Nothing is signed as root before somebody else has looked at it.
[[rule]]
name = "two-for-root"
keys = ["acme/root"]
actions = ["sign"]
approvals = 1
"""
NEEDS_PEOPLE = 3
SOCKET_PATH_BYTES = 107  # sun_path of Linux, less its final NUL


def say(text: str) -> None:
    """One line for one step."""
    print(f"demo: {text}", flush=True)


def expect(truth: object, otherwise: str) -> None:
    """Stop when a step did not do what it has to."""
    if not truth:
        raise DemoError(otherwise)


@dataclass(frozen=True)
class Demo:
    """The folder, and where things are in it."""

    folder: Path

    @property
    def daemon(self) -> Path:
        """What `keyd-server dev --dir` keeps."""
        return self.folder / "daemon"

    @property
    def socket(self) -> Path:
        """Where the daemon listens."""
        return self.daemon / "run" / "keyd.sock"

    @property
    def repository(self) -> Path:
        """The TUF repository, as a web server serves it."""
        return self.folder / "repository"

    @property
    def env(self) -> dict[str, str]:
        """For every child: this daemon, and a memory of its own for checkpoints."""
        return {
            **os.environ,
            "KEYD_ENDPOINT": f"unix:{self.socket}",
            "XDG_STATE_HOME": str(self.folder / "state-home"),
        }

    def run_keydctl(
        self, *words: str | Path, as_bob: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run keydctl with --json, as oneself or as bob."""
        env = self.env
        if as_bob:
            env["KEYD_ENDPOINT"] = f"unix:{self.daemon}/run/{BOB}.sock"
            env["XDG_STATE_HOME"] = str(self.folder / "state-home-of-bob")
        return subprocess.run(
            [sys.executable, "-m", "keyd.cli.keydctl", *map(str, words), "--json"],
            env=env,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def keydctl(self, *words: str | Path, as_bob: bool = False) -> Any:
        """Run keydctl; its answer."""
        done = self.run_keydctl(*words, as_bob=as_bob)
        if done.returncode != 0:
            raise DemoError(f"keydctl {' '.join(map(str, words))}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def with_consent(self, *words: str | Path) -> Any:
        """Run keydctl; bob consents to what needs it, then the same command finishes it."""
        done = self.run_keydctl(*words)
        if done.returncode == NEEDS_PEOPLE:
            (waiting,) = json.loads(done.stdout)["waiting"]
            consent(self, waiting)
        elif done.returncode == 0:
            return json.loads(done.stdout)
        return self.keydctl(*words)

    def refused(self, *words: str | Path) -> tuple[str, str]:
        """Run keydctl, which has to be refused: the reason and the way out."""
        done = self.run_keydctl(*words)
        expect(done.returncode != 0, f"keydctl {' '.join(map(str, words))} was not refused")
        error = json.loads(done.stderr.splitlines()[-1])["error"]
        reason, hint = error["facts"].get("rule", error["reason"]), error["hint"]
        expect(hint, f"no way out is named: {error}")
        return str(reason), str(hint)


def consent(demo: Demo, waiting: dict[str, Any]) -> None:
    """Bob works out himself what he consents to, from the file that waits."""
    approvals = [m["approval"] for m in waiting["missing"] if m["approval"]]
    expect(approvals, f"nothing waits for consent: {waiting}")
    staged: Metadata[Any] = Metadata.from_file(waiting["file"])
    digest = hashlib.sha256(staged.signed_bytes).hexdigest()
    for approval in approvals:  # One for each key that signs: a rotation has the old and the new.
        demo.keydctl("approve", approval, "--digest", digest, "--yes", as_bob=True)
    say(
        f"{waiting['role']} {waiting['version']} waited until {BOB} had consented to "
        f"{len(approvals)} signature(s) over sha256:{digest[:16]}..."
    )


@contextmanager
def running_daemon(demo: Demo) -> Iterator[None]:
    """keyd-server dev as a child process; ended with the block, whatever happens in it."""
    expect(
        len(os.fsencode(demo.socket)) <= SOCKET_PATH_BYTES,
        f"{demo.socket} is too long a path for a socket; give a shorter folder with --dir",
    )
    demo.daemon.mkdir(mode=0o700, parents=True, exist_ok=True)
    policy = demo.daemon / "policy.toml"
    if not policy.exists():
        policy.write_text(POLICY)
        policy.chmod(0o600)
    log = demo.folder / "daemon.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "keyd.cli.server",
                "dev",
                "--dir",
                str(demo.daemon),
                "--person",
                BOB,
            ],
            env=demo.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while not _is_ready(demo):
            expect(process.poll() is None, f"the daemon ended:\n{log.read_text()[-2000:]}")
            expect(time.monotonic() < began + START_TIMEOUT_S, f"the daemon is not ready: {log}")
            time.sleep(0.1)
        say(f"keyd-server dev is ready after {time.monotonic() - began:.1f} s, under {demo.daemon}")
        yield
    finally:
        end(process)


def _is_ready(demo: Demo) -> bool:
    if not demo.socket.exists():
        return False
    try:
        tokens = demo.keydctl("token", "list", "--deadline", "2")
    except DemoError:
        return False
    return all(token["state"] == "READY" for token in tokens)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder over HTTP on loopback: its URL."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(STOP_TIMEOUT_S)


@dataclass(frozen=True)
class Client:
    """An installed program with python-tuf's client: it shipped with a root, and remembers."""

    state: Path
    shipped_root: bytes

    def download(self, url: str, target: str) -> Path:
        """Update, then fetch and verify a target; raises what the client refuses."""
        files = self.state / "targets"
        files.mkdir(parents=True, exist_ok=True)
        known = self.state / "metadata/root.json"
        updater = Updater(
            str(self.state / "metadata"),
            f"{url}/metadata",
            str(files),
            f"{url}/targets",
            bootstrap=None if known.exists() else self.shipped_root,
        )
        updater.refresh()
        info = updater.get_targetinfo(target)
        expect(info, f"{target} is not in the repository")
        assert info is not None
        return Path(updater.download_target(info))

    def trusted_root(self) -> int:
        """The version of the root it trusts."""
        content = json.loads((self.state / "metadata/root.json").read_bytes())
        version = content["signed"]["version"]
        assert isinstance(version, int)
        return version


def build_releases(demo: Demo) -> list[Path]:
    """keyd's own wheel and sdist, from this checkout; built anew, so that they are real."""
    dist = demo.folder / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(dist)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    expect(done.returncode == 0, f"the build failed: {done.stderr[-2000:]}")
    files = sorted(dist.iterdir())
    expect(len(files) == 2, f"the build made {[f.name for f in files]}")
    sizes = ", ".join(f"{f.name} ({f.stat().st_size // 1024} KiB)" for f in files)
    say(f"built the release files {sizes}")
    return files


def make_keys(demo: Demo) -> None:
    """One key on the token for each role."""
    there = {key["name"] for key in demo.keydctl("key", "list")}
    made = [role for role in ROLES if f"acme/{role}" not in there]
    for role in made:
        demo.keydctl("key", "create", f"acme/{role}", "--bind", f"acme:{role}")
    names = ", ".join(f"acme/{role}" for role in ROLES)
    say(f"{names} {'were generated' if made else 'are still'} on the token")


def make_repository(demo: Demo, releases: Sequence[Path]) -> None:
    """Init, or go on with what a former run left; then add the release files."""
    if list(demo.repository.glob("metadata/*.root.json")):
        demo.keydctl("tuf", "refresh", demo.repository)
        say(f"went on with the repository of the former run in {demo.repository}")
    else:
        demo.with_consent("tuf", "init", demo.repository, "--repository", "acme")
        say("made a TUF repository: root, targets, snapshot and timestamp signed by keyd: signers")
    demo.keydctl("tuf", "add", demo.repository, *releases, "--prefix", "keyd")
    verified = demo.keydctl("tuf", "verify", demo.repository)
    say(f"added the release files as targets; {len(verified['targets'])} target files verify")


def rotate(demo: Demo, client: Client, url: str, role: str, target: str, original: Path) -> None:
    """Rotate a role's key; the client, which knows the old root, follows."""
    before = client.trusted_root()
    rotated = demo.with_consent("tuf", "rotate", demo.repository, role)
    got = client.download(url, target)
    expect(got.read_bytes() == original.read_bytes(), f"the client got another {target}")
    after = client.trusted_root()
    expect(after > before, f"the client still trusts root {before}")
    expect(rotated["old_keyid"] != rotated["new_keyid"], "the key is still the old one")
    say(
        f"rotated {role} to {rotated['activated']}: the same client went from root {before} to "
        f"{after} and verified {Path(target).name} again"
    )


def refuse_to_sign(demo: Demo) -> None:
    """What a bound key does not sign, whoever asks; each refusal names a way out."""
    targets = _newest(demo, "targets")
    draft: Metadata[Any] = Metadata.from_file(str(targets))
    draft.signed.unrecognized_fields["x-note"] = "not what was published"
    payload = demo.folder / "other-targets"
    payload.write_bytes(draft.signed_bytes)
    reason, hint = demo.refused(
        *("sign", payload, "--key", "acme/targets", "--context", "acme:targets"),
        *("--encoding", "der"),
    )
    expect(reason == "VERSION_TAKEN", f"refused as {reason}")
    say(f"other bytes as targets {draft.signed.version} are refused ({reason}); instead: {hint}")
    payload.unlink()
    root: Metadata[Any] = Metadata.from_file(str(_newest(demo, "root")))
    root.signed.version += 1
    digest = hashlib.sha256(root.signed_bytes).hexdigest()
    reason, hint = demo.refused(
        *("sign", "--digest", f"sha256:{digest}", "--key", "acme/root"),
        *("--context", "acme:root", "--encoding", "der"),
    )
    expect(reason == "digest-only", f"refused as {reason}")
    say(f"a root of which only the digest is shown is refused ({reason}); instead: {hint}")


def _newest(demo: Demo, role: str) -> Path:
    files = (demo.repository / "metadata").glob(f"*.{role}.json")
    return max(files, key=lambda path: int(path.name.split(".")[0]))


def refuse_tampered(demo: Demo, shipped_root: bytes, target: str) -> None:
    """A client has to refuse one changed byte, wherever it is."""

    def change_target(repository: Path) -> None:
        folder, _, name = target.rpartition("/")
        for path in (repository / "targets" / folder).glob(f"*.{name}"):
            _flip(path, path.stat().st_size // 2)

    def change_metadata(repository: Path) -> None:
        newest = max(
            (repository / "metadata").glob("*.targets.json"),
            key=lambda path: int(path.name.split(".")[0]),
        )
        data = newest.read_bytes()
        _flip(newest, data.index(b'"length":') + len(b'"length":'), 0x01)

    changes: list[tuple[str, Callable[[Path], None]]] = [
        ("target", change_target),
        ("metadata file", change_metadata),
    ]
    for what, change in changes:
        copy = demo.folder / "tampered"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(demo.repository, copy / "repository")
        change(copy / "repository")
        with served(copy / "repository") as url:
            victim = Client(copy / "client", shipped_root)
            try:
                victim.download(url, target)
            except (RepositoryError, DownloadError) as e:
                say(f"a tampered {what} is refused: {type(e).__name__}")
            else:
                raise DemoError(f"the client accepted a tampered {what}")
        shutil.rmtree(copy)


def _flip(path: Path, offset: int, bits: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= bits
    path.write_bytes(data)


def check_log(demo: Demo) -> None:
    """Every signature in the repository has its entry, and the log itself verifies."""
    found = demo.keydctl("audit", "find", demo.repository / "metadata")
    signatures = found["signatures"]
    expect(signatures, "audit find saw no signature")
    in_files = sum(
        len(json.loads(path.read_bytes())["signatures"])
        for path in (demo.repository / "metadata").glob("*.json")
    )
    expect(len(signatures) == in_files, f"{in_files} signatures, {len(signatures)} were looked up")
    unlogged = [s for s in signatures if s["standing"] != "logged"]
    expect(not unlogged, f"signatures without an entry: {unlogged}")
    versions = sorted({s["key_version"] for s in signatures})
    say(f"audit find named the entry of all {in_files} signatures, by {', '.join(versions)}")
    for name in ("log.jsonl", "log.keys"):
        (demo.folder / name).unlink(missing_ok=True)
    (demo.folder / "log.keys").write_text("\n".join(_log_keys(demo)) + "\n")
    demo.keydctl("audit", "export", "-o", demo.folder / "log.jsonl")
    verified = demo.keydctl(
        "audit", "verify", demo.folder / "log.jsonl", "--log-key", demo.folder / "log.keys"
    )
    say(f"audit verify passes over all {verified['entries']} entries of the exported log")


def _log_keys(demo: Demo) -> list[str]:
    return [str(line) for line in demo.keydctl("audit", "log-key")["verifier_keys"]]


def check_secrecy(demo: Demo) -> None:
    """No private key in any file outside the token's store; and the token keeps its own."""
    objects = demo.keydctl("token", "objects", "dev")
    public_keys = [base64.b64decode(o["public_key"]) for o in objects if o["public_key"]]
    forms = _planted_forms()
    found = [sorted(private_keys.forms_in(data)) for data in forms]
    expect(all(found), f"the scan does not see keys that were planted for it: {found}")
    outside = [p for p in demo.folder.iterdir() if p.is_dir() and p != demo.daemon]
    outside += [p for p in demo.daemon.iterdir() if p.is_dir() and p.name != "tokens"]
    files = [p for folder in outside for p in folder.rglob("*") if p.is_file()]
    hits = list(private_keys.scan(outside, public_keys))
    for path in [p for f in (demo.folder, demo.daemon) for p in f.iterdir() if p.is_file()]:
        files.append(path)
        data = path.read_bytes()
        hits += [private_keys.Found(path, form) for form in private_keys.forms_in(data)]
    expect(not hits, f"private keys in files: {hits}")
    size = sum(path.stat().st_size for path in files)
    say(
        f"no private key is in any of {len(files)} files ({size // 1024} KiB) outside the token's "
        f"own store; the scan finds {len(forms)} planted ones"
    )
    expect(len(objects) >= len(ROLES), "the token shows too few keys")
    loose = [o["label"] for o in objects if not o["sensitive"] or o["extractable"]]
    expect(not loose, f"keys that could leave the token: {loose}")
    say(f"all {len(objects)} private keys on the token are SENSITIVE and not EXTRACTABLE")


def _planted_forms() -> list[bytes]:
    """A throw-away key in the forms the scan must see."""
    key = ec.generate_private_key(ec.SECP256R1())
    locked = BestAvailableEncryption(b"demo")
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        b"\0" * 17 + pkcs8 + b"\0" * 5,
        b"x" + key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        b"x" + key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, locked),
        b'{"k": "' + base64.b64encode(pkcs8) + b'"}',
        b"k=" + pkcs8.hex().encode(),
    ]


def run(demo: Demo) -> None:
    """All the steps, in order."""
    releases = build_releases(demo)
    target = f"keyd/{releases[-1].name}"
    with running_daemon(demo):
        make_keys(demo)
        make_repository(demo, releases)
        shipped_root = (demo.repository / "metadata/1.root.json").read_bytes()
        client = Client(demo.folder / "client", shipped_root)
        with served(demo.repository) as url:
            got = client.download(url, target)
            expect(got.read_bytes() == releases[-1].read_bytes(), "the client got another file")
            say(f"tuf.ngclient.Updater downloaded and verified {target} over {url}")
            rotate(demo, client, url, "targets", target, releases[-1])
            rotate(demo, client, url, "root", target, releases[-1])
        refuse_to_sign(demo)
        refuse_tampered(demo, shipped_root, target)
        check_log(demo)
        check_secrecy(demo)


def main() -> int:
    """Entry point; 1 when a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=ROOT / "build/demo", help="everything it makes")
    demo = Demo(parser.parse_args().dir.absolute())
    demo.folder.mkdir(parents=True, exist_ok=True)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # A proxy cannot reach loopback.
    began = time.monotonic()
    try:
        run(demo)
    except (DemoError, RepositoryError, DownloadError, subprocess.TimeoutExpired, OSError) as e:
        print(f"demo: FAILED: {e}", file=sys.stderr)
        return 1
    say(f"done in {time.monotonic() - began:.0f} s; look around in {demo.folder}")
    say("verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
