"""Metadata files and who signed them, held against python-tuf's own verification."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from keyd.content import documents, envelope
from keyd.content.describe import describe
from keyd.content.diff import compare
from keyd.content.envelope import MAX_SIGNATURES, Envelope, FileSignature
from keyd.content.verification import Verification, verify_threshold
from keyd.errors import ContentError
from keyd.model import KeyAlgorithm
from keyd.publickeys import to_raw

EXPIRES = datetime(2030, 1, 31, tzinfo=UTC)
SIGNERS = [
    CryptoSigner.generate_ecdsa(),
    CryptoSigner.generate_ed25519(),
    CryptoSigner.generate_rsa(),
    CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha512"),
]


def a_root(signers: list[CryptoSigner], threshold: int) -> Root:
    root = Root(1, expires=EXPIRES)
    for signer in signers:
        root.add_key(signer.public_key, "root")
    root.roles["root"].threshold = threshold
    return root


def a_file(root: Root, signers: list[CryptoSigner]) -> Metadata[Root]:
    metadata = Metadata(root)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def parse(metadata: Metadata[Any], *, compact: bool = False) -> Envelope:
    return envelope.parse(metadata.to_bytes(JSONSerializer(compact=compact)))


def by_itself(found: Envelope) -> Verification:
    root = found.document
    assert isinstance(root, documents.Root)
    return verify_threshold(found.payload, found.signatures, root.roles["root"], root.keys)


@pytest.mark.parametrize("compact", [True, False])
def test_a_file_of_python_tuf_verifies_with_every_kind_of_key(compact: bool) -> None:
    metadata = a_file(a_root(SIGNERS, 4), SIGNERS)

    found = parse(metadata, compact=compact)

    assert found.payload == metadata.signed_bytes
    assert by_itself(found) == Verification(
        tuple(s.public_key.keyid for s in SIGNERS), signers=4, threshold=4
    )


@given(
    st.sets(st.integers(0, 3)),
    st.sets(st.integers(0, 3)),
    st.integers(1, 4),
    st.booleans(),
)
def test_it_counts_as_python_tuf_counts(
    holders: set[int], signed_by: set[int], threshold: int, tampered: bool
) -> None:
    root = a_root([SIGNERS[n] for n in sorted(holders)], threshold)
    metadata = a_file(root, [SIGNERS[n] for n in sorted(signed_by)])
    if tampered:
        metadata.signed.version = 2

    theirs = root.get_verification_result("root", metadata.signed_bytes, metadata.signatures)
    ours = by_itself(parse(metadata))

    assert set(ours.valid) == set(theirs.signed)
    assert (ours.is_met, ours.missing) == (theirs.verified, theirs.missing)


def test_one_key_under_two_ids_counts_once() -> None:
    signer = SIGNERS[0]
    assert isinstance(signer.public_key, SSlibKey)
    twin = SSlibKey("twin", "ecdsa", signer.public_key.scheme, signer.public_key.keyval)
    root = a_root([signer], 1)
    root.add_key(twin, "root")
    root.roles["root"].threshold = 2
    metadata = a_file(root, [signer, CryptoSigner(signer._private_key, twin)])

    verified = by_itself(parse(metadata))

    assert root.get_verification_result(
        "root", metadata.signed_bytes, metadata.signatures
    ).verified  # clients are fooled
    assert verified.valid == (signer.public_key.keyid, "twin")
    assert (verified.signers, verified.is_met, verified.missing) == (1, False, 1)


def test_a_pss_signature_with_another_length_of_salt_counts() -> None:
    private = rsa.generate_private_key(65537, 2048)
    key = SSlibKey.from_crypto(private.public_key(), scheme="rsassa-pss-sha256")
    root = a_root([SIGNERS[0]], 1)
    root.add_key(key, "targets")
    found = parse(a_file(root, []))
    assert isinstance(found.document, documents.Root)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.MAX_LENGTH)
    value = private.sign(b"targets", pss, hashes.SHA256())

    verified = verify_threshold(
        b"targets",
        [FileSignature(key.keyid, "", value)],
        found.document.roles["targets"],
        found.document.keys,
    )

    assert verified.is_met


def test_a_signature_in_the_other_dialects_encoding_does_not_count() -> None:
    signer = CryptoSigner.generate_ecdsa()
    metadata = a_file(a_root([signer], 1), [signer])
    found = parse(metadata)
    root = found.document
    assert isinstance(root, documents.Root)
    (der,) = found.signatures
    raw = dataclasses.replace(der, value=to_raw(der.value, KeyAlgorithm.ECDSA_P256))

    assert by_itself(found).valid
    assert not verify_threshold(found.payload, [raw], root.roles["root"], root.keys).valid


def test_a_key_that_keyd_cannot_read_never_counts() -> None:
    root = a_root([SIGNERS[0]], 1)
    odd = SSlibKey("odd", "ecdsa", "ecdsa-sha2-nistp256", {"public": "04abcd"})
    root.add_key(odd, "root")
    metadata = a_file(root, [SIGNERS[0]])
    file = json.loads(metadata.to_bytes())
    file["signatures"].append({"keyid": "odd", "sig": "00"})

    found = envelope.parse(json.dumps(file).encode())

    assert by_itself(found).valid == (SIGNERS[0].public_key.keyid,)


def test_a_place_held_for_a_signature_is_no_signature() -> None:
    file = json.loads(a_file(a_root([SIGNERS[0]], 1), []).to_bytes())
    file["signatures"] = [{"keyid": SIGNERS[0].public_key.keyid, "sig": "", "x-note": 1}]

    found = envelope.parse(json.dumps(file).encode())

    assert found.signatures[0].unknown == {"x-note": 1}
    assert not by_itself(found).valid


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.pop("signed"),
        lambda f: f.pop("signatures"),
        lambda f: f["signatures"].append(f["signatures"][0]),
        lambda f: f["signatures"][0].update(sig="0"),
        lambda f: f["signatures"][0].update(sig=" 00"),
        lambda f: f["signatures"][0].pop("keyid"),
        lambda f: f.update(signatures=None),
        lambda f: f.update(
            signatures=[{"keyid": str(n), "sig": ""} for n in range(MAX_SIGNATURES + 1)]
        ),
        lambda f: f["signed"].update(note=1.5),
        lambda f: f["signed"].update(note="\ud800"),
    ],
)
def test_a_file_that_two_clients_might_read_differently_is_refused(change: Any) -> None:
    file = json.loads(a_file(a_root([SIGNERS[0]], 1), [SIGNERS[0]]).to_bytes())
    change(file)

    with pytest.raises(ContentError):
        envelope.parse(json.dumps(file).encode())


def test_signed_twice_in_one_file_is_refused() -> None:
    file = a_file(a_root([SIGNERS[0]], 1), [SIGNERS[0]]).to_bytes()

    with pytest.raises(ContentError) as e:
        envelope.parse(b'{"signed": {}, ' + file.lstrip().removeprefix(b"{"))

    assert e.value.facts["problem"] == "duplicate-key"


@given(st.binary() | st.binary().map(lambda b: b'{"signed":' + b))
def test_random_bytes_raise_nothing_else(file: bytes) -> None:
    with pytest.raises(ContentError):
        envelope.parse(file)


FILES = [
    a_file(a_root(SIGNERS, 2), SIGNERS[:2]).to_bytes(),
    Metadata(Targets(1, expires=EXPIRES)).to_bytes(),
]


@given(st.sampled_from(FILES), st.data())
def test_a_mutated_file_is_refused_or_reads_shows_and_compares(
    file: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(file) - 1))
    mutated = file[:place] + data.draw(st.binary(max_size=2)) + file[place + 1 :]

    try:
        found = envelope.parse(mutated)
    except ContentError:
        return
    assert all(line.isprintable() for line in describe(found.document))
    original = envelope.parse(file).document
    assert bool(compare(original, found.document)) == (original != found.document)
    if isinstance(found.document, documents.Root):
        by_itself(found)


def test_the_public_key_is_the_one_that_python_tuf_means() -> None:
    found = parse(a_file(a_root(SIGNERS, 1), [])).document
    assert isinstance(found, documents.Root)

    for signer in SIGNERS:
        der = signer._private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert found.keys[signer.public_key.keyid].spki == der
