"""The two X.509 structures that are signed: TBSCertificate (RFC 5280) and
CertificationRequestInfo (RFC 2986), DER, without a signature.

cryptography reads only signed ones, so an empty signature is put around the bytes; nobody ever
verifies it. What comes back must hold the very bytes that went in.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from keyd.content import der, x509facts
from keyd.content.refusal import refuse

MAX_BYTES = 64 * 1024
"""Larger X.509 structures are refused unread."""

# ecdsa-with-SHA256 (RFC 5758): a request does not say by itself how it will be signed.
_SOME_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")
_NO_SIGNATURE = der.wrap(der.BIT_STRING, b"\x00\x00")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What a PKCS#10 request asks for.

    ``subject``: RFC 4514 text. ``spki``: DER of the public key, empty for kinds keyd does not
    use. ``key_usage``: names of RFC 5280. ``extended_key_usage`` and ``other_extensions``:
    dotted object identifiers. ``alternative_names``: typed, as ``dns:example.com``.
    """

    common_name: str
    subject: str
    spki: bytes
    is_ca: bool
    key_usage: frozenset[str]
    extended_key_usage: tuple[str, ...]
    alternative_names: tuple[str, ...]
    other_extensions: tuple[str, ...]

    @property
    def can_certify(self) -> bool:
        """True where it claims any power over other certificates."""
        return self.is_ca or bool(self.key_usage & {"keyCertSign", "cRLSign"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TbsCertificate(CertificateRequest):
    """What a certificate will say once signed. ``issuer``: RFC 4514 text; ``serial``: positive.
    ``signature_algorithm``: dotted object identifier the signature has to fit."""

    issuer: str
    is_self_issued: bool
    serial: int
    not_before: datetime
    not_after: datetime
    signature_algorithm: str


def parse(payload: bytes) -> TbsCertificate | CertificateRequest:
    """Read the bytes that a certificate's or a request's signature covers.

    Raises:
        ContentError: not strict DER, neither structure, an X.509 version other than 3 (which
            cannot say CA:FALSE), or a subject with two common names.
    """
    if len(payload) > MAX_BYTES:
        raise refuse("too-large", f"{len(payload)} bytes of DER; keyd reads up to {MAX_BYTES}")
    whole = der.element(payload, 0, len(payload))
    if whole.tag != der.SEQUENCE or whole.end != len(payload):
        raise refuse("not-der", "not one DER SEQUENCE")
    tags = [e.tag for e in der.children(payload, whole, 4)]
    if tags[:3] == [der.CONTEXT_0, der.INTEGER, der.SEQUENCE]:
        return _certificate(payload, der.children(payload, whole, 3)[2])
    if tags == [der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.CONTEXT_0]:
        return _request(payload)
    raise refuse("not-der", "neither a v3 TBSCertificate nor a CertificationRequestInfo")


def _certificate(payload: bytes, algorithm: der.Element) -> TbsCertificate:
    inner = payload[algorithm.start : algorithm.end]
    try:
        found = x509.load_der_x509_certificate(
            der.wrap(der.SEQUENCE, payload, inner, _NO_SIGNATURE)
        )
        if found.tbs_certificate_bytes != payload or found.version is not x509.Version.v3:
            raise refuse("not-der", "not a v3 TBSCertificate in its one DER form")
        extensions = found.extensions
        return TbsCertificate(
            common_name=x509facts.common_name(found.subject),
            subject=found.subject.rfc4514_string(),
            spki=x509facts.spki(found),
            is_ca=x509facts.is_ca(extensions),
            key_usage=x509facts.key_usage(extensions),
            extended_key_usage=x509facts.extended_key_usage(extensions),
            alternative_names=x509facts.alternative_names(extensions),
            other_extensions=x509facts.other_extensions(extensions),
            issuer=found.issuer.rfc4514_string(),
            is_self_issued=found.issuer == found.subject,
            serial=found.serial_number,
            not_before=found.not_valid_before_utc,
            not_after=found.not_valid_after_utc,
            signature_algorithm=found.signature_algorithm_oid.dotted_string,
        )
    except x509facts.MALFORMED as e:
        raise refuse("not-der", "not a TBSCertificate that can be read") from e


def _request(payload: bytes) -> CertificateRequest:
    try:
        found = x509.load_der_x509_csr(
            der.wrap(der.SEQUENCE, payload, _SOME_ALGORITHM, _NO_SIGNATURE)
        )
        if found.tbs_certrequest_bytes != payload:
            raise refuse("not-der", "not a CertificationRequestInfo in its one DER form")
        extensions = found.extensions
        return CertificateRequest(
            common_name=x509facts.common_name(found.subject),
            subject=found.subject.rfc4514_string(),
            spki=x509facts.spki(found),
            is_ca=x509facts.is_ca(extensions),
            key_usage=x509facts.key_usage(extensions),
            extended_key_usage=x509facts.extended_key_usage(extensions),
            alternative_names=x509facts.alternative_names(extensions),
            other_extensions=x509facts.other_extensions(extensions),
        )
    except x509facts.MALFORMED as e:
        raise refuse("not-der", "not a CertificationRequestInfo that can be read") from e
