"""Globs of policy.toml: ``*`` is any run of characters, ``/`` included; ``?`` is one character.

Nothing else is special, so a pattern without these two means exactly one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache


@lru_cache(maxsize=65_536)
def _compiled(pattern: str) -> re.Pattern[str]:
    # A run of stars means what one does, and would backtrack.
    parts = re.split(r"(\*+|\?)", pattern)
    special = {"?": "."}
    return re.compile(
        "".join(".*" if p.startswith("*") else special.get(p) or re.escape(p) for p in parts),
        re.DOTALL,
    )


def is_glob(pattern: str) -> bool:
    """True when the pattern may match more than one name."""
    return "*" in pattern or "?" in pattern


def matches(pattern: str, name: str) -> bool:
    """True when the whole name fits the pattern; case matters."""
    return pattern == name or (is_glob(pattern) and _compiled(pattern).fullmatch(name) is not None)


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """True when one of the patterns fits."""
    return any(matches(p, name) for p in patterns)


def fits_or_unknown(patterns: Sequence[str], claimed: str) -> bool:
    """True when there are no patterns, one fits, or nothing is claimed that could fit."""
    return not patterns or not claimed or matches_any(patterns, claimed)


class PatternIndex:
    """Which of many pattern lists fit a name: exact names by lookup, globs one after another."""

    __slots__ = ("_exact", "_globs")

    def __init__(self, lists: Iterable[Sequence[str]]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._globs: list[tuple[str, int]] = []
        for position, patterns in enumerate(lists):
            for pattern in patterns:
                if is_glob(pattern):
                    self._globs.append((pattern, position))
                else:
                    self._exact.setdefault(pattern, []).append(position)

    def find(self, name: str) -> list[int]:
        """The positions of the lists that fit, in their order."""
        found = set(self._exact.get(name, ()))
        found.update(at for pattern, at in self._globs if matches(pattern, name))
        return sorted(found)
