"""What a command that waits for a signature says of touches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from keyd.cli.touches import telling_touches
from keyd.errors import PolicyDeniedError
from keyd.model import Purpose, TokenState, TokenStatus, TouchRequest, Waiting

PURPOSE = Purpose("acme/root", "root 7", "ci@acme")


def blinking(left_s: float) -> TokenStatus:
    touch = TouchRequest("1234567", PURPOSE, left_s, 15.0)
    return TokenStatus("yubi", TokenState.READY, serial="1234567", touch=touch)


class Stream:
    """A daemon that streams these, then is silent until the command is over."""

    def __init__(self, *statuses: TokenStatus) -> None:
        self._statuses = statuses
        self.asked: list[str] = []
        self.sent = threading.Event()

    def __call__(self, request_id: str) -> Iterator[TokenStatus]:
        self.asked.append(request_id)
        yield from self._statuses
        self.sent.set()


def test_a_touch_is_said_once_where_nobody_can_see_a_line_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = Stream(blinking(14), blinking(13), blinking(12))

    with telling_touches(stream) as request_id:
        assert stream.sent.wait(5)

    said = capsys.readouterr().err.splitlines()
    assert said == ["keydctl: touch token 1234567 (acme/root, root 7, asked by ci@acme), 14 s left"]
    assert stream.asked == [request_id]


def test_a_signature_that_comes_at_once_asks_the_daemon_nothing() -> None:
    stream = Stream(blinking(14))

    with telling_touches(stream):
        pass
    time.sleep(0.6)

    assert stream.asked == []


def test_a_daemon_that_tells_nothing_of_tokens_ends_no_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = threading.Event()

    def watch(request_id: str) -> Iterator[TokenStatus]:
        refused.set()
        raise PolicyDeniedError("denied, or no such name")

    with telling_touches(watch):
        assert refused.wait(5)

    assert capsys.readouterr().err == ""


def test_whoever_queues_behind_others_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    queued = TokenStatus(
        "yubi", TokenState.READY, serial="1234567", queued=3, waiting=(Waiting(PURPOSE, 3),)
    )
    stream = Stream(queued)

    with telling_touches(stream):
        assert stream.sent.wait(5)

    assert "waiting for token 1234567, 3 in its queue" in capsys.readouterr().err
