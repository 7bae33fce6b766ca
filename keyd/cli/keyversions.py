"""keydctl key activate, enable, disable, destroy, cancel-destroy: the states of a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.durations import duration
from keyd.cli.keyarguments import REASON, name_and_number, versioned
from keyd.cli.settings import Command, Settings

if TYPE_CHECKING:
    from keyd.client import Client, Key


@click.command(cls=Command)
@versioned
@REASON
@click.pass_obj
def activate(settings: Settings, key: str, version: int | None, reason: str) -> None:
    """Make a version the one that signs by default."""
    _change(settings, key, version, reason, lambda keyd: keyd.activate, "is active")


@click.command(cls=Command)
@versioned
@REASON
@click.pass_obj
def enable(settings: Settings, key: str, version: int | None, reason: str) -> None:
    """Let a disabled version sign again."""
    _change(settings, key, version, reason, lambda keyd: keyd.enable, "is enabled")


@click.command(cls=Command)
@versioned
@REASON
@click.pass_obj
def disable(settings: Settings, key: str, version: int | None, reason: str) -> None:
    """Stop a version from signing; it can be enabled again."""
    _change(settings, key, version, reason, lambda keyd: keyd.disable, "is disabled")


@click.command(cls=Command)
@versioned
@click.option("--confirm", is_flag=True, help="The waiting time is over: destroy it now.")
@click.option("--wait", type=duration, default="0s", help="Waiting time, 7d by default.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@REASON
@click.pass_obj
def destroy(
    settings: Settings,
    key: str,
    version: int | None,
    confirm: bool,
    wait: int,
    yes: bool,
    reason: str,
) -> None:
    """Destroy a version's key pair on the token: first schedule it, later --confirm.

    It stops signing at once. Until --confirm after the waiting time it can be called back with
    keydctl key cancel-destroy; nothing ever destroys it by itself.
    """
    name, number = name_and_number(key, version)
    full = f"{name}/versions/{number}"
    if confirm:
        settings.confirm(f"Destroying {full} cannot be undone.", full, yes)
    else:
        settings.confirm(f"{full} stops signing now and can be destroyed later.", full, yes)
    with settings.connect() as keyd:
        if confirm:
            now = keyd.destroy(name, number, reason=reason)
        else:
            now = keyd.schedule_destroy(name, number, wait_s=wait, reason=reason)
    after = now.find_version(number)
    when = output.when(after.destroy_after) if after else ""
    answer(
        settings,
        now,
        f"{full} is destroyed"
        if confirm
        else f"{full} signs no more; from {when}: keydctl key destroy {name} {number} --confirm",
    )


@click.command("cancel-destroy", cls=Command)
@versioned
@REASON
@click.pass_obj
def cancel_destroy(settings: Settings, key: str, version: int | None, reason: str) -> None:
    """Call a scheduled destruction off; the version is then disabled."""
    _change(
        settings, key, version, reason, lambda keyd: keyd.cancel_destroy, "is kept, and disabled"
    )


def _change(
    settings: Settings,
    key: str,
    version: int | None,
    reason: str,
    change: Callable[[Client], Callable[..., Key]],
    done: str,
) -> None:
    """Let one call change the state of one version; ``done``: what it then is."""
    name, number = name_and_number(key, version)
    with settings.connect() as keyd:
        now = change(keyd)(name, number, reason=reason)
    answer(settings, now, f"{name}: version {number} {done}")


def answer(settings: Settings, key: Key, done: str) -> None:
    """Say what was done, and how the key is now."""
    from keyd.cli.keyshapes import details, key_json

    settings.answer(key_json(key), lambda: f"{done}\n\n{details(key)}")


COMMANDS = (activate, enable, disable, destroy, cancel_destroy)
