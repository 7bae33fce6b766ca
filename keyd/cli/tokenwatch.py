"""keydctl token watch: which key to touch, for whom and what, on the screen beside the keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from keyd.cli import output
from keyd.cli.liveline import LiveLine
from keyd.cli.tokenshapes import token_json, waiting_lines
from keyd.errors import DeadlineError, ServerGoneError

if TYPE_CHECKING:
    from keyd.client import Client
    from keyd.model import TokenState, TokenStatus, TouchRequest

_AGAIN_S = 1.0
"""How long a daemon that is gone is left alone."""


class Watch:
    """Follows tokens until somebody stops it, or all of them are in a state.

    ``token``: a name, or empty for all. ``until``: the state that ends it, None for never.
    ``timeout_s``: how long it may take, None for ever.
    """

    def __init__(
        self,
        client: Client,
        token: str,
        *,
        until: TokenState | None = None,
        timeout_s: float | None = None,
        as_json: bool = False,
    ) -> None:
        self._client = client
        self._token = token
        self._until = until
        self._end = None if timeout_s is None else time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._screen: Screen | JsonLines = JsonLines() if as_json else Screen()
        self._seen: dict[str, TokenStatus] = {}
        self._is_gone = False

    def run(self) -> None:
        """Show what comes, also from a daemon that was started again.

        Raises:
            DeadlineError: not in time.
            KeydError: the daemon refuses, or was not there at the beginning.
        """
        # First: no daemon at all is told at once, and so is a stream in which nothing can come.
        visible = self._client.list_tokens()
        if not visible:
            output.note("no tokens you may see; the grant is called tokens: keydctl whoami")
        self._seen = {s.name: s for s in visible if self._token in ("", s.name)}
        try:
            for status in self._changes():
                self._seen[status.name] = status
                self._screen.show(status)
                if self._is_reached():
                    return
        finally:
            self._screen.end()

    def _changes(self) -> Iterator[TokenStatus]:
        was_there = False
        while True:
            try:
                for status in self._client.watch_tokens(self._token, timeout_s=self._left_s()):
                    was_there = True
                    self._came_back()
                    yield status
                self._went_away("it is stopping")
            except DeadlineError:
                raise self._late() from None
            except ServerGoneError as error:
                if not was_there:
                    raise
                self._went_away(error.message)
            left_s = self._left_s()
            time.sleep(_AGAIN_S if left_s is None else min(_AGAIN_S, left_s))

    def _went_away(self, why: str) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._screen.pause()
            output.note(f"the daemon is gone ({why}); waiting for it")

    def _came_back(self) -> None:
        if self._is_gone:
            self._is_gone = False
            output.note("the daemon is back")

    def _is_reached(self) -> bool:
        return self._until is not None and all(
            status.state is self._until for status in self._seen.values()
        )

    def _left_s(self) -> float | None:
        """Raises DeadlineError where no time is left."""
        if self._end is None:
            return None
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise self._late()
        return left_s

    def _late(self) -> DeadlineError:
        missing = [s for s in self._seen.values() if self._until and s.state is not self._until]
        told = "; ".join(f"{s.name} is {s.state}" for s in missing) or "nothing was to be seen"
        wanted = f", not {self._until}," if self._until else ""
        why = "; ".join(s.detail for s in missing if s.detail)
        return DeadlineError(
            f"{told}{wanted} after {self._timeout_s:g} s", hint=why or "keydctl token list"
        )


class JsonLines:
    """Each change as one object in a line."""

    def show(self, status: TokenStatus) -> None:
        """Write the token as it stands."""
        output.write_json_line({"time": output.iso(_now()), **token_json(status)})

    def pause(self) -> None:
        """Nothing comes for a while."""

    def end(self) -> None:
        """Nothing comes any more."""


class Screen:
    """Lines for people: one for each change of state, each touch, each change of the queue. On a
    terminal touches ring, and the last line counts down."""

    def __init__(self) -> None:
        self._line = LiveLine(on_stdout=True)
        self._before: dict[str, TokenStatus] = {}
        self._touches: dict[str, TouchRequest] = {}

    def show(self, status: TokenStatus) -> None:
        """Say what is new about a token."""
        before = self._before.get(status.name)
        self._before[status.name] = status
        if before is None or (before.state, before.detail) != (status.state, status.detail):
            self._say(status, _state(status))
        self._show_touch(status)
        queue = waiting_lines(status)
        if queue and (before is None or queue != waiting_lines(before)):
            for text in queue:
                self._say(status, text)
        self._count_down()

    def pause(self) -> None:
        """Nothing comes for a while: what was asked for may be over."""
        self._touches.clear()
        self._line.clear()

    def end(self) -> None:
        """Leave the terminal clean."""
        self._line.clear()

    def _show_touch(self, status: TokenStatus) -> None:
        asked, touch = self._touches.get(status.name), status.touch
        if touch is None:
            if asked is not None:
                del self._touches[status.name]
                self._say(status, "no touch is asked for any more")
            return
        self._touches[status.name] = touch
        # More time than before: it is another one for the same.
        if asked is None or asked.purpose != touch.purpose or asked.left_s < touch.left_s:
            self._say(status, f"TOUCH: {touch}")
            self._line.ring()

    def _count_down(self) -> None:
        if self._touches:
            lines = (f"{name}: {touch}" for name, touch in self._touches.items())
            self._line.show("; ".join(lines))
        else:
            self._line.clear()

    def _say(self, status: TokenStatus, text: str) -> None:
        self._line.clear()
        output.write(f"{_now():%H:%M:%SZ}  {status.name}  {text}")


def _state(status: TokenStatus) -> str:
    serial = f", serial {status.serial}" if status.serial else ""
    detail = f": {status.detail}" if status.detail else ""
    return f"{status.state}{serial}{detail}"


def _now() -> datetime:
    return datetime.now(UTC)
