"""PINs and PUKs: asked for on the terminal, or read from file descriptors. Never arguments: other
users see those; never the environment: children inherit it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import click

from keyd.cli.keyarguments import refuse_others
from keyd.errors import PolicyDeniedError

if TYPE_CHECKING:
    from keyd.client import Client
    from keyd.model import Pin, TokenStatus

_MAX_BYTES = 255


def fd_option(name: str, what: str) -> click.Option:
    """The option that names a descriptor for one secret."""
    return click.Option(
        [f"--{name}-fd"],
        type=click.IntRange(min=0),
        metavar="FD",
        help=f"Read the {what} from this file descriptor, one line; 0 is standard input.",
    )


def find_token(keyd: Client, token: str) -> TokenStatus | None:
    """The token as it stands, before anybody types a secret for it. None where this user sees no
    such token and the daemon does not say that there is none.

    Raises:
        TokenNotFoundError: there is none.
    """
    for found in keyd.list_tokens():
        if found.name == token:
            return found
    # Who may not see tokens may have a grant for what the secret is for all the same.
    with contextlib.suppress(PolicyDeniedError):
        keyd.list_objects(token)
    return None


def check_yubikey(keyd: Client, token: str) -> None:
    """What refuses PIN and PUK of a YubiKey whatever they are, before anybody types them.

    Raises:
        PolicyDeniedError: they would travel over TCP.
        TokenNotFoundError: there is no such token.
        InvalidRequestError: it is no YubiKey.
    """
    keyd.check_local()
    found = find_token(keyd, token)
    if found is not None:
        refuse_others(found)


def read_secret(question: str, descriptor: int | None, option: str, *, twice: bool = False) -> Pin:
    """One secret, from the descriptor if there is one, else asked for; ``twice`` when it is new.

    Raises:
        click.UsageError: nothing to read, no terminal, or two different answers.
    """
    from keyd.model import Pin

    if descriptor is not None:
        value = _line(descriptor, option)
    elif sys.stdin.isatty():
        value = _asked(question, twice)
    else:
        raise click.UsageError(f"no terminal to ask at: {question}; use {option} FD")
    if not value:
        raise click.UsageError(f"{question}: nothing was given")
    return Pin(value)


def _asked(question: str, twice: bool) -> str:
    import getpass

    value = getpass.getpass(f"{question}: ")
    if twice and getpass.getpass(f"{question}, once more: ") != value:
        raise click.UsageError("the two differ; nothing was changed")
    return value


def _line(descriptor: int, option: str) -> str:
    """Up to the end of the line and not a byte further: the next secret may follow."""
    raw = b""
    try:
        while len(raw) <= _MAX_BYTES and (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
            raw += byte
        return raw.removesuffix(b"\r").decode()
    except OSError as e:
        raise click.UsageError(f"{option} {descriptor} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError:
        raise click.UsageError(f"{option} {descriptor}: not UTF-8") from None
