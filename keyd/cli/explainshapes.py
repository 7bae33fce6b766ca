"""What keydctl explain answers, as text and as JSON with stable keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyd.cli import output
from keyd.cli.exits import Exit, exit_code
from keyd.cli.explainfile import Reading
from keyd.cli.explainsignatures import Count, Judged
from keyd.cli.explainverdict import CONSENT, must_change, verdict
from keyd.content import change, describe
from keyd.content.change import Change
from keyd.content.documents import Document
from keyd.content.refusal import printable
from keyd.errors import ContentError, KeydError

if TYPE_CHECKING:
    from keyd.client import Signature


@dataclass(frozen=True, slots=True)
class Explained:
    """All that is known before a signature is asked for.

    ``reading``: None for a file of which nothing can be signed; ``outcome`` then says why.
    ``old_name``, ``old``: what the file was compared with. ``changes``: None where there was
    nothing to compare. ``outcome``: the daemon's answer or refusal; None where it was not asked.
    ``encoding``: of the signature it would give.
    """

    file: str
    reading: Reading | None
    old_name: str = ""
    old: Document | None = None
    changes: tuple[Change, ...] | None = None
    signatures: tuple[Judged, ...] = ()
    counts: tuple[Count, ...] = ()
    outcome: Signature | KeydError | None = None
    encoding: str = ""

    @property
    def code(self) -> Exit:
        """What a script should do."""
        if isinstance(self.outcome, KeydError):
            return exit_code(self.outcome)
        return Exit.NEEDS_PEOPLE if self.outcome and self.outcome.needs else Exit.DONE


def plain(text: str) -> str:
    """A text that may hold words of a file, in one line that cannot steer a terminal."""
    return output.printable(text).replace("\n", "\\n").replace("\t", "\\t")


def explained_json(e: Explained) -> dict[str, object]:
    """The stable keys of an explanation."""
    reading = e.reading
    return {
        "file": e.file,
        "form": _form(reading),
        "kind": reading.kind if reading else "",
        "size_bytes": len(reading.payload) if reading else None,
        "sha256": hashlib.sha256(reading.payload).hexdigest() if reading else "",
        "is_verbatim": reading.is_verbatim if reading else None,
        "summary": _summary(reading),
        "lines": _lines(reading),
        "problem": _problem_json(reading.problem) if reading else None,
        "not_signed": sorted(plain(name) for name in reading.outside) if reading else [],
        "against": describe.summary(e.old) if e.old else None,
        "changes": None if e.changes is None else [change_json(c) for c in _grave_first(e)],
        "signatures": [_judged_json(j) for j in e.signatures],
        "signatures_problem": _problem_json(reading.signatures_problem) if reading else None,
        "counts": [_count_json(c) for c in e.counts],
        "decision": _decision_json(e) if e.outcome is not None else None,
    }


def explained_text(e: Explained) -> str:
    """The explanation for people: what it says, what changes, who signed, the verdict."""
    parts = [_file_text(e.file, e.reading)]
    parts += [_content_text(e.reading)] if e.reading else []
    parts += [_changes_text(e)] if e.old and e.reading else []
    parts += [_signatures_text(e)] if e.reading and e.reading.is_envelope else []
    parts += [_decision_text(e)] if e.outcome is not None else []
    return "\n\n".join(parts)


def unread(reading: Reading) -> str:
    """Why nobody can be sure what would be signed; empty where keyd has read it strictly."""
    if reading.problem is None:
        return ""
    why = reading.problem.message
    if reading.is_untidy and "not canonical" not in why:
        why = f"not canonical JSON: {why}"
    return plain(why)


def _form(reading: Reading | None) -> str:
    if reading is None:
        return "unusable"
    return "metadata-file" if reading.is_envelope else "bare"


def _summary(reading: Reading | None) -> str:
    return plain(describe.summary(reading.content)) if reading and reading.content else ""


def _lines(reading: Reading | None) -> list[str]:
    """What the document says beyond its summary."""
    if reading is None or reading.content is None:
        return []
    return [plain(line) for line in describe.describe(reading.content)[1:]]


def _grave_first(e: Explained) -> list[Change]:
    return sorted(e.changes or (), key=lambda c: not c.grave)


def _problem_json(problem: ContentError | None) -> dict[str, str] | None:
    if problem is None:
        return None
    return {
        "problem": problem.facts["problem"],
        "message": plain(problem.message),
        "field": problem.facts.get("field", ""),
    }


def change_json(c: Change) -> dict[str, object]:
    """A change's stable keys."""
    return {
        "kind": c.kind,
        "subject": plain(c.subject),
        "before": plain(c.before),
        "after": plain(c.after),
        "grave": c.grave,
    }


def _judged_json(j: Judged) -> dict[str, object]:
    return {"keyid": printable(j.keyid), "state": j.state, "sources": list(j.sources)}


def _count_json(c: Count) -> dict[str, object]:
    return {
        "source": c.source,
        "role": c.role,
        "signers": c.signers,
        "threshold": c.threshold,
    }


def _decision_json(e: Explained) -> dict[str, object]:
    signed, error = (None, e.outcome) if isinstance(e.outcome, KeydError) else (e.outcome, None)
    return {
        "allowed": error is None,
        "verdict": verdict(e.code),
        "exit_code": int(e.code),
        "key_version": signed.key_version if signed else "",
        "scheme": signed.scheme.value if signed else "",
        "encoding": e.encoding if signed else "",
        "keyid": signed.keyid if signed else "",
        "rule": signed.rule if signed else error.facts.get("rule", "") if error else "",
        "daemon_reads": signed.summary if signed else "",
        "unbound": signed.unbound if signed else None,
        "reissued": signed.reissued if signed else None,
        "checks": [plain(line) for line in signed.checks] if signed else [],
        "needs": [plain(line) for line in signed.needs] if signed else [],
        "refusal": _refusal_json(error) if error else None,
        "must_change": must_change(error) if error else CONSENT if signed and signed.needs else "",
    }


def _refusal_json(error: KeydError) -> dict[str, object]:
    """As errors are everywhere; its texts may quote the file."""
    facts = {name: plain(value) for name, value in error.facts.items()}
    told = {"message": plain(error.message), "hint": plain(error.hint), "facts": facts}
    return output.error_json(error) | told


def _file_text(file: str, reading: Reading | None) -> str:
    if reading is None:
        return output.fields([("file", file)])
    form = "the bytes to sign, as they are"
    if reading.is_envelope:
        written = "" if reading.is_verbatim else ", which the file writes another way"
        form = f"a metadata file; signed is the canonical form of its signed part{written}"
    return output.fields(
        [
            ("file", file),
            ("form", form),
            ("signed bytes", f"{len(reading.payload)} bytes"),
            ("sha256", hashlib.sha256(reading.payload).hexdigest()),
        ]
    )


def _content_text(reading: Reading) -> str:
    lines = []
    if reading.content is not None:
        lines += [f"content: {_summary(reading)}", *_indented(_lines(reading))]
    else:
        lines.append("content: opaque, keyd cannot say what it means")
    if why := unread(reading):
        lines.append(f"  not as it has to be: {why}" if reading.content else f"  {why}")
    lines += [
        f"  not signed, only beside it: {printable(name)} = {describe.shown(value)}"
        for name, value in sorted(reading.outside.items())[: describe.MAX_LISTED]
    ]
    return "\n".join(lines)


def _changes_text(e: Explained) -> str:
    since = f"since {plain(e.old_name)} ({describe.summary(e.old)})" if e.old else ""
    if e.changes is None:
        why = "another role" if e.reading and e.reading.content else "its content cannot be read"
        return f"changes: none can be listed {since}: {why}"
    grave = sum(c.grave for c in e.changes)
    told = f", {grave} grave (!)" if grave else ""
    head = f"changes: {len(e.changes)}{told}, {since}"
    return "\n".join([head, *_indented(plain(line) for line in change.lines(e.changes))])


def _signatures_text(e: Explained) -> str:
    assert e.reading is not None
    if e.reading.signatures_problem or e.reading.content is None:
        problem = e.reading.signatures_problem or e.reading.problem
        why = plain(problem.message) if problem else ""
        return f"signatures in the file: not read: {why}"
    lines = [f"signatures in the file: {len(e.reading.signatures) or 'none'}"]
    for j in e.signatures:
        by = f", by {' and '.join(plain(s) for s in j.sources)}" if j.sources else ""
        lines.append(f"  {printable(j.keyid)} {j.state}{by}")
    lines += [
        f"  {plain(c.role)}, as {plain(c.source)} has it: {c.signers} of {c.threshold} needed"
        for c in e.counts
    ]
    return "\n".join(lines)


def _decision_text(e: Explained) -> str:
    if isinstance(e.outcome, KeydError):
        return _refusal_text(e.outcome)
    assert e.outcome is not None
    signed = e.outcome
    return output.fields(
        [
            ("verdict", verdict(e.code)),
            ("must change", CONSENT if signed.needs else ""),
            ("with", signed.key_version),
            ("scheme", f"{signed.scheme}, {e.encoding}"),
            ("allowed by", signed.rule),
            *(("checked", line) for line in signed.checks),
            *(("needs consent", line) for line in signed.needs),
            ("the daemon reads", signed.summary),
            ("so far", "nothing was signed, and no token was asked"),
        ]
    )


def _refusal_text(error: KeydError) -> str:
    return output.fields(
        [
            ("verdict", f"{verdict(exit_code(error))} ({error.reason})"),
            ("why", error.message),
            ("rule", error.facts.get("rule", "")),
            ("must change", must_change(error)),
            ("hint", error.hint),
            ("request id", error.request_id),
        ]
    )


def _indented(lines: Iterable[str]) -> Sequence[str]:
    return [f"  {line}" for line in lines]
