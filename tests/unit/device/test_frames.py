"""The framing of the host's wire, as the host and as the daemon read it."""

from __future__ import annotations

import asyncio
import io

import pytest

from keyd.device import frames
from keyd.device.supervisor import read_frame
from keyd.device.v1 import device_pb2 as pb

REQUEST = pb.Request(id=7, sign_many=pb.SignMany(groups=[pb.SignGroup(payloads=[b"a", b"b"])]))


async def read_async(data: bytes) -> bytes | None:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    return await read_frame(stream)


async def test_both_ends_read_what_was_packed() -> None:
    packed = frames.pack(REQUEST)

    for body in (frames.read_blocking(io.BytesIO(packed)), await read_async(packed)):
        assert body is not None and pb.Request.FromString(body) == REQUEST


async def test_a_stream_that_ends_anywhere_is_an_end_and_no_error() -> None:
    packed = frames.pack(REQUEST)
    for cut in range(len(packed)):
        assert frames.read_blocking(io.BytesIO(packed[:cut])) is None
        assert await read_async(packed[:cut]) is None


async def test_a_length_over_the_limit_is_refused_before_it_is_read() -> None:
    head = (frames.MAX_FRAME_BYTES + 1).to_bytes(4, "big")

    with pytest.raises(frames.FrameError):
        frames.read_blocking(io.BytesIO(head))
    with pytest.raises(frames.FrameError):
        await read_async(head)
