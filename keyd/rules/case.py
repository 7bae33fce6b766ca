"""What the rules are asked, what they know, and what they answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from keyd.content import Content
from keyd.content.documents import Document, Root, Targets
from keyd.model import Context, Key, KeyVersion, Mark, RecordMark


@dataclass(frozen=True, slots=True)
class Asked:
    """One signature by a bound key. ``content``: what ``payload`` says, as content.parse read it.
    ``context``: for which repository and role, complete and fitting a binding of the key.
    ``is_root_key_here``: true for the DER SubjectPublicKeyInfo of an enabled version of a key that
    is bound to the root of that repository."""

    payload: bytes
    content: Content
    key: Key
    version: KeyVersion
    context: Context
    is_root_key_here: Callable[[bytes], bool]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload, 32 bytes."""
        return hashlib.sha256(self.payload).digest()


@dataclass(frozen=True, slots=True)
class History:
    """What is known of the role before. ``newest`` and ``complete``: the documents behind the
    mark. ``root``: the last complete root of the repository; ``delegator``: for a delegated role,
    the last complete targets file that delegates to it. None where nothing is known."""

    mark: Mark | None = None
    newest: Document | None = None
    complete: Document | None = None
    root: Root | None = None
    delegator: Targets | None = None


@dataclass(frozen=True, slots=True)
class Grave:
    """A change that weakens trust or goes back: allowed, but people have to consent. ``rule``: a
    word for programs (grave.py lists them); ``text``: what changes, printable."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes. ``effect``: what to record together with the signature; None for X.509 and for the very
    bytes of a complete version below the newest. ``checks``: what was looked at, one readable line
    each, in that order. ``reissue``: other bytes at a version that was signed before."""

    effect: RecordMark | None
    grave: tuple[Grave, ...] = ()
    checks: tuple[str, ...] = ()
    reissue: bool = False
