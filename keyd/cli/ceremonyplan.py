"""From what a person wants changed in a root to a ceremony's plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from securesystemslib.signer import Key as TufKey
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root

from keyd.adapters.tuf import public_key_der
from keyd.adapters.tufrepo import edits
from keyd.adapters.tufrepo.ceremony_draft import rehearse
from keyd.adapters.tufrepo.ceremony_plan import Addition, Plan, Removal, Rotation
from keyd.cli.tufkeys import Session
from keyd.errors import RepositoryError

if TYPE_CHECKING:
    from keyd.client import Client

_MIN_KEYID_CHARS = 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """As given on the command line: ROLE[=KEY] texts to rotate, [ROLE=]KEY texts to add and to
    drop, ROLE=N texts."""

    rotate: Sequence[str] = ()
    add: Sequence[str] = ()
    drop: Sequence[str] = ()
    thresholds: Sequence[str] = ()
    keep_old: bool = False


class Holders:
    """Who holds the keys of a root, as far as this daemon knows."""

    def __init__(self, root: Root, client: Client) -> None:
        self._root = root
        held = {v.public_key: k.name for k in client.list_keys() for v in k.versions}
        self._names = {
            key.keyid: held[der]
            for key in root.keys.values()
            if isinstance(key, SSlibKey) and (der := public_key_der(key)) in held
        }

    def who(self, keyid: str) -> str:
        """A key's name here and its keyid, or the keyid alone."""
        name = self._names.get(keyid, "")
        return f"{name} ({keyid[:16]})" if name else keyid[:16]

    def name(self, keyid: str) -> str:
        """The name of the daemon's key, or empty."""
        return self._names.get(keyid, "")

    def find(self, role: str, text: str) -> TufKey:
        """The key of a role that is meant: a key's name here, a keyid or its beginning; empty for
        the only one.

        Raises:
            RepositoryError: none, or several.
        """
        listed = edits.role_keys(self._root, role)
        fitting = [
            key
            for key in listed
            if not text
            or text in (key.keyid, self._names.get(key.keyid))
            or (len(text) >= _MIN_KEYID_CHARS and key.keyid.startswith(text))
        ]
        if len(fitting) != 1:
            there = ", ".join(self.who(key.keyid) for key in listed)
            raise RepositoryError(
                f"{role} has {len(fitting) or 'no'} key(s) {text}".rstrip() + f": {there}",
                hint="name one of them: ROLE=KEYID",
                role=role,
            )
        return fitting[0]


def make_plan(
    wishes: Wishes, repository: str, root: Root, holders: Holders, session: Session
) -> Plan:
    """The plan for the published root.

    Raises:
        RepositoryError: it does not fit the root.
        click.UsageError: a text that cannot be read.
    """
    rotate = []
    for role, text in _pairs(wishes.rotate, "--rotate", bare_is_role=True):
        old = holders.find(role, text)
        name = holders.name(old.keyid)
        if not name:
            raise RepositoryError(
                f"{old.keyid} is not a key of this daemon, so it cannot make a new version",
                hint=f"name a successor: --drop {role}={old.keyid[:16]} --add-key {role}=KEY",
            )
        rotate.append(Rotation(role, name, old.keyid))
    add = []
    for role, text in _pairs(wishes.add, "--add-key"):
        key = session.find(text)
        add.append(Addition(role, key.public, key.uri))
    drop = [
        Removal(role, holders.find(role, text).keyid)
        for role, text in _pairs(wishes.drop, "--drop")
    ]
    plan = Plan(
        repository=repository,
        base=root.version,
        rotate=tuple(rotate),
        add=tuple(add),
        drop=tuple(drop),
        thresholds=_thresholds(wishes.thresholds),
        keep_old=wishes.keep_old,
    )
    rehearse(plan, root)
    return plan


def _pairs(
    texts: Iterable[str], option: str, *, bare_is_role: bool = False
) -> list[tuple[str, str]]:
    """ROLE=TEXT as a pair; a bare text is a key of root, or with ``bare_is_role`` a role."""
    found = []
    for given in texts:
        role, equals, text = given.partition("=")
        if not equals or role not in edits.TOP_LEVEL:
            role, text = (given, "") if bare_is_role else ("root", given)
        if role not in edits.TOP_LEVEL:
            raise click.UsageError(
                f"{option}: {given!r} names none of the roles {', '.join(edits.TOP_LEVEL)}"
            )
        found.append((role, text))
    return found


def _thresholds(texts: Iterable[str]) -> dict[str, int]:
    found = {}
    for given in texts:
        role, _, number = given.partition("=")
        if role not in edits.TOP_LEVEL or not number.isdecimal() or not 1 <= int(number) <= 1000:
            raise click.UsageError(f"--threshold: {given!r} is not ROLE=N")
        found[role] = int(number)
    return found
