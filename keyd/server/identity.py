"""Who calls: a listener's answer to each single call.

A unix socket stands for the principal it was declared for, since grpc tells no peer credentials.
Over mutual TLS the principal is a name in the client's certificate. grpc checks the certificate at
the handshake only, and its own reading of names cuts them at NUL; so each call parses the
certificate with keyd's rules (cached) and checks, as of now, its dates, the deny-list, and that it
leads to a CA that is still trusted.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyd.errors import InvalidRequestError, UnknownCallerError
from keyd.model import Clock, Principal
from keyd.pki import certificate_names, principal_id
from keyd.server.tls import Trust, is_authority

MAX_CERTIFICATES_CACHED = 4096
MAX_INTERMEDIATES = 4
_PARSE_ERRORS = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)


class Connection(Protocol):
    """What is read of grpc.aio.ServicerContext."""

    def peer(self) -> str:
        """The peer's address as grpc writes it: ``ipv4:127.0.0.1:5000``, ``unix:``."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """The peer's transport properties."""


class SocketIdentity:
    """Every caller of one unix socket is the principal it was declared for."""

    def __init__(self, principal: str, *, is_group: bool) -> None:
        self._principal = Principal(principal, "unix", is_group=is_group, peer="unix:")

    def __call__(self, connection: Connection) -> Principal:  # noqa: ARG002 - one answer for all
        """The principal."""
        return self._principal


@dataclass(frozen=True, slots=True)
class _Checked:
    """A certificate under one state of trust. ``windows``: dates during which one path each to a
    trusted CA is valid; ``refusal``: why nobody may use it, whatever the time."""

    principal: str = ""
    fingerprint: str = ""
    not_after: datetime | None = None
    windows: tuple[tuple[datetime, datetime], ...] = ()
    refusal: str = ""

    def outdated(self, now: datetime) -> str:
        """Why no window is open."""
        start, end = self.windows[0]
        if now < start:
            return f"client certificate is not valid before {_when(start)}"
        if self.not_after is not None and now > self.not_after:
            return f"client certificate expired at {_when(self.not_after)}"
        return f"the CA of the client certificate expired at {_when(end)}"


class CertificateIdentity:
    """Callers of one mutual TLS listener, by certificate."""

    def __init__(self, trust: Callable[[], Trust], clock: Clock) -> None:
        """``trust``: the CAs and deny-list in force at the moment of each call."""
        self._trust = trust
        self._clock = clock
        self._generation = 0
        self._cache: OrderedDict[bytes, _Checked] = OrderedDict()

    def __call__(self, connection: Connection) -> Principal:
        """The principal of this call.

        Raises:
            UnknownCallerError: no certificate, or one that is refused, with the reason.
        """
        properties = connection.auth_context()
        leaf = b"".join(properties.get("x509_pem_cert", ()))
        chain = b"".join(properties.get("x509_pem_cert_chain", ()))
        if not leaf:
            raise _unknown("no client certificate")
        checked = self._check(leaf, chain)
        if checked.refusal:
            raise _unknown(checked.refusal)
        now = self._clock.now()
        if not any(start <= now <= end for start, end in checked.windows):
            raise _unknown(checked.outdated(now))
        return Principal(
            checked.principal,
            "mtls",
            fingerprint=checked.fingerprint,
            peer=connection.peer(),
            certificate_not_after=checked.not_after,
        )

    def _check(self, leaf: bytes, chain: bytes) -> _Checked:
        trust = self._trust()
        if trust.generation != self._generation:
            self._cache.clear()
            self._generation = trust.generation
        at = hashlib.sha256(b"%d:" % len(leaf) + leaf + chain).digest()
        checked = self._cache.get(at)
        if checked is None:
            checked = _check(leaf, chain, trust)
            self._cache[at] = checked
            if len(self._cache) > MAX_CERTIFICATES_CACHED:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(at)
        return checked


def _check(leaf_pem: bytes, chain_pem: bytes, trust: Trust) -> _Checked:
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
        extensions = leaf.extensions
        san = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        name = principal_id(certificate_names(san))
        sent = x509.load_pem_x509_certificates(chain_pem) if chain_pem else []
    except x509.ExtensionNotFound:
        return _Checked(refusal="client certificate without a subject alternative name")
    except InvalidRequestError as e:
        return _Checked(refusal=f"client certificate: {e.facts['why']}")
    except _PARSE_ERRORS as e:
        return _Checked(refusal=f"client certificate cannot be read ({type(e).__name__})")
    usage = [e.value for e in extensions if isinstance(e.value, x509.ExtendedKeyUsage)]
    wanted = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if usage and not any(oid in usage[0] for oid in wanted):
        return _Checked(refusal="client certificate is not for client authentication")
    if trust.denied.holds(leaf):
        return _Checked(refusal="client certificate is on the deny-list")
    intermediates = [c for c in sent[: MAX_INTERMEDIATES + 1] if c != leaf and is_authority(c)]
    paths = [
        path
        for path in _paths((leaf,), intermediates, trust.authorities)
        if not any(trust.denied.holds(c) for c in path[1:])
    ]
    if not paths:
        return _Checked(refusal="client certificate's CA is not trusted, or not any more")
    windows = (
        (max(c.not_valid_before_utc for c in path), min(c.not_valid_after_utc for c in path))
        for path in paths
    )
    return _Checked(
        principal=name,
        fingerprint=hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest(),
        not_after=leaf.not_valid_after_utc,
        windows=tuple(sorted(windows, key=lambda window: window[1], reverse=True)),
    )


def _paths(
    path: tuple[x509.Certificate, ...],
    intermediates: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
) -> Iterator[tuple[x509.Certificate, ...]]:
    """The ways from the last of ``path`` to a trusted CA, through what the client sent along.

    The handshake did full path validation (RFC 5280, 6) against the CAs of its time; this finds
    out whether a signed path leads to those of today.
    """
    for authority in authorities:
        if _issued(path[-1], authority):
            yield (*path, authority)
    for issuer in intermediates:
        if issuer not in path and len(path) <= MAX_INTERMEDIATES and _issued(path[-1], issuer):
            yield from _paths((*path, issuer), intermediates, authorities)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _when(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _unknown(why: str) -> UnknownCallerError:
    return UnknownCallerError(
        why, hint="look at your certificate with: openssl x509 -noout -text -in FILE", why=why
    )
