"""keydctl token."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings

if TYPE_CHECKING:
    from keyd.client import TokenObject
    from keyd.model import Pin, TokenStatus

_MAX_PIN_BYTES = 255


@click.group(cls=Group)
def token() -> None:
    """Show tokens, unlock and lock them."""


@token.command("list")
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the tokens and their state."""
    with settings.connect() as keyd:
        tokens = keyd.list_tokens()
    settings.answer([token_json(t) for t in tokens], lambda: _table(tokens))


@token.command()
@click.argument("token")
@click.option("--pin-stdin", is_flag=True, help="Read the PIN from standard input, one line.")
@click.option("--configured", is_flag=True, help="Use the daemon's configured PIN source once.")
@click.option("--spend-last-try", is_flag=True, help="Go on although it is the token's last try.")
@click.pass_obj
def unlock(
    settings: Settings, token: str, pin_stdin: bool, configured: bool, spend_last_try: bool
) -> None:
    """Log in to a token with its user PIN.

    The PIN is asked for on the terminal. It is never an argument: other users see those.
    """
    pin = None if configured else _read_pin(token, pin_stdin)
    with settings.connect() as keyd:
        now = keyd.unlock(token, pin, spend_last_try=spend_last_try)
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
    settings.answer([object_json(o) for o in found], lambda: _objects_table(found))
    loose = [o for o in found if o.extractable or not o.sensitive]
    for o in loose:
        output.warn(f"{o.label or o.object_id.hex()}: the private key can leave the token")
    return Exit.FAILED if loose else Exit.DONE


def _read_pin(token: str, pin_stdin: bool) -> Pin:
    import getpass

    from keyd.model import Pin

    if pin_stdin:
        pin = sys.stdin.readline(_MAX_PIN_BYTES + 2).rstrip("\r\n")
    elif sys.stdin.isatty():
        pin = getpass.getpass(f"PIN of {token}: ")
    else:
        raise click.UsageError("no terminal to ask for the PIN at; use --pin-stdin")
    if not pin:
        raise click.UsageError("the PIN is empty; --configured uses the daemon's own source")
    return Pin(pin)


def token_json(t: TokenStatus) -> dict[str, object]:
    """A token's stable keys."""
    return {
        "name": t.name,
        "state": t.state.value,
        "detail": t.detail,
        "serial": t.serial,
        "label": t.label,
        "model": t.model,
        "manufacturer": t.manufacturer,
        "firmware": t.firmware,
        "pin_state": t.pin_state,
        "hosts": t.hosts,
        "queued": t.queued,
    }


def object_json(o: TokenObject) -> dict[str, object]:
    """A key pair's stable keys."""
    import base64

    return {
        "object_id": o.object_id.hex(),
        "label": o.label,
        "algorithm": o.algorithm.value if o.algorithm else "",
        "public_key": base64.b64encode(o.public_key).decode(),
        "registered_as": o.registered_as,
        "sensitive": o.sensitive,
        "extractable": o.extractable,
        "always_sensitive": o.always_sensitive,
        "never_extractable": o.never_extractable,
        "local": o.local,
    }


def _table(tokens: list[TokenStatus]) -> str:
    rows = [
        (
            t.name,
            t.state,
            t.serial,
            t.label,
            f"{t.model} {t.firmware}".strip(),
            t.pin_state,
            t.queued,
        )
        for t in tokens
    ]
    lines = [
        output.table(("NAME", "STATE", "SERIAL", "LABEL", "MODEL", "PIN", "QUEUED"), rows),
        *(f"{t.name}: {t.detail}" for t in tokens if t.detail),
    ]
    return "\n".join(lines) if tokens else "no tokens you may see"


def _objects_table(found: list[TokenObject]) -> str:
    rows = [
        (
            o.object_id.hex(),
            o.label,
            o.algorithm or "other",
            o.registered_as,
            "yes" if o.sensitive and not o.extractable else "NO",
            "yes" if o.local else "no",
        )
        for o in found
    ]
    headers = ("OBJECT ID", "LABEL", "ALGORITHM", "REGISTERED AS", "STAYS INSIDE", "MADE THERE")
    return output.table(headers, rows) if found else "no key pairs"
