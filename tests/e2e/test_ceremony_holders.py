"""Three root holders, each with a daemon and a token of their own; only files pass between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root

from keyd.adapters.tufrepo import bundletext
from keyd.adapters.tufrepo.bundle import Request, RootFile
from keyd.client import Client
from keyd.model import Binding, KeyAlgorithm, MarkState
from keyd.policy.starter import starter_policy
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.keydctl_process import Keydctl
from tests.tuf_repositories import ROLES, StockClient

pytestmark = pytest.mark.softhsm
NAMES = ("alice", "bob", "carol")

OWN_CONSENT = """
[[grant]]
name = "approvers"
principals = ["socket:dev"]
actions = ["approver"]
keys = ["*"]

[[rule]]
name = "look twice"
keys = ["*/root"]
actions = ["sign"]
approvals = 1
own = true
"""


@dataclass(frozen=True)
class Holder:
    """One person: a daemon, keydctl, and a desk with files on it."""

    name: str
    keydctl: Keydctl
    desk: Path

    def __call__(self, *words: str | Path, code: int = 0) -> Any:
        return self.keydctl(*words, code=code)

    def client(self) -> Client:
        return Client(self.keydctl.endpoint, keep_checkpoints=False)

    def public_key(self) -> Path:
        """The holder's root key, as a file for others."""
        path = self.desk / f"{self.name}.json"
        done = self.keydctl.run("key", "show", f"{self.name}/root", "--format", "tuf")
        assert done.returncode == 0, done.stderr
        path.write_text(done.stdout)
        return path


def carry(file: Path, to: Holder) -> Path:
    """By mail or on a stick."""
    return Path(shutil.copy(file, to.desk / file.name))


def entries(holder: Holder, action: str) -> list[dict[str, Any]]:
    with holder.client() as keyd:
        bodies = [json.loads(e.body) for e in keyd.list_entries()]
    return [body for body in bodies if body["action"] == action]


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[DaemonProcess]]:
    base = tmp_path_factory.mktemp("h")
    started: list[DaemonProcess] = []
    try:
        for name in NAMES:
            daemon = DaemonProcess(base / name, forked=True)
            daemon.start()
            started.append(daemon)
        yield started
    finally:
        for daemon in started:
            daemon.stop()


@dataclass(frozen=True)
class World:
    """A published repository whose root takes two of three; it lies on alice's desk."""

    alice: Holder
    bob: Holder
    carol: Holder
    repo: Path
    client: StockClient

    @property
    def root(self) -> Root:
        number = max(int(p.name.split(".")[0]) for p in self.repo.glob("metadata/*.root.json"))
        return Metadata[Root].from_file(str(self.repo / f"metadata/{number}.root.json")).signed


@pytest.fixture(scope="module")
def world(daemons: list[DaemonProcess], tmp_path_factory: pytest.TempPathFactory) -> World:
    base = tmp_path_factory.mktemp("w")
    holders = []
    for name, daemon in zip(NAMES, daemons, strict=True):
        desk = base / name
        desk.mkdir()
        holders.append(Holder(name, Keydctl(daemon.endpoint, desk / "home"), desk))
        with holders[-1].client() as keyd:
            keyd.create_key(
                f"{name}/root", KeyAlgorithm.ECDSA_P256, bindings=[Binding("acme", "root")]
            )
    alice, bob, carol = holders
    alice.keydctl.create(*(f"acme/{role}" for role in ("targets", "snapshot", "timestamp")))
    repo = alice.desk / "repo"
    keys = [f"@{carry(each.public_key(), alice)}" for each in (bob, carol)]
    roots = [word for key in ("alice/root", *keys) for word in ("--root", key)]
    alice("tuf", "init", repo, "--repository", "acme", *roots, "--root-threshold", "2", code=3)
    first = carry(repo / "staged/1.root.json", bob)
    bob("tuf", "sign", first, "--key", "keyd:bob/root?repository=acme", "--yes")
    shutil.copy(first, repo / "staged/1.root.json")
    alice("tuf", "refresh", repo)
    made = World(alice, bob, carol, repo, StockClient(base / "client", repo))
    made.client.update()
    return made


def approve(holder: Holder, approval: str) -> None:
    with holder.client() as keyd:
        digest = keyd.get_approval(approval).digest.hex()
    holder("approve", approval, "--digest", digest, "--yes")


def export(world: World, name: str) -> Path:
    path = world.alice.desk / name
    world.alice("tuf", "ceremony", "export", world.repo, "-o", path, "--reason", "new targets key")
    return path


def test_a_root_of_two_of_three_is_changed_by_files_alone(world: World) -> None:
    alice, bob, carol, repo = world.alice, world.bob, world.carol, world.repo

    started = alice("tuf", "ceremony", "start", repo, "--rotate", "targets", "--yes", code=3)
    assert (started["phase"], started["waiting"]["needs"]) == ("SIGN", 1)
    standing = alice("tuf", "ceremony", "status", repo, code=3)
    assert [s["state"] for s in standing["signatures"]].count("missing") == 2
    assert "ceremony export" in standing["next"][0]
    bundle = export(world, "root2.bundle")

    # Bob's daemon has signed root 1, and learns from the bundle that it is complete.
    signed = bob("tuf", "sign", carry(bundle, bob), "--key", "bob/root", "--yes")
    # Carol's daemon knows nothing: she has to vouch for a root.
    at_carol = carry(bundle, carol)
    refused = carol("tuf", "sign", at_carol, "--key", "carol/root", "--yes", code=1)
    assert refused["error"]["facts"]["problem"] == "unknown"
    shipped = carry(repo / "metadata/1.root.json", carol)
    asked = ("tuf", "sign", at_carol, "--key", "carol/root", "--trust-root", shipped, "--yes")
    also = carol(*asked)
    assert carol(*asked)["signatures"] == also["signatures"], "signed again, it is the same"

    for each, holder in ((signed, bob), (also, carol)):
        Path(each["file"]).rename(holder.desk / f"{holder.name}.response")
    responses = [carry(each.desk / f"{each.name}.response", alice) for each in (bob, carol)]
    imported = alice("tuf", "ceremony", "import", repo, *responses)
    assert imported["needs"] == 0
    receipts = [s["receipt"] for s in imported["signatures"]]
    assert [r["key_version"] for r in receipts] == ["bob/root/versions/1", "carol/root/versions/1"]
    assert receipts[0]["index"] == signed["signatures"][0]["log_index"]

    done = alice("tuf", "ceremony", "resume", repo)
    assert done["phase"] == "DONE"
    assert "2.root.json" in done["published"]
    assert world.root.version == 2
    world.client.update()
    # Each daemon has its own signature in its own log, under the claimed context.
    for holder in (bob, carol):
        (entry,) = [e for e in entries(holder, "sign") if e["statement"]["version"] == 2]
        assert entry["context"] == {"repository": "acme", "role": "root"}
    with alice.client() as keyd:
        assert keyd.get_role("acme", "root").state is MarkState.PUBLISHED


def test_changed_swapped_replayed_and_late_files_are_refused_and_the_honest_one_passes(
    world: World, tmp_path: Path
) -> None:
    alice, bob, repo = world.alice, world.bob, world.repo
    before = world.root.version
    old = next(iter(sorted(world.alice.desk.glob("root2.bundle"))), None)
    alice("tuf", "ceremony", "start", repo, "--rotate", "timestamp", "--yes", code=3)
    bundle = export(world, "next.bundle")
    request = bundletext.read_request(bundle.read_bytes())
    assert request.version == before + 1

    def sign(path: Path, code: int = 0) -> Any:
        return bob("tuf", "sign", carry(path, bob), "--key", "bob/root", "--yes", code=code)

    # Changed: one letter, as a bad mail program or a clumsy attacker would.
    changed = tmp_path / "changed.bundle"
    changed.write_bytes(bundle.read_bytes().replace(b"new targets key", b"new targets kex"))
    assert sign(changed, 1)["error"]["facts"]["problem"] == "damaged"

    # Swapped: a chain of roots of the attacker's own, under the same name.
    forged = forge(request, tmp_path)
    assert sign(forged, 1)["error"]["facts"]["problem"] == "swapped"

    # Late: it waited in somebody's drawer.
    late = tmp_path / "late.bundle"
    late.write_bytes(bundletext.write(expired(request)))
    assert sign(late, 1)["error"]["facts"]["problem"] == "expired"

    assert not [e for e in entries(bob, "sign") if e["statement"]["version"] == before + 1]
    response = carry(Path(sign(bundle)["file"]), alice)

    # The response to another request, and the same response twice.
    other = response.with_name("other.response")
    given = bundletext.read_response(response.read_bytes())
    other.write_bytes(bundletext.write(replace(given, id="0" * 32)))
    refused = alice("tuf", "ceremony", "import", repo, other, code=1)
    assert refused["error"]["facts"]["problem"] == "request"
    alice("tuf", "ceremony", "import", repo, response)
    refused = alice("tuf", "ceremony", "import", repo, response, code=1)
    assert refused["error"]["facts"]["problem"] == "imported"
    assert alice("tuf", "ceremony", "resume", repo)["phase"] == "DONE"
    world.client.update()

    # Replayed: once bob's daemon has seen a later root, the old bundle is over.
    alice("tuf", "ceremony", "start", repo, "--rotate", "snapshot", "--yes", code=3)
    last = export(world, "last.bundle")
    response = carry(Path(sign(last)["file"]), alice)
    assert sign(old or bundle, 1)["error"]["facts"]["problem"] == "replayed"
    alice("tuf", "ceremony", "import", repo, response)
    assert alice("tuf", "ceremony", "resume", repo)["phase"] == "DONE"
    world.client.update()


def test_a_dropped_holder_needs_consent_on_each_daemon_whose_policy_says_so(
    world: World, daemons: list[DaemonProcess]
) -> None:
    alice, bob, repo = world.alice, world.bob, world.repo
    for daemon in daemons[:2]:
        policy = daemon.folder / "policy.toml"
        policy.write_text(starter_policy("socket:dev") + OWN_CONSENT)
        daemon.stop()
        daemon.start()
    words = ("--drop", world.root.roles["root"].keyids[2])

    stopped = alice("tuf", "ceremony", "start", repo, *words, "--yes", code=3)
    assert stopped["phase"] == "CONSENT"
    (approval,) = stopped["waiting"]["approvals"]
    standing = alice("tuf", "ceremony", "status", repo, code=3)
    assert standing["next"][0] == f"keydctl approve {approval}"
    approve(alice, approval)
    assert alice("tuf", "ceremony", "resume", repo, code=3)["phase"] == "SIGN"

    bundle = carry(export(world, "drop.bundle"), bob)
    sign = ("tuf", "sign", bundle, "--key", "bob/root", "--yes")
    waits = bob(*sign, code=3)
    assert waits["error"]["reason"] == "APPROVAL_NEEDED"
    approve(bob, waits["error"]["facts"]["approval"])
    response = carry(Path(bob(*sign)["file"]), alice)
    alice("tuf", "ceremony", "import", repo, response)

    assert alice("tuf", "ceremony", "resume", repo)["phase"] == "DONE"
    assert len(world.root.roles["root"].keyids) == 2
    world.client.update()


def expired(request: Request) -> Request:
    return replace(request, created=request.created - timedelta(days=30), expires=request.created)


def forge(request: Request, folder: Path) -> Path:
    """A bundle in which every signature holds, made with keys of the attacker's own."""
    signer = CryptoSigner.generate_ecdsa()
    files, draft = [], b""
    for version in range(request.history[0].version, request.version + 1):
        root = Root(version=version, expires=datetime.now(UTC) + timedelta(days=9))
        for role in ROLES:
            root.add_key(signer.public_key, role)
        for spki in real_keys(request):
            root.add_key(spki, "root")
        metadata = Metadata(root)
        metadata.sign(signer)
        files.append(RootFile(version, metadata.to_bytes()))
        draft = metadata.signed_bytes
    path = folder / "forged.bundle"
    path.write_bytes(bundletext.write(replace(request, history=tuple(files[:-1]), draft=draft)))
    return path


def real_keys(request: Request) -> list[Key]:
    """The holders' keys, so that they find themselves in the forged root."""
    root = Metadata[Root].from_bytes(request.history[-1].content).signed
    return [root.keys[keyid] for keyid in root.roles["root"].keyids]
