"""Is this key one that a YubiKey made inside itself? What the card says, and who vouches for it.

A statement is a certificate on the key, signed by the card's attestation key (slot F9), which
Yubico certified in the factory. Its extensions tell serial, firmware and policies:
https://developers.yubico.com/PIV/Introduction/PIV_attestation.html. What PKCS#11 says of a key
(CKA_SENSITIVE, CKA_NEVER_EXTRACTABLE) is written into libykcs11's source and proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyd.errors import ConfigError, TokenObjectError
from keyd.model import Attestation, PinPolicy, Slot, SlotStatement, TouchPolicy

SHIPPED = Path(__file__).parent / "attestation_roots"
"""Yubico's own certificates; README.md there says where they come from."""

_YUBICO = "1.3.6.1.4.1.41482.3"
_FIRMWARE = x509.ObjectIdentifier(f"{_YUBICO}.3")
_SERIAL = x509.ObjectIdentifier(f"{_YUBICO}.7")
_POLICIES = x509.ObjectIdentifier(f"{_YUBICO}.8")
_FORM_FACTOR = x509.ObjectIdentifier(f"{_YUBICO}.9")
_FIPS = x509.ObjectIdentifier(f"{_YUBICO}.10")
_CSPN = x509.ObjectIdentifier(f"{_YUBICO}.11")
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises of a certificate that makes no sense."""
_UNDERSTOOD = (x509.OID_BASIC_CONSTRAINTS, x509.OID_KEY_USAGE)
"""Extensions that may be critical, beside Yubico's own (RFC 5280, section 4.2)."""

_PIN = {1: PinPolicy.NEVER, 2: PinPolicy.ONCE, 3: PinPolicy.ALWAYS}
_TOUCH = {1: TouchPolicy.NEVER, 2: TouchPolicy.ALWAYS, 3: TouchPolicy.CACHED}
_FORM_FACTORS = {
    1: "Keychain (USB-A)",
    2: "Nano (USB-A)",
    3: "Keychain (USB-C)",
    4: "Nano (USB-C)",
    5: "Keychain (USB-C, Lightning)",
    6: "Bio (USB-A)",
    7: "Bio (USB-C)",
}
_FORM_FACTOR_BITS, _FIPS_BIT = 0x0F, 0x80
"""Of the other bits 0x40 tells a Security Key."""

_SUBJECT = "YubiKey PIV Attestation "
_LONGEST_CHAIN = 6
_OCTET_STRING, _INTEGER = 0x04, 0x02


class Trust:
    """Whose word counts: self-signed certificates are roots, the others only lead to them."""

    def __init__(self, certificates: Iterable[x509.Certificate]) -> None:
        listed = list(certificates)
        self.roots = [c for c in listed if c.subject == c.issuer]
        self.between = [c for c in listed if c.subject != c.issuer]

    @classmethod
    def of_files(cls, *files: Path) -> Self:
        """Yubico's, and those of more PEM files.

        Raises:
            ConfigError: a file cannot be read, or holds no certificates.
        """
        found: list[x509.Certificate] = []
        for file in (*sorted(SHIPPED.glob("*.pem")), *files):
            try:
                found += x509.load_pem_x509_certificates(file.read_bytes())
            except OSError as e:
                raise ConfigError(f"{file}: cannot be read: {e.strerror}", file=file) from e
            except ValueError as e:
                raise ConfigError(
                    f"{file}: no PEM certificates",
                    hint="attestation_roots names PEM files of roots and intermediates",
                    file=file,
                ) from e
        return cls(found)


def verify(
    said: SlotStatement, public_key: bytes, serial: str, slot: Slot, trust: Trust, now: datetime
) -> Attestation:
    """What is proven of the key with this public key (DER SPKI), in this slot of this YubiKey.

    Raises:
        TokenObjectError: why it is not: fact ``attestation`` holds a word for programs: unreadable,
            untrusted, expired, other-key, other-serial, other-slot.
    """
    statement, device = _read(said.statement), _read(said.device_certificate)
    chain = _lead_to_root([statement, device], trust)
    for certificate in chain:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise _error("expired", f"{_name(certificate)} is not valid at {now:%Y-%m-%d}")
    found = _facts(statement, device, tuple(c.public_bytes(Encoding.DER) for c in chain))
    if spki(statement) != public_key:
        raise _error("other-key", "it speaks of another public key")
    if found.serial != serial:
        raise _error("other-serial", f"it speaks of YubiKey {found.serial}, not {serial}")
    if found.slot != str(slot):
        raise _error("other-slot", f"it speaks of slot {found.slot}, not {slot}")
    return found


def spki(certificate: x509.Certificate) -> bytes:
    """The certificate's public key as DER SubjectPublicKeyInfo."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read(der: bytes) -> x509.Certificate:
    """A certificate whose parts can all be read: cryptography parses most of them when they are
    asked for."""
    try:
        read = x509.load_der_x509_certificate(der)
        critical = [e.oid for e in read.extensions if e.critical]
        _ = read.subject, read.issuer, read.not_valid_before_utc, read.not_valid_after_utc
        spki(read)
    except _UNREADABLE as e:
        raise _error("unreadable", "a certificate of it cannot be read") from e
    for oid in critical:
        if oid not in _UNDERSTOOD and not oid.dotted_string.startswith(f"{_YUBICO}."):
            raise _error(
                "unreadable",
                f"it has a critical extension that keyd does not know: {oid.dotted_string}",
            )
    return read


def _lead_to_root(chain: list[x509.Certificate], trust: Trust) -> list[x509.Certificate]:
    """The chain continued to a root, every signature checked, only CAs above the statement."""
    if not _is_issued(chain[0], chain[1], below=0):
        raise _error("untrusted", f"{_name(chain[0])} is not signed by {_name(chain[1])}")
    while len(chain) < _LONGEST_CHAIN:
        below = len(chain) - 1
        root = next((c for c in trust.roots if _is_issued(chain[-1], c, below)), None)
        if root is not None:
            return [*chain, root]
        above = next((c for c in trust.between if _is_issued(chain[-1], c, below)), None)
        if above is None:
            break
        chain = [*chain, above]
    raise _error(
        "untrusted",
        f"nobody keyd trusts vouches for {_name(chain[-1])} (issuer "
        f"{chain[-1].issuer.rfc4514_string()})",
        hint="if that is right, add the issuer's certificate to attestation_roots in keyd.toml",
    )


def _is_issued(certificate: x509.Certificate, by: x509.Certificate, below: int) -> bool:
    """``below``: CAs between ``by`` and the statement."""
    try:
        constraints = by.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    longest = constraints.path_length
    if not constraints.ca or (longest is not None and below > longest):
        return False
    try:
        if not by.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            return False
    except x509.ExtensionNotFound:
        pass  # then it is for anything (RFC 5280, section 4.2.1.3); Yubico's have none
    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _facts(
    statement: x509.Certificate, device: x509.Certificate, chain: Sequence[bytes]
) -> Attestation:
    firmware = _extension(statement, _FIRMWARE, 3)
    policies = _extension(statement, _POLICIES, 2)
    told = _extension(statement, _FORM_FACTOR, 1)[0]
    form = told & _FORM_FACTOR_BITS
    marks = [", FIPS"] * (bool(told & _FIPS_BIT) or _has(_FIPS, statement, device))
    marks += [", CSPN"] * _has(_CSPN, statement, device)
    common_name = _common_name(statement)
    try:
        pin, touch = _PIN[policies[0]], _TOUCH[policies[1]]
    except KeyError:
        raise _error("unreadable", f"its policies are {policies.hex()}") from None
    return Attestation(
        slot=common_name.removeprefix(_SUBJECT).lower(),
        serial=str(_serial(statement)),
        firmware=".".join(map(str, firmware)),
        form_factor=_FORM_FACTORS.get(form, f"unknown ({form})") + "".join(marks),
        pin=pin,
        touch=touch,
        chain=tuple(chain),
    )


def _common_name(statement: x509.Certificate) -> str:
    names = statement.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if len(names) != 1 or not str(names[0].value).startswith(_SUBJECT):
        raise _error("unreadable", f"its subject is {statement.subject.rfc4514_string()!r}")
    return str(names[0].value)


def _serial(statement: x509.Certificate) -> int:
    raw = _value(statement, _SERIAL)
    if len(raw) < 3 or raw[0] != _INTEGER or raw[1] != len(raw) - 2 or raw[2] & 0x80:
        raise _error("unreadable", "it tells no serial")
    return int.from_bytes(raw[2:], "big")


def _extension(statement: x509.Certificate, oid: x509.ObjectIdentifier, size: int) -> bytes:
    raw = _value(statement, oid)
    # Plain bytes on all firmware but the newest, which wraps them in an OCTET STRING.
    if len(raw) == size + 2 and raw[:2] == bytes((_OCTET_STRING, size)):
        raw = raw[2:]
    if len(raw) != size:
        raise _error("unreadable", f"its extension {oid.dotted_string} has {len(raw)} bytes")
    return raw


def _has(oid: x509.ObjectIdentifier, *certificates: x509.Certificate) -> bool:
    return any(e.oid == oid for c in certificates for e in c.extensions)


def _value(statement: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes:
    try:
        value = statement.extensions.get_extension_for_oid(oid).value
    except (x509.ExtensionNotFound, ValueError):
        raise _error("unreadable", f"it lacks the extension {oid.dotted_string}") from None
    assert isinstance(value, x509.UnrecognizedExtension)
    return value.value


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def _error(word: str, why: str, hint: str = "") -> TokenObjectError:
    return TokenObjectError(f"the attestation proves nothing: {why}", hint=hint, attestation=word)
