"""TOML text that knows the line of each table, key and array element.

``tomllib`` says where a syntax error is, but not where a value that parsed came from. A person
who misspelt a setting needs the line, so a small scanner walks the text once more, after tomllib
has accepted it, and notes where each path begins. Paths are tuples of names and array positions:
``("grant", 1, "keys", 0)`` is the first element of ``keys`` in the second ``[[grant]]``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keyd.errors import ConfigError

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_BLANK = re.compile(r"[ \t\r]*")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_REST_OF_LINE = re.compile(r"[^\n]*\n?")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'  # multi-line basic; up to two quotes may stand before the end
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_WHERE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed TOML file. ``name``: the file as errors name it; ``lines``: path -> line, from 1."""

    name: str
    data: Mapping[str, object]
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int | None:
        """The line where ``path`` begins, else where its nearest known parent does, else None."""
        for size in range(len(path), 0, -1):
            if path[:size] in self.lines:
                return self.lines[path[:size]]
        return None

    def error(self, path: Path, message: str, *, hint: str = "") -> ConfigError:
        """A ConfigError that names file and line: ``policy.toml:12: message``."""
        line = self.line(path)
        if line is None:
            return ConfigError(f"{self.name}: {message}", hint=hint, file=self.name)
        return ConfigError(f"{self.name}:{line}: {message}", hint=hint, file=self.name, line=line)


def parse(text: str, name: str) -> Source:
    """Parse TOML 1.0.

    Raises:
        ConfigError: with file and line, never with a value of the file in it.
    """
    problem = ""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        problem = str(e)
    except RecursionError:
        problem = "nested too deep"
    if problem:  # outside the handler: the cause would carry the file's text along
        where = _WHERE.search(problem)
        what = _WHERE.sub("", problem)
        line = text.count("\n") + 1
        if where and where[1]:
            line = int(where[1])
        raise ConfigError(
            f"{name}:{line}: not valid TOML: {what[:1].lower()}{what[1:]}", file=name, line=line
        )
    return Source(name, data, _Scanner(text).scan())


def nearest(word: str, valid: Iterable[str]) -> str:
    """``; did you mean 'X'?`` for the valid name most like ``word``, or nothing."""
    found = difflib.get_close_matches(word.lower(), list(valid), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


class _Scanner:
    """Walks TOML that tomllib accepted, so that only the shape has to be followed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._seen = 0
        self._lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_GAP)
        while self._at < len(self._text):
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_GAP)
        return self._lines

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found is not None, "every pattern used here can match nothing, or was looked at"
        self._at = found.end()
        return found[0]

    def _here(self) -> int:
        """The line of the position; counted on from the last call, so the whole stays linear."""
        self._line += self._text.count("\n", self._seen, self._at)
        self._seen = self._at
        return self._line

    def _note(self, path: Path, line: int) -> None:
        for size in range(1, len(path) + 1):
            self._lines.setdefault(path[:size], line)

    def _key(self) -> list[str]:
        """A bare, quoted or dotted key."""
        parts: list[str] = []
        while True:
            self._skip(_BLANK)
            if self._peek() in ("'", '"'):
                quoted = self._skip(_STRING)
                parts.append(str(tomllib.loads(f"k = {quoted}")["k"]))
            else:
                parts.append(self._skip(_BARE))
            self._skip(_BLANK)
            if self._peek() != ".":
                return parts
            self._at += 1

    def _within(self, names: Iterable[str]) -> Path:
        """The full path of a header: a name that is an array of tables means its newest one."""
        path: Path = ()
        for name in names:
            path = (*path, name)
            if path in self._tables:
                path = (*path, self._tables[path])
        return path

    def _header(self) -> Path:
        line = self._here()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        *parents, last = self._key()
        path: Path = (*self._within(parents), last)
        if is_array:
            self._tables[path] = self._tables.get(path, -1) + 1
            path = (*path, self._tables[path])
        self._note(path, line)
        self._skip(_REST_OF_LINE)
        return path

    def _pair(self, table: Path) -> None:
        line = self._here()
        path = (*table, *self._key())
        self._note(path, line)
        self._at += 1  # the "="
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self._peek()
        if opening in ("'", '"'):
            self._skip(_STRING)
        elif opening == "[":
            self._items(path, "]")
        elif opening == "{":
            self._items(path, "}")
        else:
            self._skip(_SCALAR)

    def _items(self, path: Path, closing: str) -> None:
        """The elements of an array, or the pairs of an inline table."""
        self._at += 1
        position = 0
        self._skip(_GAP)
        while self._peek() != closing:
            if closing == "]":
                self._note((*path, position), self._here())
                self._value((*path, position))
                position += 1
            else:
                self._pair(path)
            self._skip(_GAP)
            if self._peek() == ",":
                self._at += 1
                self._skip(_GAP)
        self._at += 1
