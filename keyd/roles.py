"""Roles: how far each has come, and the ways out when a rule stands before an honest repository.

Every change is one entry and its marks in one transaction. All but ``advance``, which brings its
evidence along, take a reason and the consent that rules demand, and are alerts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from keyd.approvals import Approvals
from keyd.content.refusal import printable
from keyd.errors import (
    ConflictError,
    ContentError,
    InvalidRequestError,
    PolicyDeniedError,
    RoleNotFoundError,
    RuleRefusedError,
)
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    Clock,
    Context,
    DropMark,
    Effect,
    Mark,
    MarkContents,
    Marks,
    MarkState,
    PutMark,
    Registry,
)
from keyd.roleconsents import RoleConsents
from keyd.roleentries import RoleEntries, change_line
from keyd.rolegrants import RoleGrants
from keyd.roleviews import RoleView, RoleViews
from keyd.rules.evidence import (
    Evidence,
    Known,
    RoleFile,
    verify_advance,
    verify_import,
)
from keyd.rules.refusal import command, of, refuse

__all__ = ["AcceptedLoss", "RoleFile", "RoleView", "Roles", "Shown"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of files that were shown: roles that changed, and notes for people."""

    roles: tuple[RoleView, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AcceptedLoss:
    """``loss``: in words, empty when there was nothing to accept, and ``log_index`` then -1.
    ``origin``: under which the log goes on."""

    loss: str
    origin: str
    log_index: int


AcceptLoss = Callable[[Caller, str, tuple[Effect, ...]], Awaitable[AcceptedLoss]]
"""The log's own way of it: who, why, and what else belongs into the same transaction."""


class Roles:
    """What RoleService does."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        marks: Marks,
        approvals: Approvals,
        audit: AuditLog,
        clock: Clock,
        lost: Callable[[], str],
        accept_loss: AcceptLoss,
    ) -> None:
        """``lost``: what of the log is lost and not accepted, in words; empty for nothing."""
        self._gate = gate
        self._marks = marks
        self._approvals = approvals
        self._clock = clock
        self._lost = lost
        self._accept_loss = accept_loss
        self._grants = RoleGrants(gate, registry)
        self._consents = RoleConsents(self._grants, approvals)
        self._views = RoleViews(self._grants)
        self._entries = RoleEntries(gate, approvals, audit)

    # ------------------------------------------------------------------------------- looking

    def list(
        self,
        caller: Caller,
        repository: str = "",
        *,
        expiring_within_s: int = 0,
        after: tuple[str, str] = ("", ""),
    ) -> Iterator[RoleView]:
        """The roles that go by keys the caller may see, without bytes, by repository and role.

        ``expiring_within_s``: only those whose newest or complete version ends within that time.
        ``after``: only those behind this repository and role.
        """
        before = self._clock.now() + timedelta(seconds=expiring_within_s)
        for mark in self._marks.marks():
            if repository not in ("", mark.repository) or (mark.repository, mark.role) <= after:
                continue
            if expiring_within_s and mark.ends > before:
                continue
            view = self._views.find(caller, mark)
            if view is not None:
                yield view

    async def get(self, caller: Caller, repository: str, role: str) -> RoleView:
        """One role, with the bytes behind it.

        Raises:
            RoleNotFoundError: nothing of it is known, or the caller may not see it.
        """
        mark = self._marks.find_mark(repository, role)
        view = self._views.find(caller, mark) if mark else None
        if view is None:
            raise RoleNotFoundError(
                f"nothing of {of(Context(repository, role))} was signed or shown here, or it is "
                f"not for {caller.principal.id} to see",
                hint="list the roles you may see with: keydctl role list",
            )
        return replace(view, contents=await self._marks.load_contents(repository, role))

    # ------------------------------------------------------------------------------- evidence

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
            _check_said(said)
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

    # ------------------------------------------------------------------------------- giving up

    async def supersede(
        self, caller: Caller, repository: str, role: str, digest: bytes, *, said: str
    ) -> RoleView | None:
        """Give up the newest version, which was not published: other bytes may be signed as it.

        The mark goes back to the last complete version where that is an earlier one; else there
        is no mark any more, and None is answered.

        Raises:
            RoleNotFoundError: there is no mark.
            ConflictError: ``digest`` is not that of the newest version.
            RuleRefusedError: draft-published.
        """
        mark = await self._begin(caller, "role-supersede", repository, role, digest, said)
        if mark.state is MarkState.PUBLISHED:
            error = refuse(
                "draft-published",
                f"{of(Context(repository, role))}: v{mark.newest.version} was shown as published, "
                "clients may hold it",
                hint="sign the next version; when you know that nobody holds it: "
                + command("reset", Context(repository, role)),
                context=Context(repository, role),
            )
            await self._entries.turned_down(caller, "role-supersede", repository, role, error)
            raise error
        consent = await self._consents.consent_to_end(caller, "supersede", mark, said=said)
        after: Mark | None = None
        effect: Effect = DropMark(repository, role, expect=mark)
        if mark.complete is not None and mark.complete.digest != mark.newest.digest:
            contents = await self._marks.load_contents(repository, role)
            after = Mark(
                repository=repository,
                role=role,
                newest=mark.complete,
                state=MarkState.PUBLISHED if mark.published_before else MarkState.COMPLETE,
                signed_at=mark.signed_at,
                complete=mark.complete,
            )
            kept = MarkContents(contents.complete, contents.complete)
            effect = PutMark(after, kept, expect=mark)
        await self._entries.given_up(
            caller, "role-supersede", mark, after, said=said, effects=(effect, *consent)
        )
        return self._views.show(caller, after) if after else None

    async def reset(
        self, caller: Caller, repository: str, role: str, digest: bytes, *, said: str
    ) -> None:
        """Forget a role, for a server that was restored or starts again; raises as
        :meth:`supersede`, but forgets published versions too."""
        mark = await self._begin(caller, "role-reset", repository, role, digest, said)
        consent = await self._consents.consent_to_end(caller, "reset", mark, said=said)
        drop = DropMark(repository, role, expect=mark)
        await self._entries.given_up(
            caller, "role-reset", mark, None, said=said, effects=(drop, *consent)
        )

    async def accept_loss(self, caller: Caller, *, said: str) -> AcceptedLoss:
        """A person accepts that entries of the log are lost: bound keys sign again, and the log
        goes on under a new origin."""
        await self._gate.authorize(caller, Action.ROLE, "")
        _check_said(said)
        consent: tuple[Effect, ...] = ()
        if lost := self._lost():
            consent = await self._approvals.consent_to(
                caller,
                Action.ROLE,
                "",
                {"operation": "accept-loss", "lost": lost},
                said=said,
                summary=f"accept that entries of the log are lost: {lost}",
            )
        return await self._accept_loss(caller, said, consent)

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

    async def _begin(
        self, caller: Caller, action: str, repository: str, role: str, digest: bytes, said: str
    ) -> Mark:
        """The mark that somebody wants to give up, with everything checked but its state."""
        await self._admit(caller, Action.ROLE, action, repository, {role})
        _check_said(said)
        mark = self._marks.find_mark(repository, role)
        if mark is None:
            raise RoleNotFoundError(
                f"nothing of {of(Context(repository, role))} was signed or shown here",
                hint="list the roles you may see with: keydctl role list",
            )
        if mark.newest.digest != digest:
            raise ConflictError(
                f"{of(Context(repository, role))}: the newest version is v{mark.newest.version} "
                f"with SHA-256 {mark.newest.digest.hex()}, not {digest.hex() or 'empty'}",
                hint=f"look at it again: {command('show', Context(repository, role))}",
                version=mark.newest.version,
                signed_digest=mark.newest.digest.hex(),
            )
        return mark

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


def _check_said(said: str) -> None:
    if not said.strip():
        raise InvalidRequestError(
            "reason", "say why: it goes into the log", hint="give it with --reason"
        )
