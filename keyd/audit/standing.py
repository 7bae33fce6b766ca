"""How the log stands to a checkpoint somebody kept: the file outside, or a client.

A checkpoint of our own that is larger than our log, or that our log does not contain, means that
entries are gone: a restored backup, or a cut log. Signing with bound keys then stops until a
person accepts the loss; the log then goes on under a new origin (origins.py). What was lost up to
then is remembered: clients which still hold checkpoints of the lost entries are told so, and do
not stop the daemon again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from keyd.audit import merkle
from keyd.audit.checkpoint import parse_checkpoint, verify_checkpoint
from keyd.audit.note import VerifierKey
from keyd.audit.origins import ORIGINS, Ended, Origins, under_all
from keyd.audit.proofs import Proofs
from keyd.errors import LogProofError
from keyd.model import AuditRows, SetFlag, TreeHead

RESTORED = "restored"
"""Durable flag of a restored database (store/backup.py writes it)."""
LOSS = "log-loss"
"""Durable flag: a checkpoint of ours covers entries that are not there (Loss)."""


class Verdict(StrEnum):
    """How the log stands to a checkpoint. ``succeeded``: it covers entries whose loss a person has
    accepted, the log goes on under another origin. ``foreign``: not signed by this log."""

    SAME = "same"
    AHEAD = "ahead"
    BEHIND = "behind"
    INCONSISTENT = "inconsistent"
    SUCCEEDED = "succeeded"
    FOREIGN = "foreign"

    @property
    def is_loss(self) -> bool:
        """Entries that were in the log are not there."""
        return self in (Verdict.BEHIND, Verdict.INCONSISTENT)


@dataclass(frozen=True, slots=True)
class Comparison:
    """``size`` and ``origin``: the checkpoint's; 0 and empty for a foreign one."""

    verdict: Verdict
    size: int
    origin: str = ""


def compare(
    note: str, origins: Origins, keys: Sequence[VerifierKey], proofs: Proofs, log_size: int
) -> Comparison:
    """Compare the log with a checkpoint; blocks. ``keys``: of the log, under any name."""
    try:
        origin = parse_checkpoint(note).origin
        if not origins.is_ours(origin):
            return Comparison(Verdict.FOREIGN, 0)
        checkpoint = verify_checkpoint(note, under_all(keys, [origin]))
    except LogProofError:
        return Comparison(Verdict.FOREIGN, 0)
    ended = origins.find_ended(origin)
    if ended is None and origin != origins.current:
        # Signed by us, after a state that we have lost: its acceptance of a loss is lost too.
        return Comparison(Verdict.BEHIND, checkpoint.size, origin)
    # Under an ended origin only what the log had then can be the same.
    had = log_size if ended is None else ended.size
    if checkpoint.size <= had and proofs.root(checkpoint.size) == checkpoint.root_hash:
        same = checkpoint.size == log_size
        return Comparison(Verdict.SAME if same else Verdict.AHEAD, checkpoint.size, origin)
    if ended is not None and ended.intact < checkpoint.size <= ended.largest:
        return Comparison(Verdict.SUCCEEDED, checkpoint.size, origin)
    verdict = Verdict.BEHIND if checkpoint.size > had else Verdict.INCONSISTENT
    return Comparison(verdict, checkpoint.size, origin)


@dataclass(frozen=True, slots=True)
class Loss:
    """Entries known to be lost. ``largest``: of the checkpoints that show it. ``origin``: theirs,
    empty for a foreign one, where ``note`` is the SHA-256 of it, hex. ``size``: entries the log
    had when it was found; those before are there, unless it is ``inconsistent``. ``accepted``: a
    person knows. Kept as JSON in a durable flag."""

    why: str
    largest: int
    accepted: bool = False
    origin: str = ""
    size: int = 0
    inconsistent: bool = False
    note: str = ""

    @classmethod
    def read(cls, flag: str | None) -> Loss | None:
        """Read the flag's value back."""
        return None if flag is None else cls(**json.loads(flag))

    def write(self) -> str:
        """The flag's value."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a person accepts. ``loss``: in words. ``details``: for the entry. ``origins``: the
    names from then on. ``flags``: what to write with the entry."""

    loss: str
    details: Mapping[str, str]
    origins: Origins
    flags: tuple[SetFlag, ...]


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

    def origins(self, base: str) -> Origins:
        """The log's names. ``base``: the configured origin."""
        return Origins.read(base, self._rows.get_flag(ORIGINS))

    def new_loss(
        self, found: Comparison, note: str, whose: str, log_size: int, *, foreign_is_loss: bool
    ) -> Loss | None:
        """The loss that a comparison shows; None where it shows none, or none that is new.

        ``whose``: who kept the checkpoint, to begin a sentence.
        """
        foreign = foreign_is_loss and found.verdict is Verdict.FOREIGN
        if not foreign and not found.verdict.is_loss:
            return None
        digest = hashlib.sha256(note.encode()).hexdigest() if foreign else ""
        size, inconsistent = found.size, found.verdict is Verdict.INCONSISTENT
        known = self._loss()
        if known is not None and (known.origin, known.note) == (found.origin, digest):
            # What was accepted of an origin is in Origins: what is a loss still, is a new one.
            settled = known.accepted and bool(found.origin)
            if not settled and size <= known.largest and known.inconsistent >= inconsistent:
                return None
            if not settled:
                size, inconsistent = max(size, known.largest), inconsistent or known.inconsistent
                log_size = min(log_size, known.size)  # the rest came after the first sight
        why = {
            Verdict.BEHIND: f"{whose} covers {found.size} entries, the log has {log_size}",
            Verdict.FOREIGN: f"{whose} is not of this log",
        }.get(found.verdict, f"{whose} does not fit the first {found.size} entries of the log")
        return Loss(
            why, size, False, found.origin, log_size, inconsistent=inconsistent, note=digest
        )

    def describe(self, base: str, head: TreeHead) -> Mapping[str, str]:
        """What would be accepted; the same until more is lost, however the log grows."""
        if not self.why:
            return {}
        accepted = self.acceptance(base, head, datetime.fromtimestamp(0, UTC))
        restored = self._rows.get_flag(RESTORED) or ""
        return {
            "loss": accepted.loss,
            "lost_from": accepted.details["lost_from"],
            "lost_to": accepted.details["lost_to"],
            "origin": self.origins(base).current,
            **({"restored": hashlib.sha256(restored.encode()).hexdigest()} if restored else {}),
        }

    def acceptance(self, base: str, head: TreeHead, now: datetime) -> Acceptance:
        """What to write when a person accepts the loss; ``head``: the log as it is."""
        origins, loss = self.origins(base), self._loss()
        restored = self._rows.get_flag(RESTORED)
        pending = loss if loss is not None and not loss.accepted else None
        intact, largest = head.size, head.size
        if restored is not None:
            intact = min(intact, int(json.loads(restored)["size"]))
        if pending is not None:
            intact = 0 if pending.inconsistent else min(intact, pending.size)
            largest = max(largest, pending.largest)
        details: dict[str, str] = {}
        if pending is not None and restored is None and origins.find_ended(pending.origin):
            # Known to be lost already, and now to be more; the log in force lacks nothing.
            after = origins.with_larger(pending.origin, intact, pending.largest)
            ended = after.find_ended(pending.origin)
            intact = ended.intact if ended else intact
        else:
            root = merkle.root_hash(head.frontier)
            ends = Ended(origins.suffix, intact, head.size, largest)
            lost_origin = pending.origin if pending is not None else ""
            after = origins.after_loss(ends, root, now, lost_origin=lost_origin)
            details = {"old_origin": origins.current, "origin": after.current}
        details["lost_from"] = str(intact) if intact or not largest else "unknown"
        details["lost_to"] = str(pending.largest) if pending and pending.origin else "unknown"
        flags = [SetFlag(RESTORED, None), SetFlag(ORIGINS, after.write())]
        if pending is not None:
            flags.append(SetFlag(LOSS, replace(pending, accepted=True).write()))
        return Acceptance(self.why, details, after, tuple(flags))

    def _loss(self) -> Loss | None:
        return Loss.read(self._rows.get_flag(LOSS))
