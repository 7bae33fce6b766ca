"""Public keys and certificates as Notary writes them into metadata.

    {"keytype":T,"keyval":{"private":null,"public":BASE64}}

A key's id is the SHA-256 of that object in canonical form. ``ecdsa``, ``rsa``: DER of the
SubjectPublicKeyInfo; ``ed25519``: 32 bytes; ``ecdsa-x509``, ``rsa-x509``: PEM, the leaf first.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyd import publickeys
from keyd.content import canonical, x509facts
from keyd.content.canonical import Json
from keyd.content.documents import PublicKeyInfo
from keyd.content.tuf import ED25519_SPKI
from keyd.errors import InvalidRequestError, KeydError

_MAX_FILE_BYTES = 1024 * 1024
_MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class KeyObject:
    """A key as it stands in metadata. ``keyid``: its id there; ``canonical_id``: of the bare key,
    which is how notary's and docker's lists call it. ``spki``: DER. ``common_name``: of a
    certificate, else empty."""

    keyid: str
    value: dict[str, Json]
    spki: bytes
    common_name: str = ""

    @property
    def canonical_id(self) -> str:
        """Notary's id of the key without its certificate."""
        return publickeys.notary_keyid(self.spki)

    @property
    def keytype(self) -> str:
        """As ``ecdsa`` or ``rsa-x509``."""
        return str(self.value["keytype"])


def of_public_key(spki: bytes) -> KeyObject:
    """The object of a bare public key, DER SubjectPublicKeyInfo.

    Raises:
        InvalidRequestError: a kind that Notary's clients do not verify.
    """
    key = publickeys.load(spki)
    if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequestError(
            "key",
            f"Notary verifies ECDSA with SHA-256 only, and a {key.curve.name} key of keyd signs "
            "another hash",
            hint="take an ecdsa-p256 key",
        )
    value = json.loads(publickeys.notary_key(spki))
    return KeyObject(publickeys.notary_keyid(spki), value, spki)


def of_value(value: Json) -> KeyObject:
    """The object of a bare key that somebody else wrote, a server for instance.

    Raises:
        InvalidRequestError: not the object of a public key, or of a kind Notary does not verify.
    """
    try:
        assert isinstance(value, dict) and isinstance(value["keyval"], dict)
        raw = base64.b64decode(str(value["keyval"]["public"]), validate=True)
        is_edwards = value["keytype"] == "ed25519"
    except (AssertionError, KeyError, ValueError) as e:
        raise InvalidRequestError("key", "this is no public key as Notary writes it") from e
    return of_public_key(ED25519_SPKI + raw if is_edwards else raw)


def of_certificates(chain: list[x509.Certificate]) -> KeyObject:
    """The object of a certificate, the leaf first, then the CAs that issued it.

    Raises:
        InvalidRequestError: a key that Notary does not verify.
    """
    leaf = chain[0]
    spki = x509facts.spki(leaf)
    public = leaf.public_key()
    kind = {True: "ecdsa", False: "rsa"}.get(isinstance(public, ec.EllipticCurvePublicKey))
    if not spki or not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise InvalidRequestError("certificate", "Notary takes certificates of ECDSA and RSA keys")
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < _MIN_RSA_BITS:
        raise InvalidRequestError(
            "certificate", f"an RSA key of {public.key_size} bits; Notary takes 2048 and more"
        )
    if isinstance(leaf.signature_hash_algorithm, hashes.SHA1):
        raise InvalidRequestError("certificate", "signed with SHA-1, which Notary refuses")
    pem = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain)
    keyval: dict[str, Json] = {"private": None, "public": base64.b64encode(pem).decode("ascii")}
    value: dict[str, Json] = {"keytype": f"{kind}-x509", "keyval": keyval}
    name = x509facts.common_name(leaf.subject)
    return KeyObject(hashlib.sha256(canonical.encode(value)).hexdigest(), value, spki, name)


def read_file(file: Path) -> KeyObject:
    """A public key or certificates in PEM; the leaf may stand anywhere among its CAs.

    Raises:
        InvalidRequestError: neither, or with a private key in it.
    """
    try:
        text = file.read_bytes()[:_MAX_FILE_BYTES]
    except OSError as e:
        raise InvalidRequestError("key", f"cannot read {file}: {e.strerror}") from e
    if b"PRIVATE KEY" in text:
        raise InvalidRequestError(
            "key", f"{file} holds a private key", hint="give the public key or its certificate"
        )
    try:
        if b"BEGIN CERTIFICATE" in text:
            return of_certificates(_leaf_first(x509.load_pem_x509_certificates(text)))
        return of_public_key(publickeys.load_pem(_without_headers(text)))
    except KeydError as e:
        raise InvalidRequestError("key", f"{file}: {e.message}", hint=e.hint) from e
    except x509facts.MALFORMED as e:
        raise InvalidRequestError("key", f"{file} holds no certificate that can be read") from e


def chain_of(key: PublicKeyInfo) -> list[x509.Certificate]:
    """The certificates behind a key of metadata, the leaf first; empty for a bare key."""
    if key.certificate is None:
        return []
    return x509.load_pem_x509_certificates(base64.b64decode(key.public))


def _without_headers(pem: bytes) -> bytes:
    """docker and notary put ``role: NAME`` in front of the base64 of a public key."""
    lines = pem.splitlines()
    return b"\n".join(line for line in lines if b": " not in line and line.strip()) + b"\n"


def _leaf_first(chain: list[x509.Certificate]) -> list[x509.Certificate]:
    leaves = [c for c in chain if not x509facts.is_ca(c.extensions)] or chain[:1]
    if len(leaves) != 1:
        raise InvalidRequestError(
            "certificate",
            f"{len(leaves)} certificates that are no CA's; give one, with its CAs after it",
        )
    return [leaves[0], *(c for c in chain if c is not leaves[0])]
