"""The small CA: what it signs, what it refuses, and how it keeps its key."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from keyd.errors import ConfigError, InvalidRequestError
from keyd.pki import Authority, inspect_request, new_request, write_new_file

NOW = datetime.now(UTC).replace(microsecond=0)


def a_request(*names: x509.GeneralName, key: object = None, **extensions: object) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions.values():
        assert isinstance(extension, x509.ExtensionType)
        builder = builder.add_extension(extension, critical=False)
    signer = key or ec.generate_private_key(ec.SECP256R1())
    assert isinstance(
        signer, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    )
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(serialization.Encoding.PEM)


def test_a_client_gets_a_certificate_that_strict_verifiers_accept(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca", NOW)
    request = new_request(["uri:spiffe://acme/ci", "dns:runner1.acme.example"])

    certificate = x509.load_pem_x509_certificate(authority.sign_client(request.csr_pem, NOW))

    store = Store([x509.load_pem_x509_certificate(authority.certificate_pem)])
    verifier = PolicyBuilder().store(store).time(NOW).build_client_verifier()
    assert verifier.verify(certificate, []).chain[0] == certificate
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)
    key = serialization.load_pem_private_key(request.key_pem, password=None)
    assert key.public_key() == certificate.public_key()


def test_a_server_gets_a_certificate_for_its_names(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, NOW)
    request = new_request(["dns:keyd.acme.example", "ip:127.0.0.1"])

    certificate = x509.load_pem_x509_certificate(authority.sign_server(request.csr_pem, NOW))

    store = Store([x509.load_pem_x509_certificate(authority.certificate_pem)])
    verifier = PolicyBuilder().store(store).time(NOW)
    name = x509.DNSName("keyd.acme.example")
    assert verifier.build_server_verifier(name).verify(certificate, [])


def test_the_same_ca_is_opened_again(tmp_path: Path) -> None:
    first = Authority.open(tmp_path, NOW)

    assert Authority.open(tmp_path, NOW).certificate_pem == first.certificate_pem


def test_an_interrupted_first_use_is_finished_with_the_same_key(tmp_path: Path) -> None:
    Authority.open(tmp_path, NOW)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.pem").unlink()

    Authority.open(tmp_path, NOW)

    assert (tmp_path / "ca.key").read_bytes() == key
    assert (tmp_path / "ca.pem").exists()


def test_the_ca_key_is_private_and_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path, NOW)
    key = tmp_path / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    key.chmod(0o640)

    with pytest.raises(ConfigError, match="others can read it"):
        Authority.open(tmp_path, NOW)


def test_a_broken_ca_key_is_refused_without_showing_it(tmp_path: Path) -> None:
    write_new_file(tmp_path / "ca.key", b"-----BEGIN PRIVATE KEY-----\nsecret", mode=0o600)

    with pytest.raises(ConfigError) as e:
        Authority.open(tmp_path, NOW)

    assert "not an EC private key" in e.value.message
    assert "secret" not in repr(e.value)
    assert e.value.__context__ is None


def test_a_ca_certificate_of_another_key_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path / "a", NOW)
    Authority.open(tmp_path / "b", NOW)
    (tmp_path / "a" / "ca.pem").write_bytes((tmp_path / "b" / "ca.pem").read_bytes())

    with pytest.raises(ConfigError, match="does not belong"):
        Authority.open(tmp_path / "a", NOW)


def test_an_expired_ca_signs_nothing(tmp_path: Path) -> None:
    Authority.open(tmp_path, NOW)

    with pytest.raises(ConfigError, match="has expired"):
        Authority.open(tmp_path, NOW + timedelta(days=3651))


def test_a_lost_ca_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    Authority.open(tmp_path, NOW)
    (tmp_path / "ca.key").unlink()

    with pytest.raises(ConfigError, match="cannot be read"):
        Authority.open(tmp_path, NOW)


def test_no_certificate_outlives_the_ca(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, NOW)
    later = NOW + timedelta(days=3640)
    request = new_request(["dns:a.example"])

    certificate = x509.load_pem_x509_certificate(authority.sign_client(request.csr_pem, later))

    assert certificate.not_valid_after_utc == NOW + timedelta(days=3650)


def test_what_was_issued_is_noted_as_the_deny_list_wants_it(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, NOW)

    pem = authority.sign_client(new_request(["dns:a.example"]).csr_pem, NOW)

    serial = x509.load_pem_x509_certificate(pem).serial_number
    line = (tmp_path / "issued.log").read_text()
    assert line.startswith(f"serial:{serial:X} until ")
    assert line.endswith(" dns:a.example\n")


ED25519 = ed25519.Ed25519PrivateKey.generate()
WEAK = rsa.generate_private_key(65537, 1024)
DNS, URI = x509.DNSName, x509.UniformResourceIdentifier


@pytest.mark.parametrize(
    ("request_pem", "says"),
    [
        (a_request(DNS("a.example"), c=x509.BasicConstraints(True, None)), "become a CA"),
        (a_request(DNS("a.example\0.evil")), "control character"),
        (a_request(URI("x:a"), URI("x:b")), "ambiguous"),
        (a_request(x509.DirectoryName(x509.Name([]))), "kind DirectoryName"),
        (a_request(), "no subject alternative name"),
        (a_request(DNS("a.example"), n=x509.InhibitAnyPolicy(0)), "extension 2.5.29.54"),
        (a_request(DNS("a.example"), key=WEAK), "its key is not"),
        (a_request(DNS("a.example"), key=ED25519), "its key is not"),
        (a_request(DNS("*.example")), "not one DNS name"),
        (new_request(["ip:127.0.0.1"]).csr_pem, "IP address is no caller"),
        (b"", "not a readable PEM"),
        (b"x" * 70_000, "larger than"),
    ],
)
def test_a_client_request_is_refused(request_pem: bytes, says: str, tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, NOW)

    with pytest.raises(InvalidRequestError) as e:
        authority.sign_client(request_pem, NOW)

    assert says in e.value.message
    assert not (tmp_path / "issued.log").exists()


def test_a_request_changed_on_the_way_is_refused() -> None:
    der = bytearray(
        x509.load_pem_x509_csr(a_request(DNS("good.example"))).public_bytes(
            serialization.Encoding.DER
        )
    )
    at = der.index(b"good.example")
    der[at : at + 4] = b"evil"
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)

    with pytest.raises(InvalidRequestError, match="signature is wrong"):
        inspect_request(changed)


def test_a_client_name_makes_no_server(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, NOW)

    with pytest.raises(InvalidRequestError, match="DNS names and IP addresses only"):
        authority.sign_server(new_request(["uri:spiffe://acme/ci"]).csr_pem, NOW)


@pytest.mark.parametrize("days", [0, -1, 398])
def test_lifetimes_are_bounded(days: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="1 to 397"):
        Authority.open(tmp_path, NOW).sign_client(new_request(["dns:a.example"]).csr_pem, NOW, days)


def test_an_openssl_request_with_its_own_usages_gets_ours(tmp_path: Path) -> None:
    request = a_request(
        DNS("a.example"),
        b=x509.BasicConstraints(False, None),
        e=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
    )

    certificate = x509.load_pem_x509_certificate(
        Authority.open(tmp_path, NOW).sign_client(request, NOW)
    )

    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    "name",
    [
        "spiffe://acme/ci",
        "uri:no-scheme",
        "dns:",
        "dns:a b",
        "dns:*.x",
        "email:bob",
        "ip:300.1.1.1",
        "dns:a\0b",
        "uri:x:\u00e9",
        "dns:" + "a" * 64,
        "cn:bob",
    ],
)
def test_names_that_cannot_stand_in_a_certificate_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        new_request([name])


def test_a_request_needs_a_name() -> None:
    with pytest.raises(InvalidRequestError, match="at least one name"):
        new_request([])


def test_the_private_key_of_a_request_is_not_in_its_repr() -> None:
    assert "PRIVATE" not in repr(new_request(["dns:a.example"]))


def test_files_are_never_overwritten(tmp_path: Path) -> None:
    write_new_file(tmp_path / "k", b"one", mode=0o600)

    with pytest.raises(ConfigError, match="not overwritten"):
        write_new_file(tmp_path / "k", b"two", mode=0o600)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_new_file(tmp_path / "none" / "k", b"two", mode=0o600)

    assert (tmp_path / "k").read_bytes() == b"one"
