"""One table of policy.toml, read setting by setting; complaints name the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from keyd.errors import ConfigError, InvalidRequestError
from keyd.model import Action
from keyd.policy.consents import TOKEN_ACTIONS
from keyd.policy.rules import ACTION_SETS, KEY_ACTIONS
from keyd.toml_source import Path, Source, nearest

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._/@-]{0,62}[A-Za-z0-9])?")
_NAME_PATTERN = re.compile(r"[a-z0-9._/*?-]{1,128}")


def check_settings(
    source: Source, path: Path, table: Mapping[str, object], valid: tuple[str, ...], where: str
) -> None:
    """Refuse settings that are not among ``valid``.

    Raises:
        ConfigError: with the line, the nearest valid name, and all valid ones as the hint.
    """
    for setting in table:
        if setting not in valid:
            raise source.error(
                (*path, setting),
                f"unknown setting {setting[:80]!r} in {where}{nearest(setting, valid)}",
                hint=f"allowed here: {', '.join(valid)}",
            )


class Table:
    """One [[grant]], [[rule]], [[limit]] or [[approver]]. Every method raises ConfigError."""

    def __init__(
        self,
        source: Source,
        what: str,
        position: int,
        table: Mapping[str, object],
        names: dict[str, int | None],
    ) -> None:
        """``names``: what was named before, with its line; shared by all tables of a file."""
        self._source = source
        self._what = what
        self._path: Path = (what, position)
        self._table = table
        self._names = names

    def __contains__(self, setting: str) -> bool:
        return setting in self._table

    def allow(self, valid: tuple[str, ...]) -> None:
        """Refuse other settings than these."""
        check_settings(self._source, self._path, self._table, valid, f"[[{self._what}]]")

    def error(self, setting: str, message: str, element: int | None = None) -> ConfigError:
        """An error that points at a setting, or at the table where there is none."""
        path = (*self._path, setting) if setting in self._table else self._path
        if element is not None:
            path = (*path, element)
        return self._source.error(path, message)

    def name(self) -> str:
        """The name, which no other table of this kind has."""
        name = self._table.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self.error(
                "name",
                f"every {self._what} needs a name, for the log and refusals: 1 to 64 letters, "
                "digits, spaces and . _ / @ -",
            )
        self.claim("name", f"{self._what} {name}")
        return name

    def claim(self, setting: str, label: str) -> None:
        """Refuse a second table of the same label."""
        if label in self._names:
            raise self.error(setting, f"{label!r} exists already, in line {self._names[label]}")
        self._names[label] = self._source.line((*self._path, setting))

    def flag(self, setting: str) -> bool:
        """True or false; false when it is not there."""
        value = self._table.get(setting, False)
        if not isinstance(value, bool):
            raise self.error(setting, f"{setting} is true or false")
        return value

    def number(self, setting: str, least: float, most: float, *, whole: bool = False) -> float:
        """A number from ``least`` to ``most``."""
        value = self._table.get(setting)
        fitting = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fitting or not least <= value <= most:  # type: ignore[operator]
            kind = "whole number" if whole else "number"
            raise self.error(setting, f"{setting} is a {kind} from {least:g} to {most:.12g}")
        assert isinstance(value, int | float)
        return value

    def text(self, setting: str, check: Callable[[str], str]) -> str:
        """A text that ``check`` accepts, as it returns it."""
        value = self._table.get(setting)
        if not isinstance(value, str):
            raise self.error(setting, f"[[{self._what}]] needs {setting} as text in quotes")
        try:
            return check(value)
        except InvalidRequestError as e:
            raise self.error(setting, e.message) from None

    def list(
        self, setting: str, check: Callable[[str], str], *, required: bool = True
    ) -> tuple[str, ...]:
        """A list of texts that ``check`` accepts, each once; empty only if not ``required``."""
        if setting not in self._table and not required:
            return ()
        items = self._table.get(setting)
        if not isinstance(items, list) or not items:
            raise self.error(
                setting, f"[[{self._what}]] needs {setting} as a list that is not empty"
            )
        found: list[str] = []
        for at, item in enumerate(items):
            if not isinstance(item, str):
                raise self.error(setting, f"{setting} holds text in quotes only", at)
            try:
                found.append(check(item))
            except InvalidRequestError as e:
                raise self.error(setting, e.message, at) from None
        return tuple(dict.fromkeys(found))

    def actions(
        self, setting: str, refuse: Mapping[Action, str] | None = None
    ) -> frozenset[Action]:
        """Actions, and sets without those of ``refuse`` (action -> why); one of these by its own
        name is an error."""
        refused = refuse or {}
        valid = (*ACTION_SETS, *(a.value for a in Action))

        def check(word: str) -> str:
            if word not in valid:
                raise InvalidRequestError(
                    setting, f"unknown action {word[:80]!r}{nearest(word, valid)}"
                )
            if word in refused:
                raise InvalidRequestError(setting, f"{word}: {refused[Action(word)]}")
            return word

        words = self.list(setting, check)
        found = frozenset[Action]().union(*(ACTION_SETS.get(w) or {Action(w)} for w in words))
        if not found - refused.keys():
            raise self.error(setting, f"nothing of {', '.join(words)} can be named here")
        return found - refused.keys()

    def names_of(self, actions: frozenset[Action]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Patterns for keys and for tokens: needed by these actions, and useless without them."""
        return (
            self._names_of("keys", actions & KEY_ACTIONS),
            self._names_of("tokens", actions & TOKEN_ACTIONS),
        )

    def _names_of(self, setting: str, actions: frozenset[Action]) -> tuple[str, ...]:
        if actions and setting not in self._table:
            raise self.error(
                setting,
                f"{self._what} {self._table['name']!r} names no {setting} for "
                f'{", ".join(sorted(actions))}; {setting} = ["*"] means all',
            )
        if not actions and setting in self._table:
            raise self.error(setting, f"none of the actions here concerns {setting}")
        return self.list(setting, name_pattern, required=bool(actions))


def one_of(words: tuple[str, ...], what: str) -> Callable[[str], str]:
    """A check for :meth:`Table.list` and :meth:`Table.text`: one of these words."""

    def check(word: str) -> str:
        if word not in words:
            raise InvalidRequestError(
                what,
                f"unknown {what} {word[:80]!r}{nearest(word, words)}; there are {', '.join(words)}",
            )
        return word

    return check


def name_pattern(pattern: str) -> str:
    """A check: a glob over names of keys or tokens."""
    if not _NAME_PATTERN.fullmatch(pattern):
        raise InvalidRequestError(
            "pattern",
            f"{pattern[:80]!r} fits no name: lower-case letters, digits, '.', '_', '-', '/', "
            "with '*' for any run of characters and '?' for one",
        )
    return pattern


def printable(pattern: str) -> str:
    """A check: a glob over what callers say or metadata names."""
    if not 1 <= len(pattern) <= 256 or not all(" " < c <= "~" for c in pattern):
        raise InvalidRequestError(
            "pattern", f"{pattern[:80]!r} needs 1 to 256 printable ASCII characters, no spaces"
        )
    return pattern
