"""What keydctl tuf ceremony answers, as text and as JSON with stable keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keyd.adapters.tufrepo import inspection
from keyd.adapters.tufrepo.bundle import Request
from keyd.adapters.tufrepo.ceremony import Outcome, Work
from keyd.adapters.tufrepo.ceremony_end import Aborted
from keyd.adapters.tufrepo.ceremony_exchange import Imported
from keyd.adapters.tufrepo.ceremony_keys import generated
from keyd.adapters.tufrepo.ceremony_waits import find_elsewhere, find_waiting
from keyd.adapters.tufrepo.inspection import RoleStatus
from keyd.cli import approvalshapes, output
from keyd.cli.tufshapes import missing_json
from keyd.content.refusal import printable
from keyd.model import ApprovalState, Ceremony, Phase

if TYPE_CHECKING:
    from keyd.client import Approval

_PEOPLE = (Phase.CONSENT, Phase.SIGN)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an open ceremony stands. ``staged``: the draft with its signatures, once there is
    one. ``next``: commands. ``approvals``: those that the phase needs and that are not used;
    ``elsewhere``: ids of such ones at other daemons."""

    work: Work
    staged: RoleStatus | None
    next: tuple[str, ...]
    approvals: tuple[Approval, ...] = ()
    elsewhere: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """True while people have something to do."""
        phase = self.work.ceremony.phase
        if any(a.state is ApprovalState.PENDING for a in self.approvals):
            return True
        return phase in _PEOPLE and not (self.staged and self.staged.is_complete)


def look(work: Work) -> Standing:
    """How it stands, without changing anything."""
    repository, ceremony = work.repository, work.ceremony
    found = inspection.status(repository.folder, repository.ring)
    staged = next((s for s in found if s.where == "staged" and s.role == "root"), None)
    folder = repository.folder.path
    commands = [f"keydctl tuf ceremony resume {folder}"]
    approvals, elsewhere = find_waiting(work), find_elsewhere(work)
    pending = [a.id for a in approvals if a.state is ApprovalState.PENDING]
    if ceremony.phase is Phase.SIGN and not (staged and staged.is_complete):
        verb = "import" if ceremony.facts.get("exchange") else "export"
        commands = [f"keydctl tuf ceremony {verb} {folder}" + " RESPONSE" * (verb == "import")]
    commands = [*(f"keydctl approve {each}" for each in (*pending, *elsewhere)), *commands]
    return Standing(work, staged, tuple(commands), approvals, elsewhere)


def ceremony_json(ceremony: Ceremony) -> dict[str, object]:
    """A ceremony as the daemon keeps it."""
    return {
        "id": ceremony.id,
        "repository": ceremony.repository,
        "phase": ceremony.phase.value,
        "step": ceremony.step,
        "plan": json.loads(ceremony.plan, strict=False),
        "facts": dict(ceremony.facts),
        "draft_sha256": hashlib.sha256(ceremony.draft).hexdigest() if ceremony.draft else "",
        "started_by": ceremony.started_by,
        "started_at": output.iso(ceremony.started_at),
        "changed_at": output.iso(ceremony.changed_at),
        "reason": ceremony.said,
    }


def standing_json(standing: Standing) -> dict[str, object]:
    """Where it stands."""
    staged = standing.staged
    return {
        **ceremony_json(standing.work.ceremony),
        "waits": standing.waits,
        "approvals": [_approval_json(a) for a in standing.approvals],
        "signatures": [
            {"keyid": s.keyid, "who": s.who, "state": s.state}
            for s in (staged.signatures if staged else ())
        ],
        "next": list(standing.next),
    }


def standing_text(standing: Standing) -> str:
    """Where it stands, for people."""
    lines = [_head(standing.work)]
    if standing.staged:
        rows = [(s.state, s.keyid[:16], s.who) for s in standing.staged.signatures]
        lines += ["", output.table(("SIGNATURE", "KEYID", "WHO"), rows)]
    waits = [_approval_line(a) for a in standing.approvals]
    waits += [f"approval {each} waits for consent at another daemon" for each in standing.elsewhere]
    lines += ["", *waits] if waits else []
    lines += ["", *(f"next: {command}" for command in standing.next)]
    return "\n".join(lines)


def _approval_json(a: Approval) -> dict[str, object]:
    return {
        "id": a.id,
        "state": a.state.value,
        "action": a.action,
        "subject": a.subject,
        "requester": a.requester,
        "progress": approvalshapes.progress(a),
        "missing": approvalshapes.missing(a),
    }


def _approval_line(a: Approval) -> str:
    what = f"approval {a.id} ({a.action} {approvalshapes.purpose(a)})"
    if a.state is not ApprovalState.PENDING:
        return f"{what}: all have consented, resume uses it"
    missing = approvalshapes.missing(a)
    return f"{what} waits: {approvalshapes.told(a)}" + (f"; missing: {missing}" if missing else "")


def _head(work: Work) -> str:
    ceremony, plan = work.ceremony, work.plan
    made = [name for _, name in generated(plan, ceremony.facts)]
    return output.fields(
        [
            ("ceremony", ceremony.id),
            ("repository", ceremony.repository),
            ("root", f"{plan.base} -> {work.version}"),
            ("phase", ceremony.phase.value),
            *(("plan", line) for line in plan.lines(lambda keyid: keyid[:16])),
            ("new key versions", ", ".join(made)),
            ("started", f"{output.when(ceremony.started_at)} by {ceremony.started_by}"),
            ("reason", ceremony.said),
        ]
    )


def outcome_json(outcome: Outcome, work: Work) -> dict[str, object]:
    """How far it came."""
    halt = outcome.halt
    waiting = None
    if halt is not None:
        waiting = {
            "why": halt.why,
            "needs": halt.needs,
            "missing": missing_json(halt.missing),
            "approvals": list(halt.approvals),
        }
    return {
        **ceremony_json(outcome.ceremony),
        "waiting": waiting,
        "next": _next(outcome, work),
        "published": list(outcome.published),
        "notes": list(outcome.notes),
    }


def outcome_text(outcome: Outcome, work: Work) -> str:
    """How far it came, for people."""
    ceremony, halt = outcome.ceremony, outcome.halt
    lines = [f"published {', '.join(outcome.published)}"] if outcome.published else []
    lines += outcome.notes
    lines.append(f"ceremony {ceremony.id}: {ceremony.phase}")
    if halt is not None:
        lines.append(f"waits: {halt.why}")
        lines += [f"  {m.who}: {m.why}" for m in halt.missing]
    return "\n".join([*lines, *(f"next: {command}" for command in _next(outcome, work))])


def _next(outcome: Outcome, work: Work) -> list[str]:
    if not outcome.ceremony.phase.is_open:
        return []
    resume = f"keydctl tuf ceremony resume {work.repository.folder.path}"
    return [*(outcome.halt.next.split("\n") if outcome.halt else ()), resume]


def none_json(ended: Sequence[Ceremony]) -> dict[str, object]:
    """That none is open, and the last one."""
    return {"phase": "", "last": ceremony_json(ended[0]) if ended else None}


def none_text(name: str, ended: Sequence[Ceremony], folder: str) -> str:
    """That none is open, for people."""
    last = f"; the last one, {ended[0].id}, is {ended[0].phase}" if ended else ""
    return f"no ceremony of {name} is open{last}\nnext: keydctl tuf ceremony start {folder}"


def request_json(request: Request, path: Path) -> dict[str, object]:
    """A bundle that was written."""
    return {
        "file": str(path),
        "id": request.id,
        "repository": request.repository,
        "version": request.version,
        "draft_sha256": request.draft_sha256,
        "expires": output.iso(request.expires),
        "history": [root.version for root in request.history],
    }


def request_text(request: Request, path: Path, folder: str) -> str:
    """A bundle that was written, for people."""
    return (
        f"wrote {path}: root {request.version} of {request.repository}, until "
        f"{output.when(request.expires)}\n"
        f"draft sha256 {request.draft_sha256}\n"
        f"each holder: keydctl tuf sign {path.name} --key KEY\n"
        f"then here: keydctl tuf ceremony import {folder} RESPONSE..."
    )


def imported_json(imported: Imported, work: Work) -> dict[str, object]:
    """Signatures that were added."""
    return {
        "ceremony": work.ceremony.id,
        "needs": imported.needs,
        "signatures": [
            {
                "keyid": one.keyid,
                "signer": one.signer,
                "receipt": None
                if one.logged is None
                else {
                    "origin": one.logged.origin,
                    "index": one.logged.index,
                    "principal": one.logged.principal,
                    "time": one.logged.time,
                    "key_version": one.logged.key_version,
                    "verified": one.logged.is_verified,
                },
            }
            for one in imported.taken
        ],
    }


def imported_text(imported: Imported, work: Work) -> str:
    """Signatures that were added, for people."""
    lines = []
    for one in imported.taken:
        receipt = "no receipt"
        if one.logged is not None:
            how = "verified" if one.logged.is_verified else "log key as the response claims"
            receipt = (
                f"entry {one.logged.index} of {printable(one.logged.origin)} by "
                f"{printable(one.logged.principal)}, {how}"
            )
        lines.append(f"added the signature of {one.keyid[:16]}: {receipt}")
    left = f"needs {imported.needs} more signature(s)" if imported.needs else "has all it needs"
    return "\n".join([*lines, f"root {work.version} {left}"])


def aborted_json(aborted: Aborted) -> dict[str, object]:
    """What was given up and what stays."""
    return {
        **ceremony_json(aborted.ceremony),
        "undone": list(aborted.undone),
        "stays": list(aborted.stays),
    }


def aborted_text(aborted: Aborted) -> str:
    """What was given up and what stays, for people."""
    lines = [f"ceremony {aborted.ceremony.id}: {aborted.ceremony.phase}", *aborted.undone]
    return "\n".join([*lines, *(f"stays: {line}" for line in aborted.stays)])
