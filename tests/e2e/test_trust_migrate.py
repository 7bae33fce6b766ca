"""keydctl trust migrate: key files of the real notary give way to keys on tokens, and everybody
who reads the collection, or signs in a delegation of it, goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.adapters.notary import oldkeys
from tests.notary_client import PASSPHRASE, NotaryClient, openssl
from tests.trust_stage import Person, Stage, a_stage

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("m")) as running:
        yield running


@pytest.fixture
def alice(stage: Stage) -> Person:
    return stage.person()


def test_key_files_give_way_to_tokens_and_clients_follow(stage: Stage, alice: Person) -> None:
    gun, other = stage.gun(), stage.gun()
    owner, reader = stage.sandbox.client("owner"), stage.sandbox.client("reader")
    owner("init", gun, "-p")
    owner("add", gun, "v1", owner.file("v1", "one"), "-p")
    kept = {f.path: f.pem for f in oldkeys.find(owner.folder / "trust") if f.role == "targets"}
    owner("key", "rotate", gun, "targets")
    for path, pem in kept.items():
        path.write_bytes(pem)  # as a backup brings the old key's file back
    owner("init", other, "-p")
    assert set(reader.targets(gun)) == {"v1"}
    trust_dir = owner.folder / "trust"
    options = ("-d", trust_dir)

    planned = alice("migrate", gun, "--dry-run", *options)
    wrong = alice("migrate", gun, *options, code=1, NOTARY_ROOT_PASSPHRASE="not this one")["error"]
    done = alice("migrate", gun, *options, NOTARY_ROOT_PASSPHRASE=PASSPHRASE)

    assert planned["moves"] == ["root", "targets", "snapshot"]
    assert {k["gun"] for k in planned["keys"]} == {gun}
    assert len(planned["leftovers"]) == 1
    assert planned["leftovers"][0] in done["destroy"]
    assert {k["role"]: k["where"] for k in planned["keys"]} == {
        "root": "file",
        "targets": "file",
        "snapshot": "file",
        "timestamp": "server",
    }
    assert "cannot be decrypted" in wrong["message"]
    assert PASSPHRASE not in json.dumps(done)
    assert len(done["destroy"]) == 3
    assert list(done["keep"].values()) == [[other]]  # the root key of another collection too
    for file in [*done["destroy"], *done["keep"]]:
        Path(file).unlink()
    alice("add", gun, "v2", alice.file("v2", "two"), "-p", *options)
    assert set(reader.targets(gun)) == set(stage.listed(gun)) == {"v1", "v2"}
    assert alice("migrate", gun, "--dry-run", *options)["moves"] == []


def test_migration_without_the_old_root_key_says_where_to_run_it(
    stage: Stage, alice: Person
) -> None:
    gun = stage.gun()
    owner = stage.sandbox.client("lost")
    owner("init", gun, "-p")
    shutil.rmtree(owner.folder / "trust" / "private")

    elsewhere = ("migrate", gun, "-d", owner.folder / "trust")
    error = alice(*elsewhere, code=1)["error"]
    planned = alice(*elsewhere, "--dry-run", code=1)
    shown = alice.run("trust", *elsewhere, "--dry-run")

    assert "cannot sign here" in error["message"]
    assert "--trust-dir" in error["hint"]
    # A dry run shows the plan, and ends as the run itself would.
    assert planned["moves"] == ["root", "targets", "snapshot"]
    assert b"would move nothing yet of root, targets, snapshot" in shown.stdout
    assert shown.returncode == 1
    assert error["message"] in shown.stderr.decode()
    assert error["hint"] in shown.stderr.decode()
    made = {key["role"] for key in alice("key", "list", gun)}
    assert not {"root", "targets"} & made  # no key was made for nothing
    assert stage.sandbox.version(gun, "root") == 1


def test_a_collection_that_the_server_lacks_is_looked_for_on_another_one_and_not_begun(
    stage: Stage, alice: Person
) -> None:
    for more in ([], ["--dry-run"]):
        error = alice("migrate", stage.gun(), *more, code=1)["error"]

        assert "has no collection" in error["message"]
        assert "-s URL" in error["hint"]
        assert "init" not in error["hint"]


def a_delegate(stage: Stage, name: str, role: str) -> NotaryClient:
    """Somebody who made a key and a certificate with openssl, NAME.crt in their folder, and signs
    with it as the role."""
    delegate = stage.sandbox.client(name)
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key")
    openssl(*made, "-subj", f"/CN={name}", "-out", f"{name}.crt", folder=delegate.folder)
    delegate("key", "import", f"{name}.key", "--role", role)
    return delegate


def test_delegations_stay_with_their_keys_and_what_is_signed_in_them(
    stage: Stage, alice: Person
) -> None:
    gun, dev, deep = stage.gun(), "targets/releases", "targets/releases/deep"
    owner, reader = stage.sandbox.client("delegates"), stage.sandbox.client("follows")
    bob, carol = a_delegate(stage, "bob", dev), a_delegate(stage, "carol", deep)
    owner("init", gun, "-p")
    owner("key", "rotate", gun, "snapshot", "-r")  # or nobody else can publish
    owner("delegation", "add", gun, dev, f"{bob.folder}/bob.crt", "--all-paths", "-p")
    owner("add", gun, "v1", owner.file("v1", "one"), "-p")
    bob("delegation", "add", gun, deep, f"{carol.folder}/carol.crt", "--paths", "deep/", "-p")
    bob("add", gun, "1.0", bob.file("1.0", "bob's"), "--roles", dev, "-p")
    carol("add", gun, "deep/1", carol.file("1", "carol's"), "--roles", deep, "-p")
    signed = {"v1": "targets", "1.0": dev, "deep/1": deep}
    assert reader.targets(gun) == signed
    before = [stage.sandbox.metadata(gun, role) for role in (dev, deep)]
    keys = {row for row in reader("delegation", "list", gun).splitlines() if "targets/" in row}

    alice("migrate", gun, "-d", owner.folder / "trust", NOTARY_ROOT_PASSPHRASE=PASSPHRASE)

    shutil.rmtree(owner.folder / "trust" / "private")
    newcomer = stage.sandbox.client("newcomer")
    assert newcomer.targets(gun, "-r", dev, "-r", deep) == {"1.0": dev, "deep/1": deep}
    assert reader.targets(gun) == stage.listed(gun) == signed
    told = newcomer("delegation", "list", gun)
    assert {row for row in told.splitlines() if "targets/" in row} == keys
    assert len(keys) == 2
    assert [stage.sandbox.metadata(gun, role) for role in (dev, deep)] == before
    # They go on with their own key files, above the keys of the daemon.
    bob("add", gun, "1.1", bob.file("1.1", "bob's"), "--roles", dev, "-p")
    alice("add", gun, "v2", alice.file("v2", "two"), "-p", "-d", owner.folder / "trust")
    assert reader.targets(gun) == {**signed, "1.1": dev, "v2": "targets"}
