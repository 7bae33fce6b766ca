"""A small certificate authority in a folder, for TLS between keyd and its clients.

Its key is a TLS CA key and not one of keyd's signing keys, so it is a file; whoever reads it can
make clients of this daemon. Keep the folder off the daemon's machine if you can.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyd.errors import ConfigError, InvalidRequestError
from keyd.pki.files import write_new_file
from keyd.pki.names import principal_id
from keyd.pki.request import RequestInfo, inspect_request

CA_DAYS = 3650
"""Life of the CA's own certificate, in days."""

CLIENT_DAYS = 90
SERVER_DAYS = 397
MAX_LEAF_DAYS = 397
"""Lives of what it signs, in days: defaults and the most that is granted."""

_SKEW = timedelta(minutes=5)


class Authority:
    """The CA of one folder: ``ca.key`` (0600), ``ca.pem``, and ``issued.log``, a line for each
    certificate with its serial, as a deny-list wants it."""

    def __init__(
        self, folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        """Use :meth:`open`."""
        self._folder = folder
        self._key = key
        self._certificate = certificate

    @classmethod
    def open(cls, folder: Path, now: datetime) -> Authority:
        """Open the CA in this folder; on first use, make folder, key and certificate.

        Raises:
            ConfigError: the key can be read by others, key and certificate do not belong
                together, the CA has expired, or the folder cannot be used.
        """
        key_file, certificate_file = folder / "ca.key", folder / "ca.pem"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"{folder}: cannot be made: {e.strerror}", file=folder) from e
        if not key_file.exists() and not certificate_file.exists():
            write_new_file(key_file, _pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
        key = _read_key(key_file)
        if not certificate_file.exists():  # first use, or one that was interrupted here
            made = _self_signed(key, now).public_bytes(serialization.Encoding.PEM)
            write_new_file(certificate_file, made, mode=0o644)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        except (OSError, ValueError) as e:
            raise ConfigError(
                f"{certificate_file}: not a certificate", file=certificate_file
            ) from e
        if certificate.public_key() != key.public_key():
            raise ConfigError(
                f"{certificate_file} does not belong to {key_file.name}", file=certificate_file
            )
        if now >= certificate.not_valid_after_utc:
            raise ConfigError(f"{certificate_file}: the CA has expired", file=certificate_file)
        return cls(folder, key, certificate)

    @property
    def certificate_pem(self) -> bytes:
        """The CA's certificate: ``client_ca`` of the daemon, the server's CA for clients."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def sign_client(self, csr_pem: bytes, now: datetime, days: int = CLIENT_DAYS) -> bytes:
        """A client certificate, PEM, for a request whose names make one caller.

        Raises:
            InvalidRequestError: as :func:`inspect_request`; IP addresses, ambiguous names, days
                out of range.
        """
        info = inspect_request(csr_pem)
        if any(name.startswith("ip:") for name in info.names):
            raise InvalidRequestError("request", "an IP address is no caller's name")
        principal_id(info.names)
        return self._sign(info, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)

    def sign_server(self, csr_pem: bytes, now: datetime, days: int = SERVER_DAYS) -> bytes:
        """A server certificate, PEM, for DNS names and IP addresses.

        Raises:
            InvalidRequestError: as :func:`inspect_request`; other kinds of names, days out of
                range.
        """
        info = inspect_request(csr_pem)
        if not all(name.startswith(("dns:", "ip:")) for name in info.names):
            raise InvalidRequestError("request", "a server has DNS names and IP addresses only")
        return self._sign(info, ExtendedKeyUsageOID.SERVER_AUTH, now, days)

    def _sign(
        self, info: RequestInfo, usage: x509.ObjectIdentifier, now: datetime, days: int
    ) -> bytes:
        if not 1 <= days <= MAX_LEAF_DAYS:
            raise InvalidRequestError("days", f"1 to {MAX_LEAF_DAYS}")
        end = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(info.names[0].partition(":")[2][:64]))
            .issuer_name(self._certificate.subject)
            .public_key(info.csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(end)
            .add_extension(info.san, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(info.csr.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        self._note(certificate, info.names)
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _note(self, certificate: x509.Certificate, names: tuple[str, ...]) -> None:
        """Append to issued.log before the certificate is handed out."""
        until = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        line = f"serial:{certificate.serial_number:X} until {until} {' '.join(names)}\n"
        path = self._folder / "issued.log"
        try:
            with path.open("a", encoding="ascii") as log:
                log.write(line)
                log.flush()
                os.fsync(log.fileno())
        except OSError as e:
            raise ConfigError(f"{path}: cannot be written: {e.strerror}", file=path) from e


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    problem = "not an EC private key in PEM"
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(
                    f"{path}: others can read it", hint=f"chmod 600 {path}", file=path
                )
            key = serialization.load_pem_private_key(file.read(), password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    except OSError as e:
        problem = f"cannot be read: {e.strerror}"
    except (ValueError, TypeError):  # the cause may quote the key
        pass
    raise ConfigError(f"{path}: {problem}", file=path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    public_key = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    # The name holds the key's id, so that two CAs of two folders are never taken for one another.
    subject = _name(f"keyd TLS CA {identifier.digest.hex()[:8]}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signature=False), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage(*, signature: bool) -> x509.KeyUsage:
    """digitalSignature for a leaf; keyCertSign and cRLSign for the CA."""
    return x509.KeyUsage(
        digital_signature=signature,
        key_cert_sign=not signature,
        crl_sign=not signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
