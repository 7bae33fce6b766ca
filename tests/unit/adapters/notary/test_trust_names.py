"""Names of images by docker's rules."""

from __future__ import annotations

import pytest

from keyd.adapters.notary.names import is_gun, parse_gun, parse_image
from keyd.errors import InvalidRequestError

GOOD = {
    "alpine": ("docker.io/library/alpine", "", ""),
    "alpine:3.18": ("docker.io/library/alpine", "3.18", ""),
    "alice/app": ("docker.io/alice/app", "", ""),
    "docker.io/alpine": ("docker.io/library/alpine", "", ""),
    "index.docker.io/alice/app": ("docker.io/alice/app", "", ""),
    "localhost/app": ("localhost/app", "", ""),
    "localhost:5000/app:v1": ("localhost:5000/app", "v1", ""),
    "Registry/app": ("Registry/app", "", ""),
    "example.com/a/b__c/d-e.f": ("example.com/a/b__c/d-e.f", "", ""),
    "[::1]:5000/app": ("", "", ""),
    f"alpine@sha256:{'ab' * 32}": ("docker.io/library/alpine", "", f"sha256:{'ab' * 32}"),
}


@pytest.mark.parametrize("text", [name for name in GOOD if not name.startswith("[")])
def test_a_name_is_read_as_docker_reads_it(text: str) -> None:
    found = parse_image(text)

    assert (found.gun, found.tag, found.digest) == GOOD[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Alpine",
        "a//b",
        "/app",
        "app/",
        "../../etc",
        "example.com/../app",
        "example.com/a b",
        "example.com/app:",
        "example.com/app:.tag",
        "example.com/app@sha256:12",
        "example.com/app@md5:abc",
        "-x.com/app",
        "example.com/a---_b",
        "example.com/*",
        "example.com/" + "a" * 300,
        "example.com/é",
    ],
)
def test_what_docker_refuses_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        parse_image(text)

    assert error.value.hint


def test_a_collection_has_no_tag() -> None:
    assert parse_gun("alpine") == "docker.io/library/alpine"
    with pytest.raises(InvalidRequestError, match="without tag"):
        parse_gun("alpine:3")


def test_people_see_the_short_name() -> None:
    assert parse_image("docker.io/library/alpine:3").familiar == "alpine:3"
    assert parse_image("docker.io/alice/app").familiar == "alice/app"
    assert parse_image("example.com/app:1").familiar == "example.com/app:1"


def test_a_repository_of_tuf_is_not_taken_for_a_collection() -> None:
    assert is_gun("localhost:5000/app")
    assert not is_gun("acme")
    assert not is_gun("acme/app")
