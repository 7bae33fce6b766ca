"""What the log says of roles: one entry for a change, whatever number of marks it moves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from keyd.approvals import Approvals
from keyd.content.refusal import printable
from keyd.errors import KeydError
from keyd.gate import Gate, rule_of
from keyd.model import AuditLog, Caller, Context, Effect, EntryDraft, Mark, Outcome
from keyd.rules.evidence import Change, Evidence

_MAX_ROLES_TOLD = 24
"""Roles that one entry tells of one by one; the others are behind a hash of all."""


def change_line(change: Change) -> str:
    """What a change does to a mark: versions, states and digests before and after."""
    return f"{_said(change.before)} -> {_said(change.mark)}"


def _said(mark: Mark | None) -> str:
    """Version, state and digest of the newest, and of the complete or published one where that is
    another."""
    if mark is None:
        return "nothing"
    told = f"v{mark.newest.version} {mark.state} sha256:{mark.newest.digest.hex()}"
    if mark.complete is not None and not mark.is_whole:
        word = "published" if mark.published_before else "complete"
        told += f", {word} v{mark.complete.version} sha256:{mark.complete.digest.hex()}"
    return told


class RoleEntries:
    """Writes them."""

    def __init__(self, gate: Gate, approvals: Approvals, audit: AuditLog) -> None:
        self._gate = gate
        self._approvals = approvals
        self._audit = audit

    async def changed(
        self,
        caller: Caller,
        action: str,
        evidence: Evidence,
        *,
        said: str,
        effects: Sequence[Effect],
    ) -> None:
        """Marks follow evidence. Raises the effects' conflicts."""
        marks = [change.mark for change in evidence.changes]
        lines = {printable(c.mark.role): change_line(c) for c in evidence.changes}
        details = dict(list(lines.items())[:_MAX_ROLES_TOLD])
        if len(lines) > _MAX_ROLES_TOLD:
            told = "\n".join(f"{role} {line}" for role, line in sorted(lines.items()))
            digest = hashlib.sha256(told.encode()).hexdigest()
            more = len(lines) - _MAX_ROLES_TOLD
            details["roles"] = f"{more} more; the lines of all of them have SHA-256 {digest}"
        if evidence.notes:
            details["notes"] = "; ".join(evidence.notes)
        context = Context(marks[0].repository, marks[0].role if len(marks) == 1 else "")
        await self._enter(caller, action, context, details, said, effects)

    async def given_up(
        self,
        caller: Caller,
        action: str,
        before: Mark,
        after: Mark | None,
        *,
        said: str,
        effects: Sequence[Effect],
    ) -> None:
        """A person gives up a version, or a whole role. Raises the effects' conflicts."""
        details = {printable(before.role): f"{_said(before)} -> {_said(after)}"}
        context = Context(before.repository, before.role)
        await self._enter(caller, action, context, details, said, effects)

    async def turned_down(
        self,
        caller: Caller,
        action: str,
        repository: str,
        role: str,
        error: KeydError,
        *,
        alert: bool = False,
    ) -> None:
        """Nothing was changed. Never raises."""
        await self._audit.refuse(
            EntryDraft(
                action=action,
                outcome=Outcome.REFUSED,
                caller=caller,
                context=Context(repository, role),
                rule=rule_of(error),
                policy_hash=self._gate.policy_hash,
                reason_code=error.reason,
                message=error.message,
                alert=alert,
            )
        )

    async def _enter(
        self,
        caller: Caller,
        action: str,
        context: Context,
        details: Mapping[str, str],
        said: str,
        effects: Sequence[Effect],
    ) -> None:
        entry = EntryDraft(
            action=action,
            outcome=Outcome.ALLOWED,
            caller=caller,
            context=context,
            policy_hash=self._gate.policy_hash,
            said=said,
            # Published signatures speak for themselves; all else is a person's action.
            alert=action != "role-advance",
            details={**details, **self._approvals.details(effects)},
        )
        await self._audit.record(entry, effects)
