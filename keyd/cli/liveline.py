"""One line of a terminal that is written anew again and again, as a countdown is."""

from __future__ import annotations

import os
import sys

import click

from keyd.cli import output


class LiveLine:
    """The last line of standard error, or with ``on_stdout`` of standard output, on a terminal.

    Written with carriage returns and blanks alone, which every terminal knows.
    """

    def __init__(self, *, on_stdout: bool = False) -> None:
        self._stream = sys.stdout if on_stdout else sys.stderr
        self._err = not on_stdout
        self._shown = 0
        self.is_live = self._stream.isatty()
        """False where nobody could see a line change: nothing is written then."""

    def show(self, text: str) -> None:
        """Have this on the line, in place of what was there. What is too long for the terminal
        loses its middle: seconds stand at the end."""
        if not self.is_live:
            return
        line = _fit(output.printable(text).replace("\n", " "), self._width() - 1)
        self._put("\r" + line.ljust(self._shown))
        self._shown = len(line)

    def clear(self) -> None:
        """Leave the line empty for whoever writes next."""
        if self._shown:
            self._put("\r" + " " * self._shown + "\r")
            self._shown = 0

    def ring(self) -> None:
        """Call a person who looks elsewhere."""
        if self.is_live:
            self._put("\a")

    def _put(self, text: str) -> None:
        try:
            click.echo(text, nl=False, err=self._err)
        except BrokenPipeError as e:
            raise output.ReaderGoneError from e

    def _width(self) -> int:
        """Columns; one that does not tell them is taken to be wide."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 1000
        except OSError:
            return 1000


def _fit(text: str, width: int) -> str:
    if len(text) <= width or width < 20:
        return text[: max(width, 0)]
    end = 12
    return f"{text[: width - end - 3]}...{text[-end:]}"
