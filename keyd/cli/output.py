"""How keydctl speaks: results on standard output, everything else on standard error.

    keydctl: error: what went wrong, in words
    keydctl: hint: what to do next
    keydctl: request id: what to look for in the daemon's journal and log

With --json the result is one JSON document on standard output, and an error one JSON object in one
line on standard error. Tables are aligned with spaces and hold no other ornaments, so that they can
be cut with awk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

import click

from keyd.cli.exits import Exit, exit_code
from keyd.errors import KeydError

T = TypeVar("T")

Advance = Callable[[int], None]
"""Moves a progress bar on by so many bytes."""

PROGRAM = "keydctl"


class ReaderGoneError(Exception):
    """Whoever read our output has enough. Not an OSError: click would swallow that as success."""


def printable(text: str) -> str:
    """The text without what could steer a terminal; newlines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def write(text: str) -> None:
    """Write a result to standard output."""
    _put(printable(text))


def write_json(value: object) -> None:
    """Write a result as one JSON document."""
    _put(json.dumps(value, indent=2, ensure_ascii=False))


def write_json_line(value: object) -> None:
    """Write one of many results as JSON in one line."""
    _put(json.dumps(value, ensure_ascii=False))


def write_bytes(data: bytes) -> None:
    """Write a result as it is."""
    _put(data)


def _put(data: str | bytes) -> None:
    try:
        click.echo(data, nl=isinstance(data, str))
    except BrokenPipeError as e:
        raise ReaderGoneError from e


def note(text: str) -> None:
    """Say something beside the result."""
    click.echo(printable(f"{PROGRAM}: {text}"), err=True)


def warn(text: str) -> None:
    """Say that somebody should look, though the command went on."""
    note(f"warning: {text}")


def complain(error: KeydError, *, as_json: bool = False) -> Exit:
    """Say what went wrong and what to do next; return the exit code."""
    code = exit_code(error)
    if as_json:
        click.echo(json.dumps({"error": error_json(error)}, ensure_ascii=False), err=True)
        return code
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")
    if error.request_id:
        note(f"request id: {error.request_id}")
    return code


def error_json(error: KeydError) -> dict[str, object]:
    """An error's stable keys."""
    return {
        "reason": error.reason,
        "message": error.message,
        "hint": error.hint,
        "request_id": error.request_id,
        "retry_after_s": error.retry_after_s,
        "facts": dict(error.facts),
        "exit_code": int(exit_code(error)),
    }


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned with two spaces between them; the last one is not padded."""
    cells = [list(headers), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(headers))]
    return "\n".join(
        "  ".join(
            text if n == len(row) - 1 else text.ljust(widths[n]) for n, text in enumerate(row)
        ).rstrip()
        for row in cells
    )


def fields(pairs: Iterable[tuple[str, object]]) -> str:
    """``name: value`` lines, aligned; pairs without a value are left out."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in ("", None, (), [])]
    width = max((len(name) for name, _ in shown), default=0) + 1
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in shown)


def _cell(value: object) -> str:
    text = printable(str(value)).replace("\n", " ").replace("\t", " ")
    return text or "-"


def when(time: datetime | None) -> str:
    """A time as people read it, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if time else ""


def iso(time: datetime | None) -> str | None:
    """A time for JSON: RFC 3339 in UTC, or null."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z") if time else None


@contextmanager
def progress(items: Iterable[T], label: str, length: int | None = None) -> Iterator[Iterable[T]]:
    """The items, with a bar on standard error while they are walked through, on a terminal."""
    if not sys.stderr.isatty():
        yield items
        return
    with click.progressbar(items, label=label, length=length, file=sys.stderr) as bar:
        yield bar


@contextmanager
def progress_bytes(size: int, label: str) -> Iterator[Advance]:
    """A function that is told how many bytes were done; a bar, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=size, label=label, file=sys.stderr) as bar:
        yield lambda count: bar.update(count)
