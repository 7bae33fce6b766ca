"""What every database under keyd can hold; the rest is refused before it harms its neighbours."""

from __future__ import annotations

from keyd.errors import InvalidRequestError

MAX_NUMBER = 2**63 - 1


def is_text(text: str) -> bool:
    """True without halves of surrogate pairs and NUL."""
    return "\0" not in text and (
        text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
    )


def check_text(field: str, text: str) -> None:
    """Refuse what :func:`is_text` says no to.

    Raises:
        InvalidRequestError: the text cannot be stored.
    """
    if not is_text(text):
        raise InvalidRequestError(field, "a text that no database can hold")


def check_number(field: str, number: int) -> None:
    """Refuse what is negative or has more than 63 bits.

    Raises:
        InvalidRequestError: the number cannot be stored.
    """
    if not 0 <= number <= MAX_NUMBER:
        raise InvalidRequestError(field, f"{number} is not 0 to {MAX_NUMBER}")
