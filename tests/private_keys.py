"""Looks for private keys in whatever files there are: as text, as bytes in the middle of something
else, and behind base64 or hex.

Raw scalars look like any other bytes and are not found; a token's keys cannot be had as such.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

_TEXT = {
    "PEM": re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"),
    "OpenSSH": re.compile(rb"openssh-key-v1\0"),
    "PuTTY": re.compile(rb"PuTTY-User-Key-File-\d"),
    # RFC 7518: d is the private part of EC, OKP and RSA keys alike.
    "JWK": re.compile(
        rb'"(?:kty\\?"[^{}]{1,4000}"d\\?"\s*:\s*\\?"[\w-]{20}'
        rb'|d\\?"\s*:\s*\\?"[\w-]{20,}[^{}]{1,4000}"kty\\?")'
    ),
}
_DER = re.compile(
    rb"\x30(?:[\x20-\x7f]|\x81.|\x82..)\x02\x01[\x00\x01]"  # SEQUENCE, INTEGER 0 or 1
    # then an AlgorithmIdentifier (PKCS#8), an OCTET STRING (SEC1), an INTEGER (PKCS#1)
    rb"(?:\x30[\x05-\x40]\x06|\x04[\x14-\x42]|\x02(?:[\x20-\x7f]|\x81.|\x82..))",
    re.DOTALL,
)
_SEALED = {
    # SEQUENCE, SEQUENCE, OID of PKCS#5 or of PKCS#12's ciphers; RFC 5958 section 3.
    "encrypted PKCS#8": re.compile(
        rb"\x30(?:[\x20-\x7f]|\x81.|\x82..)\x30(?:[\x0b-\x7f]|\x81.)"
        rb"\x06(?:\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05|\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01)",
        re.DOTALL,
    ),
    # SEQUENCE, INTEGER 3, ContentInfo of PKCS#7 data; RFC 7292 section 4.
    "PKCS#12": re.compile(
        rb"\x30(?:\x82..|\x83...|\x80)\x02\x01\x03\x30(?:[\x20-\x7f]|\x81.|\x82..|\x83...|\x80)"
        rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01",
        re.DOTALL,
    ),
}
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}(?:(?:\r?\n|\\n)[A-Za-z0-9+/_-]+)*")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}[\s:]?){40,}[0-9a-fA-F]?")
_LINE_ENDS = re.compile(rb"\r?\n|\\n")
_NO_HEX = re.compile(rb"[^0-9a-fA-F]")
_WEB = bytes.maketrans(b"-_", b"+/")
_DEPTH = 2  # PEM in base64 is one level, what its lines hold is the next


@dataclass(frozen=True, order=True)
class Found:
    """A private key: the file, and what form it has."""

    file: Path
    form: str


def private_keys(*folders: Path, apart_from: Iterable[Path] = ()) -> list[Found]:
    """All private keys in files below folders, sorted, one line for each form in a file.

    ``apart_from``: files and folders that nobody looks into. Links are not followed; a file that
    goes away meanwhile is passed over.

    Raises:
        OSError: a folder is not there, or something in it cannot be read.
    """
    for folder in folders:
        folder.stat()
    spared = tuple(apart_from)
    known: dict[bytes, set[str]] = {}  # a database has the same file many times
    found = []
    for file in files_below(*folders):
        if any(file.is_relative_to(each) for each in spared):
            continue
        content = _content(file)
        digest = hashlib.sha256(content).digest()
        if digest not in known:
            known[digest] = set(forms_in(content))
        found += [Found(file, form) for form in known[digest]]
    return sorted(found)


def files_below(*folders: Path) -> Iterator[Path]:
    """Every regular file; a folder that cannot be read is an error, not an empty one."""
    for folder in folders:
        for parent, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                file = Path(parent, name)
                if file.is_file() and not file.is_symlink():
                    yield file


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # it went away meanwhile
        raise error


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def forms_in(content: bytes, depth: int = _DEPTH) -> Iterator[str]:
    """The forms of the private keys in some bytes; ``base64 ...`` where they are encoded."""
    for form, pattern in _TEXT.items():
        if pattern.search(content):
            yield form
    for found in _positions(_DER, content):
        if _is_key(content[found : found + _size(content, found)]):
            yield "DER"
    for form, pattern in _SEALED.items():
        if pattern.search(content):
            yield form
    if depth:
        for name, pattern, decode in _ENCODINGS:
            for run in pattern.finditer(content):
                for decoded in decode(run[0]):
                    yield from (f"{name} {form}" for form in forms_in(decoded, depth - 1))


def _positions(pattern: re.Pattern[bytes], content: bytes) -> Iterator[int]:
    """Where it matches, in another match as well."""
    found = pattern.search(content)
    while found:
        yield found.start()
        found = pattern.search(content, found.start() + 1)


def _size(content: bytes, start: int) -> int:
    """Of a DER value with its head."""
    first = content[start + 1]
    if first < 0x80:
        return 2 + first
    count = first & 0x7F
    return 2 + count + int.from_bytes(content[start + 2 : start + 2 + count])


def _is_key(der: bytes) -> bool:
    try:
        load_der_private_key(der, None)
    except UnsupportedAlgorithm:
        return True  # a key all the same
    except (ValueError, TypeError):
        return False
    return True


def _from_base64(run: bytes) -> Iterator[bytes]:
    """Where the encoding began is not known: the run may have other letters before it."""
    text = _LINE_ENDS.sub(b"", run).translate(_WEB)
    for start in range(4):
        part = text[start:]
        yield base64.b64decode(part[: len(part) // 4 * 4] + _rest(part))


def _rest(part: bytes) -> bytes:
    """The letters of the last, incomplete group, padded; one letter alone says nothing."""
    rest = part[len(part) // 4 * 4 :]
    return rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""


def _from_hex(run: bytes) -> Iterator[bytes]:
    digits = _NO_HEX.sub(b"", run)
    for start in range(2):
        part = digits[start:]
        yield bytes.fromhex(part[: len(part) // 2 * 2].decode())


_Decode = Callable[[bytes], Iterator[bytes]]
_ENCODINGS: tuple[tuple[str, re.Pattern[bytes], _Decode], ...] = (
    ("base64", _BASE64, _from_base64),
    ("hex", _HEX, _from_hex),
)
