"""The framing of the wire between daemon and token host: length, then one message.

Four bytes of length, big-endian, then a Request or Reply of protos/keyd/device/v1/device.proto.
"""

from __future__ import annotations

from typing import Protocol

from google.protobuf.message import Message

MAX_FRAME_BYTES = 32 * 1024 * 1024
"""A longer frame is a broken peer; the largest message to sign is 16 MiB."""

LENGTH_BYTES = 4
"""The head of a frame."""


class Readable(Protocol):
    """A blocking byte stream; ``read`` gives less than asked only at its end."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes."""


class FrameError(Exception):
    """The other end does not speak this wire."""


def pack(message: Message) -> bytes:
    """The message as one frame."""
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def checked_length(head: bytes) -> int:
    """The length that the head announces.

    Raises:
        FrameError: it is over the limit.
    """
    length = int.from_bytes(head, "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame announces {length} bytes, the limit is {MAX_FRAME_BYTES}")
    return length


def read_blocking(stream: Readable) -> bytes | None:
    """The body of the next frame, or None where the stream ends between or inside frames."""
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    length = checked_length(head)
    body = stream.read(length)
    return body if len(body) == length else None
