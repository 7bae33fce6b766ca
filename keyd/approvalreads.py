"""What callers see of approvals: one, a list, or each change as it comes.

Whoever asked, may approve or has approved sees an approval; to everybody else there is none of any
id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from keyd.consents import Consents, Shown
from keyd.errors import ApprovalNotFoundError
from keyd.model import Approval, Caller, Clock, OpenApprovals, Policy

MAX_LISTED = 1000


class ApprovalReads:
    """The part of :class:`keyd.approvals.Approvals` that changes nothing."""

    def __init__(
        self, *, policy: Policy, approvals: OpenApprovals, clock: Clock, look_s: float
    ) -> None:
        """``look_s``: how often a watcher looks without having been told. Nobody tells it that an
        approval was used up, that its time is over, or that the policy is another."""
        self._approvals = approvals
        self._clock = clock
        self._look_s = look_s
        self._consents = Consents(policy)
        self._news = asyncio.Event()

    async def get(self, caller: Caller, approval_id: str) -> Shown:
        """One approval in any state, with the bytes it is about.

        Raises:
            ApprovalNotFoundError: there is none, or it is not the caller's to see.
        """
        found = await self._approvals.load_approval(approval_id)
        if found is None or not self._consents.may_see(caller.principal, found[0]):
            raise not_found(approval_id)
        return self._consents.show(caller, found[0], self._clock.now(), found[1])

    async def list(
        self, caller: Caller, *, only_open: bool = False, waits_for_me: bool = False, limit: int
    ) -> Sequence[Shown]:
        """The approvals the caller may see, newest first, without bytes: all that are open, and
        what is among the newest 1 000 of those that ended."""
        found = {a.id: a for a in self._approvals.open_approvals()}
        if not (only_open or waits_for_me):
            ended = await self._approvals.list_approvals(limit=MAX_LISTED)
            found = {a.id: a for a in ended} | found
        newest = sorted(found.values(), key=lambda a: a.created_at, reverse=True)
        shown: list[Shown] = []
        for approval in newest:
            if len(shown) == limit:
                break
            if not self._consents.may_see(caller.principal, approval):
                continue
            one = self._consents.show(caller, approval, self._clock.now())
            if (only_open and not one.approval.state.is_open) or (
                waits_for_me and not one.waits_for_me
            ):
                continue
            shown.append(one)
        return shown

    async def watch(self, caller: Caller, approval_id: str = "") -> AsyncGenerator[Shown, None]:
        """The open approvals the caller may see, then each that changes, as it is when it is its
        turn: whoever reads slowly misses what was in between, and costs nothing. With an id only
        that one, until it is no longer open.

        Raises:
            ApprovalNotFoundError: as in :meth:`get`.
        """
        seen: dict[str, tuple[Approval, str, Shown]] = {}
        if approval_id:
            await self.get(caller, approval_id)
        while True:
            news = self._news
            now, policy_hash = self._clock.now(), self._consents.policy_hash
            opened = {
                a.id: a
                for a in self._approvals.open_approvals()
                if approval_id in ("", a.id) and now < a.expires_at
            }
            for approval in opened.values():
                before = seen.get(approval.id)
                if before and before[0] is approval and before[1] == policy_hash:
                    continue
                if not self._consents.may_see(caller.principal, approval):
                    seen.pop(approval.id, None)
                    continue
                shown = self._consents.show(caller, approval, now)
                seen[approval.id] = (approval, policy_hash, shown)
                if before is None or before[2] != shown:
                    yield shown
            for ended in {*seen, *filter(None, [approval_id])} - opened.keys():
                seen.pop(ended, None)
                found = await self._approvals.load_approval(ended)
                if found and self._consents.may_see(caller.principal, found[0]):
                    yield self._consents.show(caller, found[0], self._clock.now())
            if approval_id and approval_id not in seen:
                return
            try:
                async with asyncio.timeout(self._look_s):
                    await news.wait()
            except TimeoutError:
                continue

    def _tell(self) -> None:
        """Wake whoever watches."""
        news, self._news = self._news, asyncio.Event()
        news.set()


def not_found(approval_id: str) -> ApprovalNotFoundError:
    """The same for an id that nobody has and for one that is not the caller's to see."""
    return ApprovalNotFoundError(
        f"no approval {approval_id}, or it is not yours to see",
        hint="see those that are: keydctl approvals",
        approval=approval_id,
    )
