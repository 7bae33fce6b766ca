"""What `keyd-server doctor` finds, and how it says it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Area(StrEnum):
    """What is looked at; also the names that ``--except`` takes."""

    CONFIGURATION = "configuration"
    POLICY = "policy"
    PERMISSIONS = "permissions"
    MODULE = "module"
    PIN = "pin"
    TLS = "tls"
    DAEMON = "daemon"
    PCSCD = "pcscd"
    READER = "reader"
    TOKEN = "token"  # noqa: S105
    DISK = "disk"
    DATABASE = "database"
    CLOCK = "clock"
    BACKUP = "backup"
    CHECKPOINTS = "checkpoints"
    UNBOUND_KEYS = "unbound-keys"
    SINGLE_KEY_ROOTS = "single-key-roots"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``todo``: what to do, a command where there is one; empty when
    all is well. ``why``: what comes of leaving it; empty when all is well."""

    area: Area
    what: str
    why: str = ""
    todo: str = ""

    @property
    def is_well(self) -> bool:
        """True when nothing has to be done."""
        return not self.todo


def must_act(findings: Sequence[Finding], known: Collection[str] = ()) -> list[Finding]:
    """Those that ask for something, but for areas in ``known``."""
    return [f for f in findings if not f.is_well and f.area not in known]


def as_json(findings: Sequence[Finding], known: Collection[str]) -> dict[str, object]:
    """``ok``: nothing must be done. ``known``: areas that do not count."""
    return {
        "ok": not must_act(findings, known),
        "known": sorted(known),
        "findings": [
            {**asdict(f), "area": str(f.area), "ok": f.is_well or f.area in known} for f in findings
        ],
    }


def as_lines(findings: Sequence[Finding], known: Collection[str]) -> list[str]:
    """What is well in a line each, then what is not, each with why and what to do."""
    lines = [f"ok     {f.area}: {f.what}" for f in findings if f.is_well]
    lines += [f"known  {f.area}: {f.what}" for f in findings if not f.is_well and f.area in known]
    wrong = must_act(findings, known)
    for finding in wrong:
        lines += [
            "",
            f"WRONG  {finding.area}: {finding.what}",
            *([f"  why: {finding.why}"] if finding.why else []),
            f"  do:  {finding.todo}",
        ]
    how_many = f"{len(wrong)} thing{'' if len(wrong) == 1 else 's'} to do"
    return [*lines, "", how_many if wrong else "nothing has to be done"]
