"""As whom keydctl trust signs tags: the caller's grants decide, and never silently another person.

alice administers and may sign with every key; bob sees every key and may sign with his own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyd.model import Binding, KeyAlgorithm
from tests.trust_stage import TRUST_POLICY, Person, Stage, a_stage
from tests.yubikey.terminal import Terminal

pytestmark = pytest.mark.softhsm

SETTINGS = """
[[listener]]
kind = "unix"
path = "run/bob.sock"
principal = "socket:bob"
"""
POLICY = f"""{TRUST_POLICY}
[[grant]]
name = "all-see"
principals = ["socket:bob"]
actions = ["list"]
keys = ["*"]

[[grant]]
name = "bobs-own"
principals = ["socket:bob"]
actions = ["signer"]
keys = ["people/bob"]
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("s"), policy=POLICY, settings=SETTINGS) as running:
        with running.sandbox.admin() as keyd:
            for name in ("alice", "bob"):
                bindings = [Binding("*", f"targets/{name}"), Binding("*", "targets/releases")]
                keyd.create_key(f"people/{name}", KeyAlgorithm.ECDSA_P256, bindings=bindings)
        yield running


@pytest.fixture
def alice(stage: Stage) -> Person:
    return stage.person()


@pytest.fixture
def bob(stage: Stage) -> Person:
    person = stage.person()
    person.env["KEYD_ENDPOINT"] = f"unix:{stage.sandbox.folder}/run/bob.sock"
    return person


@pytest.fixture
def gun(stage: Stage, alice: Person) -> str:
    """A repository with alice and bob as signers, and the tag 1 in the registry."""
    name = stage.gun()
    for signer in ("alice", "bob"):
        alice("signer", "add", signer, name, "--key", f"people/{signer}")
    stage.registry.push(name.partition("/")[2], "1", {"n": 1})
    return name


def keyid(alice: Person, gun: str, signer: str) -> str:
    (role,) = (d for d in alice("delegation", "list", gun) if d["role"] == f"targets/{signer}")
    return str(role["keys"][0]["keyid"])


def signed_by(stage: Stage, gun: str, role: str) -> list[str]:
    file: Any = stage.sandbox.metadata(gun, role)
    return [signature["keyid"] for signature in file["signatures"]]


def test_who_sees_the_keys_of_others_signs_with_their_own_alone(
    stage: Stage, alice: Person, bob: Person, gun: str
) -> None:
    signed = bob("sign", f"{gun}:1")

    assert signed["signers"] == ["bob"]
    assert signed["roles"] == ["targets/bob", "targets/releases"]
    refused = [e for e in stage.sandbox.entries() if e["outcome"] == "refused"]
    assert not [e for e in refused if "bob" in str(e["principal"])], "asking is no attempt"
    assert signed_by(stage, gun, "targets/releases") == [keyid(alice, gun, "bob")]
    assert alice("inspect", gun)[0]["SignedTags"][0]["Signers"] == ["bob"]


def test_nobody_signs_as_another_person_by_naming_them(stage: Stage, bob: Person, gun: str) -> None:
    error = bob("sign", f"{gun}:1", "--signer", "alice", code=1)["error"]

    assert "no key of alice" in error["message"]
    assert "whoami" in error["hint"]
    assert bob("inspect", gun)[0]["SignedTags"] == []


def test_who_may_sign_with_several_keys_is_told_so(alice: Person, gun: str) -> None:
    done = alice.run("trust", "sign", f"{gun}:1", "--json")

    assert b"with the keys of alice, bob: as all of them; --signer NAME is for one" in done.stderr
    assert json.loads(done.stdout)["signers"] == ["alice", "bob"]
    assert alice("inspect", gun)[0]["SignedTags"][0]["Signers"] == ["alice", "bob"]


def test_the_signer_that_is_named_signs_in_releases_too(
    stage: Stage, alice: Person, gun: str
) -> None:
    signed = alice("sign", f"{gun}:1", "--signer", "bob")

    assert signed["signers"] == ["bob"]
    assert signed_by(stage, gun, "targets/releases") == [keyid(alice, gun, "bob")]


def test_a_name_that_is_no_signers_is_refused_where_nobody_is_one_too(
    stage: Stage, alice: Person, gun: str
) -> None:
    alone = stage.gun()
    alice("init", alone, "-p")
    stage.registry.push(alone.partition("/")[2], "1", {"n": 1})

    for name in (gun, alone):
        error = alice("sign", f"{name}:1", "--signer", "carol", code=1)["error"]
        assert "carol is no signer" in error["message"]
    assert alice("sign", f"{alone}:1")["roles"] == ["targets"]  # its owner's, as docker does


def test_only_ones_own_signatures_are_taken_back(
    stage: Stage, alice: Person, bob: Person, gun: str
) -> None:
    alice("sign", f"{gun}:1", "--signer", "alice", "--signer", "bob")

    refused = bob("revoke", f"{gun}:1", "--signer", "alice", code=1)["error"]
    taken = bob("revoke", f"{gun}:1")

    assert "no key of alice" in refused["message"]
    assert taken["signers"] == ["bob"]
    assert sorted(taken["published"]) == ["targets/bob", "targets/releases"]
    assert "1" in stage.sandbox.metadata(gun, "targets/alice")["signed"]["targets"]  # type: ignore[index]


def test_a_tag_that_its_owner_signs_is_still_pulled_when_a_signer_takes_theirs_back(
    alice: Person, bob: Person, gun: str
) -> None:
    alice("sign", f"{gun}:1", "--signer", "bob")
    alice("addhash", gun, "1", "3", "--sha256", "ab" * 32, "-p")

    done = bob.run("trust", "revoke", f"{gun}:1", "--signer", "bob")

    assert done.returncode == 0
    assert b"docker still pulls 1: targets signs it" in done.stderr
    assert bob("resolve", f"{gun}:1")["digest"] == f"sha256:{'ab' * 32}"


def test_a_key_in_releases_that_is_no_signers_signs_there(
    stage: Stage, alice: Person, tmp_path: Path
) -> None:
    gun = stage.gun()
    name = f"release{gun[-2:]}"
    alice("key", "generate", name, "--role", "targets/releases", "--dir", tmp_path)
    alice("init", gun)
    alice("delegation", "add", gun, "targets/releases", name, "--all-paths", "-p")
    stage.registry.push(gun.partition("/")[2], "1", {"n": 1})

    signed = alice("sign", f"{gun}:1")

    assert (signed["roles"], signed["signers"]) == (["targets/releases"], [])
    assert alice("inspect", gun)[0]["SignedTags"][0]["Signers"] == ["Repo Admin"]


@pytest.mark.parametrize("command", ["sign", "revoke", "resolve", "inspect"])
def test_an_image_named_by_its_digest_is_refused(alice: Person, gun: str, command: str) -> None:
    error = alice(command, f"{gun}@sha256:{'ab' * 32}", code=2)["error"]

    assert "by its digest" in error["message"]
    assert "by its tag" in error["hint"]


@pytest.mark.parametrize("agreed", ["-f", "-y", "--yes"])
def test_the_last_signer_goes_only_when_somebody_agrees(
    stage: Stage, alice: Person, gun: str, agreed: str
) -> None:
    alice("sign", f"{gun}:1")
    alice("signer", "remove", "bob", gun)

    asked = alice.run("trust", "signer", "remove", "alice", gun)

    assert asked.returncode == 2
    assert b"without targets/releases nobody signs 1 any more" in asked.stderr
    assert b"--yes" in asked.stderr
    assert alice("inspect", gun)[0]["SignedTags"][0]["Signers"] == ["alice"]
    alice("signer", "remove", "alice", gun, agreed)
    assert alice("inspect", gun)[0]["Signers"] == []
    assert stage.listed(gun) == {}


def test_at_a_terminal_the_last_signer_is_taken_away_by_typing_the_role(
    stage: Stage, alice: Person, gun: str
) -> None:
    alice("sign", f"{gun}:1")
    alice("signer", "remove", "bob", gun)
    command = f"{sys.executable} -m keyd.cli.keydctl trust signer remove alice {gun}"
    env = {**alice.env, "PYTHONPATH": str(Path(__file__).parents[2])}

    for typed, code in (("no", 130), ("targets/releases", 0)):
        with Terminal(command, env, alice.folder) as terminal:
            terminal.answers(("Type targets/releases to go on", typed))
            assert terminal.ends() == code, terminal.shown
        signers = [each["Name"] for each in alice("inspect", gun)[0]["Signers"]]
        assert signers == ([] if code == 0 else ["alice"])
