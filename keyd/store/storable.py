"""What every database under keyd can hold; the rest is refused before it harms its neighbours."""

from __future__ import annotations

from keyd.errors import InvalidRequestError

MAX_NUMBER = 2**63 - 1


def check_text(field: str, text: str) -> None:
    """Refuse halves of surrogate pairs and NUL.

    Raises:
        InvalidRequestError: the text cannot be stored.
    """
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise InvalidRequestError(field, "a text that no database can hold")


def check_number(field: str, number: int) -> None:
    """Refuse what is negative or has more than 63 bits.

    Raises:
        InvalidRequestError: the number cannot be stored.
    """
    if not 0 <= number <= MAX_NUMBER:
        raise InvalidRequestError(field, f"{number} is not 0 to {MAX_NUMBER}")
