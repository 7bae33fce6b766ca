"""How the log stands to a checkpoint somebody kept: the file outside, or a client.

A checkpoint of our own that is larger than our log, or that our log does not contain, means that
entries are gone: a restored backup, or a cut log. Signing with bound keys then stops until a
person accepts the loss. What was lost up to then is remembered, so that clients which still hold
checkpoints of the lost entries do not stop the daemon again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from keyd.audit.checkpoint import verify_checkpoint
from keyd.audit.note import VerifierKey
from keyd.audit.proofs import Proofs
from keyd.errors import LogProofError


class Verdict(StrEnum):
    """How the log stands to a checkpoint. ``foreign``: not signed by this log."""

    SAME = "same"
    AHEAD = "ahead"
    BEHIND = "behind"
    INCONSISTENT = "inconsistent"
    FOREIGN = "foreign"

    @property
    def is_loss(self) -> bool:
        """Entries that were in the log are not there."""
        return self in (Verdict.BEHIND, Verdict.INCONSISTENT)


@dataclass(frozen=True, slots=True)
class Comparison:
    """``size``: the checkpoint's; 0 for a foreign one."""

    verdict: Verdict
    size: int


def compare(
    note: str, origin: str, keys: Sequence[VerifierKey], proofs: Proofs, log_size: int
) -> Comparison:
    """Compare the log with a checkpoint; blocks."""
    try:
        checkpoint = verify_checkpoint(note, keys)
    except LogProofError:
        return Comparison(Verdict.FOREIGN, 0)
    if checkpoint.origin != origin:
        return Comparison(Verdict.FOREIGN, 0)
    if checkpoint.size > log_size:
        return Comparison(Verdict.BEHIND, checkpoint.size)
    if proofs.root(checkpoint.size) != checkpoint.root_hash:
        return Comparison(Verdict.INCONSISTENT, checkpoint.size)
    same = checkpoint.size == log_size
    return Comparison(Verdict.SAME if same else Verdict.AHEAD, checkpoint.size)


@dataclass(frozen=True, slots=True)
class Loss:
    """Entries known to be lost. ``largest``: of the checkpoints that show it; ``accepted``: a
    person knows. Kept as JSON in a durable flag."""

    why: str
    largest: int
    accepted: bool = False

    @classmethod
    def read(cls, flag: str | None) -> Loss | None:
        """Read the flag's value back."""
        if flag is None:
            return None
        fields = json.loads(flag)
        return cls(str(fields["why"]), int(fields["largest"]), bool(fields["accepted"]))

    def write(self) -> str:
        """The flag's value."""
        return json.dumps({"why": self.why, "largest": self.largest, "accepted": self.accepted})

    def covers(self, found: Comparison) -> bool:
        """True when a person accepted this very loss: a checkpoint no larger than those known
        when it was accepted tells nothing new."""
        return self.accepted and found.size <= self.largest
