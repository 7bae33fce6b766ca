"""The maker's certificates: a root that only tests trust, and what cards sign with it.

Extensions and shapes: https://developers.yubico.com/PIV/Introduction/PIV_attestation.html
"""

from __future__ import annotations

import datetime
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.yubikey.crypto import PrivateKey
from tests.yubikey.model import Model, PinPolicy, TouchPolicy

_YUBICO = "1.3.6.1.4.1.41482.3"
FIRMWARE = x509.ObjectIdentifier(f"{_YUBICO}.3")
SERIAL = x509.ObjectIdentifier(f"{_YUBICO}.7")
POLICIES = x509.ObjectIdentifier(f"{_YUBICO}.8")
FORM_FACTOR = x509.ObjectIdentifier(f"{_YUBICO}.9")

_NOT_BEFORE = datetime.datetime(2016, 3, 14, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2052, 4, 17, tzinfo=datetime.UTC)

SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _builder(subject: str, issuer: x509.Name, key: PublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(secrets.randbits(127) | 1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
    )


class Maker:
    """Makes YubiKeys' attestation keys. ``root`` is what a verifier must be told to trust."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = "keyd test bench PIV Root CA"
        self.root = (
            _builder(name, _name(name), self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def root_pem(self) -> str:
        """The root as a trust file holds it."""
        return self.root.public_bytes(Encoding.PEM).decode()

    def certify(self, model: Model, key: SigningKey) -> x509.Certificate:
        """The certificate a card leaves the factory with, in slot F9."""
        return (
            _builder("Yubico PIV Attestation", self.root.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_raw(FIRMWARE, bytes(model.firmware)), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def attest(
    model: Model,
    slot: int,
    key: PrivateKey,
    policies: tuple[PinPolicy, TouchPolicy],
    attester: tuple[SigningKey, x509.Certificate],
) -> bytes:
    """DER of the card's statement: this key was generated here, with these policies.

    The dates are the attesting certificate's; the serial of the card is a DER INTEGER, the other
    extensions are plain bytes.
    """
    signer, certificate = attester
    serial = model.serial.to_bytes(model.serial.bit_length() // 8 + 1, "big")
    return (
        _builder(f"YubiKey PIV Attestation {slot:x}", certificate.subject, key.public_key())
        .add_extension(_raw(FIRMWARE, bytes(model.firmware)), critical=False)
        .add_extension(_raw(SERIAL, bytes((2, len(serial))) + serial), critical=False)
        .add_extension(_raw(POLICIES, bytes(policies)), critical=False)
        .add_extension(_raw(FORM_FACTOR, bytes((model.form_factor,))), critical=False)
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def _raw(oid: x509.ObjectIdentifier, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(oid, value)
