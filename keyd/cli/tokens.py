"""keydctl token."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.durations import duration
from keyd.cli.exits import Exit
from keyd.cli.finishing import tell_of_finishing
from keyd.cli.keyarguments import LAST_TRY
from keyd.cli.secrets import find_token
from keyd.cli.settings import Group, Settings
from keyd.cli.tokenshapes import object_json, objects_table, token_json, tokens_table

if TYPE_CHECKING:
    from keyd.client import Client
    from keyd.model import Pin, TokenStatus

_MAX_PIN_BYTES = 255
_STATES = ("ABSENT", "LOCKED", "READY", "PIN_LOCKED", "FAULTED")


@click.group(cls=Group)
def token() -> None:
    """Show tokens and what they ask of people, unlock and lock them."""


@token.command("list")
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the tokens and their state."""
    with settings.connect() as keyd:
        tokens = keyd.list_tokens()
    settings.answer([token_json(t) for t in tokens], lambda: tokens_table(tokens))


@token.command()
@click.argument("token", metavar="[NAME]", required=False, default="")
@click.option("--until", type=click.Choice(_STATES), help="End when the tokens are in this state.")
@click.option("--timeout", type=duration, help="With --until: how long that may take, as 30s.")
@click.pass_obj
def watch(settings: Settings, token: str, until: str | None, timeout: int | None) -> None:
    """Show tokens, and which one to touch for whom, as it comes, until you stop it.

    For the screen beside the keys: on a terminal each touch rings, and the seconds are counted
    down. With --json one document in a line. A daemon that is started again is waited for.
    With --until the exit code is 0 once the tokens are in that state, and 4 after --timeout.
    """
    from keyd.cli.tokenwatch import Watch
    from keyd.model import TokenState

    if timeout is not None and until is None:
        raise click.UsageError("--timeout goes with --until")
    with settings.connect() as keyd:
        Watch(
            keyd,
            token,
            until=TokenState(until) if until else None,
            timeout_s=timeout,
            as_json=settings.json,
        ).run()


@token.command()
@click.argument("token")
@click.option("--pin-stdin", is_flag=True, help="Read the PIN from standard input, one line.")
@click.option("--configured", is_flag=True, help="Use the daemon's configured PIN source once.")
@LAST_TRY
@click.pass_obj
def unlock(
    settings: Settings, token: str, pin_stdin: bool, configured: bool, spend_last_try: bool
) -> None:
    """Log in to a token with its user PIN.

    The PIN is asked for on the terminal. It is never an argument: other users see those. Keys
    that were being made when the token went away are finished then, which may take a touch.
    """
    with settings.connect() as keyd:
        before = find_token(keyd, token)
        pin = None if configured else _read_pin(keyd, token, pin_stdin, before)
        now = keyd.unlock(token, pin, spend_last_try=spend_last_try)
        if before is not None and before.state == "READY" and before.hosts >= now.hosts:
            output.note(f"{token} was READY already; the PIN was not tried")
        tell_of_finishing(keyd, token)
    settings.answer(token_json(now), f"{now.name} is {now.state}")


@token.command()
@click.argument("token")
@click.option("--reason", default="", help="Why, for the log.")
@click.pass_obj
def lock(settings: Settings, token: str, reason: str) -> None:
    """Log out of a token; it stays LOCKED until somebody unlocks it."""
    with settings.connect() as keyd:
        now = keyd.lock(token, reason=reason)
    settings.answer(token_json(now), f"{now.name} is {now.state}")


@token.command()
@click.argument("token")
@click.pass_obj
def objects(settings: Settings, token: str) -> int:
    """List the key pairs on a token, registered or not.

    Exit code 1 when a private key could leave the token.
    """
    with settings.connect() as keyd:
        found = keyd.list_objects(token)
    settings.answer([object_json(o) for o in found], lambda: objects_table(found))
    loose = [o for o in found if o.extractable or not o.sensitive]
    for o in loose:
        output.warn(f"{o.label or o.object_id.hex()}: the private key can leave the token")
    return Exit.FAILED if loose else Exit.DONE


def _read_pin(keyd: Client, token: str, pin_stdin: bool, seen: TokenStatus | None) -> Pin:
    import getpass

    from keyd.model import Pin

    if keyd.endpoint.tls is not None and (seen is None or seen.may_be_yubikey):
        # Refused by the daemon as well, but then the PIN has travelled.
        keyd.check_local()
    if pin_stdin:
        pin = sys.stdin.readline(_MAX_PIN_BYTES + 2).rstrip("\r\n")
    elif sys.stdin.isatty():
        pin = getpass.getpass(f"PIN of {token}: ")
    else:
        raise click.UsageError("no terminal to ask for the PIN at; use --pin-stdin")
    if not pin:
        raise click.UsageError("the PIN is empty; --configured uses the daemon's own source")
    return Pin(pin)
