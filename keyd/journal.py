"""The daemon's own log: JSON lines for journald, readable lines in a terminal.

Names and digests, never content: a record may carry facts as ``extra``; a fact that is a PIN is
taken out, and bytes become their length. The audit log is another thing (keyd/audit).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from keyd.model import Pin

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# sd-daemon(3): the priority journald gives a line. Highest level first.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)

# C0 and C1 controls, line separators, and what turns the direction of text around.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_HIDDEN = "(hidden)"


class NoSecrets(logging.Filter):
    """Takes PINs and raw bytes out of a record before anything is formatted."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record through, without its secrets."""
        if isinstance(record.args, tuple):
            record.args = tuple(_safe(value) for value in record.args)
        elif isinstance(record.args, Mapping):
            record.args = {name: _safe(value) for name, value in record.args.items()}
        for name, value in _facts(record).items():
            if isinstance(value, Pin):
                delattr(record, name)
            else:
                setattr(record, name, _safe(value))
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line, after the priority prefix journald takes off."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as ``<6>{"message": ..., ...}``."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _facts(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        return f"<{priority}>{json.dumps(line, default=str)}"


class TerminalLines(logging.Formatter):
    """``10:15:02 warning keyd.device: token is gone token=online``; one record, one line, except
    for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, its control characters made visible."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = "".join(f" {name}={_word(value)}" for name, value in _facts(record).items())
        text = f"{at} {record.levelname.lower():8}{record.name}: {record.getMessage()}{facts}"
        lines = [text]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        return "\n".join(_CONTROLS.sub(_visible, line) for line in lines)


def set_up_logging(
    *, level: int = logging.INFO, stream: TextIO | None = None, as_json: bool | None = None
) -> None:
    """Send the records of the whole process to ``stream`` (standard error) in one form.

    ``as_json`` None: JSON when the stream is the journal's ($JOURNAL_STREAM, systemd.exec(5)).
    Calling it again replaces what the first call did.
    """
    stream = stream or sys.stderr
    if as_json is None:
        as_json = is_journal(stream, os.environ.get("JOURNAL_STREAM", ""))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if as_json else TerminalLines())
    handler.addFilter(NoSecrets())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, JsonLines | TerminalLines):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


def is_journal(stream: TextIO, journal_stream: str) -> bool:
    """True when ``journal_stream`` (DEVICE:INODE) names this very stream, so that a redirected
    one is not taken for the journal."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{found.st_dev}:{found.st_ino}"


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {n: v for n, v in vars(record).items() if n not in _STANDARD and not n.startswith("_")}


def _safe(value: object) -> object:
    if isinstance(value, Pin):
        return _HIDDEN
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, Mapping):
        return {name: _safe(v) for name, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(v) for v in value]
    return value


def _visible(control: re.Match[str]) -> str:
    return control.group().encode("unicode_escape").decode()


def _word(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text
