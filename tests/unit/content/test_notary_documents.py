"""Notary's dialect: made by hand from its wire facts, and a sample of a real server."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from keyd.content import documents, envelope, parse_document
from keyd.content.canonical import encode
from keyd.content.describe import describe
from keyd.content.verification import verify_threshold
from keyd.errors import ContentError
from tests.unit.content import notary_made as made

REAL_TIMESTAMP = Path(__file__).parents[2] / "vectors/content_notary_timestamp.json"

OWNER, PUBLISHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ROOT_KEY = made.certificate_key(OWNER, "registry/app")
OTHER_KEY = made.bare_key(PUBLISHER)


def a_root(**changes: Any) -> dict[str, Any]:
    return made.root(ROOT_KEY, OTHER_KEY, **changes)


def read(signed: dict[str, Any]) -> documents.Document:
    return parse_document(made.canonical(signed))


def refused(signed: dict[str, Any]) -> ContentError:
    with pytest.raises(ContentError) as e:
        read(signed)
    return e.value


def test_the_timestamp_of_a_real_server_is_read_to_the_byte() -> None:
    file = REAL_TIMESTAMP.read_bytes()

    found = envelope.parse(file)

    timestamp = found.document
    assert isinstance(timestamp, documents.Timestamp)
    assert timestamp.dialect == "notary"
    assert timestamp.version == 17
    assert timestamp.expires == datetime(2026, 12, 5, 6, 30, 26, 476423, tzinfo=UTC)
    assert timestamp.expires_text == "2026-12-05T06:30:26.476423802Z"
    assert timestamp.snapshot.length == 884
    assert timestamp.snapshot.version is None
    assert timestamp.snapshot.hashes["sha256"].hex().startswith("60962f87cd9dc283abbde909")
    assert b'"signed":' + found.payload + b"," in file
    assert [(s.method, len(s.value)) for s in found.signatures] == [("ecdsa", 64)]


def test_a_root_names_its_gun_and_both_ids_of_its_keys() -> None:
    root = read(a_root())

    assert isinstance(root, documents.Root)
    assert root.common_names == {"registry/app"}
    key = root.keys[ROOT_KEY[0]]
    assert key.keytype == "ecdsa-x509"
    assert key.spki == made.spki(OWNER)
    assert key.canonical_id == made.bare_key(OWNER)[0] != key.keyid
    assert key.certificate is not None
    assert key.certificate.is_ca is False
    assert root.keys[OTHER_KEY[0]].canonical_id == OTHER_KEY[0]
    assert root.keys[OTHER_KEY[0]].certificate is None


@pytest.mark.parametrize(
    "private",
    [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["ed25519", "rsa", "p-384"],
)
def test_every_kind_of_key_and_method_verifies(private: made.Private) -> None:
    keyid, object_ = made.bare_key(private)
    signed = made.root(ROOT_KEY, (keyid, object_))
    root = read(signed)
    assert isinstance(root, documents.Root)
    found = envelope.parse(made.file(signed, made.signature(private, signed, keyid)))

    verified = verify_threshold(found.payload, found.signatures, root.roles["targets"], root.keys)

    assert verified.valid == (keyid,)
    assert verified.is_met
    assert root.keys[keyid].spki == made.spki(private)


def test_signatures_cover_the_bytes_without_the_escapes_of_the_file() -> None:
    target = {"hashes": {"sha256": made.DIGEST}, "length": 1}
    signed = made.targets(targets={'a&b<c>"\u00e9': target})
    file = made.file(signed, made.signature(PUBLISHER, signed, OTHER_KEY[0]))
    root = read(a_root())
    assert isinstance(root, documents.Root)

    found = envelope.parse(file)

    assert b"\\u003c" in file
    assert b"<" in found.payload
    assert verify_threshold(
        found.payload, found.signatures, root.roles["targets"], root.keys
    ).is_met


def test_signed_bytes_with_the_escapes_of_a_file_are_refused() -> None:
    target = {"hashes": {"sha256": made.DIGEST}, "length": 1}
    payload = made.canonical(made.targets(targets={"a<b": target}))
    parse_document(payload)

    with pytest.raises(ContentError, match="escape") as e:
        parse_document(payload.replace(b"<", b"\\u003c"))

    assert e.value.facts["problem"] == "not-canonical"


def test_delegations_have_names_in_a_hierarchy_and_may_have_no_keys() -> None:
    role = {"keyids": None, "name": "targets/releases", "paths": [""], "threshold": 1}
    document = read(made.targets(delegations={"keys": {}, "roles": [role]}))

    assert isinstance(document, documents.Targets)
    assert document.delegations is not None
    (delegated,) = document.delegations.roles
    assert (delegated.name, delegated.paths, delegated.keyids) == ("targets/releases", ("",), ())


def test_custom_data_is_kept() -> None:
    target = {"custom": {"note": "x"}, "hashes": {"sha256": made.DIGEST}, "length": 1}
    document = read(made.targets(targets={"v1": target}))

    assert isinstance(document, documents.Targets)
    assert document.targets["v1"].custom == {"note": "x"}


def test_a_snapshot_lists_roles_without_json() -> None:
    document = read(made.snapshot("root", "targets", "targets/releases"))

    assert isinstance(document, documents.Snapshot)
    assert list(document.meta) == ["root", "targets", "targets/releases"]
    assert refused(made.snapshot("root.json")).facts["field"] == "meta.root.json"


@pytest.mark.parametrize(
    "expires",
    ["2030-01-31T00:00:00Z", "2030-01-31T01:30:00+01:30", "2030-01-30T23:00:00.000-01:00"],
)
def test_an_expiry_is_the_same_in_every_spelling_go_reads(expires: str) -> None:
    document = read(made.targets(expires=expires))

    assert document.expires == datetime(2030, 1, 31, tzinfo=UTC)
    assert document.expires_text == expires


@pytest.mark.parametrize(
    "expires",
    [
        "2030-01-31",
        "2030-01-31T00:00:00",
        "2030-13-31T00:00:00Z",
        "2030-01-31t00:00:00z",
        "2030-01-31T00:00:00.Z",
        "2030-01-31T00:00:00+25:00",
        "0001-01-01T00:00:00+01:00",
    ],
)
def test_other_expiries_are_refused(expires: str) -> None:
    assert refused(made.targets(expires=expires)).facts["field"] == "expires"


def test_a_spec_version_is_refused_as_the_server_would_drop_it() -> None:
    assert refused(made.targets(spec_version="1.0.0")).facts["field"] == "spec_version"


def test_a_root_key_without_a_certificate_is_refused() -> None:
    error = refused(made.root(OTHER_KEY, OTHER_KEY))

    assert "certificate" in error.message
    assert error.facts["field"] == f"keys.{OTHER_KEY[0]}"


def test_a_key_under_the_id_of_another_is_refused() -> None:
    swapped = made.bare_key(ec.generate_private_key(ec.SECP256R1()))[1]

    error = refused(a_root(keys={ROOT_KEY[0]: ROOT_KEY[1], OTHER_KEY[0]: swapped}))

    assert "is not the id of this key" in error.message


@pytest.mark.parametrize(
    ("keytype", "public"),
    [
        ("ecdsa", b"no key"),
        ("rsa", made.spki(OWNER)),
        ("ed25519", b"x" * 31),
        ("ecdsa-x509", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("ecdsa-x509", b""),
        ("rsa-x509", base64.b64decode(ROOT_KEY[1]["keyval"]["public"])),
    ],
    ids=["no key", "ecdsa for rsa", "too short", "bad PEM", "empty", "ecdsa for rsa-x509"],
)
def test_a_key_that_is_not_what_it_says_is_refused(keytype: str, public: bytes) -> None:
    keyid, object_ = made.key_object(keytype, public)

    error = refused(made.root(ROOT_KEY, (keyid, object_)))

    assert error.facts["field"] == f"keys.{keyid}.keyval.public"


def test_private_key_material_is_refused() -> None:
    keyid, object_ = OTHER_KEY
    leaked = {**object_, "keyval": {**object_["keyval"], "private": "c2VjcmV0"}}

    error = refused(a_root(keys={ROOT_KEY[0]: ROOT_KEY[1], keyid: leaked}))

    assert error.facts["problem"] == "private-key"


@pytest.mark.parametrize("digest", ["", "AA", "AA==\n", made.DIGEST[:-2] + "d=", "07" * 32])
def test_a_digest_in_another_spelling_is_refused(digest: str) -> None:
    signed = made.targets(targets={"v1": {"hashes": {"sha256": digest}, "length": 1}})

    assert refused(signed).facts["field"] == "targets.v1.hashes.sha256"


@pytest.mark.parametrize("name", ["releases", "targets", "targets/", "targets/A", "targets//a"])
def test_a_delegation_outside_the_hierarchy_is_refused(name: str) -> None:
    role = {"keyids": [], "name": name, "paths": [""], "threshold": 1}

    refused(made.targets(delegations={"keys": {}, "roles": [role]}))


SAMPLES = [
    made.canonical(signed)
    for signed in (a_root(), made.targets(), made.snapshot("root", "targets"))
]


@given(st.sampled_from(SAMPLES), st.data())
def test_a_mutated_document_is_refused_or_reads_and_shows(
    payload: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(payload) - 1))
    mutated = payload[:place] + data.draw(st.binary(max_size=2)) + payload[place + 1 :]

    try:
        document = parse_document(mutated)
    except ContentError:
        return
    assert all(line.isprintable() for line in describe(document))


@given(st.integers(0, 1200), st.binary(min_size=1, max_size=4))
def test_a_root_with_a_mutated_certificate_is_refused_or_reads(place: int, new: bytes) -> None:
    pem = base64.b64decode(ROOT_KEY[1]["keyval"]["public"])
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    place %= len(der)
    mutated = der[:place] + new + der[place + len(new) :]
    body = base64.encodebytes(mutated)
    text = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"

    try:
        root = read(made.root(made.key_object("ecdsa-x509", text), OTHER_KEY))
    except ContentError:
        return
    assert isinstance(root, documents.Root)
    assert all(line.isprintable() for line in describe(root))


def test_encoding_agrees_with_the_hand_made_documents() -> None:
    for signed in (a_root(), made.targets(), made.snapshot("root")):
        assert encode(signed) == made.canonical(signed)
