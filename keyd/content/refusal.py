"""How a reader says no: one error, a word for programs, a sentence for people.

The words of the fact ``problem``:

    too-large       the payload, a number of members or a list is beyond what keyd reads
    too-deep        more nesting than any metadata has
    not-utf8        bytes that are no UTF-8, or a lone surrogate behind an escape
    not-json        no JSON text
    duplicate-key   an object names a member twice: two readers see two values
    number          a float, or an integer beyond 64 bits
    control         a control character other than tab, newline and carriage return
    not-canonical   JSON, but not in the one form that is signed
    type            no role of either dialect, or another one than expected
    field           a member is missing or holds what it must not: fact ``field``
    private-key     a key object carries private key material
    not-der         no strict DER, or not the X.509 structure it seems to be
    certificate     an X.509 structure that nobody should sign or trust as it stands
"""

from __future__ import annotations

import hashlib
import unicodedata

from keyd.errors import ContentError

MAX_SHOWN_CHARS = 120
"""Longer texts from a payload are cut where people see them."""


def refuse(problem: str, message: str, *, field: str = "") -> ContentError:
    """The error to raise. ``field``: where in the document, as in ``roles.root.threshold``."""
    if field:
        shown = printable(field)
        return ContentError(f"{shown}: {message}", problem=problem, field=shown)
    return ContentError(message, problem=problem)


def printable(text: str, limit: int = MAX_SHOWN_CHARS) -> str:
    """A text from a payload, made safe for terminals and logs.

    What is not printable, or would reorder or merge with its neighbours, becomes an escape:
    nobody shall consent to a name that only looks like another. Of more than ``limit`` characters
    the first stay, with the length and the start of the whole text's SHA-256, so that two
    different texts never look alike.
    """
    shown = "".join(c if _is_plain(c) else _escaped(c) for c in text[:limit])
    if len(text) <= limit:
        return shown
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{shown}...[{len(text)} characters, sha256 {digest[:16]}]"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _is_plain(character: str) -> bool:
    # A backslash is escaped like the rest, or it could feign an escape; a combining mark
    # (category M) would change the look of the character before it.
    if character.isascii():
        return character.isprintable() and character != "\\"
    return character.isprintable() and unicodedata.category(character)[0] != "M"
