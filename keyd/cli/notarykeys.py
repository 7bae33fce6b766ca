"""Which of the keys that notary-server had made are of no use any more. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyd.gunnames import GunName
from keyd.model import Key, KeyVersion, VersionState

NEVER = "never signed"
IDLE = "idle"
ENDING = frozenset({VersionState.DESTROY_SCHEDULED, VersionState.DESTROYABLE})


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A key and when it signed last; None for never."""

    key: Key
    version: KeyVersion
    name: GunName
    signed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Unused:
    """A key that could go, and why: never signed, replaced by another one, or idle."""

    of: ServerKey
    why: str


def find_unused(
    keys: Iterable[ServerKey], now: datetime, *, older_than: timedelta, idle: timedelta | None
) -> list[Unused]:
    """Those keys of which nobody expects a signature.

    A key that has signed stays in use however long it is silent, as a snapshot is signed only when
    somebody publishes: it could go once a later key of the same role signs in its place, or, with
    ``idle``, once no key of its collection has signed for so long. ``older_than``: what was made,
    or signed, more recently is left alone.
    """
    by_gun: dict[str, list[ServerKey]] = defaultdict(list)
    for each in keys:
        by_gun[each.name.gun].append(each)
    found: list[Unused] = []
    for gun in sorted(by_gun):
        together = sorted(by_gun[gun], key=lambda k: (k.name.role, k.name.number))
        newest = max((_last(k) for k in together), default=now)
        silent = idle is not None and now - newest >= idle
        for each in together:
            why = _why(each, together)
            if why and now - _last(each) >= older_than:
                found.append(Unused(each, why))
            elif silent:
                found.append(Unused(each, IDLE))
    return found


def _why(key: ServerKey, together: Iterable[ServerKey]) -> str:
    if key.signed_at is None:
        return NEVER
    for other in together:
        if (
            other.name.role == key.name.role
            and other.name.number > key.name.number
            and other.signed_at is not None
            and other.signed_at > key.signed_at
            and other.version.state is VersionState.ENABLED
        ):
            return f"replaced by {other.key.name}"
    return ""


def _last(key: ServerKey) -> datetime:
    return key.signed_at or key.version.created_at
