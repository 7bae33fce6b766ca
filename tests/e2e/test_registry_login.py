"""docker-registry behind a login, by htpasswd and by tokens: who signs what is in it, and who is
refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.docker_programs import DockerRegistry, require
from tests.notary_programs import Certificates, Sandbox, running
from tests.token_server import Account, TokenServer
from tests.trust_stage import TRUST_POLICY, Person, Stage

pytestmark = pytest.mark.softhsm

ALICE, READER = "alice:wonderland", "reader:looking glass"
HTPASSWD = "alice:$2y$05$GhvMmNVjRW29ulnudl.Lbu7HbftdFVpD7M/rbOyM/SH8LWUSVKr3O\n"
"""alice's line as ``htpasswd -nbB`` writes it."""


@dataclass
class Place:
    """keyd, a token server, a notary-server that wants its tokens, and a registry that wants what
    ``kind`` says."""

    kind: str
    stage: Stage
    tokens: TokenServer
    registry: DockerRegistry
    numbers: Iterator[int]

    def person(self, login: str) -> Person:
        """Somebody who never saw anything and knows the registry's CA. ``login`` is in docker's
        config.json, right or wrong."""
        person = self.stage.person()
        self.registry.trusted_by(person.docker)
        auth = base64.b64encode(login.encode()).decode()
        auths = {self.registry.host: {"auth": auth}} if login else {}
        (person.docker / "config.json").write_text(json.dumps({"auths": auths}))
        return person

    def log_in(self, person: Person, login: str) -> None:
        """docker login, by docker itself; it asks the registry, and takes no engine."""
        user, _, password = login.partition(":")
        done = person.docker_cli("login", self.registry.host, "-u", user, "-p", password)
        assert "Login Succeeded" in done.stdout, done.stdout + done.stderr

    def image(self) -> tuple[str, str]:
        """A repository that holds a tag 1.0, and its digest."""
        number = next(self.numbers)
        name = f"{self.registry.host}/team/app{number}"
        return name, self.registry.push(f"{name}:1.0", f"image {number}", ALICE)


@pytest.fixture(scope="module", params=["htpasswd", "token"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    require("docker-registry", "skopeo", "docker")
    kind = str(request.param)
    folder = tmp_path_factory.mktemp("g")
    certificates = Certificates(folder / "tls")
    with ExitStack() as stack:
        tokens = stack.enter_context(TokenServer(folder / "tokens", certificates).running())
        for login, actions in ((ALICE, {"pull", "push", "*"}), (READER, {"pull"})):
            user, _, password = login.partition(":")
            tokens.accounts[user] = Account(password, frozenset(actions))
        passwords = folder / "htpasswd"
        passwords.write_text(HTPASSWD)
        auth = {
            "htpasswd": {"realm": "registry", "path": str(passwords)},
            "token": tokens.options("registry"),
        }[kind]
        registry = DockerRegistry(folder / "registry", certificates, {kind: auth})
        stack.callback(registry.kill)
        registry.start()
        sandbox = Sandbox(
            folder,
            policy=TRUST_POLICY,
            certificates=certificates,
            auth=tokens.options("notary-server"),
        )
        stack.enter_context(running(sandbox))
        stage = Stage(sandbox)
        stage.registry.start()
        stack.callback(stage.registry.stop)
        yield Place(kind, stage, tokens, registry, count(1))


def test_a_tag_is_signed_inspected_and_resolved_with_dockers_login(place: Place) -> None:
    name, digest = place.image()
    alice = place.person("")
    place.log_in(alice, ALICE)
    begin = len(place.tokens.asked)

    signed = alice("sign", f"{name}:1.0")

    assert (signed["digest"], signed["roles"]) == (digest, ["targets/alice", "targets/releases"])
    reader = place.person(READER)
    assert reader("resolve", f"{name}:1.0")["digest"] == digest
    seen = reader("inspect", name)
    assert seen == json.loads(reader.docker_cli("trust", "inspect", name).stdout)
    assert [row["Signers"] for row in seen[0]["SignedTags"]] == [["alice"]]
    asked = {(each.service, each.wanted) for each in place.tokens.asked[begin:]}
    of_registry = {wanted for service, wanted in asked if service == "registry"}
    assert of_registry == ({frozenset({"pull"})} if place.kind == "token" else set())


def test_what_docker_login_gave_to_a_credential_helper_logs_in(
    place: Place, tmp_path: Path
) -> None:
    name, digest = place.image()
    person = place.person("")
    kept = tmp_path / "kept"
    helper = tmp_path / "docker-credential-vault"
    helper.write_text(
        f'#!/bin/sh\ncase "$1" in\nstore) cat >{kept} ;;\n'
        f'get) read -r server; [ "$server" = {place.registry.host} ] && exec cat {kept}\n'
        '  echo "credentials not found in native keychain"; exit 1 ;;\nesac\n'
    )
    helper.chmod(0o755)
    (person.docker / "config.json").write_text(json.dumps({"credsStore": "vault"}))
    person.env["PATH"] = f"{tmp_path}:{person.env['PATH']}"
    place.log_in(person, ALICE)
    assert ALICE.partition(":")[2] not in (person.docker / "config.json").read_text()
    assert ALICE.partition(":")[2] in kept.read_text()

    assert person("sign", f"{name}:1.0")["digest"] == digest
    assert person("resolve", f"{name}:1.0")["digest"] == digest


@pytest.mark.parametrize("login", ["", "alice:not this one", "mallory:guess"])
def test_who_the_registry_does_not_know_begins_nothing(place: Place, login: str) -> None:
    name, _ = place.image()
    person = place.person(login)

    error = person("sign", f"{name}:1.0", code=1)["error"]

    user = login.partition(":")[0]
    told = f"does not take the login of {user}" if login else "wants a login"
    assert (error["reason"], told in error["message"]) == ("POLICY_DENIED", True), error
    assert error["hint"].endswith(f"docker login {place.registry.host}")
    assert not login or login.partition(":")[2] not in json.dumps(error)
    assert place.person(READER).run("trust", "inspect", name).returncode == 1


def test_who_may_not_push_signs_nothing_and_is_told_why(place: Place) -> None:
    name, digest = place.image()
    place.person(ALICE)("sign", f"{name}:1.0")
    place.registry.push(f"{name}:2.0", "not signed", ALICE)

    error = place.person(READER)("sign", f"{name}:2.0", "--signer", "alice", code=1)["error"]

    told, advice = {
        "htpasswd": ("does not take the login of reader", "log in as somebody who may"),
        "token": (
            f"gives the login of reader no right to pull and push {name}",
            "ask whoever runs it for that right",
        ),
    }[place.kind]
    assert (told in error["message"], advice in error["hint"]) == (True, True), error
    reader = place.person(READER)
    assert reader("resolve", f"{name}:1.0")["digest"] == digest
    assert reader.run("trust", "resolve", f"{name}:2.0").returncode == 1
