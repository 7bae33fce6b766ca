"""Checks every field of a request passes at the door, once.

Each raises InvalidRequestError with the field's name as it stands in the API.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from keyd.errors import InvalidRequestError
from keyd.model import MAX_NAME_CHARS, check_name

MAX_REASON_CHARS = 1000
MAX_REQUEST_ID_CHARS = 128
MAX_PATTERN_CHARS = 256

_E = TypeVar("_E", bound=StrEnum)

_REQUEST_ID = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_VERSION_NAME = re.compile(r"(?P<key>.+)/versions/(?P<number>[0-9]+)")
_MAX_NUMBER_DIGITS = 9
_HEX = re.compile(r"[0-9a-f]+")


def check_request_id(value: str) -> str:
    """A caller's request id: at most 128 printable ASCII characters; empty when there is none."""
    if value and (len(value) > MAX_REQUEST_ID_CHARS or not _REQUEST_ID.fullmatch(value)):
        raise InvalidRequestError(
            "request_id",
            f"at most {MAX_REQUEST_ID_CHARS} printable ASCII characters, not starting or ending "
            "with a space",
        )
    return value


def check_text(field: str, value: str, max_chars: int, *, lines: bool = False) -> str:
    """Text people read: bounded and printable (no controls, no direction overrides).

    ``lines``: newlines and tabs may stand in it.
    """
    if len(value) > max_chars:
        raise InvalidRequestError(field, f"{len(value)} characters, at most {max_chars} are taken")
    shown = value.replace("\n", "").replace("\t", "") if lines else value
    if not shown.isprintable():
        raise InvalidRequestError(field, "holds characters that cannot be printed")
    return value


def check_reason(value: str) -> str:
    """The caller's own words for the log."""
    return check_text("reason", value, MAX_REASON_CHARS, lines=True)


def check_hex(field: str, value: str, max_chars: int = 128) -> str:
    """Lower-case hexadecimal; empty stays empty."""
    if value and (len(value) > max_chars or not _HEX.fullmatch(value)):
        raise InvalidRequestError(field, f"at most {max_chars} lower-case hexadecimal digits")
    return value


def check_size(field: str, value: bytes, max_bytes: int) -> bytes:
    """Bytes that are not longer than they can sensibly be."""
    if len(value) > max_bytes:
        raise InvalidRequestError(field, f"{len(value)} bytes, at most {max_bytes} are taken")
    return value


def check_range(field: str, value: int, least: int, most: int) -> int:
    """A number within bounds, both included."""
    if not least <= value <= most:
        raise InvalidRequestError(field, f"{value} is not within {least} to {most}")
    return value


def check_new_name(field: str, value: str) -> str:
    """A name for something new: valid, and not to be taken for a version's."""
    name, number = parse_key(field, value)
    if number:
        raise InvalidRequestError(field, f"{value} would read as the name of a key version")
    return name


@lru_cache(maxsize=4096)
def parse_key(field: str, value: str) -> tuple[str, int]:
    """``KEY`` or ``KEY/versions/N`` -> the key's name and N, or 0."""
    # The length first: the text may be megabytes, and only what is valid is kept in the cache.
    match = _VERSION_NAME.fullmatch(value) if len(value) <= 2 * MAX_NAME_CHARS else None
    if match is None:
        return check_name(field, value), 0
    number = match["number"]
    if number.startswith("0") or len(number) > _MAX_NUMBER_DIGITS:
        raise InvalidRequestError(field, f"versions are numbered from 1, {number} is none")
    return check_name(field, match["key"]), int(number)


def choose(field: str, value: str, choices: type[_E]) -> _E:
    """One of an enumeration's values."""
    try:
        return choices(value)
    except ValueError:
        names = ", ".join(choice.value for choice in choices)
        raise InvalidRequestError(field, f"{value[:64]!r} is none of {names}") from None


def parse_time(field: str, value: Timestamp) -> datetime:
    """A point in time, in UTC."""
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError(field, "not a time between the years 1 and 9999") from None


def to_timestamp(value: datetime) -> Timestamp:
    """An aware time for the wire."""
    timestamp = Timestamp()
    timestamp.FromDatetime(value)
    return timestamp
