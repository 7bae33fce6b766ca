"""Pinned roots, certificates of CAs, and whose signature of a name counts."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyd.adapters.notary import images, keyobjects, lookup, metadata
from keyd.adapters.notary.pinning import Pinning, covers
from keyd.adapters.notary.rootcert import Subject, request, self_signed
from keyd.adapters.notary.served import Served
from keyd.adapters.notary.trusted import Trusted
from keyd.content import envelope
from keyd.content.certificates import TbsCertificate, parse
from keyd.content.documents import Root
from keyd.errors import ConfigError, InvalidRequestError, RepositoryError
from tests.certificates import Issued, an_authority, issue

NOW = datetime.now(UTC)
GUN = "localhost:5000/app"


def a_root(*chain: x509.Certificate) -> Root:
    document = envelope.parse(a_root_draft(*chain).file()).document
    assert isinstance(document, Root)
    return document


def a_root_draft(*chain: x509.Certificate) -> metadata.Draft:
    key = keyobjects.of_certificates(list(chain))
    others = keyobjects.of_public_key(a_public_key())
    roles = {role: [others.keyid] for role in ("targets", "snapshot", "timestamp")}
    return metadata.new_root(
        {key.keyid: key.value, others.keyid: others.value},
        {"root": [key.keyid], **roles},
        metadata.expiry("root", NOW),
    )


def a_public_key() -> bytes:
    return (
        ec.derive_private_key(9, ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def a_leaf(
    by: Issued | None = None,
    name: str = GUN,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Issued:
    return issue(by=by, common_name=name, usage=None, start=start, end=end)


def pinned(tmp_path: Path, authority: Issued, gun: str = GUN) -> Pinning:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem)
    return Pinning(cas={gun: file}, is_first_use_trusted=False)


def test_a_root_that_the_pinned_ca_issued_is_trusted(tmp_path: Path) -> None:
    authority = an_authority()
    between = issue(by=authority, ca=True, common_name="between")
    leaf = a_leaf(between)
    root = a_root(leaf.certificate, between.certificate)
    pinning = pinned(tmp_path, authority, "localhost:5000/")

    pinning.check_first_use(GUN)

    assert len(pinning.trusted_keys(GUN, root, NOW)) == 1


def test_a_chain_with_a_gap_is_not_trusted(tmp_path: Path) -> None:
    authority = an_authority()
    between = issue(by=authority, ca=True, common_name="between")
    root = a_root(a_leaf(between).certificate)

    with pytest.raises(RepositoryError, match="not the pinned one"):
        pinned(tmp_path, authority).trusted_keys(GUN, root, NOW)


def test_a_ca_out_of_date_issues_nothing_that_is_trusted(tmp_path: Path) -> None:
    authority, ended = an_authority(), NOW - timedelta(minutes=1)
    between = issue(by=authority, ca=True, common_name="between", end=ended)
    root = a_root(a_leaf(between).certificate, between.certificate)

    with pytest.raises(RepositoryError, match="not the pinned one"):
        pinned(tmp_path, authority).trusted_keys(GUN, root, NOW)


def test_a_leaf_cannot_issue_another_leaf(tmp_path: Path) -> None:
    authority = an_authority()
    stolen = issue(by=authority, common_name="somebody", usage=None)
    leaf = a_leaf(stolen)
    root = a_root(leaf.certificate, stolen.certificate)

    with pytest.raises(RepositoryError, match="not the pinned one"):
        pinned(tmp_path, authority).trusted_keys(GUN, root, NOW)


@pytest.mark.parametrize("name", ["localhost:5000/other", "localhost:5000/app/*", "*", ""])
def test_a_certificate_for_another_collection_is_not_trusted(name: str) -> None:
    root = a_root(a_leaf(name=name or "x").certificate)

    with pytest.raises(RepositoryError, match="no root certificate"):
        Pinning().trusted_keys(GUN, root, NOW)


def test_a_wildcard_covers_what_is_below_it() -> None:
    root = a_root(a_leaf(name="localhost:5000/*").certificate)

    assert Pinning().trusted_keys(GUN, root, NOW)
    assert not covers("localhost:5000/*", "localhost:50001/app")


def test_a_certificate_out_of_date_is_not_trusted() -> None:
    root = a_root(a_leaf(start=NOW - timedelta(days=3), end=NOW - timedelta(days=1)).certificate)

    with pytest.raises(RepositoryError, match="in date"):
        Pinning().trusted_keys(GUN, root, NOW)


def test_the_longest_prefix_decides() -> None:
    leaf = a_leaf()
    root = a_root(leaf.certificate)
    own = frozenset(root.roles["root"].keyids)
    pinning = Pinning(certs={"localhost:5000/*": frozenset({"x"}), "localhost:5000/a*": own})

    assert pinning.trusted_keys(GUN, root, NOW)


def test_a_ca_file_that_is_missing_is_told(tmp_path: Path) -> None:
    pinning = Pinning(cas={GUN: tmp_path / "none.pem"})

    with pytest.raises(ConfigError, match=r"none\.pem"):
        pinning.trusted_keys(GUN, a_root(a_leaf().certificate), NOW)


# ------------------------------------------------------------------------------ certificates


def test_a_certificate_of_a_token_key_is_what_notary_takes() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    asked: list[bytes] = []

    def sign(payload: bytes) -> bytes:
        asked.append(payload)
        return key.sign(payload, ec.ECDSA(hashes.SHA256()))

    made = self_signed(Subject(spki, GUN), sign, NOW)
    again = self_signed(Subject(spki, GUN), sign, NOW)
    wanted = request(Subject(spki, "targets/alice"), sign)

    made.verify_directly_issued_by(made)
    assert wanted.is_signature_valid
    read = parse(asked[0])
    assert isinstance(read, TbsCertificate)
    assert (read.common_name, read.can_certify, read.is_self_issued) == (GUN, False, True)
    assert read.key_usage == {"digitalSignature", "keyEncipherment"}
    assert again.serial_number == made.serial_number  # asked again, it is the same request


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ],
)
def test_files_without_a_usable_key_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)

    with pytest.raises(InvalidRequestError) as error:
        keyobjects.read_file(file)

    assert str(file) in error.value.message


def test_dockers_public_key_with_a_header_is_read(tmp_path: Path) -> None:
    body = base64.encodebytes(a_public_key()).decode()
    file = tmp_path / "alice.pub"
    file.write_text(f"-----BEGIN PUBLIC KEY-----\nrole: alice\n\n{body}-----END PUBLIC KEY-----\n")

    assert keyobjects.read_file(file).spki == a_public_key()


# ------------------------------------------------------------------------------ whose name counts


def a_collection(**targets: dict[str, int]) -> Trusted:
    """A collection with delegations ``targets/NAME`` over ``paths`` of ``p/`` for ``limited``."""
    key = keyobjects.of_public_key(a_public_key())
    files = {}
    for role, names in {"targets": {}, **targets}.items():
        full = role if role == "targets" else f"targets/{role}"
        draft = metadata.new_targets(full, metadata.expiry(full, NOW))
        for name, size in names.items():
            digest = base64.b64encode(bytes([size]) * 32).decode()
            draft.signed["targets"][name] = {"hashes": {"sha256": digest}, "length": size}
        if full == "targets":
            draft.signed["delegations"] = {
                "keys": {key.keyid: key.value},
                "roles": [
                    {
                        "keyids": [key.keyid],
                        "name": f"targets/{other}",
                        "paths": ["p/"] if other == "limited" else [""],
                        "threshold": 1,
                    }
                    for other in targets
                    if other != "targets"
                ],
            }
        file = draft.file()
        files[full] = Served(full, file, envelope.parse(file))
    some = files["targets"]
    root_file = a_root_draft(a_leaf().certificate).file()
    root = Served("root", root_file, envelope.parse(root_file))
    return Trusted(GUN, root, some, some, files, [])


def test_releases_come_before_targets_and_others_do_not_count_for_docker() -> None:
    found = a_collection(
        targets={"a": 1, "b": 2}, releases={"a": 3}, alice={"a": 3, "c": 4}, bob={"a": 9}
    )

    assert lookup.tag(found, "a").target.length == 3
    assert lookup.tag(found, "b").target.length == 2
    with pytest.raises(RepositoryError, match="only targets/alice signs it"):
        lookup.tag(found, "c")
    assert [(t.tag, t.signers) for t in images.signed_tags(found)] == [
        ("a", ("Repo Admin",)),
        ("a", ("alice",)),
        ("b", ("Repo Admin",)),
    ]


def test_a_role_signs_only_what_its_paths_allow() -> None:
    found = a_collection(limited={"p/a": 1, "q/a": 2})

    assert [s.name for s in lookup.listed(found)] == ["p/a"]
    assert lookup.find(found, "q/a") is None


def test_tags_are_sorted_as_docker_sorts_them() -> None:
    found = a_collection(targets={"1.10": 1, "1.9": 2, "latest": 3})

    assert [t.tag for t in images.signed_tags(found)] == ["1.9", "1.10", "latest"]
