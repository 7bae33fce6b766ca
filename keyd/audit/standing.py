"""How the log stands to a checkpoint somebody kept: the file outside, or a client.

A checkpoint of our own that is larger than our log, or that our log does not contain, means that
entries are gone: a restored backup, or a cut log. Signing with bound keys then stops until a
person accepts the loss. What was lost up to then is remembered, so that clients which still hold
checkpoints of the lost entries do not stop the daemon again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from keyd.audit.checkpoint import verify_checkpoint
from keyd.audit.note import VerifierKey
from keyd.audit.proofs import Proofs
from keyd.errors import LogProofError
from keyd.model import AuditRows, SetFlag

RESTORED = "restored"
"""Durable flag of a restored database (store/backup.py writes it)."""
LOSS = "log-loss"
"""Durable flag: a checkpoint of ours covers entries that are not there (Loss)."""


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


class Standing:
    """What stops signing with bound keys, as the durable flags say it."""

    def __init__(self, rows: AuditRows) -> None:
        self._rows = rows

    @property
    def why(self) -> str:
        """Entries are, or may be, gone, and nobody has accepted it. Empty when all is well."""
        loss = self._loss()
        if loss is not None and not loss.accepted:
            return loss.why
        if self._rows.get_flag(RESTORED) is not None:
            return "the database was restored from a backup and may lack the newest entries"
        return ""

    def new_loss(
        self, found: Comparison, whose: str, log_size: int, *, foreign_is_loss: bool
    ) -> Loss | None:
        """The loss that a comparison shows; None where it shows none, or none that is new.

        ``whose``: who kept the checkpoint, to begin a sentence.
        """
        foreign = foreign_is_loss and found.verdict is Verdict.FOREIGN
        if not foreign and not found.verdict.is_loss:
            return None
        known = self._loss()
        if known is not None and found.size <= known.largest:
            return None  # No larger than what is known, perhaps accepted: it tells nothing new.
        why = {
            Verdict.BEHIND: f"{whose} covers {found.size} entries, the log has {log_size}",
            Verdict.FOREIGN: f"{whose} is not of this log",
        }.get(found.verdict, f"{whose} does not fit the first {found.size} entries of the log")
        return Loss(why, found.size)

    def acceptance(self) -> list[SetFlag]:
        """What to write when a person has accepted the loss."""
        flags = [SetFlag(RESTORED, None)]
        loss = self._loss()
        if loss is not None:
            flags.append(SetFlag(LOSS, replace(loss, accepted=True).write()))
        return flags

    def _loss(self) -> Loss | None:
        return Loss.read(self._rows.get_flag(LOSS))
