"""How keydctl is told about keys: names with versions, bindings, labels, object ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from keyd.errors import InvalidRequestError

if TYPE_CHECKING:
    from keyd.model import Binding, TokenStatus

REASON = click.option("--reason", default="", help="Why, for the log.")
"""The option --reason of each command that changes something."""

LAST_TRY = click.option("--spend-last-try", is_flag=True, help="Go on although it is the last try.")
"""The option of each command that sends a PIN or PUK which may be wrong."""


def versioned(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments KEY and VERSION; KEY/versions/N says both."""
    command = click.argument("version", type=click.IntRange(min=1), required=False)(command)
    return click.argument("key")(command)


def name_and_number(key: str, version: int | None, *, required: bool = True) -> tuple[str, int]:
    """KEY and VERSION, or KEY/versions/N, as the name and the number: 0 where none is needed."""
    name, _, number = key.partition("/versions/")
    if number:
        if not (number.isascii() and number.isdigit()) or (version and version != int(number)):
            raise click.UsageError(f"{key!r} does not name one version")
        return name, int(number)
    if version is None and required:
        raise click.UsageError(f"which version of {name}? Say {name} N or {name}/versions/N")
    return name, version or 0


def read_bindings(texts: Iterable[str]) -> frozenset[Binding]:
    """REPO:ROLE texts."""
    from keyd.model import Binding

    found = set()
    for text in texts:
        repository, colon, role = text.rpartition(":")
        if not (repository and colon and role):
            raise click.UsageError(f"{text!r} is no binding; write REPO:ROLE, as in acme:targets")
        found.add(Binding(repository, role))
    return frozenset(found)


def read_labels(texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE texts; the value may be empty."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"{text!r} is no label; write NAME=VALUE")
        found[name] = value
    return found


def read_hex(text: str, option: str) -> bytes:
    """Bytes in hexadecimal; ``option`` is blamed where they are none."""
    try:
        return bytes.fromhex(text)
    except ValueError as e:
        raise click.UsageError(f"{option}: {text!r} is not hexadecimal") from e


def refuse_others(token: TokenStatus) -> None:
    """For what only YubiKeys have, as slots and PUKs.

    Raises:
        InvalidRequestError: it is known to be something else.
    """
    if not token.may_be_yubikey:
        raise InvalidRequestError(
            "token",
            f"{token.name} is no YubiKey: it says {token.model}",
            hint="keydctl token list",
        )
