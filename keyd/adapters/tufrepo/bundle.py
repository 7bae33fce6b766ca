"""The exchange bundle: what one root holder sends another, by mail or on a stick: one small text.

Three lines. The first says what it is, and is made from the second; the second is canonical JSON
(OLPC); the third is the SHA-256 of the two:

    keyd-bundle 1 request: root 3 of acme; sign it with: keydctl tuf sign FILE --key KEY
    {"asks":"email:alice@example.org", ... ,"version":3}
    sha256:0123...

A request carries the draft and the roots before it, a response the signatures over that draft,
each with the receipt of the daemon that made it. Every part has a checksum of its own. Checksums
find accidents only: what an attacker could change is found by :mod:`ceremony_evidence`, and
everything else in a bundle is a claim.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from keyd.content.refusal import printable
from keyd.errors import RepositoryError

FORMAT = 1
MARK = b"keyd-bundle "


@dataclass(frozen=True, slots=True)
class RootFile:
    """One published root: the whole file with its signatures."""

    version: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be signed. ``id``: unguessable, names this exchange. ``draft``: the bytes to sign.
    ``history``: published roots up to the one before the draft, ascending, without a gap. Claims
    are ``ceremony``, ``asks`` (a principal of the daemon it comes from) and ``reason``."""

    id: str
    ceremony: str
    repository: str
    version: int
    created: datetime
    expires: datetime
    draft: bytes
    history: tuple[RootFile, ...]
    asks: str = ""
    reason: str = ""

    @property
    def headline(self) -> str:
        """The first line."""
        return (
            f"keyd-bundle {FORMAT} request: root {self.version} of {printable(self.repository)}; "
            "sign it with: keydctl tuf sign FILE --key KEY"
        )

    @property
    def draft_sha256(self) -> str:
        """SHA-256 of the bytes to sign, hex."""
        return hashlib.sha256(self.draft).hexdigest()


@dataclass(frozen=True, slots=True)
class LogReceipt:
    """That a daemon has the signature in its log. ``entry``: canonical JSON of the audit entry.
    ``hashes``: inclusion proof (RFC 6962, 2.1.1) towards ``checkpoint``, a C2SP signed note.
    ``verifier_keys``: C2SP lines, as the daemon that sent them claims."""

    index: int
    entry: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str
    verifier_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BundleSignature:
    """One signature. ``key_version``: KEY/versions/N on the other daemon, a claim. ``receipt``:
    None where the holder may not read the log."""

    keyid: str
    signature: bytes
    key_version: str = ""
    receipt: LogReceipt | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """Signatures for one request; ``id`` to ``expires`` as in it. ``signer`` and ``reason`` are
    claims."""

    id: str
    ceremony: str
    repository: str
    version: int
    created: datetime
    expires: datetime
    draft_sha256: str
    signatures: tuple[BundleSignature, ...]
    signer: str = ""
    reason: str = ""

    @property
    def headline(self) -> str:
        """The first line."""
        return (
            f"keyd-bundle {FORMAT} response: {len(self.signatures)} signature(s) on root "
            f"{self.version} of {printable(self.repository)}; add it with: "
            "keydctl tuf ceremony import DIR FILE"
        )


def refuse(problem: str, message: str, *, hint: str = "") -> RepositoryError:
    """The error to raise about a bundle; ``problem`` is a word for programs."""
    return RepositoryError(message, hint=hint, problem=problem)


def is_bundle(path: Path) -> bool:
    """True when the file says in its first bytes that it is a bundle, of any version.

    Raises:
        RepositoryError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(len(MARK)) == MARK
    except OSError as e:
        raise RepositoryError(f"{path}: {e.strerror}", file=path) from e
