"""What the commands about approvals answer, as text and as JSON with stable keys."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keyd.cli import output
from keyd.cli.explainshapes import change_json, plain
from keyd.content import change, describe
from keyd.content.documents import Document

if TYPE_CHECKING:
    from keyd.cli.approvalreview import Review
    from keyd.client import Approval, Requirement

HEADERS = ("ID", "STATE", "ACTION", "FOR", "ASKED BY", "EXPIRES", "CONSENTS", "NEXT")


def row(a: Approval) -> tuple[object, ...]:
    """One line of the list."""
    return (
        a.id,
        a.state.value,
        a.action,
        purpose(a),
        a.requester,
        output.when(a.expires_at),
        progress(a),
        f"keydctl approve {a.id}" if a.waits_for_me else "",
    )


def purpose(a: Approval) -> str:
    """Key or token, and what the requester says it is for."""
    subject = f"{a.subject}/versions/{a.key_version}" if a.key_version else a.subject
    return f"{subject} {_claimed(a)}".strip() or "all keys"


def progress(a: Approval) -> str:
    """How many of those that are needed have consented, as in 1/2."""
    have = sum(min(r.have, r.needed) for r in a.counts)
    return f"{have}/{sum(r.needed for r in a.counts)}"


def told(a: Approval) -> str:
    """How far it is, in words, as in ``1 of 2 consented (email:alice@example.org)``."""
    have, _, need = progress(a).partition("/")
    by = ", ".join(vote.principal for vote in a.votes)
    return f"{have} of {need} consented{f' ({by})' if by else ''}"


def missing(a: Approval) -> str:
    """Whose consent is missing, as the rules name them; empty when nobody's is."""
    gave = {vote.principal for vote in a.votes}
    texts = []
    for r in a.counts:
        if r.have < r.needed:
            left = [who for who in r.of if who not in gave]
            texts.append(f"{r.needed - r.have} of {', '.join(left) or 'those who may approve'}")
    return "; ".join(texts)


def waiting_line(a: Approval) -> str:
    """What ``watch`` says of one that waits for the person who watches."""
    return (
        f"{a.id}  {a.action} {purpose(a)}  asked by {a.requester}  until "
        f"{output.when(a.expires_at)}  look and consent: keydctl approve {a.id}"
    )


def approval_json(a: Approval) -> dict[str, object]:
    """An approval's stable keys, all as the daemon says."""
    return {
        "id": a.id,
        "state": a.state.value,
        "action": a.action,
        "subject": a.subject,
        "key_version": a.key_version,
        "repository": a.repository,
        "role": a.role,
        "metadata_version": a.metadata_version,
        "digest": a.digest.hex(),
        "summary": a.summary,
        "requester": a.requester,
        "reason": a.said,
        "requirements": [_requirement_json(r) for r in a.counts],
        "why": list(a.why),
        "votes": [
            {
                "principal": v.principal,
                "at": output.iso(v.at),
                "reason": v.said,
                "signature": v.signature,
                "signer": v.signer,
            }
            for v in a.votes
        ],
        "created_at": output.iso(a.created_at),
        "expires_at": output.iso(a.expires_at),
        "waits_for_me": a.waits_for_me,
    }


def review_json(r: Review) -> dict[str, object]:
    """An approval with what was read in its content here."""
    return approval_json(r.approval) | {
        "sha256": "" if r.is_digest_only else r.digest.hex(),
        "content": base64.b64encode(r.approval.content).decode(),
        "reads": plain(describe.summary(r.says)) if r.says else "",
        "lines": _lines(r),
        "problem": plain(r.problem.message) if r.problem else "",
        "parameters": None if r.parameters is None else dict(r.parameters),
        "against": plain(describe.summary(r.before)) if r.before else None,
        "changes": None
        if r.changes is None
        else [change_json(c) for c in sorted(r.changes, key=lambda c: not c.grave)],
        "lies": [plain(lie) for lie in r.lies],
        "cautions": [plain(caution) for caution in r.cautions],
    }


def review_text(r: Review, you: str = "") -> str:
    """What a person reads before consenting: the claims, then what was read here."""
    parts = [_claims(r.approval, you), _content(r)]
    if r.before is not None and r.changes is not None:
        parts.append(_changes(r))
    if r.cautions:
        parts.append("\n".join(f"mind: {plain(caution)}" for caution in r.cautions))
    if r.lies:
        parts.append("\n".join(f"THE DAEMON SAYS OTHERWISE: {plain(lie)}" for lie in r.lies))
    return "\n\n".join(parts)


def _claims(a: Approval, you: str) -> str:
    return output.fields(
        [
            ("approval", f"{a.id}, {a.state.value}"),
            ("asked by", a.requester),
            ("at", output.when(a.created_at)),
            ("reason", a.said or "(none given)"),
            ("action", f"{a.action} {a.subject or 'all keys'}"),
            ("key version", a.key_version or ""),
            ("claimed to be for", _claimed(a)),
            ("expires", output.when(a.expires_at)),
            *(("because", line) for line in a.why),
            *(("needed", _requirement(r)) for r in a.counts),
            *(("consented", f"{v.principal}, {output.when(v.at)}") for v in a.votes),
            ("you are", you),
        ]
    )


def _claimed(a: Approval) -> str:
    version = f" v{a.metadata_version}" if a.metadata_version else ""
    return f"{a.repository}:{a.role}{version}" if a.repository or a.role else ""


def _content(r: Review) -> str:
    digest = f"sha256: {r.digest.hex()}"
    if r.is_digest_only:
        return f"digest: {r.digest.hex()}, of bytes that are not here"
    size = f"{len(r.approval.content)} bytes"
    if r.parameters is not None:
        lines = [f"{plain(name)}: {describe.shown(value)}" for name, value in r.parameters.items()]
        return "\n".join([f"{digest}, {size}", "what would be done:", *_indented(lines)])
    if r.says is None:
        why = f": {plain(r.problem.message)}" if r.problem else ""
        return f"{digest}, {size}\ncontent: opaque, keyd cannot say what it means{why}"
    kind = "content" if isinstance(r.says, Document) else "certificate"
    head = f"{kind}: {plain(describe.summary(r.says))}"
    return "\n".join([f"{digest}, {size}", head, *_indented(_lines(r))])


def _lines(r: Review) -> list[str]:
    if r.says is None:
        return []
    return [plain(line) for line in describe.describe(r.says)[1:]]


def _changes(r: Review) -> str:
    assert r.before is not None
    assert r.changes is not None
    grave = sum(c.grave for c in r.changes)
    marked = f", {grave} grave (!)" if grave else ""
    since = f"since {plain(r.before_name)} ({plain(describe.summary(r.before))})"
    head = f"changes: {len(r.changes)}{marked}, {since}"
    return "\n".join([head, *_indented(plain(line) for line in change.lines(r.changes))])


def _requirement(r: Requirement) -> str:
    of = f" of {', '.join(r.of)}" if r.of else ""
    own = ", the requester counts" if r.own else ""
    signed = ", signed with a key of their own" if r.signed else ""
    return f"{r.needed}{of} by {r.rule}{own}{signed}; {r.have} consented"


def _requirement_json(r: Requirement) -> dict[str, object]:
    return {
        "rule": r.rule,
        "needed": r.needed,
        "have": r.have,
        "of": list(r.of),
        "own": r.own,
        "signed": r.signed,
    }


def _indented(lines: Iterable[str]) -> Sequence[str]:
    return [f"  {line}" for line in lines]
