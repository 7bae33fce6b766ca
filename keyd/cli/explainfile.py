"""What somebody is asked to sign, read on this machine and believed to nobody.

A file is a metadata file, of which the canonical form of its ``signed`` part is signed, or it is
the bytes to sign themselves: canonical metadata, a TBSCertificate, a request's info, or anything
else, which is opaque.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from keyd.content import Content, canonical, envelope, parse
from keyd.content.canonical import Json
from keyd.content.certificates import TbsCertificate
from keyd.content.documents import Dialect, Document
from keyd.content.envelope import FileSignature
from keyd.content.reader import to_document
from keyd.content.refusal import refuse
from keyd.errors import ContentError

_UNTIDY = frozenset({"duplicate-key", "number", "control", "not-canonical"})
"""Problems of JSON that others may well read: it has no canonical form, or is not in it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds.

    ``payload``: the bytes a signature would cover. ``content``: what they say, None where keyd
    cannot tell. ``problem``: why they are not in the one form in which such content is signed;
    content that is only written untidily has both. ``is_verbatim``: the file holds the payload
    byte for byte. ``outside``: members of a metadata file that no signature covers.
    """

    payload: bytes
    is_envelope: bool = False
    is_verbatim: bool = True
    content: Content | None = None
    problem: ContentError | None = None
    signatures: tuple[FileSignature, ...] = ()
    signatures_problem: ContentError | None = None
    outside: Mapping[str, Json] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The role's type, ``certificate``, ``certificate-request`` or ``opaque``."""
        if isinstance(self.content, Document):
            return self.content.kind
        if self.content is None:
            return "opaque"
        is_certificate = isinstance(self.content, TbsCertificate)
        return "certificate" if is_certificate else "certificate-request"

    @property
    def is_notary(self) -> bool:
        """True for Notary's dialect, whose ECDSA signatures are r||s."""
        return isinstance(self.content, Document) and self.content.dialect is Dialect.NOTARY

    @property
    def is_untidy(self) -> bool:
        """True for JSON that is not canonical."""
        return self.problem is not None and self.problem.facts["problem"] in _UNTIDY


def read(file: bytes) -> Reading:
    """Say what a file holds and which bytes of it would be signed.

    Raises:
        ContentError: a metadata file of which nobody can say what its signatures cover.
    """
    if not _looks_like_envelope(file):
        return _bare(file)
    try:
        members = canonical.load(file)
        assert isinstance(members, dict)
        if any(name.casefold() == "_type" for name in members):
            raise refuse("type", "it is a metadata file and the signed part of one at once")
        payload = canonical.encode(members["signed"])
    except ContentError as e:
        e.hint = e.hint or "the file has to be made anew; nothing in it can be signed as it stands"
        raise
    return _envelope(file, members, payload)


def _looks_like_envelope(file: bytes) -> bool:
    """Forgiving: what others could read as a metadata file is never taken for bare bytes."""
    if file.lstrip()[:1] != b"{":
        return False
    try:
        found = json.loads(file.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"signed", "signatures"} <= found.keys()


def _envelope(file: bytes, members: Mapping[str, Json], payload: bytes) -> Reading:
    outside = {name: v for name, v in members.items() if name not in ("signed", "signatures")}
    content: Content | None = None
    problem = signatures_problem = None
    signatures: tuple[FileSignature, ...] = ()
    try:
        content = to_document(members["signed"])
    except ContentError as e:
        problem = e
    else:
        try:
            signatures = envelope.parse(file).signatures
        except ContentError as e:
            signatures_problem = e
    return Reading(
        payload,
        is_envelope=True,
        is_verbatim=payload in file,
        content=content,
        problem=problem,
        signatures=signatures,
        signatures_problem=signatures_problem,
        outside=outside,
    )


def _bare(file: bytes) -> Reading:
    try:
        return Reading(file, content=parse(file))
    except ContentError as e:
        problem = e
    if problem.facts["problem"] != "not-canonical":
        return Reading(file, problem=problem)
    try:
        return Reading(file, content=to_document(canonical.load(file)), problem=problem)
    except ContentError as e:
        # JSON without a _type does not mean to be metadata; its form is nobody's business.
        is_foreign = e.facts == {"problem": "type"}
        return Reading(file, problem=e if is_foreign else problem)
