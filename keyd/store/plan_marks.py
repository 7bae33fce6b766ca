"""What a group's effects make of marks: the last judgement on versions, under the log's lock. Pure.

keyd/rules judges before anybody is asked for consent or a token for a signature; here is judged
once more what another signature may have changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, assert_never

from keyd.errors import ConflictError, InvalidRequestError, RuleRefusedError, VersionTakenError
from keyd.model import (
    ONLINE_ROLES,
    DropMark,
    Mark,
    MarkContents,
    MarkState,
    PutMark,
    RecordMark,
)
from keyd.store.overlay import Overlay
from keyd.store.storable import check_number, check_text

MarkEffect = RecordMark | PutMark | DropMark
RoleName = tuple[str, str]
"""Repository and role."""


class Held(Enum):
    """Bytes that the mark's row holds before the group, which the plan never reads."""

    NEWEST = "newest"
    BELOW = "below"


@dataclass(frozen=True, slots=True)
class PlannedMark:
    """A mark as it will be, and where its bytes come from. ``below`` counts only where the mark has
    such a version."""

    mark: Mark
    newest: bytes | Held
    below: bytes | Held

    @classmethod
    def held(cls, mark: Mark) -> PlannedMark:
        """A mark as its row holds it."""
        return cls(mark, Held.NEWEST, Held.BELOW)

    @property
    def complete_source(self) -> bytes | Held:
        """Where the complete version's bytes come from; empty when there is none."""
        if self.mark.complete is None:
            return b""
        return self.newest if self.mark.is_whole else self.below

    def contents(self, held: Mark | None, before: MarkContents) -> MarkContents:
        """The bytes after the group, given the mark and those before it."""
        below_before = before.before if held is not None and held.is_whole else before.complete
        newest, below = (
            source
            if isinstance(source, bytes)
            else (before.newest if source is Held.NEWEST else below_before)
            for source in (self.newest, self.below)
        )
        return arranged(self.mark, newest, below)


def arranged(mark: Mark, newest: bytes, below: bytes) -> MarkContents:
    """The contents of a mark of which these are the two versions' bytes."""
    if mark.is_whole:
        return MarkContents(newest, newest, b"" if mark.before is None else below)
    return MarkContents(newest, b"" if mark.complete is None else below)


class MarkPlan:
    """The touched marks as they will be after the effects applied so far."""

    def __init__(self, marks: Mapping[RoleName, Mark], now: datetime) -> None:
        """Start from the marks the database holds of the roles that the effects name."""
        self._marks = Overlay({name: PlannedMark.held(mark) for name, mark in marks.items()})
        self._now = now

    @property
    def layers(self) -> tuple[Overlay[Any, Any], ...]:
        """What an item's end keeps or undoes."""
        return (self._marks,)

    @property
    def changes(self) -> Mapping[RoleName, PlannedMark | None]:
        """What all kept items changed together; None for marks that are forgotten."""
        return self._marks.changed

    def apply(self, effect: MarkEffect) -> None:
        """Apply one effect or raise its conflict."""
        match effect:
            case RecordMark():
                self._record(effect)
            case PutMark(mark, contents, expect):
                self._expect(mark.repository, mark.role, expect)
                _check(mark)
                below = contents.before if mark.is_whole else contents.complete
                planned = PlannedMark(mark, contents.newest, below)
                self._marks.put((mark.repository, mark.role), planned)
            case DropMark(repository, role, expect):
                self._expect(repository, role, expect)
                self._marks.put((repository, role), None)
            case _:
                assert_never(effect)

    def _expect(self, repository: str, role: str, expect: Mark | None) -> None:
        found = self._marks.find((repository, role))
        mark = found.mark if found else None
        if mark != expect:
            where = f"version {mark.newest.version}, {mark.state}" if mark else "unknown"
            raise ConflictError(
                f"{role} of {repository} changed meanwhile: it is {where} now",
                hint=f"look again: keydctl role show {repository} {role}",
                repository=repository,
                role=role,
                digest=mark.newest.digest.hex() if mark else "",
            )

    def _record(self, effect: RecordMark) -> None:
        name = (effect.repository, effect.role)
        planned = self._marks.find(name)
        old: Mark | None = None
        source: bytes | Held = b""
        if planned is None:
            _check_first(effect)
        elif planned.mark.newest.is_same(effect.marked):
            self._marks.put(name, replace(planned, mark=self._signed_by(planned.mark, effect)))
            return
        else:
            old, source = planned.mark, planned.complete_source
            _check_successor(effect, old)
        reissued = old is not None and old.newest.version == effect.marked.version
        fresh = Mark(
            effect.repository,
            effect.role,
            effect.marked,
            MarkState.SIGNED,
            self._now,
            complete=old.complete if old else None,
            reissued=old.reissued + 1 if old is not None and reissued else 0,
            published_before=old is not None and old.is_complete_published,
            floor=old.floor_under(effect.marked) if old else None,
        )
        signed = self._signed_by(fresh, effect)
        _check(signed)
        self._marks.put(name, PlannedMark(signed, effect.content, source))

    def _signed_by(self, mark: Mark, effect: RecordMark) -> Mark:
        """The mark with one more signature, COMPLETE when it was the last one needed."""
        signers = mark.signers | {effect.signer}
        needs = effect.needs or mark.needs
        signed = replace(mark, signed_at=self._now, signers=signers, needs=needs)
        if mark.is_complete:
            return signed
        if mark.is_whole:
            # Complete before other bytes were signed in between, and so it is still.
            state = MarkState.PUBLISHED if mark.published_before else MarkState.COMPLETE
            return replace(signed, state=state, published_before=False)
        if all(need.is_met(signers) for need in needs):
            return replace(
                signed, state=MarkState.COMPLETE, complete=mark.newest, before=mark.complete
            )
        return signed


def _check(mark: Mark) -> None:
    """Refuse a mark that the tables cannot hold."""
    check_text("repository", mark.repository)
    check_text("role", mark.role)
    for marked in (mark.newest, mark.complete, mark.before, mark.floor):
        if marked is not None:
            check_number("version", marked.version)
            for field in ("kind", "dialect", "keyset"):
                check_text(field, getattr(marked, field))
    complete = mark.complete
    if complete is not None and complete.version > mark.newest.version:
        raise InvalidRequestError(
            "mark",
            f"version {complete.version} cannot be complete when {mark.newest.version} is newest",
        )
    if mark.is_complete and not mark.is_whole:
        raise InvalidRequestError("mark", f"{mark.state} needs the newest version as complete")
    if mark.is_whole and not mark.is_complete:
        raise InvalidRequestError("mark", "the newest version is complete, so it is not SIGNED")
    if mark.published_before and mark.below is None:
        raise InvalidRequestError("mark", "no earlier version is there that was published")
    _check_order(mark)


def _check_order(mark: Mark) -> None:
    """Refuse versions that stand in no order."""
    before, floor = mark.before, mark.floor
    if before is not None:
        if not mark.is_whole or before.is_same(mark.newest):
            raise InvalidRequestError("mark", "only another version can be complete before it")
        if before.version > mark.newest.version:
            raise InvalidRequestError("mark", f"version {before.version} cannot come before it")
    above = mark.below or mark.newest
    if floor is not None and floor.version > above.version:
        raise InvalidRequestError("mark", f"its floor, {floor.version}, cannot be above it")


def _check_first(effect: RecordMark) -> None:
    if effect.role == "root" and effect.marked.version != 1:
        raise _refused(
            effect,
            "no-history",
            f"nothing is known here of root {effect.marked.version - 1} of {effect.repository}",
            f"start from what is published: keydctl role import {effect.repository}",
        )


def _check_successor(effect: RecordMark, mark: Mark) -> None:
    """Refuse other bytes than the newest unless they may follow it."""
    asked, newest = effect.marked.version, mark.newest.version
    role = f"{effect.repository} {effect.role}"
    if asked < newest:
        raise _refused(
            effect,
            "version-lower",
            f"version {asked} is below {newest}, which is signed already",
            f"number it {newest + 1}; for a server that was restored: keydctl role reset {role}",
        )
    if asked == newest:
        if effect.role in ONLINE_ROLES and mark.may_be_reissued:
            return
        raise _taken(effect, mark)
    if effect.role != "root":
        return
    if not mark.is_complete:
        raise _refused(
            effect,
            "root-incomplete",
            f"root {newest} still lacks {mark.missing} of its signatures",
            f"sign root {newest} first, or replace it: keydctl role supersede {role}",
        )
    if asked != newest + 1:
        raise _refused(
            effect,
            "root-step",
            f"root {asked} cannot follow root {newest}; clients take one step at a time",
            f"number it {newest + 1}; for roots signed elsewhere: "
            f"keydctl role advance {effect.repository} FILES",
        )


def _taken(effect: RecordMark, mark: Mark) -> VersionTakenError:
    version = mark.newest.version
    draft = effect.role == "root" and not mark.is_complete
    following = version if draft else version + 1
    supersede = f"keydctl role supersede {effect.repository} {effect.role}"
    renumber = f"number it {following} and sign again"
    return VersionTakenError(
        f"other bytes are signed as {effect.role} {version} of {effect.repository}",
        hint=f"sign those, or replace them: {supersede}"
        if draft
        else f"{renumber}; if the signed ones never left: {supersede}",
        repository=effect.repository,
        role=effect.role,
        version=version,
        digest=effect.marked.digest.hex(),
        signed_digest=mark.newest.digest.hex(),
        last_version=version,
        next_version=following,
    )


def _refused(effect: RecordMark, rule: str, message: str, hint: str) -> RuleRefusedError:
    return RuleRefusedError(
        message,
        hint=hint,
        rule=rule,
        repository=effect.repository,
        role=effect.role,
        version=effect.marked.version,
    )
