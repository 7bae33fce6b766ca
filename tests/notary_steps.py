"""The steps of the program ``notary``: one after the other, and each with what has to be seen then.
What is published is read back by a newcomer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.notary_client import openssl
from tests.notary_walk import GUN, TEXT, Walk

_KEYID = re.compile(r"\b[0-9a-f]{64}\b")
_EC = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

Step = Callable[[Walk], object]
STEPS: list[tuple[str, Step]] = []


def step(name: str) -> Callable[[Step], Step]:
    """The next one."""

    def put(do: Step) -> Step:
        STEPS.append((name, do))
        return do

    return put


def rotation(role: str, *, is_servers: bool, name: str) -> tuple[Step, Step]:
    """``key rotate``: the root has another key; then that key signs."""

    def rotate(w: Walk) -> None:
        before = w.keyids(role)
        w.alice("key", "rotate", GUN, role, *(["-r"] if is_servers else []))
        assert w.keyids(role) != before
        w.expect()

    return rotate, lambda w: w.publish_after(name, role, is_servers=is_servers)


# ------------------------------------------------------------------------------- targets


@step("init")
def _(w: Walk) -> None:
    w.alice("init", GUN)
    assert w.keys_of_keyd() == {"timestamp"}
    assert w.sandbox.get(f"/v2/{GUN}/_trust/tuf/root.json")[0] == 404


@step("add")
def _(w: Walk) -> None:
    w.alice("add", GUN, "v1", w.file)
    assert w.changes() == 1


@step("add --custom")
def _(w: Walk) -> None:
    custom = w.alice.file("custom.json", '{"note":"x"}')
    w.alice("add", GUN, "v1c", w.file, "--custom", custom)


@step("addhash")
def _(w: Walk) -> None:
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    w.alice("addhash", GUN, "v1h", str(len(TEXT)), "--sha256", digest)


@step("status")
def _(w: Walk) -> None:
    told = w.alice("status", GUN)
    assert all(name in told for name in ("v1", "v1c", "v1h"))
    assert w.changes() == 3


@step("publish")
def _(w: Walk) -> None:
    w.alice("publish", GUN)
    assert w.changes() == 0
    w.server_keys.update(w.keyids("timestamp"))
    signed: Any = w.sandbox.metadata(GUN, "targets")["signed"]
    assert signed["targets"]["v1c"]["custom"] == {"note": "x"}


@step("list")
def _(w: Walk) -> None:
    w.expect("v1", "v1c", "v1h")
    assert w.bob.targets(GUN) == w.listed


@step("lookup")
def _(w: Walk) -> None:
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    assert w.newcomer()("lookup", GUN, "v1").split() == ["v1", f"sha256:{digest}", str(len(TEXT))]


@step("verify: what was signed")
def _(w: Walk) -> None:
    for name in ("v1", "v1h"):
        assert TEXT in w.newcomer()("verify", GUN, name, "-i", w.file)


@step("verify: something else")
def _(w: Walk) -> None:
    bad = w.alice.file("bad", "other")
    assert "data not present in the trusted collection" in w.bob.fails(
        "verify", GUN, "v1", "-i", bad
    )


# ------------------------------------------------------------------------------- keys of roles


@step("key list")
def _(w: Walk) -> None:
    rows = [row.split() for row in w.alice("key", "list").splitlines() if _KEYID.search(row)]
    assert [row[0] for row in rows] == ["root", "snapshot", "targets"]  # no timestamp


for _words, _role, _is_servers, _name in (
    ("targets", "targets", False, "rotated-targets"),
    ("snapshot -r", "snapshot", True, "given-snapshot"),
    ("timestamp -r", "timestamp", True, "new-timestamp"),
    ("snapshot", "snapshot", False, "taken-snapshot"),
    ("snapshot -r, once more", "snapshot", True, "given-again"),
):
    _rotate, _sign = rotation(_role, is_servers=_is_servers, name=_name)
    step(f"key rotate {_words}")(_rotate)
    step(f"publish after key rotate {_words}")(_sign)


@step("key rotate timestamp without -r")
def _(w: Walk) -> None:
    before = w.keyids("timestamp")
    told = w.alice.fails("key", "rotate", GUN, "timestamp")
    assert "does not permit the client managing the timestamp key" in told
    assert w.keyids("timestamp") == before
    assert w.keys_of_keyd() == {"timestamp", "timestamp.2", "snapshot", "snapshot.2"}


# ------------------------------------------------------------------------------- delegations


@step("openssl req -x509, for a delegation")
def _(w: Walk) -> None:
    for name in ("bob", "carol"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}")
        openssl(*_EC, *files, folder=w.alice.folder)


@step("delegation add")
def _(w: Walk) -> None:
    certificates = [str(w.alice.folder / f"{name}.crt") for name in ("bob", "carol")]
    w.alice("delegation", "add", GUN, "targets/releases", certificates[0], "--all-paths")
    w.alice("delegation", "add", GUN, "targets/qa", *certificates, "--paths", "qa/", "-p")
    w.expect()


@step("delegation list")
def _(w: Walk) -> None:
    told = w.newcomer()("delegation", "list", GUN)
    rows = {row.split()[0]: row for row in told.splitlines() if row.startswith("targets/")}
    assert set(rows) == {"targets/qa", "targets/releases"}
    assert "qa/" in rows["targets/qa"]
    assert len(set(_KEYID.findall(told))) == 2
    w.kept["bob"] = _KEYID.findall(rows["targets/releases"])[0]


@step("key import --role")
def _(w: Walk) -> None:
    w.alice("key", "import", f"{w.alice.folder}/bob.key", "--role", "bob")
    assert w.kept["bob"] in w.alice("key", "list")


@step("add --roles")
def _(w: Walk) -> None:
    w.alice("add", GUN, "v2", w.file, "--roles", "targets/releases", "-p")


@step("list --roles")
def _(w: Walk) -> None:
    listed = w.newcomer().targets(GUN, "--roles", "targets/releases")
    assert listed == {"v2": "targets/releases"}
    w.listed["v2"] = "targets/releases"
    w.expect()


def witness(w: Walk, role: str) -> None:
    """The role is signed anew as it is."""
    before = w.sandbox.version(GUN, role)
    w.alice("witness", GUN, role, "-p")
    assert w.sandbox.version(GUN, role) == before + 1
    w.expect()


step("witness a delegation")(lambda w: witness(w, "targets/releases"))
step("witness targets")(lambda w: witness(w, "targets"))


@step("remove from targets")
def _(w: Walk) -> None:
    w.alice("remove", GUN, "v1h", "-p")
    w.expect(gone=("v1h",))


@step("remove from a delegation")
def _(w: Walk) -> None:
    w.alice("remove", GUN, "v2", "--roles", "targets/releases", "-p")
    w.expect(gone=("v2",))


@step("delegation remove: a key")
def _(w: Walk) -> None:
    w.alice("delegation", "remove", GUN, "targets/qa", w.kept["bob"], "-p")
    told = w.newcomer()("delegation", "list", GUN)
    [row] = [row for row in told.splitlines() if row.startswith("targets/qa")]
    assert w.kept["bob"] not in row
    [w.kept["carol"]] = _KEYID.findall(row)


@step("delegation purge")
def _(w: Walk) -> None:
    w.alice("delegation", "purge", GUN, "--key", w.kept["carol"])
    w.alice("publish", GUN)
    assert w.kept["carol"] not in w.newcomer()("delegation", "list", GUN)
    w.expect()


@step("delegation remove: a role")
def _(w: Walk) -> None:
    w.alice("delegation", "remove", GUN, "targets/releases", "-y", "-p")
    assert "targets/releases" not in w.newcomer()("delegation", "list", GUN)
    w.expect()


# ------------------------------------------------------------------------------- key files


@step("key generate")
def _(w: Walk) -> None:
    [keyid] = _KEYID.findall(w.alice("key", "generate", "ecdsa", "--role", "targets"))
    assert keyid in w.alice("key", "list")
    w.kept["generated"] = keyid


@step("key remove")
def _(w: Walk) -> None:
    w.alice("key", "remove", w.kept["generated"], stdin="yes\n")
    assert w.kept["generated"] not in w.alice("key", "list")


@step("key generate -o")
def _(w: Walk) -> None:
    before = w.alice("key", "list")
    w.alice("key", "generate", "ecdsa", "-o", "mine", "--role", "targets")
    load_pem_public_key((w.alice.folder / "mine.pem").read_bytes())
    assert b"PRIVATE KEY" in (w.alice.folder / "mine-key.pem").read_bytes()
    assert w.alice("key", "list") == before


@step("key passwd")
def _(w: Walk) -> None:
    row = next(row for row in w.alice("key", "list").splitlines() if row.startswith("root"))
    [w.kept["root"]] = _KEYID.findall(row)
    file = w.alice.folder / "trust" / "private" / f"{w.kept['root']}.key"
    before = file.read_bytes()
    assert "updated passphrase" in w.alice("key", "passwd", w.kept["root"])
    assert file.read_bytes() != before


@step("key export")
def _(w: Walk) -> None:
    w.alice("key", "export", "-o", "exported.pem", "--key", w.kept["root"])
    exported = (w.alice.folder / "exported.pem").read_text()
    assert (exported.count("BEGIN"), "role: root" in exported) == (1, True)


@step("key rotate root")
def _(w: Walk) -> None:
    [before] = w.keyids("root")
    version = w.sandbox.version(GUN, "root")
    w.alice("key", "rotate", GUN, "root", stdin="yes\n")
    assert w.keyids("root") != [before]
    assert w.sandbox.version(GUN, "root") == version + 1
    signatures: Any = w.sandbox.metadata(GUN, "root")["signatures"]
    assert {each["keyid"] for each in signatures} == {before, *w.keyids("root")}


@step("list with a fresh trust directory, and with an old one")
def _(w: Walk) -> None:
    w.expect()
    assert w.bob.targets(GUN) == w.listed


@step("reset --all")
def _(w: Walk) -> None:
    w.alice("add", GUN, "v3", w.file)
    assert w.changes() == 1
    w.alice("reset", GUN, "--all")
    assert w.changes() == 0
    w.alice("publish", GUN)
    w.expect()


@step("delete --remote")
def _(w: Walk) -> None:
    w.collect()
    w.alice("delete", "--remote", GUN)
    assert w.sandbox.get(f"/v2/{GUN}/_trust/tuf/root.json")[0] == 404
    assert "does not have trust data" in w.newcomer().fails("list", GUN)
