"""One file as a server serves it, read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TypeVar

from keyd.content import envelope
from keyd.content.documents import Dialect, Document, MetaFile, TargetFile
from keyd.content.envelope import Envelope
from keyd.errors import ContentError, RepositoryError

D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class Served:
    """A file as it is served, and what it says. Its signatures have been verified."""

    role: str
    file: bytes = field(repr=False)
    envelope: Envelope

    @property
    def version(self) -> int:
        """Its number."""
        return self.envelope.document.version


def read(role: str, file: bytes, kind: type[D]) -> Served:
    """Read a file of a role; no signature is verified here.

    Raises:
        RepositoryError: not metadata of this kind in Notary's dialect.
    """
    try:
        found = envelope.parse(file)
    except ContentError as e:
        raise RepositoryError(f"{role}: it cannot be read: {e.message}", role=role) from e
    if not isinstance(found.document, kind) or found.document.dialect is not Dialect.NOTARY:
        raise RepositoryError(f"{role}: this is {found.document.kind} metadata", role=role)
    return Served(role, file, found)


def document(served: Served, kind: type[D]) -> D:
    """What a file says, of the kind it was read as."""
    found = served.envelope.document
    assert isinstance(found, kind)
    return found


def matches(file: bytes, said: MetaFile | TargetFile) -> bool:
    """True when size and all known hashes, SHA-256 among them, are those that were signed."""
    if said.length != len(file) or "sha256" not in said.hashes:
        return False
    known = [name for name in said.hashes if name in ("sha256", "sha512")]
    return all(hashlib.new(name, file).digest() == said.hashes[name] for name in known)
