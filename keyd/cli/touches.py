"""While a command waits for a signature: what the token asks of whom, for how much longer, and
whose turn it is.

Every command gets this with its client (:meth:`keyd.cli.settings.Settings.connect`): any call that
may wait for a touch is accompanied. On a terminal one line of standard error counts down;
elsewhere each request is said once, in a line of its own. Standard output holds results alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from keyd.cli import output
from keyd.cli.liveline import LiveLine
from keyd.errors import KeydError

if TYPE_CHECKING:
    from keyd.client import Client
    from keyd.model import TokenStatus

_QUIET_S = 0.4
"""Most answers are there by then, and nobody is asked anything."""

_END_S = 1.0
"""The stream ends at once when it is closed; a command does not wait longer for that."""


class Statuses(Protocol):
    """What a daemon streams of tokens; see :class:`keyd.client.streams.Stream`."""

    def __iter__(self) -> Iterator[TokenStatus]: ...

    def close(self) -> None:
        """End it, from any thread."""


@contextmanager
def telling(statuses: Statuses) -> Iterator[None]:
    """Within it, say what tokens ask for a request. A daemon that does not tell ends nothing."""
    teller = _Teller(statuses)
    thread = threading.Thread(target=teller.run, name="keydctl-touches", daemon=True)
    thread.start()
    try:
        yield
    finally:
        teller.stop()
        thread.join(_END_S)


@contextmanager
def _companion(client: Client, request_id: str) -> Iterator[None]:
    with telling(client.watch_tokens(for_request_id=request_id)):
        yield


def accompanied(client: Client) -> Client:
    """The client, with somebody who tells of touches while it waits for them."""
    return client.accompanied(_companion)


def told(status: TokenStatus) -> str:
    """What whoever waits should know of the token; empty for nothing."""
    if status.before:
        text = f"waiting for token {status.serial or status.name}: {status.before} before you"
        if status.touch is None:
            return text
        purpose = f" for {status.touch.purpose}" if str(status.touch.purpose) else ""
        return f"{text}; it blinks{purpose}, {status.touch.left_s:.0f} s left"
    if status.touch is not None:
        return str(status.touch)
    return f"waiting for token {status.name}: {status.detail}" if status.detail else ""


def _subject(status: TokenStatus) -> str:
    """What the text is about: seconds that pass are no news."""
    return f"{status.before} {status.touch.purpose if status.touch else status.detail}"


class _Teller:
    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses
        self._over = threading.Event()
        self._line = LiveLine()
        self._lock = threading.Lock()
        self._said = ""

    def run(self) -> None:
        """Follow the stream. Whatever ends it, the answer itself tells what came of it."""
        if self._over.wait(_QUIET_S):
            return
        try:
            for status in self._statuses:
                self._tell(status)
        except (KeydError, ValueError):
            # ValueError: grpc, of a connection that the command closed a moment ago.
            return

    def stop(self) -> None:
        """Say nothing more, and leave the line clean."""
        with self._lock:
            self._over.set()
            self._line.clear()
        self._statuses.close()

    def _tell(self, status: TokenStatus) -> None:
        with self._lock:
            text = told(status)
            if self._over.is_set():
                return
            if not text:
                self._line.clear()
                self._said = ""
            elif self._line.is_live:
                self._line.show(f"{output.PROGRAM}: {text}")
            elif self._said != _subject(status):
                self._said = _subject(status)
                output.note(text)
