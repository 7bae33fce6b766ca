"""keydctl trust against the real notary-server; the real notary and docker read every result."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.model import KeyAlgorithm
from tests.notary_client import openssl
from tests.private_keys import private_keys
from tests.trust_stage import Person, Stage, a_stage

pytestmark = pytest.mark.softhsm
PAGE = Path(__file__).parents[2] / "docs" / "keydctl.md"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("t")) as running:
        yield running


@pytest.fixture
def alice(stage: Stage) -> Person:
    return stage.person()


@pytest.fixture
def gun(stage: Stage, alice: Person) -> str:
    """A published collection that signs v1."""
    name = stage.gun()
    alice("init", name)
    alice("add", name, "v1", alice.file("v1", "one"))
    alice("publish", name)
    return name


# ------------------------------------------------------------------------------ targets


def test_what_is_published_is_what_notary_lists(stage: Stage, alice: Person) -> None:
    gun, odd = stage.gun(), 'a&b<c>"\\é'

    alice("init", gun)
    alice("add", gun, "v1", alice.file("v1", "one"))
    alice("add", gun, odd, alice.file("v2", "two"), "--custom", alice.file("c", '{"b":1,"a":"<"}'))
    published = alice("publish", gun)

    assert published["published"] == {"root": 1, "targets": 1}
    assert {"v1"} < set(stage.listed(gun))
    assert len(stage.listed(gun)) == 2
    assert {each["name"] for each in stage.person()("list", gun)} == {"v1", odd}


def test_changes_are_staged_until_published_and_can_be_dropped(
    stage: Stage, alice: Person, gun: str
) -> None:
    alice("add", gun, "v2", alice.file("v2", "two"))
    alice("add", gun, "v3", alice.file("v3", "three"))
    alice("reset", gun, "-n", "0")

    staged = alice("status", gun)

    assert [each["name"] for each in staged] == ["v3"]
    assert set(stage.listed(gun)) == {"v1"}
    alice("publish", gun)
    assert set(stage.listed(gun)) == {"v1", "v3"}
    assert alice("status", gun) == []


def test_removed_targets_are_gone_for_everybody(stage: Stage, alice: Person, gun: str) -> None:
    alice("remove", gun, "v1", "-p")

    assert stage.listed(gun) == {}


def test_verify_passes_on_what_is_signed_and_nothing_else(alice: Person, gun: str) -> None:
    good = alice.run("trust", "verify", gun, "v1", stdin=b"one")
    bad = alice.run("trust", "verify", gun, "v1", stdin=b"two")

    assert (good.returncode, good.stdout) == (0, b"one")
    assert (bad.returncode, bad.stdout) == (1, b"")


def test_hashes_are_signed_without_the_file(stage: Stage, alice: Person, gun: str) -> None:
    alice("addhash", gun, "big", "5000000000", "--sha256", "ab" * 32, "-p")

    assert set(stage.listed(gun)) == {"v1", "big"}
    assert alice.run("trust", "addhash", gun, "x", "1", "--sha512", "ab" * 64).returncode == 2


def test_a_collection_that_exists_is_not_begun_again(alice: Person, gun: str) -> None:
    error = alice("init", gun, code=1)["error"]

    assert "exists on the server already" in error["message"]


def test_one_root_key_serves_two_collections_with_a_certificate_for_each(
    stage: Stage, alice: Person
) -> None:
    one, two, key = stage.gun(), stage.gun(), f"shared/{stage.gun().rpartition('/')[2]}"
    with stage.sandbox.admin() as keyd:
        keyd.create_key(key, KeyAlgorithm.ECDSA_P256)

    for gun in (one, two):
        alice("init", gun, "--rootkey", key, "-p")

    assert stage.listed(one) == stage.listed(two) == {}
    with stage.sandbox.admin() as keyd:
        assert {str(b) for b in keyd.get_key(key).bindings} == {f"{one}:root", f"{two}:root"}


def test_deleting_on_the_server_makes_it_unknown(stage: Stage, alice: Person, gun: str) -> None:
    alice("delete", gun, "--remote", "--yes")

    error = alice("list", gun, code=1)["error"]

    assert "has no collection" in error["message"]
    stage.sandbox.client("gone").fails("list", gun)


@pytest.mark.parametrize("rotations", [0, 2])
def test_a_deleted_collection_begins_anew_after_its_history_is_reset(
    stage: Stage, alice: Person, gun: str, rotations: int
) -> None:
    for _ in range(rotations):
        alice("key", "rotate", gun, "targets")
    alice("delete", gun, "--remote", "--yes")

    error = alice("init", gun, "--publish", code=1)["error"]

    assert "PUBLISHED" in error["message"]
    way_out = f"keydctl role reset {gun} --reason TEXT"
    assert way_out in error["hint"]
    assert "supersede" not in error["hint"]  # it gives up drafts, and nothing here is one
    assert "sign it as version" not in error["hint"]
    words = way_out.replace("TEXT", "anew").removeprefix("keydctl ").split()
    reset = alice.run(*words, "--yes")
    assert reset.returncode == 0, reset.stderr
    assert alice("init", gun, "--publish")["published"]["root"] == 1
    assert stage.listed(gun) == {}


def test_names_follow_dockers_rules(alice: Person) -> None:
    assert "docker.io/library/alpine" in alice("list", "alpine", code=1)["error"]["message"]
    assert alice("list", "Upper/Case", code=2)["error"]["reason"] == "INVALID_REQUEST"


# ------------------------------------------------------------------------------ keys


@pytest.mark.parametrize("role", ["targets", "root", "snapshot"])
def test_clients_follow_a_rotation(stage: Stage, alice: Person, gun: str, role: str) -> None:
    reader = stage.sandbox.client(f"follows-{role}")
    reader("list", gun)
    before = stage.sandbox.version(gun, "root")

    rotated = alice("key", "rotate", gun, role)

    assert rotated["new_keyid"] not in rotated["old_keyids"]
    assert stage.sandbox.version(gun, "root") == before + 1
    assert set(reader.targets(gun)) == set(stage.listed(gun)) == {"v1"}
    alice("add", gun, "v2", alice.file("v2", "two"), "-p")
    assert set(reader.targets(gun)) == {"v1", "v2"}


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_the_server_gets_a_new_key_for_its_roles(
    stage: Stage, alice: Person, gun: str, role: str
) -> None:
    old = stage.sandbox.metadata(gun, "root")

    rotated = alice("key", "rotate", gun, role, "-r")

    assert rotated["published"] == {"root": 2}
    assert rotated["old_keyids"] == old["signed"]["roles"][role]["keyids"]  # type: ignore[index]
    assert set(stage.listed(gun)) == {"v1"}


def test_the_snapshot_goes_to_the_publisher_and_back(stage: Stage, alice: Person, gun: str) -> None:
    mine = alice("key", "rotate", gun, "snapshot")
    alice("add", gun, "v2", alice.file("v2", "two"), "-p")
    servers = alice("key", "rotate", gun, "snapshot", "-r")
    alice("add", gun, "v3", alice.file("v3", "three"), "-p")

    assert "snapshot" in mine["published"]
    assert servers["published"] == {"root": 3}
    assert set(stage.listed(gun)) == {"v1", "v2", "v3"}


def test_the_timestamp_key_is_never_the_publishers(alice: Person, gun: str) -> None:
    error = alice("key", "rotate", gun, "timestamp", code=1)["error"]

    assert "-r" in error["hint"]


def test_expiring_roles_are_signed_anew(stage: Stage, alice: Person, gun: str) -> None:
    assert alice("refresh", gun)["published"] == {}
    assert alice("refresh", gun, "targets,root")["published"] == {"root": 2, "targets": 2}
    assert b"'dev' is none of targets, root" in alice.run("trust", "refresh", gun, "dev").stderr
    assert set(alice("refresh", gun, "timestamp")["published"]) == {"snapshot", "timestamp"}
    assert alice("refresh", gun, "--within", "1200d")["published"] == {"targets": 3}
    assert set(stage.listed(gun)) == {"v1"}


# ------------------------------------------------------------------------------ delegations


def test_delegations_take_certificates_of_all_kinds_and_keys_of_keyd(
    stage: Stage, alice: Person, gun: str, tmp_path: Path
) -> None:
    request = ("req", "-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl(*request, "rsa.key", "-x509", "-subj", "/CN=rsa", "-out", "rsa.crt", folder=tmp_path)
    openssl(*request, "ca.key", "-x509", "-subj", "/CN=ca", "-out", "ca.crt", folder=tmp_path)
    openssl(*request, "leaf.key", "-subj", "/CN=leaf", "-out", "leaf.csr", folder=tmp_path)
    (tmp_path / "ext").write_text("basicConstraints=CA:FALSE\n")
    issue = ("x509", "-req", "-in", "leaf.csr", "-CA", "ca.crt", "-CAkey", "ca.key")
    openssl(*issue, "-out", "leaf.crt", "-extfile", "ext", folder=tmp_path)
    chain = tmp_path / "chain.pem"
    chain.write_bytes((tmp_path / "ca.crt").read_bytes() + (tmp_path / "leaf.crt").read_bytes())
    made = alice("key", "generate", f"carol{gun[-2:]}", "--role", "targets/dev", "--dir", tmp_path)
    carol = made["key_version"].partition("/versions/")[0]

    alice("delegation", "add", gun, "targets/dev", tmp_path / "rsa.crt", chain, carol)
    alice("delegation", "add", gun, "targets/dev", "--paths", "dev/,test/", "-p")

    listed = alice("delegation", "list", gun)
    assert [key["name"] for key in listed[0]["keys"]] == ["rsa", "leaf", made["key_version"]]
    assert listed[0]["paths"] == ["dev/", "test/"]
    shown = stage.sandbox.client("delegations")("delegation", "list", gun)
    assert all(key["key_id"] in shown for key in listed[0]["keys"])
    alice("add", gun, "dev/x", alice.file("x", "x"), "-r", "targets/dev", "-p")
    assert stage.listed(gun) == {"v1": "targets", "dev/x": "targets/dev"}


def test_a_key_file_that_is_missing_is_called_missing(alice: Person, gun: str) -> None:
    for words in (
        ("signer", "add", "carol", gun, "--key", "nofile.pub"),
        ("delegation", "add", gun, "targets/carol", "nofile.pub", "--all-paths"),
    ):
        error = alice(*words, code=1)["error"]

        assert error["reason"] == "KEY_NOT_FOUND"
        assert error["message"].startswith("there is no file nofile.pub; ")
        assert error["message"].endswith("no key nofile.pub")
        assert "the path of the file" in error["hint"]
        assert "keydctl key list" in error["hint"]


def test_a_key_with_a_certificate_of_keyd_signs_by_it(
    stage: Stage, alice: Person, gun: str, tmp_path: Path
) -> None:
    name = f"dave{gun[-2:]}"
    alice(
        "key",
        "generate",
        name,
        "--role",
        "targets/dave",
        "--dir",
        tmp_path,
        "--algorithm",
        "rsa-2048",
    )
    certificate = tmp_path / "dave.crt"
    alice("certificate", name, "--role", "targets/dave", "-o", certificate)
    alice("certificate", name, "--role", "targets/dave", "--csr", "-o", tmp_path / "dave.csr")

    openssl("req", "-in", "dave.csr", "-verify", "-noout", folder=tmp_path)
    alice("delegation", "add", gun, "targets/dave", certificate, "--all-paths", "-p")
    alice("add", gun, "d", alice.file("d", "d"), "-r", "targets/dave", "-p")

    assert stage.listed(gun)["d"] == "targets/dave"


def test_taking_the_last_key_away_names_the_tags_that_vanish(
    stage: Stage, alice: Person, gun: str, tmp_path: Path
) -> None:
    name = f"erin{gun[-2:]}"
    key_id = alice("key", "generate", name, "--role", "targets/e", "--dir", tmp_path)["key_id"]
    alice("delegation", "add", gun, "targets/e", name, "--all-paths", "-p")
    alice("add", gun, "only-erins", alice.file("x", "x"), "-r", "targets/e", "-p")

    asked = alice.run("trust", "delegation", "remove", gun, "targets/e", key_id[:12])

    assert asked.returncode == 2
    assert b"nobody signs only-erins any more" in asked.stderr
    alice("delegation", "remove", gun, "targets/e", key_id[:12], "--yes", "-p")
    assert "only-erins" not in stage.listed(gun)
    alice("delegation", "remove", gun, "targets/e", "--yes", "-p")
    again = alice("delegation", "remove", gun, "targets/e", "--yes", code=1)["error"]
    assert "does not delegate to targets/e" in again["message"]
    assert alice("delegation", "list", gun) == []


def test_a_role_that_docker_ignores_is_warned_of(alice: Person, gun: str, tmp_path: Path) -> None:
    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "k",
        "-out",
        "c",
        "-subj",
        "/CN=x",
        folder=tmp_path,
    )

    done = alice.run("trust", "delegation", "add", gun, "targets/q", tmp_path / "c", "--all-paths")

    assert b"docker pulls from targets/releases and targets only" in done.stderr


# ------------------------------------------------------------------------------ images


def test_a_signed_tag_is_what_docker_shows(stage: Stage, alice: Person) -> None:
    gun = stage.gun()
    digest = stage.registry.push(gun.partition("/")[2], "1.0", {"schemaVersion": 2})

    signed = alice("sign", f"{gun}:1.0", "--signer", "alice")

    assert signed["roles"] == ["targets/alice", "targets/releases"]
    bob = stage.person()
    mine = bob("inspect", gun)
    docker = bob.docker_cli("trust", "inspect", gun)
    assert json.loads(docker.stdout) == mine
    assert mine[0]["SignedTags"] == [
        {"SignedTag": "1.0", "Digest": digest.hex(), "Signers": ["alice"]}
    ]
    pretty = bob.docker_cli("trust", "inspect", "--pretty", gun).stdout
    shown = bob.run("trust", "inspect", "--pretty", gun).stdout.decode()
    assert re.sub(r"\s+", " ", shown).strip() == re.sub(r"\s+", " ", pretty).strip()


def test_a_moved_tag_still_resolves_to_what_was_signed(stage: Stage, alice: Person) -> None:
    gun = stage.gun()
    path = gun.partition("/")[2]
    digest = stage.registry.push(path, "latest", {"schemaVersion": 2})
    alice("sign", gun, "--signer", "alice")
    stage.registry.push(path, "latest", {"evil": True})

    resolved = stage.person().run("trust", "resolve", gun)

    assert resolved.stdout.decode() == f"{gun}@sha256:{digest.hex()}\n"
    assert stage.person().run("trust", "resolve", f"{gun}:unsigned").returncode == 1


def test_existing_signatures_are_told_before_another(stage: Stage, alice: Person) -> None:
    gun = stage.gun()
    stage.registry.push(gun.partition("/")[2], "1", {"n": 1})
    alice("sign", f"{gun}:1", "--signer", "alice")
    stage.registry.push(gun.partition("/")[2], "1", {"n": 2})

    again = alice.run("trust", "sign", f"{gun}:1")

    assert b"another one than now from: alice" in again.stderr


def test_json_has_the_keys_the_page_promises(
    stage: Stage, alice: Person, gun: str, tmp_path: Path
) -> None:
    lines = PAGE.read_text().splitlines()
    rows = [line.split("|")[1:3] for line in lines if line.startswith("| `trust ")]
    promised = {what.strip(): keys.partition(";")[0].strip().split(", ") for what, keys in rows}
    alice("add", gun, "v2", alice.file("v2", "two"))
    staged = alice("status", gun)
    published = alice("publish", gun)
    made = alice("key", "generate", "erin", "--role", "targets/erin", "--dir", tmp_path)
    erin = made["key_version"].partition("/versions/")[0]
    alice("delegation", "add", gun, "targets/erin", erin, "--all-paths", "-p")
    tag, certificate = stage.gun(), tmp_path / "erin.crt"
    stage.registry.push(tag.partition("/")[2], "1", {"n": 1})
    alice("sign", f"{tag}:1", "--signer", "alice")
    said = {
        "`trust publish`": published,
        "`trust list`": alice("list", gun)[0],
        "`trust status`": staged[0],
        "`trust delegation list`": alice("delegation", "list", gun)[0],
        "`trust key list`": alice("key", "list")[0],
        "`trust resolve`": alice("resolve", f"{tag}:1"),
        "`trust inspect`": alice("inspect", tag)[0],
        "`trust migrate --dry-run`": alice("migrate", gun, "--dry-run"),
        "`trust certificate`": alice(
            "certificate", "erin", "--role", "targets/erin", "-o", certificate
        ),
    }

    for what, value in said.items():
        (keys,) = (keys for row, keys in promised.items() if row.startswith(what))
        assert sorted(value) == keys, what
    assert len(promised) == len(said)


def test_revoked_tags_resolve_no_more(stage: Stage, alice: Person) -> None:
    gun = stage.gun()
    for tag in ("1", "2", "3"):
        stage.registry.push(gun.partition("/")[2], tag, {"tag": tag})
        alice("sign", f"{gun}:{tag}", "--signer", "alice")

    alice("revoke", f"{gun}:1")
    assert [t["SignedTag"] for t in alice("inspect", gun)[0]["SignedTags"]] == ["2", "3"]
    assert alice.run("trust", "revoke", gun).returncode == 2
    alice("revoke", gun, "--yes")

    assert alice("inspect", gun)[0]["SignedTags"] == []
    assert "no signed tags" in alice("revoke", gun, "--yes", code=1)["error"]["message"]


def test_an_image_that_is_not_in_the_registry_is_not_signed(stage: Stage, alice: Person) -> None:
    error = alice("sign", f"{stage.gun()}:1", code=1)["error"]

    assert "docker push" in error["hint"]


def test_a_private_registry_gets_dockers_login(stage: Stage, alice: Person) -> None:
    gun = stage.gun()
    stage.registry.push(gun.partition("/")[2], "1", {"n": 1})
    login = base64.b64encode(b"alice:secret").decode()
    stage.registry.wanted = f"Basic {login}"
    try:
        refused = alice("sign", f"{gun}:1", "--signer", "alice", code=1)["error"]
        auths = {"auths": {stage.registry.host: {"auth": login}}}
        (alice.docker / "config.json").write_text(json.dumps(auths))
        signed = alice("sign", f"{gun}:1")
    finally:
        stage.registry.wanted = ""

    assert "docker login" in refused["hint"]
    assert signed["roles"] == ["targets/alice", "targets/releases"]  # the name of the login


def test_docker_adds_a_key_made_by_keyd_as_a_signer(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    gun, name = stage.gun(), f"frank{stage.gun()[-2:]}"
    made = alice("key", "generate", name, "--dir", tmp_path)
    stage.registry.push(gun.partition("/")[2], "1", {"n": 1})
    owner = stage.person()

    added = owner.docker_cli("trust", "signer", "add", "--key", f"{tmp_path}/{name}.pub", name, gun)

    assert added.returncode == 0, added.stdout + added.stderr
    signed = alice("sign", f"{gun}:1")
    assert signed["signers"] == [name]
    assert signed["roles"] == [f"targets/{name}", "targets/releases"]
    shown = json.loads(owner.docker_cli("trust", "inspect", gun).stdout)
    assert shown[0]["SignedTags"][0]["Signers"] == [name]
    assert shown[0]["Signers"] == [{"Name": name, "Keys": [{"ID": made["key_id"]}]}]
    assert alice("delegation", "list", gun)[0]["keys"][0]["name"] == made["key_version"]
    alice("revoke", f"{gun}:1")
    again = json.loads(owner.docker_cli("trust", "inspect", gun).stdout)
    assert again[0]["SignedTags"] == []


def test_signers_come_and_go(stage: Stage, alice: Person, tmp_path: Path) -> None:
    gun, other = stage.gun(), stage.gun()
    name = f"grace{gun[-2:]}"
    alice("key", "generate", name, "--dir", tmp_path)

    alice("signer", "add", name, gun, other, "--key", name)

    assert [s["Name"] for s in alice("inspect", gun, other)[1]["Signers"]] == [name]
    alice("signer", "remove", name, gun, "-f")
    assert alice("inspect", gun)[0]["Signers"] == []
    alice("signer", "remove", name, gun, "-f", code=1)
    alice("signer", "add", "releases", gun, "--key", name, code=2)


def test_no_private_key_lies_in_any_file(stage: Stage, alice: Person, gun: str) -> None:
    alice("key", "rotate", gun, "root")

    place = stage.sandbox.folder
    others = [each for each in place.glob("person*") if each != alice.folder]  # with docker's keys
    found = private_keys(place, apart_from=[place / "people", *others])
    assert {each.file.parent for each in found} == {stage.sandbox.certificates.folder}
