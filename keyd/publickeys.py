"""Public keys and signatures in the forms the world uses; needs nothing but `cryptography`.

Public keys travel inside keyd as DER SubjectPublicKeyInfo (RFC 5280), ECDSA signatures as raw
r||s. This module turns them into what TUF, Notary, OpenSSH and X.509 write, and verifies.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache, partial

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from keyd.errors import AlgorithmMismatchError, BadSignatureError, InvalidRequestError
from keyd.model import Digest, Encoding, HashAlgorithm, KeyAlgorithm, Scheme

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

_HASHES: dict[HashAlgorithm, hashes.HashAlgorithm] = {
    HashAlgorithm.SHA256: hashes.SHA256(),
    HashAlgorithm.SHA384: hashes.SHA384(),
    HashAlgorithm.SHA512: hashes.SHA512(),
}
_COORDINATE_BYTES = {KeyAlgorithm.ECDSA_P256: 32, KeyAlgorithm.ECDSA_P384: 48}


@lru_cache(maxsize=4096)
def load(public_key: bytes) -> PublicKey:
    """Load a DER SubjectPublicKeyInfo.

    Raises:
        InvalidRequestError: not a public key, or of a kind keyd does not use.
    """
    try:
        key = serialization.load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise InvalidRequestError("public_key", "not a DER SubjectPublicKeyInfo") from e
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise InvalidRequestError("public_key", "keyd uses ECDSA, Ed25519 and RSA keys only")
    return key


def load_pem(text: bytes) -> bytes:
    """The DER SubjectPublicKeyInfo of a PEM public key.

    Raises:
        InvalidRequestError: not a PEM public key.
    """
    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise InvalidRequestError("public_key", "not a PEM public key") from e
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def algorithm_of(public_key: bytes) -> KeyAlgorithm:
    """The kind of key pair a DER SubjectPublicKeyInfo belongs to.

    Raises:
        AlgorithmMismatchError: a curve or size keyd does not use.
    """
    key = load(public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyAlgorithm.ED25519
    name = f"rsa-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else key.curve.name
    known = {
        "secp256r1": KeyAlgorithm.ECDSA_P256,
        "secp384r1": KeyAlgorithm.ECDSA_P384,
        "rsa-2048": KeyAlgorithm.RSA_2048,
        "rsa-3072": KeyAlgorithm.RSA_3072,
        "rsa-4096": KeyAlgorithm.RSA_4096,
    }
    if name not in known:
        raise AlgorithmMismatchError(
            f"keyd does not use {name} keys; it uses {', '.join(KeyAlgorithm)}", algorithm=name
        )
    return known[name]


def pem(public_key: bytes) -> str:
    """The key as PEM text, ending in a newline."""
    return (
        load(public_key)
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )


def ssh_line(public_key: bytes, comment: str) -> str:
    """An authorized_keys line (RFC 4253, 6.6) with a comment, without a newline."""
    line = load(public_key).public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return f"{line.decode('ascii')} {comment}"


def _canonical(value: object) -> bytes:
    """OLPC canonical JSON for the key objects here, which hold strings and null only."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    # json.dumps writes \n for a newline, OLPC writes the byte itself (only \ and " are escaped).
    return text.replace("\\n", "\n").encode()


def tuf_key(public_key: bytes, scheme: Scheme) -> dict[str, object]:
    """The TUF key object (TUF 1.0, 4.2), as securesystemslib writes it; no keyid inside."""
    key = load(public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        keytype, public = "ed25519", key.public_bytes_raw().hex()
    else:
        keytype = "rsa" if isinstance(key, rsa.RSAPublicKey) else "ecdsa"
        public = pem(public_key)
    return {"keytype": keytype, "scheme": scheme.value, "keyval": {"public": public}}


def tuf_keyid(public_key: bytes, scheme: Scheme) -> str:
    """securesystemslib's keyid: SHA-256 of the canonical key object, lower-case hex."""
    return hashlib.sha256(_canonical(tuf_key(public_key, scheme))).hexdigest()


def notary_key(public_key: bytes) -> str:
    """Notary v1's key object as canonical JSON; ``private: null`` is part of it."""
    key = load(public_key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        keytype, public = "ed25519", key.public_bytes_raw()
    else:
        keytype, public = "rsa" if isinstance(key, rsa.RSAPublicKey) else "ecdsa", public_key
    keyval = {"private": None, "public": base64.b64encode(public).decode("ascii")}
    return _canonical({"keytype": keytype, "keyval": keyval}).decode("ascii")


def notary_keyid(public_key: bytes) -> str:
    """Notary v1's canonical key id: SHA-256 of :func:`notary_key`, lower-case hex."""
    return hashlib.sha256(notary_key(public_key).encode("ascii")).hexdigest()


def keyids(public_key: bytes, scheme: Scheme) -> dict[str, str]:
    """All the ids a key version is known by: form -> id."""
    return {"tuf": tuf_keyid(public_key, scheme), "notary": notary_keyid(public_key)}


def to_der(raw: bytes) -> bytes:
    """ECDSA r||s -> ECDSA-Sig-Value (RFC 3279, 2.2.3)."""
    half = len(raw) // 2
    if not half or len(raw) % 2:
        raise InvalidRequestError("signature", f"r||s cannot have {len(raw)} bytes")
    return encode_dss_signature(
        int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
    )


def to_raw(der: bytes, algorithm: KeyAlgorithm) -> bytes:
    """ECDSA-Sig-Value -> r||s, each padded to the curve's size.

    Raises:
        InvalidRequestError: not DER, or numbers too large for the curve.
    """
    size = _COORDINATE_BYTES[algorithm]
    try:
        r, s = decode_dss_signature(der)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    except (ValueError, OverflowError) as e:
        raise InvalidRequestError("signature", "not an ECDSA-Sig-Value for this curve") from e


def encode(algorithm: KeyAlgorithm, raw: bytes, encoding: Encoding) -> bytes:
    """Write a raw signature in the encoding that was asked for."""
    return to_der(raw) if algorithm.is_ecdsa and encoding is Encoding.DER else raw


def check_scheme(algorithm: KeyAlgorithm, scheme: Scheme) -> None:
    """Refuse a scheme the kind of key cannot make.

    Raises:
        AlgorithmMismatchError: naming the schemes it can make.
    """
    if scheme not in algorithm.schemes:
        raise AlgorithmMismatchError(
            f"scheme: a {algorithm} key does not sign {scheme}; "
            f"it signs {', '.join(algorithm.schemes)}",
            algorithm=algorithm,
            scheme=scheme,
        )


def verify(public_key: bytes, scheme: Scheme, signature: bytes, signed: bytes | Digest) -> None:
    """Verify a raw signature (ECDSA as r||s) over a message, or over a digest.

    Ed25519 takes only messages. RSASSA-PSS: MGF1 with the same hash, salt as long as the digest.

    Raises:
        BadSignatureError: it does not verify.
        AlgorithmMismatchError: scheme, key and digest do not fit together.
    """
    try:
        _verifier(public_key, scheme)(signature, signed)
    except InvalidSignature as e:
        raise BadSignatureError(f"the signature does not verify with {scheme}") from e


_Verify = Callable[[bytes, bytes | Digest], None]


@lru_cache(maxsize=4096)
def _verifier(public_key: bytes, scheme: Scheme) -> _Verify:
    """What verifies with one key and scheme; it raises InvalidSignature. Kept, since a signer
    verifies thousands of signatures a second with the same few."""
    key = load(public_key)
    algorithm = algorithm_of(public_key)
    check_scheme(algorithm, scheme)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return partial(_verify_message, key)
    wanted = scheme.hash
    assert wanted is not None
    hash_ = _HASHES[wanted]
    if isinstance(key, ec.EllipticCurvePublicKey):
        size, ecdsa = 2 * _COORDINATE_BYTES[algorithm], ec.ECDSA(Prehashed(hash_))

        def verify_digest(signature: bytes, digest: bytes) -> None:
            if len(signature) != size:
                raise InvalidSignature
            key.verify(to_der(signature), digest, ecdsa)

    else:
        form: padding.AsymmetricPadding = padding.PKCS1v15()
        if scheme.is_pss:
            form = padding.PSS(mgf=padding.MGF1(hash_), salt_length=wanted.size_bytes)

        def verify_digest(signature: bytes, digest: bytes) -> None:
            key.verify(signature, digest, form, Prehashed(hash_))

    def verify_signed(signature: bytes, signed: bytes | Digest) -> None:
        digest = signed if isinstance(signed, Digest) else Digest.of(wanted, signed)
        if digest.algorithm is not wanted:
            raise AlgorithmMismatchError(f"digest: {scheme} signs a {wanted} digest")
        verify_digest(signature, digest.value)

    return verify_signed


def _verify_message(
    key: ed25519.Ed25519PublicKey, signature: bytes, signed: bytes | Digest
) -> None:
    if isinstance(signed, Digest):
        raise AlgorithmMismatchError("digest: Ed25519 signs messages, not digests")
    key.verify(signature, signed)
