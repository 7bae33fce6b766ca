"""policy.toml -> GrantPolicy; every complaint names file, line and the nearest valid name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping

from keyd import toml_source
from keyd.errors import ConfigError, InvalidRequestError
from keyd.model import Action
from keyd.policy.principals import check_principal
from keyd.policy.rules import (
    ACTION_SETS,
    KEY_ACTIONS,
    KINDS,
    TOKEN_ACTIONS,
    Grant,
    GrantPolicy,
    Rule,
)
from keyd.toml_source import Source, nearest

MAX_POLICY_BYTES = 16 * 1024 * 1024
"""Larger policies are refused unread: some 100 000 grants."""

_GRANT_SETTINGS = (
    "name",
    "principals",
    "actions",
    "keys",
    "tokens",
    "kinds",
    "repositories",
    "roles",
    "remote_unlock",
)
_RULE_SETTINGS = ("name", "deny", "principals", "keys", "tokens")
_NAME_PATTERN = re.compile(r"[a-z0-9._/*?-]{1,128}")
_GRANT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._/@-]{0,62}[A-Za-z0-9])?")
_CONTEXT_PATTERN = re.compile(r"[!-~]{1,256}")


def parse_policy(text: str, file: str) -> GrantPolicy:
    """Parse a policy. ``file``: its name in errors.

    Raises:
        ConfigError: facts ``file`` and ``line``; nothing of a wrong policy is ever in force.
    """
    if len(text) > MAX_POLICY_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_POLICY_BYTES} bytes", file=file)
    source = toml_source.parse(text, file)
    _check_settings(source, (), source.data, ("grant", "rule"), "policy.toml")
    names: dict[str, int | None] = {}
    grants = tuple(
        _Table(source, "grant", at, t, names).grant() for at, t in _tables(source, "grant")
    )
    rules = tuple(_Table(source, "rule", at, t, names).rule() for at, t in _tables(source, "rule"))
    return GrantPolicy(grants, rules, hashlib.sha256(text.encode()).hexdigest())


def _tables(source: Source, what: str) -> Iterable[tuple[int, Mapping[str, object]]]:
    tables = source.data.get(what, [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise source.error((what,), f"write each {what} under a line of its own: [[{what}]]")
    return enumerate(tables)


def _check_settings(
    source: Source,
    path: toml_source.Path,
    table: Mapping[str, object],
    valid: tuple[str, ...],
    where: str,
) -> None:
    for setting in table:
        if setting not in valid:
            raise source.error(
                (*path, setting),
                f"unknown setting {setting[:80]!r} in {where}{nearest(setting, valid)}",
                hint=f"allowed here: {', '.join(valid)}",
            )


class _Table:
    """One [[grant]] or [[rule]], read setting by setting."""

    def __init__(
        self,
        source: Source,
        what: str,
        position: int,
        table: Mapping[str, object],
        names: dict[str, int | None],
    ) -> None:
        self._source = source
        self._what = what
        self._path: toml_source.Path = (what, position)
        self._table = table
        self._names = names

    def grant(self) -> Grant:
        """Read a grant; every one needs a name, principals, actions and something to act on."""
        _check_settings(self._source, self._path, self._table, _GRANT_SETTINGS, "[[grant]]")
        name = self._name()
        actions = self._actions("actions", ACTION_SETS)
        remote_unlock = self._table.get("remote_unlock", False)
        if not isinstance(remote_unlock, bool):
            raise self._error("remote_unlock", "remote_unlock is true or false")
        if remote_unlock and Action.UNLOCK not in actions:
            raise self._error("remote_unlock", "remote_unlock needs the action unlock")
        grant = Grant(
            name=name,
            principals=self._list("principals", check_principal),
            actions=actions,
            keys=self._names_of("keys", actions & KEY_ACTIONS),
            tokens=self._names_of("tokens", actions & TOKEN_ACTIONS),
            kinds=self._list("kinds", self._kind, required=False),
            repositories=self._list("repositories", _context_pattern, required=False),
            roles=self._list("roles", _context_pattern, required=False),
            remote_unlock=remote_unlock,
        )
        for setting in ("kinds", "repositories", "roles"):
            if setting in self._table and Action.SIGN not in actions:
                raise self._error(
                    setting, f"{setting} restricts sign, which {name!r} does not allow"
                )
        return grant

    def rule(self) -> Rule:
        """Read a rule."""
        _check_settings(self._source, self._path, self._table, _RULE_SETTINGS, "[[rule]]")
        name = self._name()
        deny = self._actions("deny", ACTION_SETS)
        return Rule(
            name=name,
            deny=deny,
            principals=self._list("principals", check_principal, required=False),
            keys=self._names_of("keys", deny & KEY_ACTIONS),
            tokens=self._names_of("tokens", deny & TOKEN_ACTIONS),
        )

    def _error(self, setting: str, message: str, element: int | None = None) -> ConfigError:
        path = (*self._path, setting) if setting in self._table else self._path
        if element is not None:
            path = (*path, element)
        return self._source.error(path, message)

    def _name(self) -> str:
        name = self._table.get("name")
        if not isinstance(name, str) or not _GRANT_NAME.fullmatch(name):
            raise self._error(
                "name",
                f"every {self._what} needs a name, for the log and refusals: 1 to 64 letters, "
                "digits, spaces and . _ / @ -",
            )
        label = f"{self._what} {name}"
        if label in self._names:
            raise self._error("name", f"{label!r} exists already, in line {self._names[label]}")
        self._names[label] = self._source.line((*self._path, "name"))
        return name

    def _list(
        self, setting: str, check: Callable[[str], str], *, required: bool = True
    ) -> tuple[str, ...]:
        if setting not in self._table and not required:
            return ()
        items = self._table.get(setting)
        if not isinstance(items, list) or not items:
            raise self._error(
                setting, f"[[{self._what}]] needs {setting} as a list that is not empty"
            )
        found: list[str] = []
        for at, item in enumerate(items):
            if not isinstance(item, str):
                raise self._error(setting, f"{setting} holds text in quotes only", at)
            try:
                found.append(check(item))
            except InvalidRequestError as e:
                raise self._error(setting, e.message, at) from None
        return tuple(dict.fromkeys(found))

    def _actions(self, setting: str, sets: Mapping[str, frozenset[Action]]) -> frozenset[Action]:
        valid = (*sets, *(a.value for a in Action))

        def check(word: str) -> str:
            if word not in valid:
                raise InvalidRequestError(
                    setting, f"unknown action {word[:80]!r}{nearest(word, valid)}"
                )
            return word

        words = self._list(setting, check)
        return frozenset[Action]().union(*(sets.get(w) or {Action(w)} for w in words))

    def _names_of(self, setting: str, actions: frozenset[Action]) -> tuple[str, ...]:
        """Patterns for keys or tokens: needed by these actions, and useless without them."""
        if actions and setting not in self._table:
            raise self._error(
                setting,
                f"{self._what} {self._table['name']!r} names no {setting} for "
                f'{", ".join(sorted(actions))}; {setting} = ["*"] means all',
            )
        if not actions and setting in self._table:
            raise self._error(setting, f"none of the actions here concerns {setting}")
        return self._list(setting, _name_pattern, required=bool(actions))

    @staticmethod
    def _kind(word: str) -> str:
        if word not in KINDS:
            raise InvalidRequestError(
                "kinds",
                f"unknown kind {word[:80]!r}{nearest(word, KINDS)}; there are {', '.join(KINDS)}",
            )
        return word


def _name_pattern(pattern: str) -> str:
    if not _NAME_PATTERN.fullmatch(pattern):
        raise InvalidRequestError(
            "pattern",
            f"{pattern[:80]!r} fits no name: lower-case letters, digits, '.', '_', '-', '/', "
            "with '*' for any run of characters and '?' for one",
        )
    return pattern


def _context_pattern(pattern: str) -> str:
    if not _CONTEXT_PATTERN.fullmatch(pattern):
        raise InvalidRequestError(
            "pattern", f"{pattern[:80]!r} needs 1 to 256 printable ASCII characters, no spaces"
        )
    return pattern
