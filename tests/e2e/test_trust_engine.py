"""Docker Content Trust in a real engine: docker pulls what keyd signed, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.docker_programs import DockerRegistry, an_engine, require, require_engine
from tests.trust_stage import Person, a_stage

pytestmark = [pytest.mark.softhsm, pytest.mark.root]

_NO_TRUST_DATA = ("No valid trust data", "does not have trust data", "remote trust data")


class Docker:
    """Somebody with an engine of their own, and content trust on."""

    def __init__(self, person: Person, host: str) -> None:
        self._person = person
        person.env |= {"DOCKER_HOST": host, "DOCKER_CONTENT_TRUST": "1", "DOCKER_BUILDKIT": "0"}

    def __call__(self, *words: str) -> str:
        """Run a command that has to work; what it printed."""
        done = self.tries(*words)
        assert done.returncode == 0, f"docker {' '.join(words)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def tries(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        return self._person.docker_cli(*words)

    def refuses(self, *words: str) -> None:
        """Run a command that has to fail because nobody signed the tag."""
        done = self.tries(*words)
        assert done.returncode != 0, f"docker {' '.join(words)} worked:\n{done.stdout}"
        assert any(why in done.stderr for why in _NO_TRUST_DATA), done.stderr

    def digests(self, name: str) -> list[str]:
        """Of a repository's images that the engine has."""
        return self("images", "--digests", "--format", "{{.Digest}}", name).split()

    def id_of(self, image: str) -> str:
        """The id of an image that the engine has."""
        return self("image", "inspect", "--format", "{{.Id}}", image).strip()


class Place:
    """keyd, notary-server, a registry and an engine; ``alice`` signs."""

    def __init__(self, alice: Person, registry: DockerRegistry, docker: Docker) -> None:
        self.alice, self.registry, self.docker = alice, registry, docker
        self._numbers = count(1)

    def signed(self) -> tuple[str, str]:
        """A repository with one signed tag, 1.0, and its digest."""
        name = f"{self.registry.host}/team/app{next(self._numbers)}"
        digest = self.registry.push(f"{name}:1.0", f"signed in {name}")
        self.alice("sign", f"{name}:1.0", "--signer", "alice")
        return name, digest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_engine()
    require("docker-registry", "skopeo")
    with a_stage(tmp_path_factory.mktemp("e")) as stage, an_engine() as host:
        registry = DockerRegistry(stage.sandbox.folder / "registry", stage.sandbox.certificates)
        try:
            registry.start()
            alice = stage.person()
            registry.trusted_by(alice.docker)
            yield Place(alice, registry, Docker(stage.person(), host))
        finally:
            registry.kill()


def test_a_pull_of_a_signed_tag_becomes_one_of_the_signed_digest(place: Place) -> None:
    name, digest = place.signed()

    said = place.docker("pull", f"{name}:1.0")

    assert f"{name}:1.0@{digest}" in said
    assert place.docker.digests(name) == [digest]
    place.docker("pull", f"{name}@{digest}")


def test_a_tag_that_moved_in_the_registry_still_gives_the_signed_digest(place: Place) -> None:
    name, digest = place.signed()
    moved = place.registry.push(f"{name}:1.0", "something else")
    assert moved != digest

    place.docker("pull", f"{name}:1.0")

    assert place.docker.digests(name) == [digest]


def test_a_tag_that_nobody_signed_is_refused_unless_trust_is_off(place: Place) -> None:
    name, _ = place.signed()
    unsigned = place.registry.push(f"{name}:unsigned", "not signed")

    place.docker.refuses("pull", f"{name}:unsigned")
    place.docker.refuses("create", f"{name}:unsigned")
    place.docker.refuses("run", "--rm", f"{name}:unsigned")
    assert place.docker.digests(name) == []

    place.docker("pull", "--disable-content-trust", f"{name}:unsigned")
    assert place.docker.digests(name) == [unsigned]


def test_create_run_and_build_take_what_nobody_signed_where_they_are_told_to(
    place: Place, tmp_path: Path
) -> None:
    name, _ = place.signed()
    free = "--disable-content-trust"
    images = {do: f"{name}:{do}" for do in ("create", "run", "build")}
    for do, image in images.items():
        place.registry.push(image, f"not signed, to {do}")
    (tmp_path / "Dockerfile").write_text(f"FROM {images['build']}\nLABEL a=b\n")

    container = place.docker("create", free, images["create"]).split()[-1]
    # The image has no program in it: docker takes it, and then the kernel finds nothing to run.
    ran = place.docker.tries("run", free, "--rm", "--network", "none", images["run"])
    place.docker("build", free, str(tmp_path))

    made_from = place.docker("container", "inspect", "--format", "{{.Image}}", container).strip()
    assert made_from == place.docker.id_of(images["create"])
    assert ran.returncode in (126, 127), ran.stderr
    assert "trust data" not in ran.stderr
    assert all(place.docker.id_of(image) for image in images.values())


def test_a_container_is_created_from_the_signed_image(place: Place) -> None:
    name, digest = place.signed()
    place.registry.push(f"{name}:1.0", "something else")

    container = place.docker("create", f"{name}:1.0").split()[-1]

    image = place.docker("container", "inspect", "--format", "{{.Image}}", container).strip()
    assert image == place.docker.id_of(f"{name}@{digest}")


def test_a_build_begins_with_signed_images_only(place: Place, tmp_path: Path) -> None:
    name, digest = place.signed()
    place.registry.push(f"{name}:unsigned", "not signed")
    file = tmp_path / "Dockerfile"

    file.write_text(f"FROM {name}:unsigned\nLABEL a=b\n")
    place.docker.refuses("build", str(tmp_path))
    file.write_text(f"FROM {name}:1.0\nLABEL a=b\n")
    place.docker("build", str(tmp_path))

    assert place.docker.digests(name) == [digest]


def test_a_revoked_tag_is_pulled_no_more(place: Place) -> None:
    name, _ = place.signed()
    place.docker("pull", f"{name}:1.0")

    place.alice("revoke", f"{name}:1.0")

    place.docker.refuses("pull", f"{name}:1.0")


def test_what_a_signer_who_goes_signed_last_is_signed_by_who_stays(place: Place) -> None:
    name, digest = place.signed()
    bob = f"bob-{digest[-8:]}"
    place.alice("key", "generate", bob, "--dir", place.alice.folder)
    place.alice("signer", "add", "bob", name, "--key", bob)
    both = place.registry.push(f"{name}:2.0", "signed by both")
    place.registry.push(f"{name}:3.0", "signed by bob")
    place.alice("sign", f"{name}:2.0", "--signer", "alice")
    for tag in ("2.0", "3.0"):
        place.alice("sign", f"{name}:{tag}", "--signer", "bob")

    removed = place.alice.run("trust", "signer", "remove", "bob", name)

    assert removed.returncode == 0, removed.stderr
    assert f"keydctl trust revoke {name}:3.0".encode() in removed.stderr
    place.docker("pull", f"{name}:1.0")
    place.docker("pull", f"{name}:2.0")
    assert set(place.docker.digests(name)) == {digest, both}
