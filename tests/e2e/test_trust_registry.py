"""keydctl trust against a real docker-registry with TLS; notary and docker read every result."""

from __future__ import annotations

import hashlib
import json
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.docker_programs import DockerRegistry, require
from tests.private_keys import private_keys
from tests.trust_stage import Person, Stage, a_stage

pytestmark = pytest.mark.softhsm


@dataclass
class Place:
    """keyd, notary-server and a registry, and images in it."""

    stage: Stage
    registry: DockerRegistry
    numbers: Iterator[int]

    def person(self) -> Person:
        """Somebody who never saw anything, and knows the registry's CA."""
        person = self.stage.person()
        self.registry.trusted_by(person.docker)
        return person

    def name(self) -> str:
        """Of a repository that is not there yet."""
        return f"{self.registry.host}/team/app{next(self.numbers)}"

    def asks(self, name: str, tag: str, body: bytes | None = None, kind: str = "") -> bytes:
        """Read a manifest, or put one."""
        url = f"https://{self.registry.host}/v2/{name.partition('/')[2]}/manifests/{tag}"
        request = urllib.request.Request(url, body, method="PUT" if body else "GET")
        request.add_header("Content-Type", kind)
        request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
        context = ssl.create_default_context(cafile=str(self.stage.sandbox.certificates.ca))
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return bytes(answer.read())

    def notary_lists(self, name: str, role: str) -> dict[str, str]:
        """What one role signs, as notary shows it to a newcomer: tag -> role."""
        newcomer = self.stage.sandbox.client(f"newcomer{next(self.numbers)}")
        return newcomer.targets(name, "--roles", role)

    def docker_sees(self, name: str) -> dict[str, str]:
        """What docker trust inspect shows to a newcomer: tag -> digest."""
        shown = self.person().docker_cli("trust", "inspect", name)
        assert shown.returncode == 0, shown.stderr
        rows = json.loads(shown.stdout)[0]["SignedTags"]
        return {row["SignedTag"]: f"sha256:{row['Digest']}" for row in rows}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require("docker-registry", "skopeo", "docker")
    with a_stage(tmp_path_factory.mktemp("r")) as stage:
        registry = DockerRegistry(stage.sandbox.folder / "registry", stage.sandbox.certificates)
        try:
            registry.start()
            yield Place(stage, registry, count(1))
        finally:
            registry.kill()


@pytest.fixture
def alice(place: Place) -> Person:
    return place.person()


def test_a_pushed_image_is_signed_by_the_digest_that_the_registry_has(
    place: Place, alice: Person
) -> None:
    name = place.name()
    digest = place.registry.push(f"{name}:1.0", "one")

    signed = alice("sign", f"{name}:1.0", "--signer", "alice")

    assert (signed["digest"], signed["roles"]) == (digest, ["targets/alice", "targets/releases"])
    assert place.docker_sees(name) == {"1.0": digest}
    for role in signed["roles"]:
        assert place.notary_lists(name, role) == {"1.0": role}
    newcomers = place.person()("inspect", name)
    assert newcomers == json.loads(place.person().docker_cli("trust", "inspect", name).stdout)


def test_the_tag_latest_is_signed_where_none_is_named(place: Place, alice: Person) -> None:
    name = place.name()
    digest = place.registry.push(f"{name}:latest", "newest")

    alice("sign", name, "--signer", "alice")

    assert place.docker_sees(name) == {"latest": digest}


def test_a_tag_that_moved_resolves_to_what_was_signed_until_it_is_signed_again(
    place: Place, alice: Person
) -> None:
    name = place.name()
    signed = place.registry.push(f"{name}:1.0", "signed")
    alice("sign", f"{name}:1.0", "--signer", "alice")
    moved = place.registry.push(f"{name}:1.0", "something else")
    assert moved != signed

    assert place.person()("resolve", f"{name}:1.0")["digest"] == signed
    assert place.docker_sees(name) == {"1.0": signed}

    alice("sign", f"{name}:1.0")
    assert place.person()("resolve", f"{name}:1.0")["digest"] == moved
    assert place.docker_sees(name) == {"1.0": moved}


def test_a_tag_that_is_not_signed_does_not_resolve(place: Place, alice: Person) -> None:
    name = place.name()
    place.registry.push(f"{name}:signed", "one")
    place.registry.push(f"{name}:unsigned", "two")
    alice("sign", f"{name}:signed", "--signer", "alice")

    resolved = place.person().run("trust", "resolve", f"{name}:unsigned")

    assert (resolved.returncode, resolved.stdout) == (1, b"")


@pytest.mark.parametrize(
    ("index", "image"),
    [
        (
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        ),
        (
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        ),
    ],
)
def test_an_image_for_several_machines_is_signed_by_the_digest_of_its_index(
    place: Place, alice: Person, index: str, image: str
) -> None:
    name = place.name()
    entries = []
    for machine in ("amd64", "arm64"):
        digest = place.registry.push(f"{name}:{machine}", machine)
        size = len(place.asks(name, machine))
        platform = {"architecture": machine, "os": "linux"}
        entries.append({"mediaType": image, "size": size, "digest": digest, "platform": platform})
    body = json.dumps({"schemaVersion": 2, "mediaType": index, "manifests": entries}).encode()
    place.asks(name, "1.0", body, index)

    signed = alice("sign", f"{name}:1.0", "--signer", "alice")

    assert signed["digest"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert signed["size"] == len(body)
    assert place.docker_sees(name) == {"1.0": signed["digest"]}


def test_what_docker_inspects_is_shown_byte_for_byte(place: Place, alice: Person) -> None:
    one, two, none = place.name(), place.name(), place.name()
    for image in (f"{one}:1.9", f"{one}:1.10", f"{two}:long-name-of-a-tag"):
        place.registry.push(image, image)
        alice("sign", image, "--signer", "alice")
    bob = place.person()

    for words in (
        (one, two),
        (f"{one}:1.9", f"{one}:unsigned"),
        (one, none),
        (none,),
        ("--pretty", one, two),
        ("--pretty", f"{one}:1.10"),
        ("--pretty", f"{one}:unsigned"),
        ("--pretty", none),
    ):
        theirs = bob.docker_cli("trust", "inspect", *words)
        ours = bob.run("trust", "inspect", *words)
        assert ours.stdout.decode() == theirs.stdout, words
        assert ours.returncode == theirs.returncode, words
        assert (b"has no collection" in ours.stderr) == (none in words), words


def test_a_revoked_tag_is_gone_for_notary_and_docker(place: Place, alice: Person) -> None:
    name = place.name()
    kept = place.registry.push(f"{name}:kept", "kept")
    place.registry.push(f"{name}:bad", "bad")
    for tag in ("kept", "bad"):
        alice("sign", f"{name}:{tag}", "--signer", "alice")

    alice("revoke", f"{name}:bad")

    assert place.docker_sees(name) == {"kept": kept}
    for role in ("targets/alice", "targets/releases"):
        assert place.notary_lists(name, role) == {"kept": role}
    assert place.person().run("trust", "resolve", f"{name}:bad").returncode == 1


def test_a_tag_that_was_not_pushed_is_not_signed_and_the_push_makes_no_key_files(
    place: Place, alice: Person
) -> None:
    image = f"{place.name()}:1.0"

    error = alice("sign", image, code=1)["error"]

    assert error["hint"].endswith(f"docker push --disable-content-trust {image}")


def test_a_registry_whose_ca_is_not_known_is_not_believed(place: Place) -> None:
    name = place.name()
    place.registry.push(f"{name}:1.0", "one")
    stranger = place.stage.person()

    error = stranger("sign", f"{name}:1.0", code=3)["error"]

    assert f"tls/{place.registry.host}/ca.crt" in error["hint"]
    assert stranger.run("trust", "inspect", name).returncode == 1  # nothing was begun


def test_no_private_key_lies_in_a_file_of_who_signs(place: Place, alice: Person) -> None:
    name = place.name()
    place.registry.push(f"{name}:1.0", "one")

    alice("sign", f"{name}:1.0", "--signer", "alice")

    sandbox = place.stage.sandbox
    found = private_keys(sandbox.folder, apart_from=[sandbox.folder / "people"])
    assert {each.file.parent for each in found} == {sandbox.certificates.folder}
    assert (alice.trust_dir / "tuf" / Path(name)).is_dir()
