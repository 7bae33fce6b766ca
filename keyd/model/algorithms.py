"""Digests, kinds of keys, signature schemes and encodings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from keyd.errors import AlgorithmMismatchError, InvalidRequestError


class HashAlgorithm(StrEnum):
    """A digest algorithm of FIPS 180-4."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def size_bytes(self) -> int:
        """Length of the digest in bytes."""
        return {"sha256": 32, "sha384": 48, "sha512": 64}[self.value]


class KeyAlgorithm(StrEnum):
    """What kind of key pair lies on the token."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ED25519 = "ed25519"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def is_ecdsa(self) -> bool:
        """True for the curves whose signatures have two encodings (DER and raw r||s)."""
        return self in (KeyAlgorithm.ECDSA_P256, KeyAlgorithm.ECDSA_P384)

    @property
    def is_rsa(self) -> bool:
        """True for RSA of any size."""
        return self.value.startswith("rsa-")

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The signature schemes such a key can make; the first is the default."""
        if self is KeyAlgorithm.ECDSA_P256:
            return (Scheme.ECDSA_P256_SHA256,)
        if self is KeyAlgorithm.ECDSA_P384:
            return (Scheme.ECDSA_P384_SHA384,)
        if self is KeyAlgorithm.ED25519:
            return (Scheme.ED25519,)
        return tuple(s for s in Scheme if s.value.startswith("rsa"))


class Scheme(StrEnum):
    """A signature scheme, under the names TUF and securesystemslib give them.

    RSASSA-PSS uses MGF1 with the same hash and a salt of the digest's length (RFC 8017, 9.1).
    """

    ECDSA_P256_SHA256 = "ecdsa-sha2-nistp256"
    ECDSA_P384_SHA384 = "ecdsa-sha2-nistp384"
    ED25519 = "ed25519"
    RSA_PSS_SHA256 = "rsassa-pss-sha256"
    RSA_PSS_SHA384 = "rsassa-pss-sha384"
    RSA_PSS_SHA512 = "rsassa-pss-sha512"
    RSA_PKCS1_SHA256 = "rsa-pkcs1v15-sha256"
    RSA_PKCS1_SHA384 = "rsa-pkcs1v15-sha384"
    RSA_PKCS1_SHA512 = "rsa-pkcs1v15-sha512"

    @property
    def hash(self) -> HashAlgorithm | None:
        """The digest that is signed; None for Ed25519, which signs the message itself."""
        if self is Scheme.ED25519:
            return None
        if self is Scheme.ECDSA_P256_SHA256:
            return HashAlgorithm.SHA256
        if self is Scheme.ECDSA_P384_SHA384:
            return HashAlgorithm.SHA384
        return HashAlgorithm(self.value.rsplit("-", 1)[1])

    @property
    def is_pss(self) -> bool:
        """True for RSASSA-PSS."""
        return self.value.startswith("rsassa-pss")


class Encoding(StrEnum):
    """How signature bytes are written.

    ``der``: ECDSA-Sig-Value (RFC 3279), what TUF, X.509 and cosign want. ``raw``: r||s, each
    padded to the curve's size (PKCS#11 "EC Signatures"), what Notary and JWS want; for Ed25519
    (64 bytes) and RSA (modulus length) the only form there is.
    """

    DER = "der"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Digest:
    """A hash value with its algorithm; the length is checked when it is made."""

    algorithm: HashAlgorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != self.algorithm.size_bytes:
            raise InvalidRequestError(
                "digest",
                f"{self.algorithm} has {self.algorithm.size_bytes} bytes, got {len(self.value)}",
            )

    @classmethod
    def of(cls, algorithm: HashAlgorithm, message: bytes) -> Digest:
        """Hash a message."""
        return cls(algorithm, hashlib.new(algorithm.value, message).digest())

    @property
    def hex(self) -> str:
        """The value in lower-case hexadecimal."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def check_encoding(algorithm: KeyAlgorithm, encoding: Encoding | None) -> Encoding:
    """Return the encoding to answer in; ECDSA callers must choose, the others have one form.

    Raises:
        AlgorithmMismatchError: no choice for ECDSA, or DER for Ed25519 and RSA.
    """
    if algorithm.is_ecdsa:
        if encoding is None:
            raise AlgorithmMismatchError(
                "encoding: an ECDSA signature has two encodings, say DER (TUF, X.509) "
                "or RAW (Notary, JWS)"
            )
        return encoding
    if encoding is Encoding.DER:
        raise AlgorithmMismatchError(f"encoding: DER is for ECDSA keys, this key is {algorithm}")
    return Encoding.RAW
