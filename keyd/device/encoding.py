"""The bytes PKCS#11 speaks, as pure functions: points, public keys, signatures, parameters.

DER is written by hand here because the few shapes are fixed and a token host must start fast.
Sources: RFC 5280 (SubjectPublicKeyInfo), RFC 5480 (EC), RFC 8410 (Ed25519), RFC 8017 (RSA),
RFC 3279 (ECDSA-Sig-Value), PKCS#11 v2.40 mechanisms 2.3 and v3.0 2.3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from keyd.model import HashAlgorithm, KeyAlgorithm, Scheme

_SEQUENCE = 0x30
_INTEGER = 0x02
_BIT_STRING = 0x03
_OCTET_STRING = 0x04

EC_PARAMS = {
    KeyAlgorithm.ECDSA_P256: bytes.fromhex("06082a8648ce3d030107"),
    KeyAlgorithm.ECDSA_P384: bytes.fromhex("06052b81040022"),
    KeyAlgorithm.ED25519: bytes.fromhex("06032b6570"),
}
"""CKA_EC_PARAMS: the curve's object identifier, DER."""

ED25519_PARAMS_AS_NAME = b"\x13\x0cedwards25519"
"""The other form PKCS#11 v3.0 gives Edwards curves: a PrintableString."""

_SPELLED_OUT = {
    "40c3c405abfc62e096cb6491f85f967d6d75ede716604629654910c475d4b846": KeyAlgorithm.ECDSA_P256,
    "19a03321b63c6490867791325fc61a4df548ffaf40b94e499793a6267e5a72dd": KeyAlgorithm.ECDSA_P384,
}
"""SHA-256 of a curve's ECParameters (RFC 3279, 2.3.5) in place of its name, as libykcs11 tells them
for keys that were not made on their YubiKey. Byte for byte: a curve with another generator is
another curve, whatever else it shares."""

COORDINATE_BYTES = {KeyAlgorithm.ECDSA_P256: 32, KeyAlgorithm.ECDSA_P384: 48}
"""Length of r, of s and of one coordinate of a point."""

_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
_RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d0101010500")
_DIGEST_INFO = {
    HashAlgorithm.SHA256: bytes.fromhex("3031300d060960864801650304020105000420"),
    HashAlgorithm.SHA384: bytes.fromhex("3041300d060960864801650304020205000430"),
    HashAlgorithm.SHA512: bytes.fromhex("3051300d060960864801650304020305000440"),
}


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def _der_integer(value: int) -> bytes:
    # One bit more than the value has: a leading 1 bit would make it negative.
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _read_der(tag: int, data: bytes, start: int) -> tuple[bytes, int]:
    """The content of the element at ``start`` and where it ends."""
    if len(data) < start + 2 or data[start] != tag:
        raise ValueError(f"no DER element of tag {tag:#x} at byte {start}")
    length, at = data[start + 1], start + 2
    if length >= 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if size == 0 or size > 4 or length < 0x80 or data[at - size] == 0:
            raise ValueError("a DER length is not in its shortest form")
    if len(data) < at + length:
        raise ValueError("a DER element is cut short")
    return data[at : at + length], at + length


def ec_algorithm(params: bytes) -> KeyAlgorithm | None:
    """The algorithm whose curve CKA_EC_PARAMS names, or None for a curve keyd does not use."""
    if params == ED25519_PARAMS_AS_NAME:
        return KeyAlgorithm.ED25519
    named = next((name for name, known in EC_PARAMS.items() if known == params), None)
    return named or _SPELLED_OUT.get(hashlib.sha256(params).hexdigest())


def ec_public_key(algorithm: KeyAlgorithm, point: bytes) -> bytes:
    """DER SubjectPublicKeyInfo from CKA_EC_POINT.

    The attribute is a DER OCTET STRING by the standard; some modules give the bare point.

    Raises:
        ValueError: the point does not fit the curve.
    """
    if algorithm is KeyAlgorithm.ED25519:
        size = 32
        identifier = _der(_SEQUENCE, EC_PARAMS[algorithm])
    else:
        size = 1 + 2 * COORDINATE_BYTES[algorithm]
        identifier = _der(_SEQUENCE, _EC_PUBLIC_KEY, EC_PARAMS[algorithm])
    if len(point) != size:
        point, end = _read_der(_OCTET_STRING, whole := point, 0)
        if end != len(whole):
            raise ValueError("bytes follow the point")
    if len(point) != size or (size != 32 and point[0] != 4):
        raise ValueError(f"not an uncompressed point of {algorithm}")
    return _der(_SEQUENCE, identifier, _der(_BIT_STRING, b"\0", point))


def rsa_public_key(modulus: bytes, exponent: bytes) -> bytes:
    """DER SubjectPublicKeyInfo from CKA_MODULUS and CKA_PUBLIC_EXPONENT (big-endian)."""
    key = _der(
        _SEQUENCE,
        _der_integer(int.from_bytes(modulus, "big")),
        _der_integer(int.from_bytes(exponent, "big")),
    )
    return _der(_SEQUENCE, _der(_SEQUENCE, _RSA_ENCRYPTION), _der(_BIT_STRING, b"\0", key))


def ecdsa_to_der(raw: bytes) -> bytes:
    """ECDSA-Sig-Value from r||s.

    Raises:
        ValueError: the halves differ in length.
    """
    if not raw or len(raw) % 2:
        raise ValueError("r||s has two halves of the same length")
    half = len(raw) // 2
    return _der(
        _SEQUENCE,
        _der_integer(int.from_bytes(raw[:half], "big")),
        _der_integer(int.from_bytes(raw[half:], "big")),
    )


def ecdsa_to_raw(der: bytes, algorithm: KeyAlgorithm) -> bytes:
    """r||s, each padded to the curve's size, from ECDSA-Sig-Value.

    Raises:
        ValueError: not such a value, or its numbers are too large for the curve.
    """
    body, end = _read_der(_SEQUENCE, der, 0)
    r, middle = _read_der(_INTEGER, body, 0)
    s, last = _read_der(_INTEGER, body, middle)
    if end != len(der) or last != len(body):
        raise ValueError("bytes follow the signature")
    size = COORDINATE_BYTES[algorithm]
    numbers = [int.from_bytes(n, "big", signed=True) for n in (r, s)]
    if any(n <= 0 or n.bit_length() > 8 * size for n in numbers):
        raise ValueError(f"r or s does not fit {algorithm}")
    return b"".join(n.to_bytes(size, "big") for n in numbers)


def digest_info(algorithm: HashAlgorithm, digest: bytes) -> bytes:
    """DigestInfo (RFC 8017, 9.2), what CKM_RSA_PKCS pads and signs."""
    return _DIGEST_INFO[algorithm] + digest


@dataclass(frozen=True, slots=True)
class PssParameters:
    """CK_RSA_PKCS_PSS_PARAMS by the names of its mechanisms: CKM_SHA256, CKG_MGF1_SHA256."""

    hash: str
    mgf: str
    salt_bytes: int


def pss_parameters(scheme: Scheme) -> PssParameters:
    """MGF1 with the scheme's own hash and a salt of its length (RFC 8017, 9.1)."""
    assert scheme.is_pss and scheme.hash is not None
    name = scheme.hash.name
    return PssParameters(name, name, scheme.hash.size_bytes)
