"""A group that imports a command only when it is called: help must not wait for grpc."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from keyd.cli.settings import Group
from keyd.errors import ConfigError

_TUF_PACKAGES = ("tuf", "securesystemslib")


class LazyGroup(Group):
    """``commands``: name -> (MODULE:ATTRIBUTE, one line of help), in the order of the help."""

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order given."""
        del ctx
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command.

        Raises:
            ConfigError: it needs an extra that is not installed.
        """
        del ctx
        if cmd_name not in self._lazy:
            return None
        module, attribute = self._lazy[cmd_name][0].split(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as e:
            if e.name and e.name.split(".")[0] in _TUF_PACKAGES:
                raise ConfigError(
                    f"keydctl {cmd_name} needs the package {e.name.split('.')[0]}",
                    hint="install keyd with its tuf extra: pip install 'keyd[tuf]'",
                ) from e
            raise
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and options, without importing any command."""
        names = [
            CompletionItem(name, help=text)
            for name, (_, text) in self._lazy.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]
