"""Roles by evidence: what published files show, by the signatures on them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keyd.approvals import Approvals
from keyd.content.refusal import printable
from keyd.errors import (
    ConflictError,
    ContentError,
    InvalidRequestError,
    PolicyDeniedError,
    RuleRefusedError,
)
from keyd.gate import Gate
from keyd.model import Action, AuditLog, Caller, Clock, Effect, Marks, PutMark, Registry
from keyd.roleconsents import RoleConsents
from keyd.roleentries import RoleEntries, change_line
from keyd.rolegrants import RoleGrants
from keyd.roleviews import RoleView, RoleViews
from keyd.rules.evidence import Evidence, Known, RoleFile, verify_advance, verify_import


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of files that were shown: roles that changed, and notes for people."""

    roles: tuple[RoleView, ...]
    notes: tuple[str, ...]


class RoleEvidence:
    """The part of :class:`keyd.roles.Roles` that brings its evidence along."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        marks: Marks,
        approvals: Approvals,
        audit: AuditLog,
        clock: Clock,
    ) -> None:
        self._marks = marks
        self._clock = clock
        self._grants = RoleGrants(gate, registry)
        self._consents = RoleConsents(self._grants, approvals)
        self._views = RoleViews(self._grants)
        self._entries = RoleEntries(gate, approvals, audit)

    async def import_(
        self,
        caller: Caller,
        repository: str,
        trusted_root: bytes,
        files: Sequence[RoleFile],
        *,
        said: str = "",
        dry_run: bool = False,
    ) -> Shown:
        """Take over a published repository, starting from the root the caller trusts.

        Raises:
            PolicyDeniedError: the grant ``role`` is missing for one of the roles.
            ContentError, RuleRefusedError: see rules.evidence.verify_import.
        """
        roles = {"root", *(file.role for file in files)}
        await self._admit(caller, Action.ROLE, "role-import", repository, roles)
        if not dry_run:
            check_said(said)
        known = await self._known(repository)
        now = self._clock.now()

        def verify() -> Evidence:
            return verify_import(repository, trusted_root, files, known, now)

        evidence = await self._verify(caller, "role-import", repository, verify)
        consent: tuple[Effect, ...] = ()
        if evidence.changes and not dry_run:
            parameters: dict[str, object] = {
                "operation": "import",
                "repository": repository,
                "root": f"sha256:{hashlib.sha256(trusted_root).hexdigest()}",
                "marks": {change.mark.role: change_line(change) for change in evidence.changes},
            }
            summary = f"import {printable(repository)}: {len(evidence.changes)} roles"
            consent = await self._consents.consent(
                caller, repository, roles, parameters, said=said, summary=summary
            )
        return await self._settle(caller, "role-import", evidence, said, consent, dry_run=dry_run)

    async def advance(
        self,
        caller: Caller,
        repository: str,
        files: Sequence[RoleFile],
        *,
        published: bool = False,
        said: str = "",
    ) -> Shown:
        """Move marks forward by files whose signatures meet the thresholds, or add the signers of
        a file that is signed here too.

        Raises:
            PolicyDeniedError: the grant ``advance`` is missing for one of the roles.
            ContentError, RuleRefusedError: see rules.evidence.verify_advance.
        """
        if not files:
            raise InvalidRequestError("files", "show at least one metadata file")
        roles = {file.role for file in files}
        await self._admit(caller, Action.ADVANCE, "role-advance", repository, roles)
        try:
            return await self._advance(caller, repository, files, published, said)
        except ConflictError:
            # Somebody signed or showed something meanwhile; the files are judged above that.
            return await self._advance(caller, repository, files, published, said)

    # ------------------------------------------------------------------------------- inside

    async def _admit(
        self, caller: Caller, grant: Action, action: str, repository: str, roles: set[str]
    ) -> None:
        try:
            self._grants.decide(caller, grant, repository, roles)
        except PolicyDeniedError as e:
            role = next(iter(roles)) if len(roles) == 1 else ""
            await self._entries.turned_down(caller, action, repository, role, e)
            raise

    async def _advance(
        self,
        caller: Caller,
        repository: str,
        files: Sequence[RoleFile],
        published: bool,
        said: str,
    ) -> Shown:
        known = await self._known(repository)
        now = self._clock.now()

        def verify() -> Evidence:
            return verify_advance(repository, files, known, now, published=published)

        evidence = await self._verify(caller, "role-advance", repository, verify)
        return await self._settle(caller, "role-advance", evidence, said, ())

    async def _known(self, repository: str) -> dict[str, Known]:
        found: dict[str, Known] = {}
        for mark in self._marks.marks():
            if mark.repository == repository:
                contents = await self._marks.load_contents(repository, mark.role)
                found[mark.role] = Known(mark, contents)
        return found

    async def _verify(
        self, caller: Caller, action: str, repository: str, verify: Callable[[], Evidence]
    ) -> Evidence:
        try:
            return await asyncio.to_thread(verify)
        except (ContentError, RuleRefusedError) as e:
            role = e.facts.get("role", "")
            # Two published files under one version is what somebody should look at.
            alert = e.facts.get("rule") == "evidence-conflict"
            await self._entries.turned_down(caller, action, repository, role, e, alert=alert)
            raise

    async def _settle(
        self,
        caller: Caller,
        action: str,
        evidence: Evidence,
        said: str,
        consent: tuple[Effect, ...],
        *,
        dry_run: bool = False,
    ) -> Shown:
        if evidence.changes and not dry_run:
            effects = [PutMark(c.mark, c.contents, expect=c.before) for c in evidence.changes]
            await self._entries.changed(
                caller, action, evidence, said=said, effects=(*effects, *consent)
            )
        views = tuple(self._views.show(caller, change.mark) for change in evidence.changes)
        return Shown(views, evidence.notes)


def check_said(said: str) -> None:
    """Refuse an empty reason.

    Raises:
        InvalidRequestError: it says nothing.
    """
    if not said.strip():
        raise InvalidRequestError(
            "reason", "say why: it goes into the log", hint="give it with --reason"
        )
