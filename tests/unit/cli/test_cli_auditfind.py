"""Finding the entry of a signature, in whichever encoding it was published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from keyd.cli.auditfind import Finder, Standing
from keyd.cli.signedfiles import FileSignature, SignedFile
from keyd.client import Client, EntryFilter, Key
from keyd.model import Entry, KeyAlgorithm, KeyVersion, Origin, Scheme, VersionState
from tests.scripted_daemon import der, generate
from tests.tuf_repositories import utc_now

SIGNED = b"{}"
ANYTHING = EntryFilter()
ECDSA = KeyAlgorithm.ECDSA_P256


class OneEntryLog(Client):
    """A daemon whose log holds one signature over SIGNED."""

    def __init__(self, signature: bytes) -> None:
        self.sha256 = hashlib.sha256(signature).hexdigest()

    def list_entries(
        self, wanted: EntryFilter = ANYTHING, *, descending: bool = False, page_size: int = 0
    ) -> Iterator[Entry]:
        if wanted.signature_sha256 == self.sha256:
            digest = hashlib.sha256(SIGNED).hexdigest()
            yield Entry(7, b"", {"key": "acme/root", "version": 1, "digest": f"sha256:{digest}"})


def standing(logged: bytes, published: bytes) -> Standing:
    """How the published signature of acme/root stands to a log with the other."""
    made = utc_now()
    public = der(generate(ECDSA))
    version = KeyVersion(
        "acme/root", 1, VersionState.ENABLED, Origin.GENERATED, "", b"", public, {"tuf": "id"},
        made, "me",
    )  # fmt: skip
    key = Key("acme/root", "t", ECDSA, Scheme.ECDSA_P256_SHA256, made, "me", versions=(version,))
    file = SignedFile(Path("root.json"), SIGNED, (FileSignature("id", published),), {})
    (found,) = Finder(OneEntryLog(logged), [key], [file]).find(file)
    return found.standing


@pytest.mark.parametrize("first", [0x01, 0x30, 0xFF])
def test_a_signature_is_found_in_its_other_encoding_however_it_begins(first: int) -> None:
    raw = bytes([first]) + bytes(range(1, 64))
    encoded = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))

    assert standing(encoded, raw) is Standing.LOGGED
    assert standing(raw, encoded) is Standing.LOGGED


@pytest.mark.parametrize("published", [b"", b"0", bytes(64), b"0" * 64, bytes(71)])
def test_what_is_no_signature_of_the_key_is_missing(published: bytes) -> None:
    assert standing(b"another", published) is Standing.MISSING
