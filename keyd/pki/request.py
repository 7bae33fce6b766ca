"""Certificate requests (PKCS#10, RFC 2986): making one, and reading one with suspicion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from keyd.errors import InvalidRequestError
from keyd.pki.names import certificate_names, parse_name

MAX_REQUEST_BYTES = 64 * 1024
"""Larger requests are refused unread."""

# What openssl puts into requests by itself; keyd writes its own and only looks for CA:TRUE.
_TOLERATED = (
    x509.SubjectAlternativeName,
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectKeyIdentifier,
)


@dataclass(frozen=True, slots=True)
class NewRequest:
    """``key_pem``: the private TLS key, PKCS#8 PEM, unencrypted; ``csr_pem``: the request."""

    key_pem: bytes = field(repr=False)
    csr_pem: bytes


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """A request that keyd would sign. ``names``: typed; ``key``: its kind in words."""

    names: tuple[str, ...]
    key: str
    san: x509.SubjectAlternativeName
    csr: x509.CertificateSigningRequest


def new_request(names: Sequence[str]) -> NewRequest:
    """Make an ECDSA P-256 key and a request for typed names, the first also as common name.

    Raises:
        InvalidRequestError: no names, or one that cannot stand in a certificate.
    """
    if not names:
        raise InvalidRequestError("names", "give at least one name, as in uri:spiffe://acme/ci")
    key = ec.generate_private_key(ec.SECP256R1())
    san = x509.SubjectAlternativeName([parse_name(name) for name in names])
    shown = names[0].partition(":")[2][:64]  # ub-common-name of RFC 5280
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, shown)]))
        .add_extension(san, critical=False)
        .sign(key, hashes.SHA256())
    )
    return NewRequest(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        csr.public_bytes(serialization.Encoding.PEM),
    )


def inspect_request(csr_pem: bytes) -> RequestInfo:
    """Read a request and check all that does not depend on its use.

    Raises:
        InvalidRequestError: not a request, its signature is wrong, a weak or odd key, it wants to
            be a CA, unknown extensions, or names that :mod:`keyd.pki.names` refuses.
    """
    if len(csr_pem) > MAX_REQUEST_BYTES:
        raise _refuse(f"larger than {MAX_REQUEST_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        if not csr.is_signature_valid:
            raise _refuse("its own signature is wrong")
        key = _describe_key(csr)
        extensions = list(csr.extensions)
    except (
        ValueError,
        InvalidSignature,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as e:
        raise _refuse(f"not a readable PEM certificate request ({type(e).__name__})") from None
    san: x509.SubjectAlternativeName | None = None
    for extension in extensions:
        value = extension.value
        if not isinstance(value, _TOLERATED):
            raise _refuse(f"it asks for the extension {extension.oid.dotted_string}")
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise _refuse("it asks to become a CA")
        if isinstance(value, x509.SubjectAlternativeName):
            san = value
    if san is None or not list(san):
        raise _refuse("no subject alternative name; a common name is not looked at")
    return RequestInfo(certificate_names(san), key, san, csr)


def _describe_key(csr: x509.CertificateSigningRequest) -> str:
    key = csr.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return f"EC {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 4096:
        return f"RSA {key.key_size}"
    raise _refuse("its key is not EC P-256 or P-384, or RSA of 2048 to 4096 bits")


def _refuse(why: str) -> InvalidRequestError:
    return InvalidRequestError("request", why)
