"""From the bytes that are to be signed to what they say."""

from __future__ import annotations

from keyd.content import certificates, notary, tuf
from keyd.content.canonical import Json, decode
from keyd.content.certificates import CertificateRequest, TbsCertificate
from keyd.content.documents import Document
from keyd.content.refusal import refuse

Content = Document | TbsCertificate | CertificateRequest
"""Everything keyd understands; a TbsCertificate is also a CertificateRequest."""

_DER_SEQUENCE = b"\x30"


def parse(payload: bytes) -> Content:
    """Read metadata (canonical JSON of ``signed``), a TBSCertificate or a request's info.

    Raises:
        ContentError: it is none of these, or not in the one form in which they are signed.
    """
    if payload.startswith(_DER_SEQUENCE):  # "0" begins no JSON object
        return certificates.parse(payload)
    return parse_document(payload)


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
