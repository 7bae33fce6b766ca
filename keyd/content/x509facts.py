"""Facts of an X.509 certificate or request that keyd and its approvers care about."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from keyd import publickeys
from keyd.content.refusal import refuse
from keyd.errors import InvalidRequestError

# What cryptography raises over malformed input. It warns of encodings that it will refuse one day;
# where warnings are errors, the warning is the refusal.
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,
)

KEY_USAGES = {
    "digitalSignature": "digital_signature",
    "nonRepudiation": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign",
    "cRLSign": "crl_sign",
}
"""The names of RFC 5280, 4.2.1.3, and the attributes they have in cryptography."""


def spki(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The DER SubjectPublicKeyInfo; empty for kinds of keys that keyd does not use.

    Raises:
        ContentError: not a public key at all.
    """
    try:
        der = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        publickeys.load(der)
    except (InvalidRequestError, UnsupportedAlgorithm):
        return b""
    except MALFORMED as e:
        raise refuse("not-der", "the public key cannot be read") from e
    return der


def common_name(name: x509.Name) -> str:
    """The common name, or nothing.

    Raises:
        ContentError: more than one, of which others may see another.
    """
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) > 1:
        raise refuse("certificate", "the subject has more than one common name")
    value = found[0].value if found else ""
    return value if isinstance(value, str) else ""


def is_ca(extensions: x509.Extensions) -> bool:
    """True if basicConstraints say CA:TRUE."""
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def key_usage(extensions: x509.Extensions) -> frozenset[str]:
    """The key usages, as RFC 5280 names them; empty without the extension."""
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name for name, attribute in KEY_USAGES.items() if getattr(usage, attribute))


def extended_key_usage(extensions: x509.Extensions) -> tuple[str, ...]:
    """Object identifiers of the extended key usages, dotted; empty without the extension."""
    try:
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(usage.dotted_string for usage in usages)


def alternative_names(extensions: x509.Extensions) -> tuple[str, ...]:
    """Subject alternative names, typed: ``dns:``, ``email:``, ``uri:``, ``ip:``, ``other:``."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(_typed(name) for name in names)


def other_extensions(extensions: x509.Extensions) -> tuple[str, ...]:
    """Object identifiers of all extensions that the functions above do not tell."""
    told = (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
    )
    return tuple(e.oid.dotted_string for e in extensions if not isinstance(e.value, told))


def _typed(name: x509.GeneralName) -> str:
    if isinstance(name, x509.DNSName):
        return f"dns:{name.value}"
    if isinstance(name, x509.RFC822Name):
        return f"email:{name.value}"
    if isinstance(name, x509.UniformResourceIdentifier):
        return f"uri:{name.value}"
    if isinstance(name, x509.IPAddress):
        return f"ip:{name.value}"
    return f"other:{name.value}"
