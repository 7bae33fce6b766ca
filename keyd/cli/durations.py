"""Spans of time as people write them: 90d, 12h, 30m, 45s, 2w."""

from __future__ import annotations

import re

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def duration(text: str) -> int:
    """Seconds. A bare number is refused, since nobody knows its unit.

    Raises:
        click.BadParameter: not a number and a unit.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration; write 90d, 12h or 30m")
    return int(found[1]) * _UNITS[found[2]]


def readable(seconds: int) -> str:
    """The largest unit that divides it, as in 90d."""
    for unit, size in reversed(_UNITS.items()):
        if seconds and seconds % size == 0 and unit != "w":
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
