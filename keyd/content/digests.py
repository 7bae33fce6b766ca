"""Hash values of files: hexadecimal in TUF, base64 in Notary."""

from __future__ import annotations

import base64
import binascii
import re

from keyd.content.fields import Fields

_SIZES_BYTES = {
    "sha224": 28,
    "sha256": 32,
    "sha384": 48,
    "sha512": 64,
    "blake2b-256": 32,
    "blake2b": 64,
}
_HEX = re.compile(r"(?:[0-9a-f]{2})+", re.ASCII)


def hex_digests(fields: Fields) -> dict[str, bytes]:
    """``{"sha256": "0a.."}``; lower case only, as python-tuf compares the text."""
    found = {}
    for algorithm, text in fields.each_text():
        if not _HEX.fullmatch(text):
            raise fields.wrong("must be lower-case hexadecimal", algorithm)
        found[algorithm] = _sized(fields, algorithm, bytes.fromhex(text))
    return _some(fields, found)


def base64_digests(fields: Fields) -> dict[str, bytes]:
    """``{"sha256": "Aa+/=="}``; Notary demands sha256."""
    found = {}
    for algorithm, text in fields.each_text():
        found[algorithm] = _sized(fields, algorithm, from_base64(fields, algorithm, text))
    if "sha256" not in found:
        raise fields.wrong("is missing", "sha256")
    return found


def from_base64(fields: Fields, name: str, text: str) -> bytes:
    """Standard base64 with padding, in the one spelling its bytes have."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise fields.wrong("must be base64", name) from e
    if base64.b64encode(raw).decode("ascii") != text:
        raise fields.wrong("must be base64 in its one canonical spelling", name)
    return raw


def _sized(fields: Fields, algorithm: str, value: bytes) -> bytes:
    if len(value) != _SIZES_BYTES.get(algorithm, len(value)):
        raise fields.wrong(f"has {len(value)} bytes, not {_SIZES_BYTES[algorithm]}", algorithm)
    return value


def _some(fields: Fields, found: dict[str, bytes]) -> dict[str, bytes]:
    if not found:
        raise fields.wrong("must not be empty")
    return found
