"""Keeps refusals from filling the log. Pure.

The first refusal of a principal, action, reason and rule is written at once. Those that follow
within the interval are counted, and written as one entry with their number when it ends. Callers
that are nobody (no principal) are only counted, for the metrics. So knocking costs the log one
entry an interval for each principal, reason and rule (a few dozen: policy and daemon name them,
not the caller), however fast it is; and nobody hides one attack behind the noise of another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from keyd.model import EntryDraft

MAX_KINDS = 10_000
"""Different (principal, action, reason, rule) held at a time; more are counted as dropped."""

Kind = tuple[str, str, str, str]


@dataclass(slots=True)
class _Repeated:
    draft: EntryDraft
    ends: float
    count: int = 0


class Refusals:
    """Counts; ``now`` is any clock in seconds that never runs back."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._kinds: dict[Kind, _Repeated] = {}
        self.unauthenticated = 0
        """Calls of nobody, never written."""
        self.collapsed = 0
        """Refusals that stand in a counted entry, or will."""
        self.dropped = 0
        """Refusals that were not written: too many kinds, or no room on the disk."""

    def admit(self, draft: EntryDraft, now: float) -> bool:
        """True when this refusal is to be written at once; else it was counted."""
        principal = draft.caller.principal.id
        if not principal or draft.reason_code == "UNKNOWN_CALLER":
            self.unauthenticated += 1
            return False
        kind = (principal, draft.action, draft.reason_code, draft.rule)
        known = self._kinds.get(kind)
        if known is not None:
            known.count += 1
            known.draft = draft
            self.collapsed += 1
            return False
        if len(self._kinds) >= MAX_KINDS:
            self.dropped += 1
            return False
        self._kinds[kind] = _Repeated(draft, now + self._interval_s)
        return True

    def due(self, now: float, *, all_of_them: bool = False) -> list[EntryDraft]:
        """Take the counted entries whose interval is over (or all): of each kind the newest
        draft, with the count. A kind without repetitions is forgotten."""
        found: list[EntryDraft] = []
        for kind, known in list(self._kinds.items()):
            if not all_of_them and now < known.ends:
                continue
            if known.count == 0:
                del self._kinds[kind]
                continue
            found.append(
                replace(
                    known.draft,
                    count=known.count,
                    details={**known.draft.details, "shown": "the newest of the repeated"},
                )
            )
            known.count, known.ends = 0, now + self._interval_s
        return found
