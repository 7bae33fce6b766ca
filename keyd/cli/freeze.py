"""keydctl freeze and unfreeze: one command that stops signing."""

from __future__ import annotations

import click

from keyd.cli.settings import Command, Settings


@click.command(cls=Command)
@click.argument("key")
@click.option("--reason", required=True, help="Why, for the log and for whoever is stopped.")
@click.pass_obj
def freeze(settings: Settings, key: str, reason: str) -> None:
    """Stop signing with KEY, or with all keys: keydctl freeze all.

    Holds until somebody unfreezes, also over restarts, and is an alert in the log.
    """
    with settings.connect() as keyd:
        standing = keyd.freeze(_name(key), reason=reason)
    _answer(settings, f"{_what(key)} frozen", standing)


@click.command(cls=Command)
@click.argument("key")
@click.option("--reason", default="", help="Why, for the log.")
@click.pass_obj
def unfreeze(settings: Settings, key: str, reason: str) -> None:
    """Let KEY sign again, or end the freeze on all keys: keydctl unfreeze all.

    A freeze on a single key outlives the end of the freeze on all.
    """
    with settings.connect() as keyd:
        standing = keyd.unfreeze(_name(key), reason=reason)
    _answer(settings, f"{_what(key)} no longer frozen", standing)


def _name(key: str) -> str:
    return "" if key == "all" else key


def _what(key: str) -> str:
    return "all keys are" if key == "all" else f"{key} is"


def _answer(settings: Settings, done: str, standing: tuple[str, ...]) -> None:
    lines = [done, *(f"stands: {line}" for line in standing)]
    settings.answer({"freezes": list(standing)}, "\n".join(lines))
