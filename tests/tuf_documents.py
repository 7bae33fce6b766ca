"""Metadata files made by python-tuf, for tests that only read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

EXPIRES = datetime(2030, 1, 31, tzinfo=UTC)
ALICE = CryptoSigner.generate_ecdsa()
BOB = CryptoSigner.generate_ed25519()
MALLORY = CryptoSigner.generate_ecdsa()


def keyid(signer: CryptoSigner) -> str:
    return signer.public_key.keyid


def a_root(
    version: int, *keys: Key, threshold: int = 1, signed_by: Sequence[CryptoSigner] = ()
) -> Metadata[Root]:
    """A root whose own role has these keys, and the other roles the first of them."""
    root = Root(version, expires=EXPIRES)
    for key in keys:
        root.add_key(key, "root")
    for role in ("targets", "snapshot", "timestamp"):
        root.add_key(keys[0], role)
    root.roles["root"].threshold = threshold
    return signed(Metadata(root), signed_by)


def a_targets(
    version: int, *paths: str, signed_by: Sequence[CryptoSigner] = ()
) -> Metadata[Targets]:
    targets = Targets(version, expires=EXPIRES)
    for path in paths:
        targets.targets[path] = TargetFile(3, {"sha256": "07" * 32}, path)
    return signed(Metadata(targets), signed_by)


def signed(metadata: Metadata[Any], signers: Sequence[CryptoSigner]) -> Metadata[Any]:
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def renamed(signer: CryptoSigner, keyid: str) -> SSlibKey:
    """The signer's key under an id that is another's."""
    key = signer.public_key
    assert isinstance(key, SSlibKey)
    return SSlibKey(keyid, key.keytype, key.scheme, key.keyval)


def write(file: Path, metadata: Metadata[Any], *, compact: bool = False) -> Path:
    file.write_bytes(metadata.to_bytes(JSONSerializer(compact=compact)))
    return file
