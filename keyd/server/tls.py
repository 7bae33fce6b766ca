"""TLS files of one TCP listener, read again when they change.

A listener has a certificate with its key, a set of client CAs and a deny-list. grpc asks for the
credentials at each handshake, and every call asks for the CAs and the deny-list, since an open
connection outlives both. Asking costs a stat of each file. What does not parse, or does not fit
together (a key replaced before its certificate), leaves the old material in force and says so in
the log once.

TLS 1.2 is the lowest version: grpc offers nothing older and lets nothing be set.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from keyd.errors import ConfigError

RETRY_S = 1.0
"""How often files that did not fit together are looked at again though nothing changed."""

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Larger files are refused unread."""

_SERIAL = re.compile(r"serial:(?:0[xX])?([0-9A-Fa-f]{1,40})")
_SHA256 = re.compile(r"(?:sha256:)?([0-9A-Fa-f]{64})")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the material lies: PEM, and a deny-list (:func:`parse_deny_list`) or None."""

    certificate: Path
    key: Path
    client_ca: Path
    deny_list: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that is read."""
        named = (self.certificate, self.key, self.client_ca)
        return (*named, self.deny_list) if self.deny_list else named


@dataclass(frozen=True, slots=True)
class DenyList:
    """Certificates that are refused though their CA is trusted.

    ``serials``: of any CA; ``fingerprints``: SHA-256, lower-case hex, of the certificate or of its
    SubjectPublicKeyInfo (then a renewal with the same key is refused as well).
    """

    serials: frozenset[int] = frozenset()
    fingerprints: frozenset[str] = frozenset()

    def holds(self, certificate: x509.Certificate) -> bool:
        """True when the certificate is refused."""
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        return certificate.serial_number in self.serials or not self.fingerprints.isdisjoint(
            {hashlib.sha256(der).hexdigest(), hashlib.sha256(spki).hexdigest()}
        )


@dataclass(frozen=True, slots=True)
class Trust:
    """Who is trusted now. ``generation`` grows with each change, for caches."""

    generation: int
    authorities: tuple[x509.Certificate, ...]
    denied: DenyList = DenyList()


@dataclass(frozen=True, slots=True)
class _Material:
    credentials: grpc.ServerCertificateConfiguration
    authorities: tuple[x509.Certificate, ...]
    denied: DenyList


class TlsMaterial:
    """The current TLS material of one listener; used from the event loop and grpc's threads."""

    def __init__(self, files: TlsFiles, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Read the files.

        Raises:
            ConfigError: a file is missing, malformed, a key others may read, or key and
                certificate do not belong together.
        """
        self._files = files
        self._monotonic = monotonic
        self._reloading = threading.Lock()
        self._state = _stamps(files)
        self._failed: tuple[object, float] | None = None
        self._material = _read(files)
        self._trust = Trust(1, self._material.authorities, self._material.denied)

    def trust(self) -> Trust:
        """The client CAs and deny-list as the files say now."""
        self._refresh()
        return self._trust

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials for one port that demand a client certificate and follow the files."""
        given = self._material.credentials

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # At each handshake. None keeps what grpc has, which is cheaper than the same again.
            nonlocal given
            self._refresh()
            current = self._material.credentials
            if current is given:
                return None
            given = current
            return current

        return grpc.dynamic_ssl_server_credentials(
            given,
            fetch,  # type: ignore[arg-type]  # the stubs forget None
            require_client_authentication=True,
        )

    def _refresh(self) -> None:
        state = _stamps(self._files)
        if state == self._state:
            return
        with self._reloading:
            if state != self._state:
                self._reload(state)

    def _reload(self, state: tuple[object, ...]) -> None:
        failed = self._failed
        if failed and failed[0] == state and self._monotonic() < failed[1] + RETRY_S:
            return
        try:
            material = _read(self._files)
        except ConfigError as e:
            if failed is None or failed[0] != state:
                log.error("TLS files kept as they were: %s", e.message, extra=dict(e.facts))
            self._failed = (state, self._monotonic())
            return
        self._failed = None
        self._material = material
        self._trust = Trust(self._trust.generation + 1, material.authorities, material.denied)
        self._state = state
        log.info("TLS files read again", extra={"certificate": str(self._files.certificate)})


def _stamps(files: TlsFiles) -> tuple[object, ...]:
    """Changes whenever a file does; ctime, because a copy may keep the old mtime."""
    stamps: list[object] = []
    for path in files.all:
        try:
            found = path.stat()
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        except OSError as e:
            stamps.append(e.errno)
    return tuple(stamps)


def _read(files: TlsFiles) -> _Material:
    chain_pem = _bytes(files.certificate)
    key_pem = _bytes(files.key, private=True)
    ca_pem = _bytes(files.client_ca)
    chain = _certificates(chain_pem, files.certificate)
    _check_pair(chain[0], key_pem, files)
    authorities = _certificates(ca_pem, files.client_ca)
    for authority in authorities:
        if not is_authority(authority):
            subject = authority.subject.rfc4514_string()
            raise ConfigError(
                f"{files.client_ca}: {subject!r} is no CA certificate", file=files.client_ca
            )
    denied = DenyList()
    if files.deny_list:
        text = _bytes(files.deny_list).decode("utf-8", errors="replace")
        denied = parse_deny_list(text, str(files.deny_list))
    credentials = grpc.ssl_server_certificate_configuration(
        [(key_pem, chain_pem)], root_certificates=ca_pem
    )
    return _Material(credentials, authorities, denied)


def is_authority(certificate: x509.Certificate) -> bool:
    """True when basic constraints and key usage (RFC 5280, 4.2.1.9 and 4.2.1.3) let it sign
    certificates."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return constraints.ca
    return constraints.ca and usage.key_cert_sign


def parse_deny_list(text: str, file: str) -> DenyList:
    """Parse a deny-list: one ``serial:HEX`` (as ``openssl x509 -serial`` prints it) or
    ``sha256:HEX`` (of certificate or public key) a line; colons within HEX and ``#`` comments are
    allowed.

    Raises:
        ConfigError: with the line; a list that is half understood would let somebody in.
    """
    serials, fingerprints = set(), set()
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        kind, colon, value = entry.partition(":")
        plain = (
            f"{kind}:{value.replace(':', '')}"
            if kind in ("serial", "sha256")
            else (f"{kind}{colon}{value}".replace(":", ""))
        )
        if serial := _SERIAL.fullmatch(plain):
            serials.add(int(serial[1], 16))
        elif fingerprint := _SHA256.fullmatch(plain):
            fingerprints.add(fingerprint[1].lower())
        else:
            raise ConfigError(
                f"{file}:{number}: write serial:HEX or sha256:HEX, not {entry[:80]!r}",
                file=file,
                line=number,
            )
    return DenyList(frozenset(serials), frozenset(fingerprints))


def _bytes(path: Path, *, private: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if private and mode & 0o007:
                raise ConfigError(
                    f"{path}: a private key that everybody may read",
                    hint=f"chmod 640 {path}, with the service's group",
                    file=path,
                )
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}", file=path) from e
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes", file=path)
    return data


def _certificates(pem: bytes, path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise ConfigError(f"{path}: no readable PEM certificate in it", file=path) from None


def _check_pair(certificate: x509.Certificate, key_pem: bytes, files: TlsFiles) -> None:
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
        matches = key.public_key() == certificate.public_key()
    except (ValueError, TypeError):  # TypeError: encrypted
        key = None
    if key is None:
        raise ConfigError(f"{files.key}: not an unencrypted PEM private key", file=files.key)
    if not matches:
        raise ConfigError(
            f"{files.key}: not the key of the certificate in {files.certificate}", file=files.key
        )
