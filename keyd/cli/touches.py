"""While a command waits for a signature: what the token asks of whom, and for how much longer.

On a terminal one line counts down; elsewhere each request is said once.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.errors import KeydError

if TYPE_CHECKING:
    from keyd.client import Client
    from keyd.model import TokenStatus

    Watch = Callable[[str], Iterator[TokenStatus]]
    """Client.watch_tokens for a request's id."""

_QUIET_S = 0.4
"""Most signatures are there by then, and nobody is asked anything."""

_CLEAR_LINE = "\r\x1b[K"


@contextmanager
def telling_touches(watch: Watch) -> Iterator[str]:
    """Within it, say what tokens ask for; gives the id for the request that is waited for."""
    request_id, over = secrets.token_hex(10), threading.Event()
    teller = _Teller(over, counts_down=sys.stderr.isatty())
    # A daemon: the stream ends with the connection, which the command closes.
    threading.Thread(target=teller.run, args=(watch, request_id), daemon=True).start()
    try:
        yield request_id
    finally:
        teller.stop()


def touches_of(client: Client) -> AbstractContextManager[str]:
    """The same for a request to this daemon."""
    return telling_touches(lambda id: client.watch_tokens(for_request_id=id))


class _Teller:
    def __init__(self, over: threading.Event, *, counts_down: bool) -> None:
        self._over = over
        self._counts_down = counts_down
        self._lock = threading.Lock()
        self._said = ""

    def run(self, watch: Watch, request_id: str) -> None:
        """Follow the stream. Whatever ends it, the signature itself tells what came of it."""
        if self._over.wait(_QUIET_S):
            return
        try:
            for status in watch(request_id):
                if self._over.is_set():
                    return
                self._tell(status)
        except (KeydError, ValueError):
            # ValueError: grpc, of a connection that the command closed a moment ago.
            return

    def stop(self) -> None:
        """Say nothing more, and leave the line clean."""
        with self._lock:
            self._over.set()
            self._clear()

    def _tell(self, status: TokenStatus) -> None:
        with self._lock:
            if self._over.is_set():
                return
            if status.touch is None:
                self._clear()
                if status.waiting:
                    self._say(f"waiting for token {status.serial}, {status.queued} in its queue")
            elif self._counts_down:
                line = output.printable(f"{output.PROGRAM}: {status.touch}")
                click.echo(f"{_CLEAR_LINE}{line}", nl=False, err=True)
                self._said = "counting"
            else:
                self._say(str(status.touch), of=str(status.touch.purpose))

    def _say(self, text: str, of: str = "") -> None:
        """Once for each ``of``: seconds that pass are no news."""
        if self._said != (of or text):
            self._said = of or text
            output.note(text)

    def _clear(self) -> None:
        if self._said == "counting":
            click.echo(_CLEAR_LINE, nl=False, err=True)
            self._said = ""
