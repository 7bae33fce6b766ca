"""Names of images and collections, by docker's rules.

    alpine              docker.io/library/alpine, tag latest
    alice/app:1.0       docker.io/alice/app, tag 1.0
    localhost:5000/app  as it is

A collection's GUN (globally unique name) is the image's name without a tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from keyd import gunnames
from keyd.errors import InvalidRequestError

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"

_MAX_NAME_CHARS = 255
_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*)(?::[0-9]{1,5})?",
    re.ASCII,
)
_PATH = re.compile(
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*",
    re.ASCII,
)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Image:
    """A name as docker reads it. ``host``: of the registry, docker.io for names without one.
    ``path``: below it. ``tag`` and ``digest`` (``sha256:HEX``): empty where not given."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def gun(self) -> str:
        """The name of the collection that signs it."""
        return f"{self.host}/{self.path}"

    @property
    def familiar(self) -> str:
        """As people write it: without docker.io and library."""
        name = self.gun.removeprefix(f"{DOCKER_HUB}/library/").removeprefix(f"{DOCKER_HUB}/")
        return f"{name}:{self.tag}" if self.tag else name


def parse_image(text: str) -> Image:
    """Read the name of an image or a repository.

    Raises:
        InvalidRequestError: not a name that docker takes.
    """
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, f"{digest[:80]!r} is no digest sha256:HEX")
    last = rest.rsplit("/", 1)[-1]
    name, colon, tag = rest, "", ""
    if ":" in last:
        name, colon, tag = rest.rpartition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"{tag[:140]!r} is no tag")
    host, slash, path = name.partition("/")
    if not slash or not _is_host(host):
        host, path = DOCKER_HUB, name
    if host in (f"index.{DOCKER_HUB}", f"registry-1.{DOCKER_HUB}"):
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _HOST.fullmatch(host):
        raise _wrong(text, f"{host[:80]!r} is no host")
    if not _PATH.fullmatch(path) or len(host) + len(path) >= _MAX_NAME_CHARS:
        raise _wrong(
            text, "the parts of a name are lower-case letters and digits, joined by . _ __ or -"
        )
    gunnames.check_gun(f"{host}/{path}")
    return Image(host, path, tag, digest)


def parse_gun(text: str) -> str:
    """The GUN of a collection that a person named.

    Raises:
        InvalidRequestError: no name, or one with a tag.
    """
    found = parse_image(text)
    if found.tag or found.digest:
        raise _wrong(text, "a collection has a name without tag and digest")
    return found.gun


def is_gun(text: str) -> bool:
    """True for what reads as the full name of a collection, as repositories of TUF do not."""
    host, slash, path = text.partition("/")
    return bool(slash and path) and _is_host(host)


def _is_host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost" or text.lower() != text


def _wrong(text: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        "name",
        f"{text[:160]!r} is not the name of an image: {why}",
        hint="write it as docker does: alpine, alice/app:1.0 or registry.example.org:5000/app",
    )
