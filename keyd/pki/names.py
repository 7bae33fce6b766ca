"""Names in certificates: which are acceptable, and which one is the caller.

A typed name is a kind and a value: ``uri:spiffe://acme/ci``, ``email:bob@acme.example``,
``dns:runner1.acme.example``, and for servers ``ip:192.0.2.7``. Subject common names are never
looked at.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from cryptography import x509

from keyd.errors import InvalidRequestError

MAX_NAME_CHARS = 500
"""Of one name's value; longer ones would not fit a log line."""

_KINDS = ("uri", "email", "dns", "ip")
_DNS = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_EMAIL = re.compile(r"[^@]+@[^@]+")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.+")


def _refuse(why: str) -> InvalidRequestError:
    return InvalidRequestError("certificate", why)


def parse_name(text: str) -> x509.GeneralName:
    """A typed name as the subject alternative name (RFC 5280, 4.2.1.6) it stands for.

    Raises:
        InvalidRequestError: unknown kind, or a value that does not fit it.
    """
    kind, colon, value = text.partition(":")
    if not colon or kind not in _KINDS:
        raise InvalidRequestError(
            "name",
            f"{text[:80]!r} does not say what kind of name it is",
            hint="write uri:, email:, dns: or ip: in front, as in email:alice@example.org",
        )
    if kind == "ip":
        try:
            return x509.IPAddress(ipaddress.ip_address(value))
        except ValueError:
            raise _refuse(f"{value[:80]!r} is not an IP address") from None
    checked = _check(kind, value)
    if kind == "uri":
        return x509.UniformResourceIdentifier(checked)
    return x509.RFC822Name(checked) if kind == "email" else x509.DNSName(checked)


def certificate_names(san: x509.SubjectAlternativeName) -> tuple[str, ...]:
    """All names as typed text, in their order; DNS names and e-mail domains in lower case.

    Raises:
        InvalidRequestError: a control character (NUL!), a space, non-ASCII, an empty or endless
            value, a wildcard, or a kind other than URI, e-mail, DNS and IP.
    """
    names = []
    for name in san:
        if isinstance(name, x509.IPAddress):
            names.append(f"ip:{name.value}")
        elif isinstance(name, x509.UniformResourceIdentifier):
            names.append(f"uri:{_check('uri', name.value)}")
        elif isinstance(name, x509.RFC822Name):
            names.append(f"email:{_check('email', name.value)}")
        elif isinstance(name, x509.DNSName):
            names.append(f"dns:{_check('dns', name.value)}")
        else:
            raise _refuse(f"a name of kind {type(name).__name__}; use URI, e-mail or DNS")
    return tuple(names)


def principal_id(names: Sequence[str]) -> str:
    """Which of a certificate's names is the caller: its single URI, else e-mail, else DNS name.

    Raises:
        InvalidRequestError: none of these, or more than one of the kind that counts.
    """
    for kind in ("uri", "email", "dns"):
        found = [name for name in names if name.startswith(f"{kind}:")]
        if len(found) > 1:
            raise _refuse(f"{len(found)} {kind} names, so it is ambiguous who calls")
        if found:
            return found[0]
    raise _refuse("no URI, e-mail or DNS subject alternative name")


def _check(kind: str, value: str) -> str:
    if not value or len(value) > MAX_NAME_CHARS:
        raise _refuse(f"{kind} name of {len(value)} characters; 1 to {MAX_NAME_CHARS} are taken")
    if not all(" " < c <= "~" for c in value):
        # Some readers cut a name at NUL and see another one than the CA signed.
        raise _refuse(f"{kind} name with a control character, space or non-ASCII: {value[:80]!r}")
    if kind == "dns":
        value = value.lower()
        if not _DNS.fullmatch(value):
            raise _refuse(f"{value[:80]!r} is not one DNS name (wildcards stand for many)")
        return value
    if kind == "email":
        if not _EMAIL.fullmatch(value):
            raise _refuse(f"{value[:80]!r} is not an e-mail address")
        local, _, domain = value.partition("@")
        return f"{local}@{domain.lower()}"
    if kind == "uri":
        if not _URI.fullmatch(value):
            raise _refuse(f"{value[:80]!r} is not a URI with a scheme")
        return value
    raise _refuse(f"unknown kind of name {kind[:20]!r}; write uri:, email:, dns: or ip: in front")
