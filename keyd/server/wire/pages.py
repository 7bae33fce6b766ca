"""Page tokens: opaque to callers, checked when they come back.

A token holds the last name or index of its page and a hash of the request it belongs to, so that a
page of one list cannot be continued with the filters of another. It grants nothing: what it lets a
caller read is decided anew for each page.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import Message

from keyd.errors import InvalidRequestError
from keyd.server.wire.fields import check_range

DEFAULT_PAGE_SIZE = 100
_SCOPE_BYTES = 8
_MAX_TOKEN_CHARS = 4096
"""Enough for a repository and a role of 256 characters each."""

_FORMAT = b"\x01"

_M = TypeVar("_M", bound=Message)


def page_size(value: int, most: int) -> int:
    """How many items a page may have; 0 asks for the default of 100."""
    return check_range("page_size", value, 0, most) or DEFAULT_PAGE_SIZE


def to_token(request: Message, cursor: str) -> str:
    """The token for the page that follows ``cursor``."""
    raw = _FORMAT + _scope(request) + cursor.encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def parse_token(request: Message, token: str) -> str | None:
    """The cursor of a token, or None for the first page.

    Raises:
        InvalidRequestError: not a token of this daemon for this request.
    """
    if not token:
        return None
    try:
        if len(token) > _MAX_TOKEN_CHARS:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        format_, scope, cursor = raw[:1], raw[1 : 1 + _SCOPE_BYTES], raw[1 + _SCOPE_BYTES :]
        if format_ != _FORMAT or scope != _scope(request) or not cursor:
            raise ValueError("of another request")
        return cursor.decode()
    except (ValueError, binascii.Error):
        raise InvalidRequestError(
            "page_token",
            "not a next_page_token of this request; filters must not change between pages",
        ) from None


def fill_page(items: Iterable[_M], most: int, max_bytes: int) -> Iterator[_M]:
    """At most that many items, ending before the page grows beyond ``max_bytes``; never empty
    while there are items, so that every page gets further."""
    size = 0
    for number, item in enumerate(items):
        size += item.ByteSize()
        if number == most or (number and size > max_bytes):
            return
        yield item


def _scope(request: Message) -> bytes:
    filters = type(request)()
    filters.CopyFrom(request)
    for field in ("page_token", "page_size"):
        filters.ClearField(field)
    return hashlib.sha256(filters.SerializeToString(deterministic=True)).digest()[:_SCOPE_BYTES]
