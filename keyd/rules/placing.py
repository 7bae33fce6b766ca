"""Where a file that was shown takes the mark of its role. Pure; never lowers a mark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from keyd.content.refusal import printable
from keyd.errors import RuleRefusedError
from keyd.model import ONLINE_ROLES, Context, Mark, MarkContents, Marked, MarkState, Need
from keyd.rules.published import Shown
from keyd.rules.refusal import command, of, refuse


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a role, with the bytes behind its mark."""

    mark: Mark
    contents: MarkContents


@dataclass(frozen=True, slots=True)
class Proposal:
    """A file to be placed. ``signers``: identities that really signed it, of keys that count for
    the role. ``needs``: thresholds that make it complete."""

    repository: str
    shown: Shown
    signers: frozenset[str]
    needs: tuple[Need, ...]
    keyset: str
    now: datetime

    @property
    def context(self) -> Context:
        """Repository and role."""
        return Context(self.repository, self.shown.role)

    @property
    def is_met(self) -> bool:
        """True when the file by itself meets every threshold."""
        return bool(self.needs) and all(need.is_met(self.signers) for need in self.needs)

    def marked(self) -> Marked:
        """The version as a mark names it."""
        document = self.shown.document
        return Marked(
            version=document.version,
            digest=self.shown.digest,
            kind=document.kind,
            dialect=document.dialect.value,
            expires=document.expires,
            keyset=self.keyset,
        )

    def as_newest(self, state: MarkState, before: Known | None) -> Known:
        """The mark with this version as its newest and complete one, above what was complete."""
        marked = self.marked()
        mark = before.mark if before else None
        same_version = mark is not None and mark.newest.version == marked.version
        below = mark.complete if mark else None
        if below is not None and below.is_same(marked):
            below = None
        known = Mark(
            repository=self.repository,
            role=self.shown.role,
            newest=marked,
            state=state,
            signed_at=self.now,
            signers=self.signers,
            needs=self.needs,
            complete=marked,
            reissued=mark.reissued + 1 if mark is not None and same_version else 0,
            published_before=mark is not None and below is not None and mark.is_complete_published,
            before=below,
            floor=mark.floor_under(marked) if mark else None,
        )
        payload = self.shown.payload
        kept = before.contents.complete if before is not None and below is not None else b""
        return Known(known, MarkContents(payload, payload, kept))


@dataclass(frozen=True, slots=True)
class Placed:
    """``known``: the mark to put, None when nothing changes. ``is_complete``: the file meets the
    thresholds, so that what it says may be relied on. ``note``: for people, or empty."""

    known: Known | None
    is_complete: bool
    note: str = ""


Place = Callable[[Proposal, Known | None], Placed]


def place_imported(proposal: Proposal, known: Known | None) -> Placed:
    """Import: what is published counts, unless it would lower a mark.

    Raises:
        RuleRefusedError: evidence-signatures, evidence-lower, evidence-conflict.
    """
    shown = proposal.shown
    if not proposal.is_met:
        raise unmet(proposal)
    if known is None:
        return Placed(proposal.as_newest(MarkState.PUBLISHED, None), True)
    mark, version = known.mark, shown.document.version
    if mark.complete and mark.complete.version == version and mark.newest.version > version:
        if mark.complete.digest == shown.digest:
            above = f"{shown} is known; v{mark.newest.version} is signed above it"
            return Placed(_published_below(known), True, above)
        raise _conflict(proposal, mark.complete.digest, "reset")
    if version < mark.newest.version:
        raise refuse(
            "evidence-lower",
            f"{of(proposal.context)}: v{mark.newest.version} is {mark.state} here, this would go "
            f"back to v{version}",
            hint="show newer files; or, when what was signed here never counted, forget it: "
            f"{command('reset', proposal.context)}",
            context=proposal.context,
            content=shown.document,
            last_version=mark.newest.version,
        )
    if version == mark.newest.version and mark.newest.digest == shown.digest:
        return _same(proposal, known, MarkState.PUBLISHED)
    if version == mark.newest.version and mark.state is MarkState.PUBLISHED:
        raise _conflict(proposal, mark.newest.digest, "reset")
    return Placed(proposal.as_newest(MarkState.PUBLISHED, known), True)


def place_advanced(*, published: bool) -> Place:
    """Advance: only forward, and bytes signed here give way to others only in the roles that
    servers sign anew. ``published``: see :func:`keyd.rules.evidence.verify_advance`."""
    state = MarkState.PUBLISHED if published else MarkState.COMPLETE

    def place(proposal: Proposal, known: Known | None) -> Placed:
        shown, version = proposal.shown, proposal.shown.document.version
        if known is None or version > known.mark.newest.version:
            if not proposal.is_met:
                raise unmet(proposal)
            return Placed(proposal.as_newest(state, known), True)
        mark = known.mark
        if version < mark.newest.version:
            return _below(proposal, known, published=published)
        if mark.newest.digest == shown.digest:
            return _same(proposal, known, state)
        if not proposal.is_met:
            raise unmet(proposal)
        if shown.role not in ONLINE_ROLES:
            raise _conflict(
                proposal, mark.newest.digest, "reset" if _is_seen(mark) else "supersede"
            )
        note = f"{shown} takes the place of other bytes of that version"
        return Placed(proposal.as_newest(state, known), True, note)

    return place


def _is_seen(mark: Mark) -> bool:
    return not mark.may_be_reissued


def _below(proposal: Proposal, known: Known, *, published: bool) -> Placed:
    """A version below the newest: at most the last complete one moves up to it, or is known as
    published."""
    mark, shown = known.mark, proposal.shown
    version = shown.document.version
    old = f"{shown} is older than v{mark.newest.version}, which is {mark.state} here"
    if not proposal.is_met:
        return Placed(None, False, f"{old}: ignored")
    complete = mark.complete
    if complete is None or version > complete.version:
        moved = replace(
            mark,
            complete=proposal.marked(),
            published_before=published,
            floor=complete or mark.floor,
        )
        contents = replace(known.contents, complete=shown.payload)
        return Placed(Known(moved, contents), True, f"{old}: it is the last complete one now")
    if version == complete.version and complete.digest != shown.digest:
        if shown.role not in ONLINE_ROLES:
            raise _conflict(proposal, complete.digest, "reset")
        return Placed(None, False, f"{old}: ignored")
    if version == complete.version and published and not mark.published_before:
        return Placed(_published_below(known), True, f"{old}: it is known as published now")
    return Placed(None, version == complete.version, f"{old}: ignored")


def _published_below(known: Known) -> Known | None:
    """The complete version below the newest was published; None where that is known."""
    if known.mark.published_before:
        return None
    return Known(replace(known.mark, published_before=True), known.contents)


def _same(proposal: Proposal, known: Known, state: MarkState) -> Placed:
    """The very bytes that are known as the newest: its signers grow, and its state."""
    mark, shown = known.mark, proposal.shown
    # The keys of a draft's role may have changed since it was signed here.
    needs = mark.needs if mark.is_complete else proposal.needs
    signers = mark.signers | proposal.signers
    if not proposal.is_met:
        if not proposal.signers:
            raise unmet(proposal)
        state = MarkState.COMPLETE
    met = mark.is_complete or proposal.is_met or all(need.is_met(signers) for need in needs)
    new = mark.state if not met else state
    if mark.state is MarkState.PUBLISHED:
        new = mark.state
    if new is mark.state and signers == mark.signers:
        return Placed(None, met, f"{shown} shows nothing new")
    changed = replace(mark, state=new, signers=signers, needs=needs, signed_at=proposal.now)
    contents = known.contents
    if met:
        if not mark.is_complete:
            changed = replace(changed, complete=mark.newest, before=mark.complete)
            contents = replace(contents, before=contents.complete)
        contents = replace(contents, newest=shown.payload, complete=shown.payload)
    note = "" if met else f"{shown} still lacks {changed.missing} of its signatures"
    return Placed(Known(changed, contents), met, note)


def unmet(proposal: Proposal) -> RuleRefusedError:
    """The error for a file whose signatures do not meet a threshold."""
    shown = proposal.shown
    lacking = next((n for n in proposal.needs if not n.is_met(proposal.signers)), None)
    if lacking is None:
        said = "nobody is known to hold its role"
    else:
        have = len(lacking.signers & proposal.signers)
        said = f"{have} valid signatures by the keys of its role, {lacking.threshold} are needed"
    return refuse(
        "evidence-signatures",
        f"{shown} of {printable(proposal.repository)}: {said}",
        hint="check that it is a file of this repository, and show it with all its signatures and "
        f"the roots up to it: {command('advance', proposal.context)}",
        context=proposal.context,
        content=shown.document,
    )


def _conflict(proposal: Proposal, known: bytes, verb: str) -> RuleRefusedError:
    """Two different files of one version, both with every signature they need, or nearly."""
    shown = proposal.shown
    said = {
        "supersede": "give up what was signed here, then advance again: ",
        "reset": "clients may hold either; find out which, forget the other, then import: ",
    }[verb]
    return refuse(
        "evidence-conflict",
        f"{shown} of {printable(proposal.repository)} has other bytes than the ones known here, "
        f"and all its signatures (SHA-256 {shown.digest.hex()}, known {known.hex()})",
        hint=said + command(verb, proposal.context),
        context=proposal.context,
        content=shown.document,
        digest=shown.digest.hex(),
        signed_digest=known.hex(),
    )
