"""keydctl audit find: which entry made each signature of a repository?

A signature is accounted for when an entry holds the SHA-256 of exactly its bytes (or of its other
encoding: DER and r||s say the same) and the digest of exactly the content it stands in. That an
entry signed the same content with the same key is not enough: a stolen key signs that as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from keyd import publickeys
from keyd.cli.signedfiles import FileSignature, SignedFile
from keyd.client import EntryFilter
from keyd.errors import KeydError
from keyd.model import Entry, KeyVersion

if TYPE_CHECKING:
    from keyd.client import Client, Key


_RAW_BYTES = (64, 96)
"""How long r||s is on P-256 and P-384."""


class Standing(StrEnum):
    """How a signature stands to the log."""

    LOGGED = "logged"
    FOREIGN = "foreign"
    MISSING = "missing"
    OTHER_CONTENT = "other-content"


@dataclass(frozen=True, slots=True)
class Finding:
    """One signature of one file, and what the log knows of it.

    ``version``: ours, by the keyid or by the public key the repository names for it.
    """

    path: Path
    keyid: str
    signature_sha256: str
    standing: Standing
    version: KeyVersion | None = None
    entry: Entry | None = None

    @property
    def is_bad(self) -> bool:
        """True when one of our keys signed without an entry for it."""
        return self.standing in (Standing.MISSING, Standing.OTHER_CONTENT)

    def field(self, name: str) -> str:
        """A text field of the entry, or empty."""
        return str(self.entry.fields.get(name, "")) if self.entry else ""

    @property
    def signer(self) -> str:
        """KEY/versions/N by the entry, else by the registry; empty for a foreign key."""
        if self.entry is not None and self.field("key"):
            return f"{self.field('key')}/versions/{self.field('version')}"
        return self.version.name if self.version else ""


class Finder:
    """Looks signatures up in a daemon's log."""

    def __init__(self, client: Client, keys: Iterable[Key], files: Sequence[SignedFile]) -> None:
        """``keys``: all the caller may see; a key that is hidden counts as foreign."""
        self._client = client
        self._by_keyid: dict[str, KeyVersion] = {}
        by_public_key: dict[bytes, KeyVersion] = {}
        for key in keys:
            for version in key.versions:
                by_public_key[version.public_key] = version
                self._by_keyid.update(dict.fromkeys(version.keyids.values(), version))
        # A repository may name our key under a keyid of its own making.
        for file in files:
            for keyid, public_key in file.keys.items():
                if public_key in by_public_key:
                    self._by_keyid[keyid] = by_public_key[public_key]
        self._known: dict[str, Entry | None] = {}

    def find(self, file: SignedFile) -> Iterator[Finding]:
        """Every signature of a file, in its order."""
        for signature in file.signatures:
            yield self._find(file, signature)

    def _find(self, file: SignedFile, signature: FileSignature) -> Finding:
        version = self._by_keyid.get(signature.keyid)
        entry = self._entry(signature.signature, version)
        sha256 = hashlib.sha256(signature.signature).hexdigest()
        if entry is not None:
            same = _signed_digest(entry.fields, file.signed) == entry.fields.get("digest")
            standing = Standing.LOGGED if same else Standing.OTHER_CONTENT
        else:
            standing = Standing.MISSING if version else Standing.FOREIGN
        return Finding(file.path, signature.keyid, sha256, standing, version, entry)

    def _entry(self, signature: bytes, version: KeyVersion | None) -> Entry | None:
        for form in _forms(signature, version):
            sha256 = hashlib.sha256(form).hexdigest()
            if sha256 not in self._known:
                wanted = EntryFilter(action="sign", decision="allowed", signature_sha256=sha256)
                self._known[sha256] = next(self._client.list_entries(wanted, page_size=1), None)
            if self._known[sha256] is not None:
                return self._known[sha256]
        return None


def _signed_digest(fields: Mapping[str, object], signed: bytes) -> str:
    """The content's digest as the entry writes it, with the entry's own algorithm."""
    algorithm = str(fields.get("digest", "")).partition(":")[0]
    if algorithm not in ("sha256", "sha384", "sha512"):
        return ""
    return f"{algorithm}:{hashlib.new(algorithm, signed).hexdigest()}"


def _forms(signature: bytes, version: KeyVersion | None) -> Iterator[bytes]:
    """The signature as it is, then in its other encoding. Which one it has is not to be seen from
    its bytes: r||s may begin as DER does."""
    yield signature
    if version is None or not version.public_key:
        return
    try:
        algorithm = publickeys.algorithm_of(version.public_key)
    except (KeydError, ValueError):
        return
    if not algorithm.is_ecdsa:
        return
    with suppress(KeydError):
        yield publickeys.to_raw(signature, algorithm)
    if len(signature) in _RAW_BYTES:
        yield publickeys.to_der(signature)
