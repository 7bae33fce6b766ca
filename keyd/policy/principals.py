"""Typed principal ids, as policy.toml and the log write them."""

from __future__ import annotations

from keyd.errors import InvalidRequestError
from keyd.model import Principal

TYPES = ("socket", "uri", "email", "dns")
"""Types a grant may name. ``system:`` is the daemon itself; nobody grants it anything."""

MAX_PRINCIPAL_CHARS = 512


def check_principal(text: str) -> str:
    """Return a principal id, or a glob over the ids of one type, as the listeners write them.

    DNS names and the domain of an e-mail address come back in lower case, as certificates are
    read.

    Raises:
        InvalidRequestError: no or an unknown type, a ``*`` in the type, nothing after it, a
            control character, or more than 512 characters.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in TYPES:
        raise InvalidRequestError(
            "principal",
            f"{text[:80]!r} needs a type in front: socket:NAME, uri:URI, email:ADDRESS or dns:NAME"
            "; '*' stands for ids of one type only, as in uri:*",
        )
    if not rest or len(text) > MAX_PRINCIPAL_CHARS:
        raise InvalidRequestError(
            "principal", f"{text[:80]!r} needs 1 to {MAX_PRINCIPAL_CHARS} characters with its type"
        )
    if not all(" " < c <= "~" for c in rest):
        raise InvalidRequestError(
            "principal", f"{text[:80]!r} may hold printable ASCII without spaces only"
        )
    if kind == "dns":
        return text.lower()
    if kind == "email":
        local, at, domain = rest.rpartition("@")
        return f"email:{local}{at}{domain.lower()}"
    return text


def parse_principal(text: str) -> Principal:
    """The principal with this typed id, for asking a policy what it would answer.

    Raises:
        InvalidRequestError: as :func:`check_principal`.
    """
    checked = check_principal(text)
    return Principal(checked, "unix" if checked.startswith("socket:") else "mtls")
