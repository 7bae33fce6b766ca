"""After a login: keys that were left PENDING on the token sign once, which may take a touch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from keyd.cli import output
from keyd.cli.liveline import LiveLine
from keyd.errors import KeydError

if TYPE_CHECKING:
    from keyd.client import Client

_LOOK_S = 0.25
_BEGINS_S = 5.0
"""The daemon goes to work at once; what has not begun by then does not begin now."""


def tell_of_finishing(client: Client, token: str) -> None:
    """Stay while the daemon finishes them, say which touch that takes, and what came of it.

    Nothing is said to whoever may not see tokens or keys, and where nothing is PENDING.
    """
    try:
        _Finishing(client, token).run()
    except KeydError:
        # The login itself is done; keydctl key list tells the rest.
        return


class _Finishing:
    def __init__(self, client: Client, token: str) -> None:
        self._client = client
        self._token = token
        self._line = LiveLine()
        self._said = ""

    def run(self) -> None:
        """Look again and again, until nothing is PENDING or nothing is asked for any more."""
        left = self._pending()
        if not left:
            return
        output.note(f"{', '.join(left)}: generated earlier, and not finished; it has to sign once")
        begins_until = time.monotonic() + _BEGINS_S
        try:
            while (left := self._pending()) and (
                self._is_asked() or time.monotonic() < begins_until
            ):
                time.sleep(_LOOK_S)
        finally:
            self._line.clear()
        if left:
            output.warn(
                f"{', '.join(left)} stays PENDING; the next login tries it again: keydctl token "
                f"lock {self._token}, keydctl token unlock {self._token}"
            )
        else:
            output.note("it is finished")

    def _pending(self) -> list[str]:
        from keyd.client import KeyFilter, VersionState

        wanted = KeyFilter(token=self._token, state=VersionState.PENDING)
        return [
            version.name
            for key in self._client.list_keys(wanted)
            for version in key.versions
            if version.state is VersionState.PENDING
        ]

    def _is_asked(self) -> bool:
        """Whether the token asks for a touch; it is said."""
        touch = next((t.touch for t in self._client.list_tokens() if t.name == self._token), None)
        if touch is None:
            self._line.clear()
            return False
        self._line.show(f"{output.PROGRAM}: {touch}")
        if not self._line.is_live and self._said != str(touch.purpose):
            self._said = str(touch.purpose)
            output.note(str(touch))
        return True
