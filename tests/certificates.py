"""Certificates for tests, wrong ones included: names are taken as they are given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyd.server.tls import TlsFiles


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def issue(
    *names: x509.GeneralName,
    by: Issued | None = None,
    ca: bool = False,
    common_name: str = "x",
    start: datetime | None = None,
    end: datetime | None = None,
    serial: int | None = None,
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
) -> Issued:
    """A certificate signed by ``by``, else by itself; valid for a day unless dates are given."""
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start or now - timedelta(hours=1))
        .not_valid_after(end or now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Issued(builder.sign((by.key if by else key), hashes.SHA256()), key)


def an_authority(common_name: str = "CA") -> Issued:
    """A root CA."""
    return issue(ca=True, common_name=common_name)


def a_server(by: Issued) -> Issued:
    """A server certificate for localhost."""
    return issue(x509.DNSName("localhost"), by=by, usage=ExtendedKeyUsageOID.SERVER_AUTH)


def write_tls(folder: Path, authority: Issued, *, deny: str | None = None) -> TlsFiles:
    """A listener's files in a folder: server certificate, key, client CA, deny-list if any."""
    server = a_server(authority)
    files = TlsFiles(
        folder / "server.pem",
        folder / "server.key",
        folder / "ca.pem",
        folder / "deny.txt" if deny is not None else None,
    )
    files.certificate.write_bytes(server.pem)
    files.key.write_bytes(server.key_pem)
    files.key.chmod(0o640)
    files.client_ca.write_bytes(authority.pem)
    if files.deny_list is not None and deny is not None:
        files.deny_list.write_text(deny)
    return files
