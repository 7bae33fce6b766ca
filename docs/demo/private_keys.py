"""Looks for private keys in files, in every form somebody might have written them by mistake.

Forms: PEM of any kind, OpenSSH, DER at any offset (PKCS#8, encrypted PKCS#8, SEC1, PKCS#1), the
same inside base64 or hex text, and bare EC scalars or Ed25519 seeds in base64 or hex text that
belong to one of the public keys given. Not looked for: bare scalars in binary, or anything
encrypted or compressed in a way of its own.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_MARKERS = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|openssh-key-v1\x00")
# SEQUENCE, length, then INTEGER 0 or 1 (PKCS#8, PKCS#1, SEC1), or SEQUENCE (encrypted PKCS#8).
_DER_STARTS = re.compile(
    rb"(?=\x30(?:[\x20-\x7f]|\x81[\x80-\xff]|\x82[\x01-\x1f][\x00-\xff])(?:\x02\x01[\x00\x01]|\x30))"
)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}={0,2}")
_HEX = re.compile(rb"[0-9a-fA-F]{64,}")


@dataclass(frozen=True)
class Found:
    """A private key: where, and in which form."""

    path: Path
    form: str


def scan(folders: Iterable[Path], public_keys: Iterable[bytes] = ()) -> Iterator[Found]:
    """Every private key in the files below the folders. ``public_keys``: DER, to know scalars."""
    known = frozenset(public_keys)
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield from (Found(path, form) for form in forms_in(path.read_bytes(), known))


def forms_in(data: bytes, known: frozenset[bytes] = frozenset()) -> Iterator[str]:
    """The forms in which private keys are in these bytes."""
    if _MARKERS.search(data):
        yield "PEM or OpenSSH"
    if _holds_der(data):
        yield "DER"
    for pattern, decode in ((_BASE64, _from_base64), (_HEX, _from_hex)):
        for match in pattern.finditer(data):
            decoded = decode(match[0])
            if decoded and (_holds_der(decoded) or _MARKERS.search(decoded)):
                yield "DER in text"
            if decoded and len(decoded) in (32, 48, 64) and _is_scalar(decoded, known):
                yield "bare private value in text"


def _from_base64(text: bytes) -> bytes:
    plain = text.rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), altchars=_altchars(plain))
    except binascii.Error:
        return b""


def _altchars(text: bytes) -> bytes | None:
    return b"-_" if b"-" in text or b"_" in text else None


def _from_hex(text: bytes) -> bytes:
    return bytes.fromhex(text[: len(text) // 2 * 2].decode("ascii"))


def _holds_der(data: bytes) -> bool:
    return any(_is_private(data[m.start() :]) for m in _DER_STARTS.finditer(data))


def _is_private(data: bytes) -> bool:
    size = data[1] + 2
    if data[1] & 0x80:
        octets = data[1] & 0x7F
        size = int.from_bytes(data[2 : 2 + octets], "big") + 2 + octets
    if size > len(data):
        return False
    try:
        serialization.load_der_private_key(data[:size], None)
    except TypeError:  # "Password was not given": an encrypted private key is one, too.
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _is_scalar(value: bytes, known: frozenset[bytes]) -> bool:
    made: list[ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = []
    if len(value) in (32, 64):  # An Ed25519 seed, alone or followed by the public key.
        made.append(ed25519.Ed25519PrivateKey.from_private_bytes(value[:32]))
    for curve, size in ((ec.SECP256R1(), 32), (ec.SECP384R1(), 48)):
        if len(value) == size:
            try:
                made.append(ec.derive_private_key(int.from_bytes(value, "big"), curve))
            except ValueError:
                continue  # Zero, or not below the curve's order.
    return any(
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) in known
        for key in made
    )
