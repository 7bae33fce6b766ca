"""What a server answered, read to its end and no further: servers may send too much, too slowly, or
break off."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import IncompleteRead
from typing import Protocol

from keyd.errors import RepositoryError

MAX_BYTES = 16 * 1024 * 1024
MAX_S = 300.0
"""How long the body of one answer may take."""

_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """``headers``: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Body(Protocol):
    """What is left of an answer, as http.client has it."""

    def read1(self, n: int, /) -> bytes:
        """What is there, up to ``n`` bytes; nothing at the end."""


def read(status: int, headers: Message, body: Body, max_s: float = MAX_S) -> Answer:
    """All of an answer.

    Raises:
        RepositoryError: too much.
        IncompleteRead: it broke off.
        TimeoutError: it takes too long.
    """
    content, until = bytearray(), time.monotonic() + max_s
    while chunk := body.read1(_CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_BYTES:
            raise RepositoryError(f"the server answered with more than {MAX_BYTES} bytes")
        if time.monotonic() > until:
            raise TimeoutError(f"its answer was not there after {max_s:g} s")
    told = headers.get("Content-Length", "")
    # http.client itself takes a body that is shorter than its length for a whole one.
    if not headers.get("Transfer-Encoding") and told.isdecimal() and int(told) > len(content):
        raise IncompleteRead(bytes(content), int(told) - len(content))
    return Answer(status, {k.lower(): v for k, v in headers.items()}, bytes(content))
