"""The to-be-signed bytes of certificates and requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from keyd.content import der, parse, read
from keyd.content.certificates import MAX_BYTES, CertificateRequest, TbsCertificate
from keyd.content.describe import describe
from keyd.errors import ContentError
from keyd.model import Statement

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 1, 31, tzinfo=UTC)
SANS = [x509.DNSName("app.example"), x509.RFC822Name("a@example.org")]


def name(*common_names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, c) for c in common_names])


def usage(*, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certifies,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def certificate_bytes(
    subject: x509.Name | None = None, *, is_ca: bool = False, certifies: bool = False
) -> bytes:
    made = (
        x509.CertificateBuilder()
        .subject_name(subject if subject is not None else name("registry/app"))
        .issuer_name(name("registry/app"))
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage(certifies=certifies), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectAlternativeName(SANS), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), critical=False)
        .sign(KEY, hashes.SHA256())
    )
    return made.tbs_certificate_bytes


def request_bytes(subject: x509.Name, *, is_ca: bool = False) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.SubjectAlternativeName(SANS), critical=False)
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
    return builder.sign(KEY, hashes.SHA256()).tbs_certrequest_bytes


TBS = certificate_bytes()
REQUEST = request_bytes(name("registry/app"))


def test_a_certificate_says_what_it_will_certify() -> None:
    found = parse(TBS)

    assert isinstance(found, TbsCertificate)
    assert found.common_name == "registry/app"
    assert found.subject == found.issuer == "CN=registry/app"
    assert found.is_self_issued
    assert not found.is_ca
    assert not found.can_certify
    assert found.key_usage == {"digitalSignature", "keyEncipherment"}
    assert found.extended_key_usage == ("1.3.6.1.5.5.7.3.3",)
    assert found.alternative_names == ("dns:app.example", "email:a@example.org")
    assert found.other_extensions == ("2.5.29.14",)
    assert found.serial == 7
    assert (found.not_before, found.not_after) == (NOW, NOW + timedelta(days=10))
    assert found.signature_algorithm == "1.2.840.10045.4.3.2"
    assert found.spki


def test_a_request_says_what_it_asks_for() -> None:
    found = parse(REQUEST)

    assert isinstance(found, CertificateRequest)
    assert not isinstance(found, TbsCertificate)
    assert found.common_name == "registry/app"
    assert found.alternative_names == ("dns:app.example", "email:a@example.org")
    assert not found.is_ca


@pytest.mark.parametrize(
    "payload",
    [
        certificate_bytes(is_ca=True),
        certificate_bytes(certifies=True),
        request_bytes(name("a"), is_ca=True),
    ],
    ids=["CA:TRUE", "keyCertSign", "request for CA:TRUE"],
)
def test_power_over_other_certificates_is_seen(payload: bytes) -> None:
    found = parse(payload)

    assert isinstance(found, CertificateRequest)
    assert found.can_certify


@pytest.mark.parametrize(
    "private",
    [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)],
    ids=["ed25519", "rsa"],
)
def test_requests_of_other_keys_are_read(
    private: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
) -> None:
    hash_ = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("a"))

    found = parse(builder.sign(private, hash_).tbs_certrequest_bytes)

    assert isinstance(found, CertificateRequest)
    assert found.spki


def test_two_common_names_of_which_a_client_may_see_the_other_are_refused() -> None:
    for payload in (certificate_bytes(name("a", "b")), request_bytes(name("a", "b"))):
        with pytest.raises(ContentError, match="more than one common name"):
            parse(payload)


def test_no_common_name_is_an_empty_one() -> None:
    found = parse(certificate_bytes(name()))

    assert isinstance(found, TbsCertificate)
    assert found.common_name == ""


@pytest.mark.parametrize(
    "payload",
    [
        b"0",
        b"0\x00",
        b"0\x80\x00\x00",
        TBS + b"\x00",
        TBS[:-1],
        der.wrap(der.SEQUENCE, TBS),
        b"0\x84\x00" + len(TBS[4:]).to_bytes(3, "big") + TBS[4:],
        TBS.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1),
        der.wrap(der.SEQUENCE, TBS[der.element(TBS, 0, len(TBS)).body + 5 :]),
        b"0" + b"\xff" * 100,
        der.wrap(der.SEQUENCE, b"\x00" * MAX_BYTES),
        der.wrap(der.SEQUENCE, b"\x02\x01\x00"),
    ],
    ids=lambda p: p[:8].hex(),
)
def test_what_is_no_strict_der_of_either_is_refused(payload: bytes) -> None:
    with pytest.raises(ContentError):
        parse(payload)


@given(st.sampled_from([TBS, REQUEST]), st.data())
def test_a_mutated_certificate_is_refused_or_reads_and_shows(
    payload: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(payload) - 1))
    mutated = payload[:place] + data.draw(st.binary(max_size=2)) + payload[place + 1 :]

    try:
        found = parse(mutated)
    except ContentError:
        return
    assert all(line.isprintable() for line in describe(found))


def test_the_recogniser_leaves_certificates_opaque() -> None:
    assert read(TBS) == Statement()


def test_a_description_shows_what_counts() -> None:
    lines = describe(parse(TBS))

    assert lines[0] == "certificate for registry/app, until 2026-02-10 00:00:00Z"
    assert "CA: FALSE" in lines
    assert "issuer: CN=registry/app (itself)" in lines
    assert "name: dns:app.example" in lines
