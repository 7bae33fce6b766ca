"""Roles: how far each has come, and the ways out when a rule stands before an honest repository.

Every change is one entry and its marks in one transaction. All but ``advance``, which brings its
evidence along, take a reason and the consent that rules demand, and are alerts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from keyd.approvals import Approvals
from keyd.errors import ConflictError, RoleNotFoundError, RuleRefusedError
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
from keyd.roleevidence import RoleEvidence, Shown, check_said
from keyd.roleviews import RoleView
from keyd.rules.evidence import RoleFile
from keyd.rules.refusal import command, of, refuse

__all__ = ["AcceptedLoss", "RoleFile", "RoleView", "Roles", "Shown"]


@dataclass(frozen=True, slots=True)
class AcceptedLoss:
    """``loss``: in words, empty when there was nothing to accept, and ``log_index`` then -1.
    ``origin``: under which the log goes on."""

    loss: str
    origin: str
    log_index: int


AcceptLoss = Callable[[Caller, str, tuple[Effect, ...]], Awaitable[AcceptedLoss]]
"""The log's own way of it: who, why, and what else belongs into the same transaction."""


class Roles(RoleEvidence):
    """What RoleService does; the base class is for what files show."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        marks: Marks,
        approvals: Approvals,
        audit: AuditLog,
        clock: Clock,
        lost: Callable[[], Mapping[str, str]],
        accept_loss: AcceptLoss,
    ) -> None:
        """``lost``: what of the log is lost and not accepted, ``loss`` in words and whatever tells
        it from other losses; empty for nothing."""
        super().__init__(
            gate=gate,
            registry=registry,
            marks=marks,
            approvals=approvals,
            audit=audit,
            clock=clock,
        )
        self._gate = gate
        self._approvals = approvals
        self._lost = lost
        self._accept_loss = accept_loss

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

    # ------------------------------------------------------------------------------- giving up

    async def supersede(
        self, caller: Caller, repository: str, role: str, digest: bytes, *, said: str
    ) -> RoleView | None:
        """Give up the newest version, which was not published: other bytes may be signed as it.

        The mark goes back to the last version that was complete before it, and never lower: where
        the bytes of that are not kept any more it is a floor, of which only version and digest are
        known. Where nothing was complete before there is no mark any more, and None is answered.

        Raises:
            RoleNotFoundError: there is no mark.
            ConflictError: ``digest`` is not that of the newest version.
            RuleRefusedError: draft-published, nothing-below.
        """
        mark = await self._begin(caller, "role-supersede", repository, role, digest, said)
        if error := _no_way_back(mark):
            await self._entries.turned_down(caller, "role-supersede", repository, role, error)
            raise error
        consent = await self._consents.consent_to_end(caller, "supersede", mark, said=said)
        after = _one_back(mark)
        effect: Effect = DropMark(repository, role, expect=mark)
        if after is not None:
            contents = await self._marks.load_contents(repository, role)
            below = contents.before if mark.is_whole else contents.complete
            effect = PutMark(after, MarkContents(below, below), expect=mark)
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
        check_said(said)
        consent: tuple[Effect, ...] = ()
        if lost := self._lost():
            consent = await self._approvals.consent_to(
                caller,
                Action.ROLE,
                "",
                {"operation": "accept-loss", **lost},
                said=said,
                summary=f"accept that entries of the log are lost: {lost['loss']}",
                despite_loss=True,
            )
        return await self._accept_loss(caller, said, consent)

    # ------------------------------------------------------------------------------- inside

    async def _begin(
        self, caller: Caller, action: str, repository: str, role: str, digest: bytes, said: str
    ) -> Mark:
        """The mark that somebody wants to give up, with everything checked but its state."""
        await self._admit(caller, Action.ROLE, action, repository, {role})
        check_said(said)
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


def _no_way_back(mark: Mark) -> RuleRefusedError | None:
    """Why the newest version cannot be given up; None where it can."""
    context, newest = Context(mark.repository, mark.role), mark.newest
    forget = command("reset", context)
    if mark.state is MarkState.PUBLISHED:
        return refuse(
            "draft-published",
            f"{of(context)}: v{newest.version} was shown as published, clients may hold it",
            hint=f"sign the next version; when you know that nobody holds it: {forget}",
            context=context,
        )
    if mark.is_floor:
        return refuse(
            "nothing-below",
            f"{of(context)}: what was signed above v{newest.version} is given up already, and no "
            "earlier version is known here",
            hint=f"sign v{newest.version + 1}; when nothing of it was ever published: {forget}",
            context=context,
        )
    return None


def _one_back(mark: Mark) -> Mark | None:
    """The mark without its newest version; None where nothing was complete before."""
    back = mark.below or mark.floor
    if back is None:
        return None
    published = mark.below is not None and mark.published_before
    return Mark(
        repository=mark.repository,
        role=mark.role,
        newest=back,
        state=MarkState.PUBLISHED if published else MarkState.COMPLETE,
        signed_at=mark.signed_at,
        complete=back,
        floor=mark.floor,
    )
