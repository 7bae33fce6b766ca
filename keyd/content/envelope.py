"""A metadata file as it is published: the signed object and its signatures, of both dialects.

The file may be pretty-printed and may escape what it likes; signatures cover the canonical form
of ``signed``, which is made anew here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from keyd.content import canonical
from keyd.content.canonical import Json
from keyd.content.digests import from_base64
from keyd.content.documents import Dialect, Document
from keyd.content.fields import Fields
from keyd.content.reader import to_document
from keyd.content.refusal import refuse

MAX_SIGNATURES = 1024
"""More signatures on one file are refused: each may have to be verified."""

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileSignature:
    """One signature of a file. ``method``: Notary's, as ``ecdsa``; empty for TUF, where the key
    says the scheme. ``value``: as the dialect encodes it (ECDSA: DER in TUF, r||s in Notary);
    empty where a tool only holds the place for one."""

    keyid: str
    method: str
    value: bytes
    unknown: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A metadata file. ``payload``: the canonical bytes that the signatures cover."""

    document: Document
    payload: bytes
    signatures: tuple[FileSignature, ...]
    unknown: Mapping[str, Json] = field(default_factory=dict)


def parse(file: bytes) -> Envelope:
    """Read a metadata file; no signature is verified here.

    Raises:
        ContentError: not JSON without doubt, a document that cannot be read, two signatures of
            one keyid.
    """
    fields = Fields(canonical.load(file))
    signed = fields.take("signed")
    payload = canonical.encode(signed)
    document = to_document(signed)
    is_notary = document.dialect is Dialect.NOTARY
    found = fields.objects("signatures", or_null=is_notary)
    if len(found) > MAX_SIGNATURES:
        raise refuse("too-large", f"{len(found)} signatures; keyd reads up to {MAX_SIGNATURES}")
    signatures = tuple(_notary(each) if is_notary else _tuf(each) for each in found)
    if len({s.keyid for s in signatures}) != len(signatures):
        raise fields.wrong("has two signatures of one keyid", "signatures")
    return Envelope(document, payload, signatures, fields.rest())


def _tuf(fields: Fields) -> FileSignature:
    keyid, text = fields.text("keyid"), fields.text("sig")
    if not _HEX.fullmatch(text):
        raise fields.wrong("must be hexadecimal", "sig")
    return FileSignature(keyid, "", bytes.fromhex(text), fields.rest())


def _notary(fields: Fields) -> FileSignature:
    keyid, method = fields.text("keyid"), fields.text("method")
    value = from_base64(fields, "sig", fields.text("sig"))
    return FileSignature(keyid, method, value, fields.rest())
