"""A notary-server that wants tokens, and a token server that gives them: the real notary and
keydctl log in, are refused, and lose nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from keyd.adapters.notary.credentials import Login
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.settings import TlsFiles
from keyd.adapters.notary.web import Web
from tests.notary_programs import Certificates, Sandbox, running
from tests.token_server import LEEWAY_S, Account, TokenServer
from tests.trust_stage import TRUST_POLICY, Person, Stage
from tests.waiting import until

pytestmark = pytest.mark.softhsm

SERVICE = "notary-server"
PULL, PUSH, ALL = frozenset({"pull"}), frozenset({"push", "pull"}), frozenset({"*"})
ALICE, READER = "alice:wonderland", "reader:looking glass"


@dataclass
class Place:
    """keyd, a notary-server that wants tokens, who gives them, and a registry."""

    stage: Stage
    tokens: TokenServer
    numbers: Iterator[int]

    def notary_lists(self, gun: str) -> set[str]:
        """What a newcomer lists who may only read."""
        name = f"newcomer{next(self.numbers)}"
        return set(self.stage.sandbox.client(name, login=READER).targets(gun))

    def wanted(self, do: Callable[[], object]) -> set[frozenset[str]]:
        """The actions that tokens were asked for meanwhile."""
        begin = len(self.tokens.asked)
        do()
        return {each.wanted for each in self.tokens.asked[begin:]}

    def is_taken(self, gun: str, token: str) -> bool:
        """True while notary-server takes a token."""
        path = f"/v2/{gun}/_trust/tuf/root.json"
        return self.stage.sandbox.get(path, token=token)[0] != 401


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("l")
    certificates = Certificates(folder / "tls")
    with TokenServer(folder / "tokens", certificates).running() as tokens:
        for login, actions in ((ALICE, PUSH | ALL), (READER, PULL)):
            user, _, password = login.partition(":")
            tokens.accounts[user] = Account(password, actions, refresh=f"refresh {user}")
        auth = tokens.options(SERVICE)
        sandbox = Sandbox(folder, policy=TRUST_POLICY, certificates=certificates, auth=auth)
        with running(sandbox):
            stage = Stage(sandbox)
            stage.registry.start()
            try:
                yield Place(stage, tokens, count(1))
            finally:
                stage.registry.stop()


@pytest.fixture
def gun(place: Place) -> str:
    return place.stage.gun()


@pytest.fixture
def alice(place: Place, gun: str) -> Person:
    """Logged in with docker's config.json."""
    person = place.stage.person()
    log_in(person, gun, ALICE)
    return person


def log_in(person: Person, gun: str, login: str) -> None:
    """As docker login leaves it without a credential store, or docker logout where it is empty."""
    auths = {gun.partition("/")[0]: {"auth": encoded(login)}} if login else {}
    (person.docker / "config.json").write_text(json.dumps({"auths": auths}))


def encoded(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


def helped(person: Person, gun: str, login: str, folder: Path) -> dict[str, str]:
    """Log in by a credential helper; the environment where it is found."""
    user, _, password = login.partition(":")
    host = gun.partition("/")[0]
    answer = json.dumps({"ServerURL": host, "Username": user, "Secret": password})
    helper = folder / "docker-credential-vault"
    helper.write_text(
        '#!/bin/sh\nread -r server\n[ "$1" = get ] || exit 2\n'
        f'[ "$server" = {host} ] || {{ echo "credentials not found"; exit 1; }}\n'
        f"echo '{answer}'\n"
    )
    helper.chmod(0o755)
    (person.docker / "config.json").write_text(json.dumps({"credHelpers": {host: "vault"}}))
    return {"PATH": f"{folder}:{person.env['PATH']}"}


# ------------------------------------------------------------------------------- it is taken


def test_the_real_notary_publishes_with_a_login(place: Place) -> None:
    gun = place.stage.gun()
    alice = place.stage.sandbox.client("alice", login=ALICE)
    alice("init", gun)

    asked = place.wanted(lambda: alice("add", gun, "v1", alice.file("app", "hello"), "-p"))

    assert PUSH in asked
    assert place.notary_lists(gun) == {"v1"}
    told = place.stage.sandbox.client("nobody").fails("list", gun)
    assert "not authorized" in told or "401" in told


def test_a_collection_lives_its_whole_life_with_dockers_login(
    place: Place, alice: Person, gun: str
) -> None:
    alice("init", gun)
    alice("add", gun, "v1", alice.file("v1", "one"))

    assert place.wanted(lambda: alice("publish", gun)) == {PULL, PUSH}
    assert place.wanted(lambda: alice("list", gun)) == {PULL}
    assert ALL in place.wanted(lambda: alice("key", "rotate", gun, "snapshot", "-r"))
    assert ALL in place.wanted(lambda: alice("key", "rotate", gun, "timestamp", "-r"))
    alice("add", gun, "v2", alice.file("v2", "two"), "-p")
    assert place.notary_lists(gun) == {"v1", "v2"}
    assert ALL in place.wanted(lambda: alice("delete", gun, "--remote", "--yes"))
    assert alice("list", gun, code=1)["error"]["reason"] != "POLICY_DENIED"
    assert {(each.user, each.repository) for each in place.tokens.asked if each.given == ALL} == {
        ("alice", gun)
    }


def test_a_tag_is_signed_with_dockers_login(place: Place, alice: Person, gun: str) -> None:
    digest = place.stage.registry.push(gun.partition("/")[2], "1.0", {"n": 1}).hex()

    signed = alice("sign", f"{gun}:1.0")

    assert signed["roles"] == ["targets/alice", "targets/releases"]
    reader = place.stage.person()
    log_in(reader, gun, READER)
    assert reader("resolve", f"{gun}:1.0")["digest"] == f"sha256:{digest}"
    shown = json.loads(reader.docker_cli("trust", "inspect", gun).stdout)
    assert [row["Digest"] for row in shown[0]["SignedTags"]] == [digest]


def test_a_credential_helper_is_asked_for_the_login(place: Place, gun: str, tmp_path: Path) -> None:
    person = place.stage.person()
    person.env |= helped(person, gun, ALICE, tmp_path)

    person("init", gun)
    person("add", gun, "v1", person.file("v1", "one"), "-p")

    assert place.notary_lists(gun) == {"v1"}


def test_the_variable_of_notary_is_not_for_a_server_that_only_a_name_leads_to(place: Place) -> None:
    """Whoever makes somebody inspect an image of theirs would get the login else."""
    person, login = place.stage.person(), encoded(ALICE)
    gun = f"{place.stage.sandbox.url.removeprefix('https://')}/app"

    unnamed = person("list", gun, code=1, NOTARY_AUTH=login, DOCKER_CONTENT_TRUST_SERVER="")
    named = person("list", gun, code=1, NOTARY_AUTH=login)

    assert "wants a login to pull" in unnamed["error"]["message"]
    assert "NOTARY_AUTH" not in unnamed["error"]["hint"]
    assert "has no collection" in named["error"]["message"]


def test_the_variable_of_notary_comes_before_dockers_login(place: Place, gun: str) -> None:
    person = place.stage.person()
    log_in(person, gun, READER)

    person("init", gun, "-p", NOTARY_AUTH=encoded(ALICE))

    assert place.notary_lists(gun) == set()


def test_an_identity_token_stands_in_for_a_password(
    place: Place, alice: Person, gun: str, tmp_path: Path
) -> None:
    alice("init", gun)
    alice.env |= helped(alice, gun, "<token>:refresh alice", tmp_path)

    alice("add", gun, "v1", alice.file("v1", "one"), "-p")

    assert place.notary_lists(gun) == {"v1"}
    alice.env |= helped(alice, gun, "<token>:refresh nobody", tmp_path)
    error = alice("add", gun, "v2", alice.file("v2", "two"), "-p", code=1)["error"]
    assert "does not take the login" in error["message"]
    assert "refresh nobody" not in json.dumps(error)


def test_a_token_that_ends_in_the_middle_gives_way_to_a_new_one(place: Place, gun: str) -> None:
    user, _, password = ALICE.partition(":")
    given: list[str] = []

    def login() -> Login:
        given.append("asked")
        return Login(user, password)

    tls = TlsFiles((place.stage.sandbox.certificates.ca,))
    server = NotaryServer(Web(place.stage.sandbox.url, tls, login), gun)

    def ends() -> None:
        access: list[dict[str, object]] = [
            {"type": "repository", "name": gun, "actions": ["pull", "push"]}
        ]
        token = place.tokens.token(user, SERVICE, access)  # ends no sooner than those given before
        until(lambda: not place.is_taken(gun, token), "the tokens end")
        place.tokens.lifetime_s = LEEWAY_S + 300.0
        given.clear()

    lifetime_s, place.tokens.lifetime_s = place.tokens.lifetime_s, 2.0
    try:
        with place.stage.collection(gun, server=server, when_signed=ends) as collection:
            collection.init(collection.ring.ensure("root"), b"")
            collection.ring.ensure("targets")
            report = collection.publish()
    finally:
        place.tokens.lifetime_s = lifetime_s

    assert report.published == {"root": 1, "targets": 1}
    assert given  # after the end
    assert place.notary_lists(gun) == set()


# ------------------------------------------------------------------------------- it is not


def test_who_may_not_publish_is_told_what_to_do_and_loses_nothing(
    place: Place, alice: Person, gun: str
) -> None:
    alice("init", gun, "-p")
    alice("add", gun, "v1", alice.file("v1", "one"))
    for login, told in (
        ("", "wants a login to pull"),
        ("alice:not this one", "does not take the login of alice"),
        ("mallory:guess", "does not take the login of mallory"),
        (READER, "gives the login of reader no right to pull and push"),
    ):
        log_in(alice, gun, login)

        error = alice("publish", gun, code=1)["error"]

        assert (error["reason"], told in error["message"]) == ("POLICY_DENIED", True), error
        assert f"docker login {gun.partition('/')[0]}, or set NOTARY_AUTH" in error["hint"]
        assert not login or login.partition(":")[2] not in json.dumps(error)
        assert [change["name"] for change in alice("status", gun)] == ["v1"]
    assert place.notary_lists(gun) == set()

    log_in(alice, gun, ALICE)
    alice("publish", gun)
    assert place.notary_lists(gun) == {"v1"}


def test_who_may_only_read_reads(place: Place, alice: Person, gun: str) -> None:
    alice("init", gun)
    alice("add", gun, "v1", alice.file("v1", "one"), "-p")
    reader = place.stage.person()
    log_in(reader, gun, READER)

    assert [each["name"] for each in reader("list", gun)] == ["v1"]
    for words in (("key", "rotate", gun, "timestamp", "-r"), ("delete", gun, "--remote", "-y")):
        error = reader(*words, code=1)["error"]
        assert f"gives the login of reader no right to administer {gun}" in error["message"]
        assert place.notary_lists(gun) == {"v1"}


def test_a_credential_helper_that_is_missing_or_fails_is_named(
    place: Place, gun: str, tmp_path: Path
) -> None:
    person = place.stage.person()
    person.env |= helped(person, gun, ALICE, tmp_path)
    helper = tmp_path / "docker-credential-vault"
    helper.write_text("#!/bin/sh\necho 'the vault is sealed' >&2\nexit 3\n")

    failed = person("list", gun, code=2)["error"]
    helper.unlink()
    missing = person("list", gun, code=2)["error"]

    assert "the vault is sealed" in failed["message"]
    assert "docker-credential-vault" in failed["message"]
    assert "docker-credential-vault" in missing["message"]
    assert "install it" in missing["hint"]
