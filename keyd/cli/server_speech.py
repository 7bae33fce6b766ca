"""How keyd-server speaks to the person who starts it: results on stdout, the rest on stderr."""

from __future__ import annotations

import click

from keyd.cli.exits import exit_code
from keyd.errors import KeydError

PROGRAM = "keyd-server"


def say(text: str) -> None:
    """A result or a step done, on standard output."""
    click.echo(text)


def note(text: str) -> None:
    """Something beside the result, on standard error."""
    click.echo(f"{PROGRAM}: {text}", err=True)


def complain(error: KeydError) -> int:
    """Say what went wrong and what to do next; return the exit code."""
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")
    return int(exit_code(error))
