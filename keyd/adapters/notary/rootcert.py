"""X.509 certificates of keys on tokens: keyd signs the TBSCertificate (RFC 5280).

cryptography builds it and asks a private key to sign; the key here hands the bytes to keyd, which
signs them as ``certify`` only for its own public key and for names that it is bound to.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyd import publickeys
from keyd.errors import AlgorithmMismatchError

LIFE_DAYS = 3650

SignX509 = Callable[[bytes], bytes]
"""Signs the bytes of a TBSCertificate or a request: ECDSA as DER, RSA as PKCS#1 v1.5, SHA-256."""


@dataclass(frozen=True, slots=True)
class Subject:
    """``public_key``: DER SubjectPublicKeyInfo. ``common_name``: the GUN, or a role's name."""

    public_key: bytes
    common_name: str


def self_signed(subject: Subject, sign: SignX509, now: datetime) -> x509.Certificate:
    """A certificate as notary makes them for root keys: no CA, for code signing, for ten years.

    Raises:
        AlgorithmMismatchError: neither ECDSA nor RSA.
        KeydError: keyd does not sign it.
    """
    name = _name(subject.common_name)
    public = _public(subject)
    begin = now.replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(_serial(subject, begin))
        .not_valid_before(begin - timedelta(hours=1))
        .not_valid_after(begin + timedelta(days=LIFE_DAYS))
    )
    for extension, critical in _extensions():
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(_private(public, sign), hashes.SHA256())


def request(subject: Subject, sign: SignX509) -> x509.CertificateSigningRequest:
    """A PKCS#10 request of the same content, for somebody else's CA.

    Raises:
        AlgorithmMismatchError: neither ECDSA nor RSA.
        KeydError: keyd does not sign it.
    """
    public = _public(subject)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(subject.common_name))
    for extension, critical in _extensions():
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(_private(public, sign), hashes.SHA256())


def pem(structure: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """As text, ending in a newline."""
    return structure.public_bytes(serialization.Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    # GUNs may be longer than the 64 characters of X.520, which notary does not mind;
    # cryptography warns of them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)])


def _serial(subject: Subject, begin: datetime) -> int:
    """The same for the same key, name and second: a repeated request is the same request."""
    seed = subject.public_key + subject.common_name.encode() + begin.isoformat().encode()
    return int.from_bytes(hashlib.sha256(seed).digest()[:16], "big") >> 1 | 1


def _extensions() -> list[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return [
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
    ]


def _public(subject: Subject) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    key = publickeys.load(subject.public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise AlgorithmMismatchError("Notary takes certificates of ECDSA and RSA keys only")
    return key


def _private(
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, sign: SignX509
) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if isinstance(public, rsa.RSAPublicKey):
        return _RsaOnToken(public, sign)
    return _EcOnToken(public, sign)


def _stays() -> NoReturn:
    raise AlgorithmMismatchError("the private key stays on its token")


class _EcOnToken(ec.EllipticCurvePrivateKey):
    """Signs through keyd; can do nothing else."""

    def __init__(self, public: ec.EllipticCurvePublicKey, sign: SignX509) -> None:
        self._public, self._sign = public, sign

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        del signature_algorithm
        return self._sign(bytes(data))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, *_: Any, **__: Any) -> bytes:
        _stays()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        _stays()

    def private_bytes(self, *_: Any, **__: Any) -> bytes:
        _stays()

    def __copy__(self) -> _EcOnToken:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> _EcOnToken:
        return self


class _RsaOnToken(rsa.RSAPrivateKey):
    """Signs through keyd; can do nothing else."""

    def __init__(self, public: rsa.RSAPublicKey, sign: SignX509) -> None:
        self._public, self._sign = public, sign

    def sign(self, data: Any, padding: AsymmetricPadding, algorithm: Any) -> bytes:
        del algorithm
        _check_padding(padding)
        return self._sign(bytes(data))

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def decrypt(self, *_: Any, **__: Any) -> bytes:
        _stays()

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        _stays()

    def private_bytes(self, *_: Any, **__: Any) -> bytes:
        _stays()

    def __copy__(self) -> _RsaOnToken:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> _RsaOnToken:
        return self


def _check_padding(given: AsymmetricPadding) -> None:
    assert isinstance(given, padding.PKCS1v15), "cryptography's default for certificates"
