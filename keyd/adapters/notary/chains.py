"""Whether a root certificate leads to a CA that is pinned, by the rules of the notary program.

It asks Go's crypto/x509 for a chain (RFC 5280, 6.1) of a server: each certificate of it may serve
for serverAuth or for anything, is in date, has no critical extension that is unknown here, and is
not signed over SHA-1. Issuers are CAs, by their key usage too, with no more CAs below them than
they allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyd.content import x509facts

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_MOST_BETWEEN = 10
_MIN_RSA_BITS = 2048
_FOR_SERVERS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def leads_to(
    chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: datetime
) -> bool:
    """True when the first certificate is an anchor, or is issued by one, maybe through others that
    came with it."""
    leaf, *others = chain
    roots = [anchor for anchor in anchors if not _is_weak(anchor) and _serves(anchor, now)]
    if not _serves(leaf, now):
        return False
    if leaf in roots:
        return True
    # Level by level: who is reached has as few below it as can be.
    reached, left = [leaf], [other for other in others if _serves(other, now)]
    for below in range(_MOST_BETWEEN):
        if any(_issued(each, by, below) for by in roots for each in reached):
            return True
        reached = [by for by in left if any(_issued(each, by, below) for each in reached)]
        left = [other for other in left if other not in reached]
    return False


def _serves(certificate: x509.Certificate, now: datetime) -> bool:
    try:
        found = certificate.extensions
        usages = _find(found, x509.ExtendedKeyUsage)
    except x509facts.MALFORMED:
        return False
    is_known = not any(
        each.critical and isinstance(each.value, x509.UnrecognizedExtension) for each in found
    )
    is_in_date = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    return is_known and is_in_date and (usages is None or not _FOR_SERVERS.isdisjoint(usages))


def _issued(certificate: x509.Certificate, by: x509.Certificate, below: int) -> bool:
    """``below``: how many CAs stand between the leaf and ``by``."""
    basic = _find(by.extensions, x509.BasicConstraints)
    usage = _find(by.extensions, x509.KeyUsage)
    if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
        return False
    if basic.path_length is not None and below > basic.path_length:
        return False
    try:
        if isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5):
            return False
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_weak(anchor: x509.Certificate) -> bool:
    """Notary leaves such CAs out of a pinned file (ValidateCertificate)."""
    try:
        public, digest = anchor.public_key(), anchor.signature_hash_algorithm
    except x509facts.MALFORMED:
        return True
    is_short = isinstance(public, rsa.RSAPublicKey) and public.key_size < _MIN_RSA_BITS
    return is_short or isinstance(digest, hashes.SHA1)


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
