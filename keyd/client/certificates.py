"""A look at our own client certificate.

A daemon that does not accept a certificate closes the connection, and grpc calls that UNAVAILABLE,
whatever the cause. The certificate itself often knows better.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from keyd.client.profiles import Tls
from keyd.errors import ConfigError

_RENEW = "ask for a new certificate: keydctl tls request"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with our own certificate. ``what``: unreadable, expired, not-yet-valid
    or other-ca."""

    what: str
    text: str
    hint: str


def read(tls: Tls) -> tuple[bytes, bytes, bytes]:
    """CA, private key and certificate chain as PEM bytes, as grpc wants them.

    Raises:
        ConfigError: a file is missing, unreadable or not PEM, or key and certificate do not
            belong together; grpc itself says nothing useful about any of these.
    """
    ca, cert, key = (_bytes(file) for file in (tls.ca, tls.cert, tls.key))
    _certificates(ca, str(tls.ca))
    leaf = _certificates(cert, str(tls.cert))[0]
    problem = ""
    try:
        private_key = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        problem = "is not an unencrypted PEM private key"
    if problem:  # outside the handler, so that no text of the file travels along as a cause
        raise ConfigError(f"{tls.key} {problem}", file=str(tls.key))
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private_key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ConfigError(
            f"{tls.key} is not the key of {tls.cert}",
            hint="the certificate was made for another request; name the key that belongs to it",
            file=str(tls.key),
        )
    return ca, key, cert


def examine(tls: Tls, now: datetime | None = None) -> Finding | None:
    """Say why a daemon may have refused our certificate; None when nothing can be seen."""
    now = now or datetime.now(UTC)
    try:
        chain = _certificates(_bytes(tls.cert), str(tls.cert))
        roots = _certificates(_bytes(tls.ca), str(tls.ca))
    except ConfigError as e:
        return Finding("unreadable", e.message, e.hint)
    leaf = chain[0]
    if leaf.not_valid_after_utc <= now:
        ended = leaf.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
        return Finding("expired", f"the client certificate {tls.cert} expired {ended}", _RENEW)
    if leaf.not_valid_before_utc > now:
        begins = leaf.not_valid_before_utc.strftime("%Y-%m-%d %H:%M UTC")
        return Finding(
            "not-yet-valid",
            f"the client certificate {tls.cert} is valid only from {begins}",
            "is this machine's clock right?",
        )
    if len(chain) == 1 and not any(_issued(leaf, root) for root in roots):
        return Finding(
            "other-ca",
            f"the client certificate {tls.cert} was not issued by the CA in {tls.ca}",
            f"the daemon may trust another CA; {_RENEW}",
        )
    return None


def _issued(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise ConfigError(
            f"cannot read {file}: {e.strerror}",
            hint="ca, cert and key are PEM files; see keydctl tls request --help",
            file=str(file),
        ) from e


def _certificates(pem: bytes, file: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise ConfigError(f"{file} has no PEM certificate", file=file) from e
