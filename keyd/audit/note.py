"""Signed notes and verifier keys (C2SP signed-note), Ed25519 and ECDSA P-256.

A note is text that ends in a newline, an empty line, and one line for each signature::

    — NAME BASE64(keyid || signature)

with an em dash (U+2014) and a key id of 4 bytes. Ed25519 (type 0x01): keyid is
SHA-256(name || 0x0A || 0x01 || public key)[:4]. ECDSA P-256 (type 0x02, Go's note ecosystem):
keyid is SHA-256(SubjectPublicKeyInfo DER)[:4] without the name, the signature is DER over the
text's SHA-256. A verifier key is ``name+hex(keyid)+base64(type || key)``.

Signatures of unknown keys are ignored, as the specification asks; everything else that is not
exactly as written here is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from keyd.errors import LogProofError

ED25519 = 0x01
ECDSA_P256 = 0x02
MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
_EM_DASH = "\u2014"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def _decode_base64(text: str) -> bytes:
    """Strict base64: one text for each value, so that no bit of a line is without meaning."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LogProofError("a base64 field is malformed") from error
    if base64.b64encode(raw).decode() != text:
        raise LogProofError("a base64 field is not in its canonical form")
    return raw


def check_key_name(name: str) -> str:
    """Return a note key's name: not empty, no white space, no ``+`` (C2SP signed-note).

    Raises:
        LogProofError: it has.
    """
    if not name or "+" in name or any(c.isspace() for c in name) or _CONTROL.search(name):
        raise LogProofError(f"{name!r} cannot name a note key: no white space, no '+'")
    return name


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that checks notes. ``key``: 32 bytes (Ed25519) or SPKI DER (ECDSA P-256)."""

    name: str
    type: int
    key: bytes

    @classmethod
    def from_public_key(cls, name: str, spki: bytes) -> VerifierKey:
        """Make one from a DER SubjectPublicKeyInfo.

        Raises:
            LogProofError: the key is neither Ed25519 nor ECDSA P-256.
        """
        check_key_name(name)
        public_key = _load_spki(spki)
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            return cls(name, ED25519, raw)
        return cls(name, ECDSA_P256, spki)

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read ``name+hex(keyid)+base64(type || key)``.

        Raises:
            LogProofError: malformed, an unknown type, or a keyid that does not fit.
        """
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise LogProofError("a verifier key has the form NAME+KEYID+KEY")
        raw = _decode_base64(parts[2])
        if len(raw) < 2 or raw[0] not in (ED25519, ECDSA_P256):
            raise LogProofError("the verifier key is neither Ed25519 nor ECDSA P-256")
        if raw[0] == ED25519:
            if len(raw) != 33:
                raise LogProofError("an Ed25519 verifier key has 32 bytes")
        elif not isinstance(_load_spki(raw[1:]), ec.EllipticCurvePublicKey):
            raise LogProofError("an ECDSA verifier key holds a P-256 SubjectPublicKeyInfo")
        found = cls(check_key_name(parts[0]), raw[0], raw[1:])
        if found.key_id.hex() != parts[1]:
            raise LogProofError("the verifier key's id does not fit its key")
        return found

    @property
    def key_id(self) -> bytes:
        """4 bytes, as in the signature lines."""
        if self.type == ED25519:
            text = self.name.encode() + b"\n\x01" + self.key
            return hashlib.sha256(text).digest()[:4]
        return hashlib.sha256(self.key).digest()[:4]

    def __str__(self) -> str:
        key = base64.b64encode(bytes([self.type]) + self.key).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check one signature (Ed25519: 64 bytes; ECDSA: DER).

        Raises:
            LogProofError: it does not verify.
        """
        try:
            if self.type == ED25519:
                ed25519.Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
            else:
                public_key = _load_spki(self.key)
                assert isinstance(public_key, ec.EllipticCurvePublicKey)
                public_key.verify(signature, message, ec.ECDSA(SHA256()))
        except InvalidSignature as error:
            raise LogProofError(f"the signature of {self.name} does not verify") from error


def _load_spki(spki: bytes) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    try:
        public_key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise LogProofError("the log key is no SubjectPublicKeyInfo") from error
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name == "secp256r1":
        return public_key
    raise LogProofError("a log key is Ed25519 or ECDSA P-256")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_EM_DASH} {self.name} {base64.b64encode(self.key_id + self.signature).decode()}"


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note; nothing is verified yet. ``text``: what is signed, ends in a newline."""

    text: str
    signatures: tuple[NoteSignature, ...]

    @classmethod
    def parse(cls, note: str) -> Note:
        """Split a note into text and signature lines.

        Raises:
            LogProofError: it is malformed.
        """
        if len(note.encode(errors="replace")) > MAX_NOTE_BYTES or _CONTROL.search(note):
            raise LogProofError("the note is too long or has control characters")
        text, separator, tail = note.rpartition("\n\n")
        if not separator or not text or not tail.endswith("\n"):
            raise LogProofError("the note has no signatures")
        lines = tail[:-1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            raise LogProofError(f"the note has more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(_parse_signature(line) for line in lines))

    def verify(self, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
        """Return those of the keys that signed this note: at least one.

        Raises:
            LogProofError: a known key's signature does not verify, or no known key signed.
        """
        known = {(key.name, key.key_id): key for key in keys}
        message = self.text.encode()
        signed: list[VerifierKey] = []
        for line in self.signatures:
            key = known.get((line.name, line.key_id))
            if key is None:
                continue
            if key in signed:
                raise LogProofError(f"the note has two signatures of {key.name}")
            key.verify(message, line.signature)
            signed.append(key)
        if not signed:
            raise LogProofError("the note has no signature of a known log key")
        return signed


def _parse_signature(line: str) -> NoteSignature:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != _EM_DASH:
        raise LogProofError("a signature line is malformed")
    raw = _decode_base64(parts[2])
    if len(raw) < 5:
        raise LogProofError("a signature line is too short")
    return NoteSignature(check_key_name(parts[1]), raw[:4], raw[4:])


def write_note(text: str, signatures: Sequence[NoteSignature]) -> str:
    """Put text and signatures together; the text must end in a newline."""
    assert text.endswith("\n")
    return text + "\n" + "".join(f"{line}\n" for line in signatures)
