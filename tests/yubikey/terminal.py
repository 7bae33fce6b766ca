"""A shell at a terminal: what a person sees there, and types when asked."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Terminal:
    """Commands under way; ended with the block. ``shown`` is all that stood on the screen."""

    def __init__(self, script: str, env: Mapping[str, str], folder: Path) -> None:
        self.shown = ""
        self._seen = 0
        self._keyboard, screen = os.openpty()
        try:
            # A terminal of its own: PINs are asked for on /dev/tty, past standard input.
            self._shell = subprocess.Popen(
                ["setsid", "--ctty", "--wait", "sh", "-e", "-c", script],
                cwd=folder,
                env=dict(env),
                stdin=screen,
                stdout=screen,
                stderr=screen,
            )
        except BaseException:
            os.close(self._keyboard)
            raise
        finally:
            os.close(screen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._shell.poll() is None:
            # setsid made it the leader of what it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait(10)
        os.close(self._keyboard)

    def sees(self, text: str, within_s: float = 20.0) -> None:
        """Return when this is shown, after what was seen before.

        Raises:
            AssertionError: it is not, or the commands ended.
        """
        until = time.monotonic() + within_s
        while (at := self.shown.find(text, self._seen)) < 0:
            assert self._reads(until), f"{text!r} is not shown:\n{self.shown}"
        self._seen = at + len(text)

    def answers(self, *dialogue: tuple[str, str]) -> None:
        """Type each second text when the first one is asked."""
        for question, answer in dialogue:
            self.sees(question)
            os.write(self._keyboard, f"{answer}\n".encode())

    def interrupts(self) -> None:
        """Press Ctrl-C."""
        os.write(self._keyboard, b"\x03")

    def ends(self, within_s: float = 40.0) -> int:
        """Its exit code."""
        until = time.monotonic() + within_s
        while self._reads(until):
            pass
        return self._shell.wait(max(0.1, until - time.monotonic()))

    def _reads(self, until: float) -> bool:
        """More of the screen; False when there is no more, or not in time."""
        ready, _, _ = select.select([self._keyboard], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return False
        try:
            more = os.read(self._keyboard, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.shown += more.decode(errors="replace").replace("\r\n", "\n")
        return True


def run(
    script: str, env: Mapping[str, str], folder: Path, dialogue: Sequence[tuple[str, str]] = ()
) -> str:
    """Run it to its end, answering what it asks: what was shown.

    Raises:
        AssertionError: it failed.
    """
    with Terminal(script, env, folder) as terminal:
        terminal.answers(*dialogue)
        code = terminal.ends()
        assert code == 0, f"{script}\n{terminal.shown}"
        return terminal.shown
