"""keydctl tuf against a real daemon; python-tuf's client looks at every step."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from securesystemslib.signer import SSlibKey
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Timestamp

from keyd.adapters import registration
from keyd.adapters.tuf import KeydSigner
from keyd.client import Client
from keyd.model import KeyAlgorithm
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import ROLES, StockClient

pytestmark = pytest.mark.softhsm
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with DaemonProcess(tmp_path_factory.mktemp("d") / "d", forked=True) as running:
        yield running


@pytest.fixture(scope="module")
def keydctl(daemon: DaemonProcess, tmp_path_factory: pytest.TempPathFactory) -> Keydctl:
    return Keydctl(daemon.endpoint, tmp_path_factory.mktemp("home"))


@dataclass(frozen=True)
class Site:
    """A published repository with keys of its own on the token, and a client of it."""

    name: str
    path: Path
    client: StockClient

    def newest_root(self) -> Metadata[Root]:
        number = max(int(p.name.split(".")[0]) for p in self.path.glob("metadata/*.root.json"))
        return Metadata.from_file(str(self.path / f"metadata/{number}.root.json"))


@pytest.fixture
def site(keydctl: Keydctl, tmp_path: Path) -> Site:
    name = f"site{time.monotonic_ns()}"
    keydctl.create(*(f"{name}/{role}" for role in ROLES))
    repository = tmp_path / "repo"
    keydctl("tuf", "init", repository, "--repository", name)
    (tmp_path / "hello.txt").write_text("hello, world\n")
    keydctl("tuf", "add", repository, tmp_path / "hello.txt", "--prefix", "app")
    made = Site(name, repository, StockClient(tmp_path / "client", repository))
    assert made.client.download("app/hello.txt") == b"hello, world\n"
    return made


def active_keyid(keydctl: Keydctl, key: str) -> str:
    shown = keydctl("key", "show", key)
    active = next(v for v in shown["versions"] if v["number"] == shown["active_version"])
    keyid = active["keyids"]["tuf"]
    assert isinstance(keyid, str)
    return keyid


# ------------------------------------------------------------------------------ init


def test_init_binds_each_key_to_its_role(keydctl: Keydctl, site: Site) -> None:
    for role in ROLES:
        shown = keydctl("key", "show", f"{site.name}/{role}")
        assert shown["bindings"] == [{"repository": site.name, "role": role}]


def test_a_bound_key_does_not_sign_another_repository(
    keydctl: Keydctl, site: Site, tmp_path: Path
) -> None:
    settings = tmp_path / "repo/.keyd-tuf.json"
    settings.write_text(settings.read_text().replace(f'"{site.name}"', '"elsewhere"'))

    error = keydctl("tuf", "refresh", site.path, code=2)["error"]

    assert "is bound to" in error["message"]
    assert site.client.download("app/hello.txt")


def test_init_with_an_unknown_key_makes_nothing(keydctl: Keydctl, tmp_path: Path) -> None:
    keydctl("tuf", "init", tmp_path / "new", "--repository", "nosuch", code=1)

    assert not (tmp_path / "new/metadata").exists()


# ------------------------------------------------------------------------------ rotate


@pytest.mark.parametrize("role", ROLES)
def test_a_client_with_the_old_root_follows_a_rotation(
    keydctl: Keydctl, site: Site, role: str
) -> None:
    old = active_keyid(keydctl, f"{site.name}/{role}")

    rotated = keydctl("tuf", "rotate", site.path, role)

    assert rotated["old_keyid"] == old
    assert site.newest_root().signed.roles[role].keyids == [rotated["new_keyid"]]
    assert active_keyid(keydctl, f"{site.name}/{role}") == rotated["new_keyid"]
    assert site.client.download("app/hello.txt") == b"hello, world\n"
    fresh = StockClient(site.path.parent / "fresh", site.path)
    assert fresh.download("app/hello.txt") == b"hello, world\n"
    keydctl("tuf", "refresh", site.path)
    assert site.client.download("app/hello.txt") == b"hello, world\n"


def test_a_new_root_is_signed_by_the_old_and_the_new_key(keydctl: Keydctl, site: Site) -> None:
    rotated = keydctl("tuf", "rotate", site.path, "root", "--disable-old")

    assert set(site.newest_root().signatures) == {rotated["old_keyid"], rotated["new_keyid"]}
    assert rotated["disabled"] == f"{site.name}/root/versions/1"


@pytest.mark.parametrize("role", ROLES[1:])
def test_a_key_that_cannot_sign_any_more_is_rotated_without_it(
    keydctl: Keydctl, site: Site, role: str
) -> None:
    keydctl("key", "disable", f"{site.name}/{role}", "1")
    error = keydctl("tuf", "rotate", site.path, role, code=1)["error"]
    assert "--without-old" in error["hint"]
    assert site.client.download("app/hello.txt")

    rotated = keydctl("tuf", "rotate", site.path, role, "--without-old")

    assert site.newest_root().signed.roles[role].keyids == [rotated["new_keyid"]]
    assert site.client.download("app/hello.txt") == b"hello, world\n"


def test_a_lost_token_s_key_is_replaced_by_a_key_elsewhere(keydctl: Keydctl, site: Site) -> None:
    keydctl.create(f"{site.name}/spare")
    keydctl("key", "disable", f"{site.name}/targets", "1")

    rotated = keydctl(
        "tuf", "rotate", site.path, "targets", "--to", f"{site.name}/spare", "--without-old"
    )

    assert rotated["activated"] == f"{site.name}/spare/versions/1"
    assert site.client.download("app/hello.txt") == b"hello, world\n"


def test_a_root_that_no_client_would_follow_is_not_even_staged(
    keydctl: Keydctl, site: Site
) -> None:
    """Clients count the keys of the root they have: a key in its place does not help."""
    keydctl.create(f"{site.name}/new-root")
    words = ("tuf", "rotate", site.path, "root", "--to", f"{site.name}/new-root")

    error = keydctl(*words, "--without-old", code=1)["error"]
    bound = keydctl("key", "show", f"{site.name}/new-root")["bindings"]
    own = keydctl("tuf", "rotate", site.path, "root", "--without-old", code=1)["error"]

    assert "without" in error["message"]
    assert "needs 1 signature(s)" in error["message"]
    assert own["message"] == error["message"]
    assert list((site.path / "staged").glob("*")) == []
    assert bound == []
    assert len(keydctl("key", "show", f"{site.name}/root")["versions"]) == 1
    hinted = error["hint"].partition("as long as it can: keydctl ")[2].split()[:-1]
    rotated = keydctl(*hinted, f"{site.name}/new-root")
    assert rotated["activated"] == f"{site.name}/new-root/versions/1"
    assert site.client.download("app/hello.txt")


def test_a_lost_root_key_is_replaced_by_the_keys_that_are_left(
    keydctl: Keydctl, tmp_path: Path
) -> None:
    name = f"lost{time.monotonic_ns()}"
    roots = [f"{name}/root-{letter}" for letter in "abc"]
    keydctl.create(*roots, *(f"{name}/{role}" for role in ROLES[1:]))
    repository = tmp_path / "repo"
    keydctl("tuf", "init", repository, "--repository", name, "--root", roots[0], "--root", roots[1])
    client = StockClient(tmp_path / "client", repository)
    client.update()
    keydctl("key", "disable", roots[0], "1")

    rotate = ("tuf", "rotate", repository, "root", "--key", roots[0], "--to", roots[2])
    rotated = keydctl(*rotate, "--without-old")

    client.update()
    newest = Site(name, repository, client).newest_root()
    keyids = {active_keyid(keydctl, key) for key in roots[1:]}
    assert set(newest.signed.roles["root"].keyids) == keyids == set(newest.signatures)
    again = keydctl(*rotate, "--without-old")
    assert (again["published"], again["new_keyid"]) == ([], rotated["new_keyid"])


def a_fast_forward(daemon: DaemonProcess, site: Site, keyid: str, version: int) -> None:
    """A thief of the caller's grants signs a far timestamp, and a client sees it."""
    uri = f"keyd:{site.name}/timestamp?endpoint={daemon.endpoint}"
    evil = site.path.parent / "evil"
    shutil.copytree(site.path, evil)
    timestamp: Metadata[Timestamp] = Metadata.from_file(str(evil / "metadata/timestamp.json"))
    timestamp.signed.version = version
    timestamp.sign(KeydSigner.from_priv_key_uri(uri, site.newest_root().signed.keys[keyid]))
    timestamp.to_file(str(evil / "metadata/timestamp.json"))
    StockClient(site.client.state, evil).update()


def test_a_timestamp_far_ahead_is_not_signed(
    keydctl: Keydctl, daemon: DaemonProcess, site: Site
) -> None:
    keyid = active_keyid(keydctl, f"{site.name}/timestamp")

    with pytest.raises(UnsignedMetadataError, match="version 1000000 is too far up"):
        a_fast_forward(daemon, site, keyid, 1_000_000)


def test_a_fast_forward_within_the_step_ends_with_the_next_refresh(
    keydctl: Keydctl, daemon: DaemonProcess, site: Site
) -> None:
    """And with a rotation of the stolen key, as before."""
    a_fast_forward(daemon, site, active_keyid(keydctl, f"{site.name}/timestamp"), 90)

    refreshed = keydctl("tuf", "refresh", site.path)

    assert refreshed["notes"] == [
        "timestamp became version 91: version 3 was signed before with other content"
    ]
    assert site.client.download("app/hello.txt") == b"hello, world\n"
    keydctl("key", "disable", f"{site.name}/timestamp", "1")
    keydctl("tuf", "rotate", site.path, "timestamp", "--without-old")
    assert site.client.download("app/hello.txt") == b"hello, world\n"


def test_a_delegated_role_s_key_is_rotated_too(
    keydctl: Keydctl, site: Site, tmp_path: Path
) -> None:
    keydctl.create(f"{site.name}/plugins", algorithm=KeyAlgorithm.ED25519)
    (tmp_path / "p").write_text("plug")
    keydctl(
        "tuf",
        "delegate",
        site.path,
        "plugins",
        "--key",
        f"{site.name}/plugins",
        "--paths",
        "plugins/*",
    )
    keydctl("tuf", "add", site.path, tmp_path / "p", "--prefix", "plugins", "--role", "plugins")
    assert site.client.download("plugins/p") == b"plug"

    rotated = keydctl("tuf", "rotate", site.path, "plugins")

    assert rotated["activated"] == f"{site.name}/plugins/versions/2"
    assert site.client.download("plugins/p") == b"plug"


def test_kill_9_at_any_moment_of_a_rotation_leaves_what_clients_accept(
    keydctl: Keydctl, site: Site
) -> None:
    """And running the command again finishes it: no version is left behind unused."""
    moments = random.Random(7)
    began = time.monotonic()
    keydctl("tuf", "rotate", site.path, "targets")
    usual_s = time.monotonic() - began
    for number in range(8):
        role = ROLES[number % 4]
        process = keydctl.start("tuf", "rotate", site.path, role)
        try:
            process.wait(usual_s * (0.3 + 0.7 * moments.random()))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait(TIMEOUT_S)

        assert site.client.download("app/hello.txt") == b"hello, world\n"
        fresh = StockClient(site.path.parent / f"fresh{number}", site.path)
        assert fresh.download("app/hello.txt") == b"hello, world\n"

        keydctl("tuf", "rotate", site.path, role)
        shown = keydctl("key", "show", f"{site.name}/{role}")
        assert shown["active_version"] == len(shown["versions"])
        (listed,) = site.newest_root().signed.roles[role].keyids
        assert listed == active_keyid(keydctl, f"{site.name}/{role}")
        assert keydctl("tuf", "verify", site.path)["verified"] is True
    assert keydctl("tuf", "status", site.path)[0]["where"] == "published"
    assert not list(site.path.glob("staged/*"))


# ------------------------------------------------------------------------------ several people


def test_root_by_two_people_is_published_when_both_have_signed(
    keydctl: Keydctl, tmp_path: Path
) -> None:
    name = f"two{time.monotonic_ns()}"
    keydctl.create(*(f"{name}/{key}" for key in ("root-a", "root-b", *ROLES[1:])))
    shown = keydctl.run("key", "show", f"{name}/root-b", "--format", "pem")
    (tmp_path / "b.pem").write_text(shown.stdout)
    settings = tmp_path / "repo/.keyd-tuf.json"
    init = (
        "tuf",
        "init",
        tmp_path / "repo",
        "--repository",
        name,
        "--root",
        f"{name}/root-a",
        "--root",
        f"@{tmp_path / 'b.pem'}",
        "--root-threshold",
        "2",
    )
    keydctl("freeze", f"{name}/root-b", "--reason", "b is not at the desk")

    report = keydctl(*init, code=3)

    (waiting,) = report["waiting"]
    assert (waiting["role"], waiting["needs"], len(waiting["missing"])) == ("root", 1, 1)
    assert f"{name}/root-b/versions/1" in waiting["missing"][0]["who"]
    assert "root-b" not in settings.read_text()
    status = keydctl("tuf", "status", tmp_path / "repo", code=3)
    assert {s["state"] for s in status[0]["signatures"]} == {"valid", "missing"}

    keydctl("unfreeze", f"{name}/root-b")
    signed = keydctl("tuf", "sign", waiting["file"], "--key", f"{name}/root-b", "--yes")
    assert (len(signed["added"]), signed["needs"]) == (1, 0)
    keydctl("tuf", "refresh", tmp_path / "repo")
    StockClient(tmp_path / "client", tmp_path / "repo").update()


def test_signing_without_a_terminal_needs_yes(keydctl: Keydctl, site: Site, tmp_path: Path) -> None:
    prepared = tmp_path / "9.root.json"
    shutil.copy(site.path / "metadata/1.root.json", prepared)

    done = keydctl.run("tuf", "sign", prepared)

    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert f"{site.name}/root" in done.stderr, "it says what would be signed"


# ------------------------------------------------------------------------------ showing


def test_show_names_the_key_version_behind_each_signature(keydctl: Keydctl, site: Site) -> None:
    keydctl("tuf", "rotate", site.path, "root")

    shown = keydctl("tuf", "show", site.path / "metadata/2.root.json")

    who = {s["who"]: s["state"] for s in shown["signatures"]}
    assert who == {f"{site.name}/root/versions/{n}": "valid" for n in (1, 2)}


def test_status_fails_when_something_expires_soon(keydctl: Keydctl, site: Site) -> None:
    assert keydctl.run("tuf", "status", site.path).returncode == 0
    assert keydctl.run("tuf", "status", site.path, "--warn-days", "3").returncode == 1


def test_settings_without_signers_are_no_hindrance(keydctl: Keydctl, site: Site) -> None:
    """The daemon is asked whose the public keys are."""
    settings = site.path / ".keyd-tuf.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps({**content, "signers": {}}))

    keydctl("tuf", "refresh", site.path)

    assert site.client.download("app/hello.txt")


def test_every_signature_in_the_repository_has_its_entry(keydctl: Keydctl, site: Site) -> None:
    keydctl("tuf", "rotate", site.path, "targets")

    found = keydctl("audit", "find", site.path / "metadata")

    assert {s["standing"] for s in found["signatures"]} == {"logged"}


def test_a_frozen_key_stops_a_refresh_and_clients_notice_nothing(
    keydctl: Keydctl, site: Site
) -> None:
    keydctl("freeze", f"{site.name}/timestamp", "--reason", "stolen laptop")
    before = {p: p.read_bytes() for p in site.path.glob("metadata/*")}

    error = keydctl("tuf", "refresh", site.path, code=3)["error"]

    assert error["reason"] == "FROZEN"
    assert {p: p.read_bytes() for p in site.path.glob("metadata/*")} == before
    keydctl("unfreeze", f"{site.name}/timestamp")
    keydctl("tuf", "refresh", site.path)


# ------------------------------------------------------------------------------ the signer


def test_the_signer_needs_no_environment_at_all(
    keydctl: Keydctl, daemon: DaemonProcess, tmp_path: Path
) -> None:
    """RSTUF's worker empties the environment and has no secrets handler."""
    name = f"plain{time.monotonic_ns()}"
    keydctl.create(name)
    uri, key = KeydSigner.import_(name, endpoint=daemon.endpoint)
    program = """
import sys, json
import keyd.adapters.registration as registration; registration.install()
from securesystemslib.signer import Key, Signer
key = Key.from_dict(sys.argv[2], json.loads(sys.argv[3]))
signature = Signer.from_priv_key_uri(sys.argv[1], key).sign(b"payload")
key.verify_signature(signature, b"payload")
print(signature.keyid)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, uri, key.keyid, json.dumps(key.to_dict())],
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert (done.returncode, done.stdout.strip()) == (0, key.keyid), done.stderr


def test_signers_in_many_threads_share_one_connection(
    keydctl: Keydctl, daemon: DaemonProcess
) -> None:
    name = f"shared{time.monotonic_ns()}"
    keydctl.create(name)
    uri, key = KeydSigner.import_(name, endpoint=daemon.endpoint)
    failures: list[Exception] = []

    def sign(number: int) -> None:
        try:
            payload = str(number).encode()
            signer = KeydSigner.from_priv_key_uri(uri, key)
            key.verify_signature(signer.sign(payload), payload)
        except Exception as e:  # noqa: BLE001 - whatever goes wrong in a thread is a failure
            failures.append(e)

    threads = [threading.Thread(target=sign, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert failures == []
    deadline = time.monotonic() + 10
    while _connections(daemon) != 1 and time.monotonic() < deadline:
        time.sleep(0.1)  # Children of the line above close theirs.
    assert _connections(daemon) == 1


def _connections(daemon: DaemonProcess) -> int:
    lines = Path("/proc/net/unix").read_text().splitlines()
    # The daemon's end carries the path it was bound under, in a hidden folder beside the socket;
    # state 03 is connected (linux/net.h, SS_CONNECTED).
    ends = (line.split() for line in lines if f" {daemon.socket.parent}/" in line)
    return sum(end[5] == "03" for end in ends)


def test_a_version_the_metadata_does_not_name_never_signs(
    keydctl: Keydctl, daemon: DaemonProcess
) -> None:
    """A rotation behind a program's back changes nothing for it."""
    name = f"behind{time.monotonic_ns()}"
    keydctl.create(name)
    uri, key = KeydSigner.import_(name, endpoint=daemon.endpoint)
    keydctl("key", "rotate", name, "--at-once")

    signature = KeydSigner.from_priv_key_uri(uri, key).sign(b"payload")

    key.verify_signature(signature, b"payload")
    _, newer = KeydSigner.import_(name, endpoint=daemon.endpoint)
    assert newer.keyid != key.keyid


def test_another_key_s_public_part_is_a_mismatch(keydctl: Keydctl, daemon: DaemonProcess) -> None:
    registration.install()
    one, other = (f"mix{n}-{time.monotonic_ns()}" for n in (1, 2))
    keydctl.create(one, other)
    uri, _ = KeydSigner.import_(one, endpoint=daemon.endpoint)
    _, foreign = KeydSigner.import_(other, endpoint=daemon.endpoint)

    with pytest.raises(ValueError, match="has no version with the public key"):
        KeydSigner.from_priv_key_uri(uri, foreign).sign(b"payload")


def test_keyids_are_the_daemon_s_own(keydctl: Keydctl, daemon: DaemonProcess) -> None:
    for algorithm in (a for a in KeyAlgorithm if a.value not in ("rsa-3072", "rsa-4096")):
        name = f"ids-{algorithm}-{time.monotonic_ns()}"
        keydctl.create(name, algorithm=algorithm)

        uri, key = KeydSigner.import_(name, endpoint=daemon.endpoint)

        assert isinstance(key, SSlibKey)
        assert key.keyid == active_keyid(keydctl, name)
        key.verify_signature(KeydSigner.from_priv_key_uri(uri, key).sign(b"x"), b"x")


# ------------------------------------------------------------------------------ migrate


def test_a_repository_with_file_keys_moves_to_the_token(
    keydctl: Keydctl, daemon: DaemonProcess, tmp_path: Path
) -> None:
    from tests.integration.test_tuf_migration import ForeignRepository

    foreign = ForeignRepository(tmp_path / "repo", tmp_path / "old", consistent=True)
    client = StockClient(tmp_path / "client", foreign.path)
    client.update()
    name = f"moved{time.monotonic_ns()}"
    for role in ROLES:
        keydctl("key", "create", f"{name}/{role}")

    keydctl("tuf", "migrate", foreign.path, "--repository", name, "--signer", foreign.uris["root"])

    shutil.rmtree(tmp_path / "old")
    assert client.download("app/hello.txt") == b"hello, world\n"
    keydctl("tuf", "rotate", foreign.path, "root")
    keydctl("tuf", "refresh", foreign.path)
    assert client.download("app/hello.txt") == b"hello, world\n"
    with Client(daemon.endpoint, keep_checkpoints=False) as keyd:
        assert keyd.get_key(f"{name}/root").active_version == 2


def test_a_tampered_repository_is_refused_by_verify(keydctl: Keydctl, site: Site) -> None:
    timestamp = site.path / "metadata/timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"version":2', b'"version":9', 1))

    error = keydctl("tuf", "verify", site.path, code=1)["error"]

    assert error["reason"] == "REPOSITORY"
    with pytest.raises(TufError):
        StockClient(site.path.parent / "fresh", site.path).update()
