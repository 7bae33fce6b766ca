"""What a registry holds under a tag: the digest and size of the manifest that is signed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from keyd.adapters.notary.names import DOCKER_HUB, Image
from keyd.adapters.notary.web import Web
from keyd.content import canonical
from keyd.errors import ContentError, RepositoryError

HUB_URL = "https://registry-1.docker.io"
_ACCEPT = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    )
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """``digest``: SHA-256 of its bytes, 32 bytes; ``size``: how many there are."""

    digest: bytes
    size: int


def url_of(host: str) -> str:
    """The base URL of a registry."""
    return HUB_URL if host == DOCKER_HUB else f"https://{host}"


def find_manifest(web: Web, image: Image) -> Manifest:
    """The manifest behind a tag, hashed here: what the registry says of it is not believed.

    Raises:
        RepositoryError: there is no such image, it is no manifest, or not what its digest says.
        ServerGoneError, PolicyDeniedError: see :meth:`Web.ask`.
    """
    wanted = image.digest or image.tag
    answer = web.ask(
        "GET",
        f"/v2/{image.path}/manifests/{wanted}",
        headers={"Accept": _ACCEPT},
        scope=f"repository:{image.path}:pull",
    )
    if answer.status == 404:
        raise RepositoryError(
            f"the registry {image.host} has no {image.path}:{wanted}",
            # Where DOCKER_CONTENT_TRUST is set, a plain push begins a collection with key files.
            hint=f"push it first: docker push --disable-content-trust {image.familiar}",
            image=image.familiar,
        )
    if answer.status != 200:
        raise RepositoryError(
            f"the registry {image.host} answered {answer.status} for {image.path}:{wanted}",
            image=image.familiar,
        )
    if not _is_object(answer.body):  # the page of a proxy or of a login, for instance
        raise RepositoryError(
            f"what {image.host} sent for {image.path}:{wanted} is no manifest",
            hint="see what answers there; a proxy may stand in between",
            image=image.familiar,
        )
    digest = hashlib.sha256(answer.body).digest()
    told = answer.headers.get("docker-content-digest", "")
    for other in (image.digest, told if told.startswith("sha256:") else ""):
        if other and other != f"sha256:{digest.hex()}":
            raise RepositoryError(
                f"the registry {image.host} sent other bytes for {image.path}:{wanted} than the "
                f"digest {other}",
                image=image.familiar,
            )
    return Manifest(digest, len(answer.body))


def _is_object(content: bytes) -> bool:
    try:
        return isinstance(canonical.load(content), dict)
    except ContentError:
        return False
