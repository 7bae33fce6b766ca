"""Notary metadata made by hand, by the wire facts and not by keyd's own code."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from securesystemslib.formats import encode_canonical

EXPIRES = "2036-01-31T00:00:00Z"
DIGEST = base64.b64encode(b"\x07" * 32).decode()
NOW = datetime(2026, 1, 31, tzinfo=UTC)

Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def canonical(value: Any) -> bytes:
    text = encode_canonical(value)
    assert text is not None
    return text.encode()


def key_object(keytype: str, public: bytes) -> tuple[str, dict[str, Any]]:
    """A key's id and object."""
    keyval = {"private": None, "public": base64.b64encode(public).decode()}
    made = {"keytype": keytype, "keyval": keyval}
    return hashlib.sha256(canonical(made)).hexdigest(), made


def bare_key(private: Private) -> tuple[str, dict[str, Any]]:
    public = private.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        return key_object("ed25519", public.public_bytes_raw())
    keytype = "rsa" if isinstance(public, rsa.RSAPublicKey) else "ecdsa"
    return key_object(keytype, spki(private))


def spki(private: Private) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate_key(private: ec.EllipticCurvePrivateKey, gun: str) -> tuple[str, dict[str, Any]]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, gun)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    return key_object("ecdsa-x509", certificate.public_bytes(serialization.Encoding.PEM))


def role(*keyids: str, threshold: int = 1) -> dict[str, Any]:
    return {"keyids": list(keyids), "threshold": threshold}


def root(root_key: tuple[str, Any], other: tuple[str, Any], **changes: Any) -> dict[str, Any]:
    """A root whose other three roles share one key."""
    roles = {"root": role(root_key[0])}
    roles |= {name: role(other[0]) for name in ("targets", "snapshot", "timestamp")}
    return {
        "_type": "Root",
        "consistent_snapshot": False,
        "expires": EXPIRES,
        "keys": dict([root_key, other]),
        "roles": roles,
        "version": 1,
    } | changes


def targets(**changes: Any) -> dict[str, Any]:
    return {
        "_type": "Targets",
        "delegations": {"keys": {}, "roles": []},
        "expires": EXPIRES,
        "targets": {"v1": {"hashes": {"sha256": DIGEST}, "length": 3}},
        "version": 1,
    } | changes


def snapshot(*roles: str) -> dict[str, Any]:
    meta = {name: {"hashes": {"sha256": DIGEST}, "length": 9} for name in roles}
    return {"_type": "Snapshot", "expires": EXPIRES, "meta": meta, "version": 1}


def signature(private: Private, signed: dict[str, Any], keyid: str) -> dict[str, str]:
    """As Notary's own signers write it."""
    payload = canonical(signed)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        method, raw = "eddsa", private.sign(payload)
    elif isinstance(private, rsa.RSAPrivateKey):
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        method, raw = "rsapss", private.sign(payload, pss, hashes.SHA256())
    else:
        size = (private.curve.key_size + 7) // 8
        r, s = decode_dss_signature(private.sign(payload, ec.ECDSA(hashes.SHA256())))
        method, raw = "ecdsa", r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return {"keyid": keyid, "method": method, "sig": base64.b64encode(raw).decode()}


def file(signed: dict[str, Any], *signatures: dict[str, str]) -> bytes:
    """The published file, with the escapes Go writes."""
    text = json.dumps({"signed": signed, "signatures": list(signatures)}, ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()
