"""Opening the ceremony that a staged key version waits for, with the next root drafted.

Once for each plan: a ceremony with the same plan that is over or was given up is people's word on
it, and one that is open, of whatever plan, is left alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence

from keyd import rootdraft
from keyd.boundkeys import binds
from keyd.content import parse_document
from keyd.content.documents import TOP_LEVEL_ROLES, Dialect, Root
from keyd.due import Due
from keyd.gate import Gate
from keyd.model import (
    SYSTEM,
    Action,
    AuditLog,
    Caller,
    Ceremonies,
    Ceremony,
    Clock,
    Context,
    EntryDraft,
    Mark,
    Marks,
    Outcome,
    Phase,
    PutCeremony,
    Registry,
    VersionState,
)
from keyd.rolegrants import RoleGrants
from keyd.rootdraft import NextRoot, Succession

log = logging.getLogger("keyd.rotation")

ROOT = "root"
CALLER = Caller(SYSTEM, "rotation")
"""Who prepares rotations: the daemon, as its configuration says."""

_GLOB = frozenset("*?[")
_MAX_SAID_CHARS = 500


class Openings:
    """Opens ceremonies for the daemon itself; one call at a time."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        marks: Marks,
        ceremonies: Ceremonies,
        audit: AuditLog,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        """``new_id``: as for :class:`keyd.ceremonies.Ceremonies`."""
        self._gate = gate
        self._grants = RoleGrants(gate, registry)
        self._registry = registry
        self._marks = marks
        self._ceremonies = ceremonies
        self._audit = audit
        self._clock = clock
        self._new_id = new_id
        self._read: dict[tuple[str, bytes], Root] = {}

    def roots(self, staged: Sequence[Due]) -> list[Mark]:
        """The roots of all repositories that these keys are bound to a top-level role of."""
        patterns = {binding.repository for due in staged for binding in due.key.bindings}
        names: Iterable[str] = sorted(patterns)
        if any(_GLOB & set(pattern) for pattern in patterns):
            names = [mark.repository for mark in self._marks.marks() if mark.role == ROOT]
        found = [self._marks.find_mark(name, ROOT) for name in names if serving(staged, name)]
        marks = [mark for mark in found if mark is not None]
        kept = {(mark.repository, mark.complete.digest) for mark in marks if mark.complete}
        self._read = {at: root for at, root in self._read.items() if at in kept}
        return marks

    async def concerned(self, mark: Mark, staged: Sequence[Due]) -> list[Due]:
        """Those whose active version this root names; all that are bound to it where no complete
        root is known.

        Raises:
            ContentError: what is stored of it cannot be read.
            AuditUnavailableError: the database cannot be read.
        """
        bound = serving(staged, mark.repository)
        root = await self._root(mark)
        if root is None:
            return bound
        return [due for due in bound if rootdraft.named_roles(root, due.active.public_key)]

    async def open(self, mark: Mark, concerned: Sequence[Due]) -> str:
        """Open the ceremony that gives their staged versions a place in root, unless something
        stands against that. What is so now, and what people do next, in words.

        Raises:
            KeydError: it was not opened; try again later.
        """
        root = await self._root(mark)
        if mark.complete is None or root is None:
            return f"no complete root is known here; show it: keydctl role import {mark.repository}"
        if root.dialect is Dialect.NOTARY:
            return (
                "no root is drafted for Notary, whose root keys need certificates of the "
                "collection: its publisher names the new key"
            )
        known = [c for c in self._ceremonies.ceremonies() if c.repository == mark.repository]
        standing = next((c for c in known if c.phase.is_open), None)
        if standing is not None:
            return _waiting(standing)
        if not mark.is_complete:
            return f"root {mark.newest.version} lacks signatures, so none can follow it yet"
        demanded = self._grants.who_demands(CALLER, Action.CEREMONY, mark.repository, [ROOT])
        if demanded:
            return (
                "no ceremony was begun, since rules ask for people's consent to that; begin it "
                "with: keydctl tuf ceremony start DIR"
            )
        made = await self._draft(mark, concerned)
        if made is None:
            return ""
        former = next((c for c in known if c.plan == made.plan), None)
        if former is not None:
            return (
                f"ceremony {former.id} for this was {former.phase}; begin another one with: "
                "keydctl tuf ceremony start DIR"
            )
        ceremony = self._ceremony(mark.repository, made, concerned)
        await self._audit.record(self._entry(ceremony), (PutCeremony(ceremony),))
        log.info(
            "a rotation is prepared",
            extra={"repository": ceremony.repository, "ceremony": ceremony.id},
        )
        return _waiting(ceremony)

    async def _draft(self, mark: Mark, concerned: Sequence[Due]) -> NextRoot | None:
        assert mark.complete is not None
        payload = (await self._marks.load_contents(mark.repository, ROOT)).complete
        if hashlib.sha256(payload).digest() != mark.complete.digest:
            return None  # another one was completed just now
        limits = self._gate.limits(Context(mark.repository, ROOT), mark.complete.dialect)
        lives = rootdraft.lifetime(mark.complete.expires, mark.signed_at, limits.max_expiry_days)
        return rootdraft.draft(
            payload,
            mark.repository,
            [_succession(due, mark.repository) for due in concerned],
            expires=self._clock.now() + lives,
            can_sign=self._can_sign,
        )

    def _ceremony(self, repository: str, made: NextRoot, concerned: Sequence[Due]) -> Ceremony:
        now = self._clock.now()
        names = ", ".join(due.key.name for due in concerned)
        return Ceremony(
            id=self._new_id(),
            repository=repository,
            plan=made.plan,
            # Where it is not sure that what is published can follow, STAGE looks before anybody
            # signs, with the published files at hand.
            phase=Phase.CONSENT if made.is_safe else Phase.STAGE,
            started_by=SYSTEM.id,
            started_at=now,
            changed_at=now,
            said=f"a rotation is due: {names}"[:_MAX_SAID_CHARS],
            draft=made.payload if made.is_safe else b"",
            facts=made.facts,
        )

    def _entry(self, ceremony: Ceremony) -> EntryDraft:
        details = {
            "ceremony": ceremony.id,
            "repository": ceremony.repository,
            "phase": ceremony.phase.value,
            "plan_sha256": hashlib.sha256(ceremony.plan.encode()).hexdigest(),
        }
        if ceremony.draft:
            details["draft_sha256"] = hashlib.sha256(ceremony.draft).hexdigest()
        return EntryDraft(
            action="ceremony-start",
            outcome=Outcome.ALLOWED,
            caller=CALLER,
            context=Context(ceremony.repository, ROOT),
            rule="keyd.toml: [rotation] prepare",
            policy_hash=self._gate.policy_hash,
            said=ceremony.said,
            message=f"{ceremony.repository}: prepared up to {ceremony.phase}, people go on",
            alert=True,
            details=details,
        )

    async def _root(self, mark: Mark) -> Root | None:
        """The last complete root, parsed once; None where its content is not known."""
        if mark.complete is None:
            return None
        at = (mark.repository, mark.complete.digest)
        if at not in self._read:
            payload = (await self._marks.load_contents(mark.repository, ROOT)).complete
            if hashlib.sha256(payload).digest() != mark.complete.digest:
                return None
            document = parse_document(payload)
            assert isinstance(document, Root)
            self._read[at] = document
        return self._read[at]

    def _can_sign(self, public_key: bytes) -> bool:
        found = self._registry.find_public_key(public_key)
        return found is not None and found.state is VersionState.ENABLED


def serving(due: Sequence[Due], repository: str) -> list[Due]:
    """Those whose keys are bound to a top-level role of the repository."""
    return [d for d in due if any(binds(d.key, repository, role) for role in TOP_LEVEL_ROLES)]


def _succession(due: Due, repository: str) -> Succession:
    assert due.staged is not None
    roles = frozenset(role for role in TOP_LEVEL_ROLES if binds(due.key, repository, role))
    return Succession(due.key, due.active, due.staged, roles)


def _waiting(ceremony: Ceremony) -> str:
    return (
        f"ceremony {ceremony.id} waits for people in phase {ceremony.phase}: "
        "keydctl tuf ceremony resume DIR"
    )
