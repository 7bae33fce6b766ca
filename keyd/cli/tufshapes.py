"""What keydctl tuf answers, as text and as JSON with stable keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from keyd.adapters.tufrepo.cosign import Cosigned
from keyd.adapters.tufrepo.inspection import RoleStatus, Shown, SignatureLine
from keyd.adapters.tufrepo.report import Missing, Report, Waiting
from keyd.adapters.tufrepo.rotation import Rotated
from keyd.adapters.tufrepo.verification import Verified
from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings


def missing_json(missing: Iterable[Missing]) -> list[dict[str, str]]:
    """Signatures that are missing."""
    return [{"keyid": m.keyid, "who": m.who, "why": m.why, "approval": m.approval} for m in missing]


def approval_lines(missing: Iterable[Missing]) -> list[str]:
    """Which approvals have to be given before the same command goes on."""
    return [
        f"  needs consent: keydctl approve {approval}; then run the same command again"
        for approval in dict.fromkeys(m.approval for m in missing)
        if approval
    ]


def report_json(report: Report) -> dict[str, object]:
    """What a change did."""
    return {
        "published": report.published,
        "waiting": [
            {
                "role": w.role,
                "version": w.version,
                "file": w.path,
                "needs": w.needs,
                "missing": missing_json(w.missing),
            }
            for w in report.waiting
        ],
        "notes": report.notes,
    }


def report_text(report: Report) -> str:
    """What a change did, for people."""
    lines = [f"published {', '.join(report.published)}"] if report.published else []
    lines += [line for waiting in report.waiting for line in waiting_lines(waiting)]
    return "\n".join(lines or ["nothing to change"])


def waiting_lines(waiting: Waiting) -> list[str]:
    """Who has to sign what."""
    approvals = approval_lines(waiting.missing)
    by_others = waiting.needs > sum(1 for m in waiting.missing if m.approval)
    return [
        f"{waiting.role} {waiting.version} needs {waiting.needs} more signature(s): {waiting.path}",
        *(f"  {m.who}: {m.why}" for m in waiting.missing),
        *approvals,
        *([f"  sign it with: keydctl tuf sign {waiting.path}"] if by_others else []),
    ]


def rotated_json(rotated: Rotated) -> dict[str, object]:
    """What a rotation did."""
    return {
        **report_json(rotated.report),
        "role": rotated.role,
        "old_keyid": rotated.old,
        "new_keyid": rotated.new,
        "activated": rotated.activated,
        "disabled": rotated.disabled,
    }


def rotated_text(rotated: Rotated) -> str:
    """What a rotation did, for people."""
    lines = [report_text(rotated.report)]
    if rotated.old and not rotated.new and not rotated.report.waiting:
        lines.append(f"{rotated.role}: {rotated.old[:16]} signs no more")
    if rotated.activated:
        old = f" instead of {rotated.old[:16]}" if rotated.old else ""
        lines.append(f"{rotated.role}: {rotated.activated} ({rotated.new[:16]}) signs{old}")
    if rotated.disabled:
        lines.append(f"disabled {rotated.disabled}")
    return "\n".join(lines)


def verified_json(verified: Verified) -> dict[str, object]:
    """What a client accepted."""
    return {
        "verified": True,
        "trusted_root": verified.trusted,
        "root": verified.root,
        "timestamp": verified.timestamp,
        "targets": list(verified.targets),
    }


def _signature_json(lines: Sequence[SignatureLine]) -> list[dict[str, str]]:
    return [{"keyid": s.keyid, "who": s.who, "state": s.state} for s in lines]


def status_json(status: Sequence[RoleStatus], now: datetime) -> list[dict[str, object]]:
    """How each role stands."""
    return [
        {
            "role": s.role,
            "where": s.where,
            "version": s.version,
            "expires": output.iso(s.expires),
            "days_left": round(s.days_left(now), 2),
            "threshold": s.threshold,
            "valid": s.valid,
            "complete": s.is_complete,
            "file": s.path,
            "signatures": _signature_json(s.signatures),
        }
        for s in status
    ]


def status_text(status: Sequence[RoleStatus], now: datetime) -> str:
    """How each role stands, for people."""
    rows = []
    for s in status:
        absent = ", ".join(x.who or x.keyid[:16] for x in s.signatures if x.state != "valid")
        rows.append(
            (
                s.role,
                s.version,
                s.where,
                f"{s.valid} of {s.threshold}",
                output.when(s.expires),
                _left(s.days_left(now)),
                "" if s.is_complete and s.where == "published" else absent,
            )
        )
    headers = ("ROLE", "VERSION", "WHERE", "SIGNED", "EXPIRES", "LEFT", "MISSING")
    return output.table(headers, rows)


def _left(days: float) -> str:
    if days < 0:
        return "EXPIRED"
    return f"{days:.0f}d" if days >= 2 else f"{days * 24:.0f}h"


def shown_json(shown: Shown) -> dict[str, object]:
    """What a file says."""
    return {
        "type": shown.kind,
        "role": shown.role,
        "version": shown.version,
        "expires": output.iso(shown.expires),
        "content": dict(shown.facts),
        "judged_by": shown.judged_by,
        "signatures": _signature_json(shown.signatures),
    }


def shown_text(shown: Shown) -> str:
    """What a file says, for people."""
    head = [
        ("type", shown.kind),
        ("role", "" if shown.role == shown.kind else shown.role),
        ("version", shown.version),
        ("expires", output.when(shown.expires)),
        *shown.facts,
    ]
    rows = [(s.state, s.keyid[:16], s.who) for s in shown.signatures]
    by = f" (by {shown.judged_by})" if shown.judged_by else " (no root here to judge them by)"
    signed = output.table(("SIGNATURE", "KEYID", "WHO"), rows) if rows else "no signatures"
    return f"{output.fields(head)}\n\nsignatures{by}:\n{signed}"


def cosigned_json(cosigned: Cosigned) -> dict[str, object]:
    """Whose signature was added."""
    return {
        "role": cosigned.role,
        "version": cosigned.version,
        "added": list(cosigned.added),
        "missing": missing_json(cosigned.missing),
        "needs": None if cosigned.needs < 0 else cosigned.needs,
    }


def cosigned_text(cosigned: Cosigned) -> str:
    """Whose signature was added, for people."""
    name = f"{cosigned.role} {cosigned.version}"
    lines = [f"signed {name} with {keyid[:16]}" for keyid in cosigned.added]
    if not cosigned.added:
        lines.append(f"{name}: no signature was added")
        lines += [f"  {m.who}: {m.why}" for m in cosigned.missing]
        lines += approval_lines(cosigned.missing)
    if cosigned.needs == 0:
        lines.append(f"{name} has all the signatures it needs")
    elif cosigned.needs > 0:
        lines.append(f"{name} needs {cosigned.needs} more signature(s)")
    return "\n".join(lines)


def say_notes(settings: Settings, report: Report) -> None:
    """Say beside the result what somebody should know; in JSON it is part of the result."""
    for note in () if settings.json else report.notes:
        output.note(note)


def answer(settings: Settings, report: Report) -> int:
    """Say what a change did; the exit code tells whether people still have to sign."""
    say_notes(settings, report)
    settings.answer(report_json(report), lambda: report_text(report))
    return Exit.NEEDS_PEOPLE if report.waiting else Exit.DONE
