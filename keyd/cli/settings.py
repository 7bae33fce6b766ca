"""What every command of keydctl takes: which daemon, and in which form to answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from keyd.cli import output

if TYPE_CHECKING:
    from keyd.client import Client


@dataclass
class Settings:
    """Options given before or after the command's name; the later one wins."""

    json: bool = False
    endpoint: str = ""
    profile: str = ""
    deadline_s: float | None = None

    def connect(self) -> Client:
        """The client for the daemon that was meant; it tells of touches it waits for.

        Raises:
            ConfigError: a bad endpoint, profile or client.toml.
            ServerGoneError: nothing was named and there is no socket at the usual places.
        """
        import logging

        from keyd.cli.touches import accompanied
        from keyd.client import Client

        # The client warns about checkpoints through logging; a person has to see that.
        logging.basicConfig(level=logging.WARNING, format=f"{output.PROGRAM}: warning: %(message)s")
        return accompanied(Client(self.endpoint, profile=self.profile, deadline_s=self.deadline_s))

    def answer(self, value: object, text: str | Callable[[], str]) -> None:
        """Write the result: ``value`` as JSON when that was asked for, else the text."""
        if self.json:
            output.write_json(value)
            return
        shown = text if isinstance(text, str) else text()
        if shown:
            output.write(shown)

    def confirm(self, question: str, name: str, yes: bool) -> None:
        """Go on only when a person types ``name``, or said --yes.

        Raises:
            click.UsageError: no terminal to ask at.
            click.Abort: something else was typed.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Without a terminal this needs --yes.")
        typed = click.prompt(
            f"{question}\nType {name} to go on", err=True, default="", show_default=False
        )
        if typed.strip() != name:
            output.note("not confirmed; nothing was changed")
            raise click.Abort


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        settings = ctx.find_object(Settings)
        if settings is None:
            settings = ctx.obj = Settings()
        if value:
            setattr(settings, name, value)

    return callback


def shared_options() -> list[click.Option]:
    """The options every command takes."""
    return [
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_store("json"),
            help="Answer in JSON.",
        ),
        click.Option(
            ["--endpoint"],
            metavar="URI",
            expose_value=False,
            callback=_store("endpoint"),
            help="The daemon: unix:PATH or dns:HOST:PORT.",
        ),
        click.Option(
            ["--profile"],
            metavar="NAME",
            expose_value=False,
            callback=_store("profile"),
            help="A profile of client.toml.",
        ),
        click.Option(
            ["--deadline", "deadline_s"],
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True),
            expose_value=False,
            callback=_store("deadline_s"),
            help="How long to wait, 60 by default.",
        ),
    ]


class Command(click.Command):
    """A command that takes the shared options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(shared_options())


class Group(click.Group):
    """A group whose commands take the shared options."""

    command_class = Command
