"""The names of one log: a new one for each time that lost entries were accepted.

A log that lost entries (a restored backup) goes on behind the ones it still has, so two trees of
one size may have been signed under its old origin. Under one origin nobody must ever see two, so
from the acceptance on it has a new one, ``ORIGIN/N-RANDOM``. Tree and indices go on; the entry of
the acceptance is the last that no checkpoint of the old origin covers, and names both origins.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from keyd.audit.note import VerifierKey

ORIGINS = "log-origins"
"""Durable flag: how the log was called and is (Origins)."""

_SUFFIX = re.compile(r"/[0-9]+-[0-9a-f]{8}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ended:
    """An origin that ended with an accepted loss. ``suffix``: what it has behind the configured
    origin. ``intact``: entries that were not lost; ``size``: all that the log had then;
    ``largest``: how far checkpoints of the origin may go whose loss was accepted."""

    suffix: str
    intact: int
    size: int
    largest: int


@dataclass(frozen=True, slots=True)
class Origins:
    """All names of a log. ``base``: the configured one. ``suffix``: what the one in force has
    behind it; empty until a loss was accepted."""

    base: str
    suffix: str = ""
    ended: tuple[Ended, ...] = ()

    @classmethod
    def read(cls, base: str, flag: str | None) -> Origins:
        """Read the flag's value back."""
        if flag is None:
            return cls(base)
        fields = json.loads(flag)
        ended = tuple(Ended(**each) for each in fields["ended"])
        return cls(base, fields["suffix"], ended)

    def write(self) -> str:
        """The flag's value."""
        return json.dumps({"suffix": self.suffix, "ended": [asdict(e) for e in self.ended]})

    @property
    def current(self) -> str:
        """The one in force."""
        return self.base + self.suffix

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the one in force first."""
        return (self.current, *(self.base + e.suffix for e in reversed(self.ended)))

    def is_ours(self, origin: str) -> bool:
        """True for every name the log has or, in a state that is not here any more, had."""
        return origin == self.base or origin.startswith(f"{self.base}/")

    def find_ended(self, origin: str) -> Ended | None:
        """The ended origin of that name, or None."""
        return next((e for e in self.ended if self.base + e.suffix == origin), None)

    def after_loss(
        self, loss: Ended, root_hash: bytes, now: datetime, *, lost_origin: str = ""
    ) -> Origins:
        """The log goes on under a new name. ``loss``: how the one in force ends. Root and time
        make the new name one that no other copy of this state chooses. ``lost_origin``: a name
        that the log had in what is lost."""
        number = len(self.ended) + 2
        seed = root_hash + f"{loss.size} {now.isoformat()}".encode()
        suffix = f"/{number}-{hashlib.sha256(seed).hexdigest()[:8]}"
        ended = (*self.ended, replace(loss, suffix=self.suffix))
        if lost_origin not in ("", *self.names):
            ended = (*ended, replace(loss, suffix=lost_origin.removeprefix(self.base)))
        return Origins(self.base, suffix, ended)

    def with_larger(self, origin: str, intact: int, largest: int) -> Origins:
        """A larger loss under an ended origin was accepted."""

        def widened(each: Ended) -> Ended:
            if self.base + each.suffix != origin:
                return each
            least, most = min(each.intact, intact), max(each.largest, largest)
            return replace(each, intact=least, largest=most)

        return replace(self, ended=tuple(widened(each) for each in self.ended))


def base_of(origin: str) -> str:
    """The configured origin behind any name of a log."""
    return _SUFFIX.sub("", origin)


def under_all(keys: Iterable[VerifierKey], names: Iterable[str]) -> tuple[VerifierKey, ...]:
    """The keys under each name: an Ed25519 note key's id depends on it. The first name first."""
    pairs = dict.fromkeys((name, key.type, key.key) for name in names for key in keys)
    return tuple(VerifierKey(*pair) for pair in pairs)
