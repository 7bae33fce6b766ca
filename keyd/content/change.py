"""One difference between two versions of a document, and how it is written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyd.content.canonical import Json
from keyd.content.describe import shown
from keyd.content.refusal import printable

MAX_LINES = 200
"""Changes beyond this are counted by :func:`lines`; grave ones are always written out."""


@dataclass(frozen=True, slots=True)
class Change:
    """``kind``: what changed, a word for programs. ``subject``: the role, target or file it is
    about, printable. ``before`` and ``after``: readable values; empty before for what is new,
    empty after for what is gone. ``grave``: it weakens trust or goes back.

    Kinds: version, expires, spec_version, field (unknown to keyd); of any role: threshold, key,
    key-order, key-object, doubled-key; of a root: gun, consistent_snapshot; of targets: target,
    delegations, delegation, path, paths, terminating, order, hash-bins; of snapshot and
    timestamp: meta.
    """

    kind: str
    subject: str
    before: str
    after: str
    grave: bool = False

    def __str__(self) -> str:
        mark = "!" if self.grave else " "
        sign = "~" if self.before and self.after else "+" if self.after else "-"
        value = f"{self.before} -> {self.after}" if sign == "~" else self.before or self.after
        return f"{mark} {sign} {self.kind} {self.subject}: {value}"


def lines(changes: Sequence[Change], limit: int = MAX_LINES) -> list[str]:
    """The changes for people: grave ones first, all of them; of the others up to ``limit``."""
    grave = [str(c) for c in changes if c.grave]
    others = [str(c) for c in changes if not c.grave]
    shown_others = others[:limit]
    beyond = len(others) - len(shown_others)
    return grave + shown_others + ([f"    and {beyond} more changes"] if beyond else [])


def compare_unknown(
    subject: str, before: Mapping[str, Json], after: Mapping[str, Json]
) -> Iterator[Change]:
    """Fields keyd does not know, that came, went or changed."""
    for name in sorted(before.keys() | after.keys()):
        # By their texts: to Python 1 equals true, to readers of JSON it does not.
        if name in before and name in after and repr(before[name]) == repr(after[name]):
            continue
        old = shown(before[name]) if name in before else ""
        new = shown(after[name]) if name in after else ""
        if old != new:
            yield Change("field", f"{subject} {printable(name)}", old, new)
