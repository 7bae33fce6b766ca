"""What a command that waits for a signature says of touches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from keyd.cli.touches import telling
from keyd.errors import KeydError, PolicyDeniedError
from keyd.model import Purpose, TokenState, TokenStatus, TouchRequest

PURPOSE = Purpose("acme/root", "root 7", "ci@acme")


def blinking(left_s: float, *, before: int = 0, purpose: Purpose = PURPOSE) -> TokenStatus:
    touch = TouchRequest("1234567", purpose, left_s, 15.0)
    return TokenStatus("yubi", TokenState.READY, serial="1234567", touch=touch, before=before)


class Stream:
    """A daemon that streams these, then fails, or is silent until the stream is closed."""

    def __init__(self, *statuses: TokenStatus, error: KeydError | None = None) -> None:
        self._statuses = statuses
        self._error = error
        self._closed = threading.Event()
        self.asked = False
        self.sent = threading.Event()
        self.ended = threading.Event()

    def __iter__(self) -> Iterator[TokenStatus]:
        self.asked = True
        yield from self._statuses
        self.sent.set()
        if self._error:
            raise self._error
        self._closed.wait(10)
        self.ended.set()

    def close(self) -> None:
        self._closed.set()


def said_of(stream: Stream, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with telling(stream):
        assert stream.sent.wait(5)
    return capsys.readouterr().err.splitlines()


def test_a_touch_is_said_once_where_nobody_can_see_a_line_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = said_of(Stream(blinking(14), blinking(13), blinking(12)), capsys)

    assert said == ["keydctl: touch token 1234567 (acme/root, root 7, asked by ci@acme), 14 s left"]


def test_an_answer_that_comes_at_once_asks_the_daemon_nothing() -> None:
    stream = Stream(blinking(14))

    with telling(stream):
        pass
    time.sleep(0.6)

    assert not stream.asked


def test_a_daemon_that_tells_nothing_of_tokens_ends_no_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said_of(Stream(error=PolicyDeniedError("denied, or no such name")), capsys) == []


def test_whoever_queues_behind_others_is_told_how_many_and_what_is_touched_for_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = Purpose("acme/targets", "targets 3", "alice@acme")
    queued = TokenStatus("yubi", TokenState.READY, serial="1234567", before=2)

    said = said_of(
        Stream(queued, blinking(9, before=1, purpose=other), blinking(14), blinking(13)), capsys
    )

    assert said == [
        "keydctl: waiting for token 1234567: 2 before you",
        "keydctl: waiting for token 1234567: 1 before you; it blinks for acme/targets, targets 3, "
        "asked by alice@acme, 9 s left",
        "keydctl: touch token 1234567 (acme/root, root 7, asked by ci@acme), 14 s left",
    ]


def test_a_second_touch_for_the_same_is_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    between = TokenStatus("yubi", TokenState.READY, serial="1234567")

    said = said_of(Stream(blinking(14), between, blinking(15)), capsys)

    assert [line.rpartition(", ")[2] for line in said] == ["14 s left", "15 s left"]


def test_a_key_that_was_pulled_meanwhile_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    gone = TokenStatus("yubi", TokenState.ABSENT, detail="token yubi is not there")

    said = said_of(Stream(gone), capsys)

    assert said == ["keydctl: waiting for token yubi: token yubi is not there"]


def test_when_the_command_is_over_the_stream_is_closed_and_no_thread_is_left() -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name == "keydctl-touches"]

    before = threads()
    stream = Stream(blinking(14))
    with telling(stream):
        assert stream.sent.wait(5)
        assert len(threads()) == len(before) + 1

    assert stream.ended.wait(5)
    assert threads() == before


def test_an_error_of_the_command_itself_passes_and_ends_the_telling() -> None:
    stream = Stream(blinking(14))

    def fails() -> None:
        with telling(stream):
            assert stream.sent.wait(5)
            raise PolicyDeniedError("denied")

    check: Callable[[], None] = fails
    with pytest.raises(PolicyDeniedError):
        check()
    assert stream.ended.wait(5)
