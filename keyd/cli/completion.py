"""keydctl completion."""

from __future__ import annotations

import click

from keyd.cli.output import PROGRAM, write
from keyd.cli.settings import Command


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(keydctl completion bash)"       in ~/.bashrc
    zsh:   eval "$(keydctl completion zsh)"        in ~/.zshrc
    fish:  keydctl completion fish > ~/.config/fish/completions/keydctl.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, "the choices are click's own shells"
    complete = made(ctx.find_root().command, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE")
    write(complete.source_template % complete.source_vars())
