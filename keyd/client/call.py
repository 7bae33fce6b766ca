"""One call, described without doing it: the sync and the async client carry out the same list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from keyd.client.wire import unreadable
from keyd.errors import KeydError

T = TypeVar("T")
M = TypeVar("M", bound=Message)


def no_note(_: object) -> str:
    """The answer brings no checkpoint."""
    return ""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request that is ready to be sent, and how to read its answer.

    ``path``: /PACKAGE.SERVICE/METHOD. ``body``: never shown, it may hold a PIN. ``repeatable``:
    sending it twice does no harm (reads; signing, since the daemon gives the stored signature
    again). ``heavy``: reading the answer takes long enough to be kept off an event loop.
    ``note_of``: the checkpoint the answer brought, or empty. ``stream_s``: how long a stream may
    last; None: until somebody ends it. ``named``: the body under another request id, for a call
    that may wait for a person at a token; None for all others. ``request_id``: that of the body.
    """

    path: str
    body: bytes = field(repr=False)
    decode: Callable[[bytes], T] = field(repr=False)
    repeatable: bool = False
    heavy: bool = False
    note_of: Callable[[T], str] = field(default=no_note, repr=False)
    stream_s: float | None = None
    named: Callable[[str], bytes] | None = field(default=None, repr=False)
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of many; ``next_token`` is empty on the last page."""

    items: Sequence[T]
    next_token: str


Pages = Callable[[str], Call[Page[T]]]
"""The call for the page that begins at a token; the first token is empty."""


def call(
    path: str,
    request: Message,
    answer: type[M],
    read: Callable[[M], T],
    *,
    repeatable: bool = False,
    heavy: bool = False,
    note_of: Callable[[T], str] = no_note,
    by_hand: bool = False,
) -> Call[T]:
    """Describe a call; ``read`` turns the answer's message into the client's type. ``by_hand``: it
    may wait for a person who has to touch a token; its message has a request_id."""

    def decode(raw: bytes) -> T:
        try:
            return read(answer.FromString(raw))
        except KeydError:
            raise
        except (DecodeError, ValueError) as e:
            raise unreadable(path.rsplit("/", 1)[1], e) from e

    def named(request_id: str) -> bytes:
        other = type(request).FromString(request.SerializeToString())
        setattr(other, "request_id", request_id)  # noqa: B010 - not every message has one
        return other.SerializeToString()

    return Call(
        f"/keyd.v1.{path}",
        request.SerializeToString(),
        decode,
        repeatable,
        heavy,
        note_of,
        named=named if by_hand else None,
        request_id=getattr(request, "request_id", "") if by_hand else "",
    )
