"""keydctl trust has notary's words and options, and what it shows is what notary shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyd.adapters.notary import changes, lookup
from keyd.adapters.notary.drafting import Drafting
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.trusted import Trusted
from keyd.model import KeyAlgorithm
from tests.trust_stage import Person, Stage, a_stage

pytestmark = pytest.mark.softhsm

ODD = ['a&b<c>"é', "back\\slash", "two words", "line\u2028separator\u2029s", "日本語/ü", "'$(x)'"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("w")) as running:
        yield running


@pytest.fixture
def alice(stage: Stage) -> Person:
    return stage.person()


@pytest.fixture(scope="module")
def gun(stage: Stage) -> str:
    """A published collection that signs v1."""
    owner, name = stage.person(), stage.gun()
    owner("init", name)
    owner("add", name, "v1", owner.file("v1", "one"))
    owner("publish", name)
    return name


def test_lookup_says_what_notary_says(stage: Stage, alice: Person, gun: str) -> None:
    theirs = stage.sandbox.client("lookup")("lookup", gun, "v1").strip().splitlines()[-1]

    ours = alice.run("trust", "lookup", gun, "v1")

    assert (ours.returncode, ours.stdout.decode().strip()) == (0, theirs)
    assert alice("lookup", gun, "v1") == alice("list", gun)[0]
    assert alice.run("trust", "lookup", gun, "v2").returncode == 1


def test_a_list_has_the_columns_and_rows_of_notary(stage: Stage, alice: Person, gun: str) -> None:
    theirs = stage.sandbox.client("listing")("list", gun).strip().splitlines()

    ours = alice.run("trust", "list", gun).stdout.decode().strip().splitlines()

    def cells(line: str) -> list[str]:
        return re.split(r"\s{2,}", line.strip())

    assert [cells(line) for line in ours] == [
        cells(line) for line in theirs if not re.fullmatch(r"[-\s]*", line)
    ]


def test_names_of_all_characters_are_published_as_they_are(stage: Stage, alice: Person) -> None:
    gun = stage.gun()
    alice("init", gun)
    for name in ODD:
        alice("add", gun, name, alice.file("x", name))
    alice("publish", gun)

    shown = stage.sandbox.client("odd")("list", gun)

    assert [each["name"] for each in stage.person()("list", gun)] == sorted(ODD)
    for name in ODD:
        assert name in shown
    alice("remove", gun, ODD[0], "-p")  # what others signed is carried on byte for byte
    assert len(stage.person()("list", gun)) == len(ODD) - 1
    for name in ("a\nb", "\x1b[2J", ""):
        assert alice("add", gun, name, alice.file("x", "x"), code=2)["error"]["reason"]


def test_a_witnessed_role_counts_again_by_the_keys_it_has_now(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    gun = stage.gun()
    gone, stays = (
        alice("key", "generate", f"{name}{gun[-2:]}", "--role", "targets/dev", "--dir", tmp_path)
        for name in ("gone", "stays")
    )
    alice("init", gun)
    for key in (gone, stays):
        name = key["key_version"].partition("/versions/")[0]
        alice("delegation", "add", gun, "targets/dev", name, "--all-paths")
    alice("add", gun, "x", alice.file("x", "x"), "-r", "targets/dev", "-p")
    alice("delegation", "remove", gun, "targets/dev", gone["key_id"], "-p")
    assert stage.listed(gun) == {}

    alice("witness", gun, "targets/dev")
    assert [each["action"] for each in alice("status", gun)] == ["witness"]
    published = alice("publish", gun)

    assert published["published"] == {"targets/dev": 2}
    assert stage.listed(gun) == {"x": "targets/dev"}
    assert alice("witness", gun, "targets", "-p")["published"] == {"targets": 3}
    assert alice.run("trust", "witness", gun, "root").returncode == 2


def test_a_key_is_purged_from_every_role_it_is_in(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    gun = stage.gun()
    lost, kept = (
        alice("key", "generate", f"{name}{gun[-2:]}", "--gun", gun, "--dir", tmp_path)
        for name in ("lost", "kept")
    )
    for key in (lost, kept):
        name = key["key_version"].partition("/versions/")[0]
        alice("signer", "add", name, gun, "--key", name)

    asked = alice.run("trust", "delegation", "purge", gun, "--key", lost["key_id"])
    alice("delegation", "purge", gun, "--key", lost["key_id"][:16], "-y", "-p")

    assert asked.returncode == 2  # it is the last key of its own role
    keys = {d["role"]: [k["key_id"] for k in d["keys"]] for d in alice("delegation", "ls", gun)}
    own = [role for role in keys if role != "targets/releases"]
    assert sorted(keys[role] == [kept["key_id"]] for role in own) == [False, True]
    assert keys["targets/releases"] == [kept["key_id"]]
    assert lost["key_id"] not in stage.sandbox.client("purged")("delegation", "list", gun)
    error = alice("delegation", "purge", gun, "--key", "ab" * 32, code=1)["error"]
    assert "no keys of any delegated role" in error["message"]


@pytest.mark.parametrize("word", ["import", "load", "export", "passwd", "remove"])
def test_words_for_key_files_say_what_there_is_instead(alice: Person, word: str) -> None:
    done = alice.run("trust", "key", word, "file.pem")

    assert done.returncode == 2
    assert b"private keys are on tokens" in done.stderr
    assert b"keydctl" in done.stderr


def test_keys_are_listed_with_role_collection_id_and_location(
    stage: Stage, alice: Person, gun: str
) -> None:
    keys = {each["role"]: each for each in alice("key", "list", gun)}

    root: dict[str, dict[str, dict[str, list[str]]]]
    root = stage.sandbox.metadata(gun, "root")["signed"]  # type: ignore[assignment]
    for role in ("targets", "snapshot", "timestamp"):
        assert [keys[role]["key_id"]] == root["roles"][role]["keyids"]
    assert {keys[role]["gun"] for role in root["roles"]} == {gun}
    assert {each["location"] for each in keys.values()} == {"online"}
    head = alice.run("trust", "key", "ls", gun).stdout.decode().splitlines()[0]
    assert re.split(r"\s{2,}", head)[:4] == ["ROLE", "GUN", "KEY ID", "LOCATION"]


def test_verify_reads_and_writes_files(alice: Person, gun: str) -> None:
    good, bad = alice.file("good", "one"), alice.file("bad", "two")
    out = alice.folder / "out"

    written = alice.run("trust", "verify", gun, "v1", "-i", str(good), "-o", str(out))
    quiet = alice.run("trust", "verify", gun, "v1", "-q", "-i", str(good))
    refused = alice.run("trust", "verify", gun, "v1", "-i", str(bad), "-o", f"{out}2")

    assert (written.returncode, written.stdout, out.read_text()) == (0, b"", "one")
    assert (quiet.returncode, quiet.stdout) == (0, b"")
    assert refused.returncode == 1
    assert not Path(f"{out}2").exists()


def test_notarys_options_stand_before_or_after_the_command(
    stage: Stage, alice: Person, gun: str, tmp_path: Path
) -> None:
    del alice.env["DOCKER_CONTENT_TRUST_SERVER"]
    ca = str(stage.sandbox.certificates.ca)
    config = str(stage.sandbox.client("options").config)
    given = ("-s", stage.sandbox.url, "-d", str(tmp_path / "trust"), "--tlscacert", ca)

    before = alice.run("trust", *given, "list", gun)
    after = alice.run("trust", "list", gun, *given)
    by_file = alice.run("trust", "-c", config, "list", gun)
    without = alice.run("trust", "list", gun)

    assert before.returncode == 0, before.stderr
    assert b"v1" in before.stdout
    assert before.stdout == after.stdout == by_file.stdout
    assert (tmp_path / "trust" / "tuf" / gun / "metadata" / "root.json").is_file()
    assert without.returncode != 0  # the collection's own host is no trust server


def test_a_tag_whose_release_expired_is_taken_from_targets_as_docker_takes_it(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    gun = stage.gun()
    name = f"release{gun[-2:]}"
    alice("key", "generate", name, "--role", "targets/releases", "--dir", tmp_path)
    alice("init", gun)
    alice("addhash", gun, "1", "3", "--sha256", "aa" * 32)
    alice("delegation", "add", gun, "targets/releases", name, "--all-paths", "-p")
    soon = datetime.now(UTC) + timedelta(hours=1)
    released = changes.add("targets/releases", "1", 3, {"sha256": b"\xbb" * 32})

    def make(trusted: Trusted | None, drafting: Drafting) -> dict[str, Draft]:
        draft = drafting.next_targets("targets/releases")
        changes.apply(draft.signed, "targets/releases", [released])
        draft.expire(soon)
        return {"targets/releases": draft}

    with stage.collection(gun) as collection, collection.cache.locked():
        collection.publication.publish(make)
    with stage.collection(gun) as now:
        assert lookup.tag(now.get(), "1").digest == b"\xbb" * 32

    with stage.collection(gun, now=lambda: soon + timedelta(hours=1)) as later:
        trusted = later.get()

    assert lookup.tag(trusted, "1").digest == b"\xaa" * 32
    assert "expired" in trusted.problems["targets/releases"]


def test_a_certificate_for_all_below_a_prefix_serves_each_collection_there(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    gun, name = stage.gun(), f"wide{stage.gun()[-2:]}"
    prefix = gun.rpartition("/")[0] + "/*"
    with stage.sandbox.admin() as keyd:
        keyd.create_key(name, KeyAlgorithm.ECDSA_P256)
    alice("certificate", name, "--name", prefix, "-o", tmp_path / "wide.crt")

    alice("init", gun, "--rootkey", name, "--rootcert", tmp_path / "wide.crt")
    alice("addhash", gun, "v1", "3", "--sha256", "ab" * 32, "-p")

    assert set(stage.listed(gun)) == {"v1"}
    elsewhere = f"{gun.partition('/')[0]}/elsewhere/app"
    error = alice(
        "init", elsewhere, "--rootkey", name, "--rootcert", tmp_path / "wide.crt", code=1
    )["error"]
    assert "another collection" in error["message"]


@pytest.mark.parametrize("role", ["root", "targets"])
def test_a_role_goes_to_the_key_that_is_named(stage: Stage, alice: Person, role: str) -> None:
    gun, name = stage.gun(), f"named{stage.gun()[-2:]}"
    with stage.sandbox.admin() as keyd:
        keyd.create_key(name, KeyAlgorithm.ECDSA_P256)
    alice("init", gun)
    alice("addhash", gun, "v1", "3", "--sha256", "ab" * 32, "-p")
    reader = stage.sandbox.client(f"follows{name}")
    reader.targets(gun)

    rotated = alice("key", "rotate", gun, role, "-k", name)

    assert rotated["key_version"] == f"{name}/versions/1"
    assert set(reader.targets(gun)) == set(stage.listed(gun)) == {"v1"}
    assert alice("key", "rotate", gun, role, "-k", name)["published"] == {}  # it is there already


def test_paths_of_a_delegation_come_and_go(stage: Stage, alice: Person, tmp_path: Path) -> None:
    gun, name = stage.gun(), f"paths{stage.gun()[-2:]}"
    alice("key", "generate", name, "--role", "targets/dev", "--dir", tmp_path)
    alice("init", gun)
    alice("delegation", "add", gun, "targets/dev", name, "--paths", "a/,b/,c/", "-p")

    alice("delegation", "remove", gun, "targets/dev", "--paths", "a/", "-p")
    assert alice("delegation", "list", gun)[0]["paths"] == ["b/", "c/"]
    alice("delegation", "remove", gun, "targets/dev", "--all-paths", "-p")
    assert alice("delegation", "list", gun)[0]["paths"] == []
    alice("delegation", "add", gun, "targets/dev", "--all-paths", "-p")
    assert alice("delegation", "list", gun)[0]["paths"] == [""]
    assert "all paths" in alice.run("trust", "delegation", "list", gun).stdout.decode()
    assert "targets/dev" in stage.sandbox.client(f"sees{name}")("delegation", "list", gun)
