"""What a YubiKey's chip computes: key pairs in memory, and the management key's cipher."""

from __future__ import annotations

from enum import IntEnum

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.yubikey.apdu import CardError, Sw, parse_tlvs, tlv

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_EXPONENT = 65537


class KeyKind(IntEnum):
    """Algorithm identifiers of private keys (NIST SP 800-78-4, table 6-2, and Yubico's own)."""

    RSA_2048 = 0x07
    RSA_3072 = 0x05
    RSA_4096 = 0x16
    P256 = 0x11
    P384 = 0x14
    ED25519 = 0xE0


SINCE_5_7 = frozenset({KeyKind.RSA_3072, KeyKind.RSA_4096, KeyKind.ED25519})

_RSA_BYTES = {KeyKind.RSA_2048: 256, KeyKind.RSA_3072: 384, KeyKind.RSA_4096: 512}
_CURVES: dict[KeyKind, ec.EllipticCurve] = {
    KeyKind.P256: ec.SECP256R1(),
    KeyKind.P384: ec.SECP384R1(),
}
_CURVE_HASHES: dict[KeyKind, hashes.HashAlgorithm] = {
    KeyKind.P256: hashes.SHA256(),
    KeyKind.P384: hashes.SHA384(),
}


def generate(kind: KeyKind) -> PrivateKey:
    """A new key pair; RSA takes a tenth of a second to seconds."""
    if kind in _RSA_BYTES:
        return rsa.generate_private_key(_EXPONENT, _RSA_BYTES[kind] * 8)
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    return ed25519.Ed25519PrivateKey.generate()


def imported(kind: KeyKind, data: bytes) -> PrivateKey:
    """The key that IMPORT carries: RSA as primes and CRT values, curves as the scalar.

    Raises:
        CardError: it is no key of this kind.
    """
    parts = parse_tlvs(data)
    try:
        if kind in _RSA_BYTES:
            p, q, dp, dq, qinv = (int.from_bytes(parts[tag], "big") for tag in range(1, 6))
            d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
            public = rsa.RSAPublicNumbers(_EXPONENT, p * q)
            key = rsa.RSAPrivateNumbers(p, q, d, dp, dq, qinv, public).private_key()
            if key.key_size != _RSA_BYTES[kind] * 8:
                raise CardError(Sw.WRONG_DATA)
            return key
        if kind in _CURVES:
            return ec.derive_private_key(int.from_bytes(parts[6], "big"), _CURVES[kind])
        return ed25519.Ed25519PrivateKey.from_private_bytes(parts[7])
    except (KeyError, ValueError):
        raise CardError(Sw.WRONG_DATA) from None


def public_template(key: PrivateKey) -> bytes:
    """The public half as GENERATE and GET METADATA tell it (SP 800-73-4, part 2, table 16)."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return tlv(0x81, numbers.n.to_bytes(key.key_size // 8, "big")) + tlv(
            0x82, numbers.e.to_bytes(3, "big")
        )
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return tlv(0x86, point)
    return tlv(0x86, key.public_key().public_bytes_raw())


def sign(kind: KeyKind, key: PrivateKey, data: bytes) -> bytes:
    """The private operation on what the host prepared: a padded block for RSA, a digest for ECDSA
    (the answer is DER), the message for Ed25519.

    Raises:
        CardError: the data has a size the key cannot take.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        return _rsa(key, data, _RSA_BYTES[kind])
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _CURVE_HASHES[kind]
        if len(data) > algorithm.digest_size:
            raise CardError(Sw.WRONG_DATA)
        # A short digest is the same number with zeros before it.
        return key.sign(data.rjust(algorithm.digest_size, b"\0"), ec.ECDSA(Prehashed(algorithm)))
    return key.sign(data)


def _rsa(key: rsa.RSAPrivateKey, data: bytes, size: int) -> bytes:
    value = int.from_bytes(data, "big")
    numbers = key.private_numbers()
    if len(data) != size or value >= numbers.public_numbers.n:
        raise CardError(Sw.WRONG_DATA)
    # By the Chinese remainder theorem (RFC 8017, 5.1.2), four times as fast.
    m1 = pow(value, numbers.dmp1, numbers.p)
    m2 = pow(value, numbers.dmq1, numbers.q)
    h = (m1 - m2) * numbers.iqmp % numbers.p
    return (m2 + numbers.q * h).to_bytes(size, "big")


def agree(kind: KeyKind, key: PrivateKey, point: bytes) -> bytes:
    """ECDH: the shared point's x coordinate.

    Raises:
        CardError: not a point of the key's curve, or not a key that can.
    """
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CardError(Sw.WRONG_DATA)
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[kind], point)
    except ValueError:
        raise CardError(Sw.WRONG_DATA) from None
    return key.exchange(ec.ECDH(), peer)


class ManagementCipher(IntEnum):
    """Algorithm identifiers of the management key (SP 800-78-4, table 6-2)."""

    TDES = 0x03
    AES_128 = 0x08
    AES_192 = 0x0A
    AES_256 = 0x0C

    @property
    def key_bytes(self) -> int:
        """Length of the key."""
        return {3: 24, 8: 16, 10: 24, 12: 32}[self.value]

    @property
    def block_bytes(self) -> int:
        """Length of witnesses and challenges: one block."""
        return 8 if self is ManagementCipher.TDES else 16

    def encrypt(self, key: bytes, block: bytes) -> bytes:
        """One block; the protocol uses it as a keyed permutation, no mode is meant."""
        cipher = TripleDES(key) if self is ManagementCipher.TDES else algorithms.AES(key)
        return Cipher(cipher, modes.ECB()).encryptor().update(block)
