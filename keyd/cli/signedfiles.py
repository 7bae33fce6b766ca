"""Metadata files as signatures over bytes: what `audit find` needs of TUF and Notary, no more.

No rule of TUF is applied here; keydctl tuf verify does that.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyd import publickeys
from keyd.errors import InvalidRequestError, KeydError

_MAX_FILE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileSignature:
    """One signature of a file: the keyid as it claims, the bytes as decoded."""

    keyid: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedFile:
    """One metadata file. ``signed``: the canonical bytes its signatures are over.
    ``keys``: keyid -> DER SubjectPublicKeyInfo, of all keys the file itself defines."""

    path: Path
    signed: bytes
    signatures: tuple[FileSignature, ...]
    keys: Mapping[str, bytes]


def find_files(path: Path) -> list[SignedFile]:
    """The metadata file, or all metadata files in a folder and below, sorted by path.

    Raises:
        InvalidRequestError: it is no metadata file, or the folder has none.
    """
    if not path.is_dir():
        return [read(path)]
    found = []
    for file in sorted(p for p in path.rglob("*.json") if p.is_file()):
        try:
            found.append(read(file))
        except InvalidRequestError:
            continue  # other JSON may lie between metadata
    if not found:
        raise InvalidRequestError("file", f"{path} has no metadata files (signed JSON)")
    return found


def read(path: Path) -> SignedFile:
    """Read one metadata file.

    Raises:
        InvalidRequestError: it cannot be read, or is no signed JSON.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidRequestError("file", f"{path} is larger than 64 MiB")
        # Canonical JSON leaves control characters bare; Notary's files hold them.
        document = json.loads(path.read_bytes(), strict=False)
        signed, signatures = document["signed"], document["signatures"]
        return SignedFile(
            path,
            canonical(signed),
            tuple(FileSignature(str(s["keyid"]), _signature(s["sig"])) for s in signatures),
            dict(_keys(signed)),
        )
    except OSError as e:
        raise InvalidRequestError("file", f"cannot read {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise InvalidRequestError("file", f"{path} is no metadata file (signed JSON)") from e


def canonical(value: Any) -> bytes:
    """OLPC canonical JSON: sorted keys, no white space, only backslash and quote escaped.

    Raises:
        ValueError: a float, which the form does not have.
    """
    return _text(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ",".join(_text(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(k)}:{_text(value[k])}" for k in sorted(value)) + "}"
    raise ValueError(f"canonical JSON has no {type(value).__name__}")


def _signature(text: str) -> bytes:
    """TUF writes hex, Notary base64; hex digits alone are hex."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return base64.b64decode(text, validate=True)


def _keys(signed: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    delegations = signed.get("delegations")
    for holder in (signed, delegations if isinstance(delegations, dict) else {}):
        keys = holder.get("keys")
        for keyid, key in keys.items() if isinstance(keys, dict) else ():
            public_key = _public_key(key)
            if public_key:
                yield str(keyid), public_key


def _public_key(key: Any) -> bytes:
    """DER of a key object: PEM, hex (Ed25519) or base64 (Notary: DER or a PEM certificate)."""
    try:
        text = str(key["keyval"]["public"])
        if "-----BEGIN" in text:
            return publickeys.load_pem(text.encode())
        raw = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
        if len(raw) == 32:
            ed25519 = Ed25519PublicKey.from_public_bytes(raw)
            return ed25519.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        publickeys.load(raw)
        return raw
    except (KeyError, TypeError, ValueError, binascii.Error, KeydError):
        return b""
