"""From the bytes that are to be signed to what they say."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.content import certificates, metadata, notary, tuf
from keyd.content.canonical import Json, decode
from keyd.content.certificates import CertificateRequest, TbsCertificate
from keyd.content.documents import Document
from keyd.content.refusal import refuse
from keyd.errors import ContentError
from keyd.model import Statement

Content = Document | TbsCertificate | CertificateRequest
"""Everything keyd understands; a TbsCertificate is also a CertificateRequest."""

_DER_SEQUENCE = b"\x30"
_OPAQUE = Statement()


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in a payload: ``content``, or the ``problem`` why there is none.
    ``statement``: as ``content.read`` gives it, for metadata; opaque for X.509."""

    statement: Statement
    content: Content | None = None
    problem: ContentError | None = None


def parse(payload: bytes) -> Content:
    """Read metadata (canonical JSON of ``signed``), a TBSCertificate or a request's info.

    Raises:
        ContentError: it is none of these, or not in the one form in which they are signed.
    """
    if payload.startswith(_DER_SEQUENCE):  # "0" begins no JSON object
        return certificates.parse(payload)
    return parse_document(payload)


def examine(payload: bytes) -> Reading:
    """:func:`parse` and ``content.read`` in one pass; never raises.

    Metadata in which a reader that ignores case, as Go's encoding/json does, could find another
    type or version is no content.
    """
    try:
        if payload.startswith(_DER_SEQUENCE):
            return Reading(_OPAQUE, certificates.parse(payload))
        signed = decode(payload)
    except ContentError as e:
        return Reading(metadata.read(payload), problem=e)
    statement = metadata.statement_of(signed)
    try:
        document = to_document(signed)
        if statement == _OPAQUE:
            raise refuse("duplicate-key", "two members have names that differ in case only")
    except ContentError as e:
        return Reading(statement, problem=e)
    return Reading(statement, document)


def parse_document(payload: bytes) -> Document:
    """Read the canonical bytes of a ``signed`` object of either dialect.

    Raises:
        ContentError: with its problem and, where one is to blame, its field.
    """
    return to_document(decode(payload))


def to_document(signed: Json) -> Document:
    """The document of a ``signed`` object that :func:`canonical.encode` can write.

    Raises:
        ContentError: with its problem and, where one is to blame, its field.
    """
    kind = signed.get("_type") if isinstance(signed, dict) else None
    if not isinstance(kind, str):
        raise refuse("type", "no metadata: it is no object with a text as its _type")
    return notary.parse(signed) if kind[:1].isupper() else tuf.parse(signed)
