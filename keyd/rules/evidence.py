"""From published files to marks: the ways back for an honest repository. Pure.

Signatures are the evidence. A chain of roots counts only from a root that is trusted: the one a
person names (import), or the last complete one known here (advance); each following root is signed
by the threshold of the one before it and by its own (TUF 1.0, 5.3). Everything else counts by the
keys of the last root, or of the targets file that delegates to it. A file that expired is history,
and evidence all the same. No mark is ever lowered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from keyd.content import parse_document
from keyd.content.documents import TOP_LEVEL_ROLES, Root, Targets
from keyd.content.refusal import printable
from keyd.errors import RuleRefusedError
from keyd.model import Context, Mark, MarkContents
from keyd.rules.needs import find_holders, keyset_of, needs_of
from keyd.rules.placing import (
    Known,
    Place,
    Proposal,
    place_advanced,
    place_imported,
    unmet,
)
from keyd.rules.published import (
    RoleFile,
    Shown,
    expiry_notes,
    mismatch_notes,
    read_file,
    read_files,
    root_holders,
    signers_of,
)
from keyd.rules.refusal import command, refuse

__all__ = ["Change", "Evidence", "Known", "RoleFile", "verify_advance", "verify_import"]


@dataclass(frozen=True, slots=True)
class Change:
    """A mark to put. ``before``: the one that it replaces."""

    before: Mark | None
    mark: Mark
    contents: MarkContents


@dataclass(frozen=True, slots=True)
class Evidence:
    """What files show. ``changes``: root first, then by role. ``notes``: what a person should
    know of the files, one line each; printable."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def verify_import(
    repository: str,
    trusted_root: bytes,
    files: Sequence[RoleFile],
    known: Mapping[str, Known],
    now: datetime,
) -> Evidence:
    """The marks of a published repository, from a root that a person trusts.

    ``known``: what is known of its roles already; none of it is lowered.

    Raises:
        ContentError: a file cannot be read without doubt.
        RuleRefusedError: a file does not carry what it is shown for; nothing of it all counts.
    """
    trusted = read_file(repository, RoleFile("root", trusted_root))
    found = read_files(repository, [RoleFile("root", trusted_root), *files])
    work = _Work(repository, found, known, now, place_imported)
    work.trust(trusted)
    return work.finish()


def verify_advance(
    repository: str,
    files: Sequence[RoleFile],
    known: Mapping[str, Known],
    now: datetime,
    *,
    published: bool,
) -> Evidence:
    """What files show beyond the marks known here, from the last complete root; before there was
    one, from root version 1 as it was signed here, whose other holders may have signed elsewhere.

    ``published``: the files are what clients get.

    Raises:
        ContentError: a file cannot be read without doubt.
        RuleRefusedError: no root is known to start from, or a file does not carry what it is
            shown for; nothing of it all counts.
    """
    root = known.get("root")
    content = root.contents.complete if root else b""
    begun = (
        root is not None
        and not content
        and not root.mark.is_complete
        and root.mark.newest.version == 1
    )
    if root is None or not (content or begun):
        raise _no_history(repository)
    found = read_files(repository, files)
    place = place_advanced(published=published)
    work = _Work(repository, found, known, now, place)
    document = parse_document(content or root.contents.newest)
    assert isinstance(document, Root)
    if not work.follow(document, is_complete=not begun) and found.keys() - {"root"}:
        raise _no_history(repository)
    return work.finish()


def _no_history(repository: str) -> RuleRefusedError:
    return refuse(
        "no-history",
        f"no complete root of {printable(repository)} is known here to judge the files by",
        hint=f"start from a root you trust: {command('import', Context(repository, 'root'))}",
        context=Context(repository, "root"),
    )


class _Work:
    """One look at a set of files; ``_root`` and ``_verified`` are what counts so far."""

    def __init__(
        self,
        repository: str,
        found: Mapping[str, Sequence[Shown]],
        known: Mapping[str, Known],
        now: datetime,
        place: Place,
    ) -> None:
        self._repository = repository
        self._found = found
        self._known = known
        self._now = now
        self._place = place
        self._changes: dict[str, Change] = {}
        self._notes: list[str] = []
        self._verified: dict[str, Targets] = {}
        self._newest = {role: versions[-1] for role, versions in found.items()}
        self._root: Root

    # -- the chain of roots

    def trust(self, trusted: Shown) -> None:
        """Import: from the root a person named to the last one that follows it."""
        root = _root_of(trusted)
        first = self._root_proposal(trusted, None)
        if not first.is_met:
            raise unmet(first)
        self._agree(trusted)
        self._root, last = root, first
        for shown in self._following(root):
            self._agree(shown)
            last = self._root_proposal(shown, self._root)
            if not last.is_met:
                raise unmet(last)
            self._root = _root_of(shown)
        self._apply(last)

    def follow(self, first: Root, *, is_complete: bool) -> bool:
        """Advance: from the last complete root known here, or the first that was begun here. True
        when there is a complete one then."""
        self._root = first
        for shown in self._found.get("root", ()):
            if shown.document.version == first.version:
                self._agree(shown)
                is_complete |= self._apply(self._root_proposal(shown, None))
        for shown in self._following(first):
            if self._apply(self._root_proposal(shown, self._root)):
                self._root, is_complete = _root_of(shown), True
        return is_complete

    def _following(self, first: Root) -> Iterator[Shown]:
        for shown in self._found.get("root", ()):
            if shown.document.version < first.version:
                self._notes.append(f"{shown} is older than root v{first.version}: not looked at")
            elif shown.document.version > first.version:
                yield shown

    def _root_proposal(self, shown: Shown, before: Root | None) -> Proposal:
        """Who signed a root. ``before``: the trusted one it has to follow."""
        root = _root_of(shown)
        signers = signers_of(shown, root_holders(self._repository, root))
        if before is not None:
            if root.version != before.version + 1:
                raise self._refuse(
                    "evidence-chain",
                    shown,
                    f"{shown} does not follow root v{before.version}: v{before.version + 1} is "
                    "missing, or lacks signatures",
                    hint=f"show every root from v{before.version + 1} on, each with all of them",
                )
            self._check_dialect(shown, before)
            signers |= signers_of(shown, root_holders(self._repository, before))
        needs = needs_of("root", root, before, None)
        keyset = keyset_of("root", root, None)
        return Proposal(self._repository, shown, signers, needs, keyset, self._now)

    def _agree(self, shown: Shown) -> None:
        """A root at the version that is complete here has to be that one."""
        known = self._known.get("root")
        complete = known.mark.complete if known else None
        if complete is None or complete.version != shown.document.version:
            return
        if complete.digest != shown.digest:
            raise self._refuse(
                "evidence-conflict",
                shown,
                f"{shown} has other bytes than the complete root known here "
                f"(SHA-256 {shown.digest.hex()}, known {complete.digest.hex()})",
                hint="find out which of them clients hold; if it is this one, forget the other and "
                f"import: {command('reset', Context(self._repository, 'root'))}",
            )

    # -- what the root's keys, and their delegates, signed

    def finish(self) -> Evidence:
        """Judge all other roles; what is to be put, and what to say of the files."""
        for role in TOP_LEVEL_ROLES[1:]:
            if role in self._newest:
                self._judge(self._newest[role], None)
        self._judge_delegated()
        for role, versions in sorted(self._found.items()):
            if role != "root":
                last = versions[-1]
                self._notes += [f"{v} is older than {last}: not looked at" for v in versions[:-1]]
        self._notes += expiry_notes(self._newest.values(), self._now)
        self._notes += mismatch_notes(self._newest)
        ordered = sorted(self._changes, key=lambda role: (role != "root", role))
        return Evidence(tuple(self._changes[role] for role in ordered), tuple(self._notes))

    def _judge_delegated(self) -> None:
        """By whoever delegates to them, from the top down."""
        waiting = {r: shown for r, shown in self._newest.items() if r not in TOP_LEVEL_ROLES}
        while waiting:
            found = next(
                ((r, by) for r in waiting if (by := self._find_delegator(r)) is not None), None
            )
            if found is None:
                role, shown = next(iter(waiting.items()))
                raise self._refuse(
                    "evidence-delegation",
                    shown,
                    f"no verified targets file delegates to {printable(role)}",
                    hint="show the targets file that delegates to it too",
                )
            role, delegator = found
            self._judge(waiting.pop(role), delegator)

    def _find_delegator(self, role: str) -> Targets | None:
        """Of the targets files shown; else of the complete ones known, where none was shown."""
        for delegator in self._verified.values():
            if find_holders(role, None, delegator) is not None:
                return delegator
        return next((d for d in self._standing if find_holders(role, None, d) is not None), None)

    @cached_property
    def _standing(self) -> list[Targets]:
        """The complete targets files known of roles of which nothing was shown. They are large, and
        asked for each delegated file: read once."""
        documents = [
            parse_document(known.contents.complete)
            for name, known in self._known.items()
            if name not in self._newest and known.contents.complete
        ]
        return [document for document in documents if isinstance(document, Targets)]

    def _judge(self, shown: Shown, delegator: Targets | None) -> None:
        self._check_dialect(shown, self._root)
        holders = find_holders(shown.role, self._root, delegator)
        assert holders is not None  # a root has all top-level roles, the delegator this one
        proposal = Proposal(
            self._repository,
            shown,
            signers_of(shown, holders),
            needs_of(shown.role, shown.document, self._root, delegator),
            keyset_of(shown.role, self._root, delegator),
            self._now,
        )
        if self._apply(proposal) and isinstance(shown.document, Targets):
            self._verified[shown.role] = shown.document

    # -- inside

    def _apply(self, proposal: Proposal) -> bool:
        """Place it; true when it is complete."""
        role = proposal.shown.role
        known = self._known.get(role)
        change = self._changes.get(role)
        current = Known(change.mark, change.contents) if change else known
        placed = self._place(proposal, current)
        if placed.note:
            self._notes.append(placed.note)
        if placed.known is not None:
            before = known.mark if known else None
            self._changes[role] = Change(before, placed.known.mark, placed.known.contents)
        return placed.is_complete

    def _check_dialect(self, shown: Shown, root: Root) -> None:
        if shown.document.dialect is not root.dialect:
            raise self._refuse(
                "evidence-dialect",
                shown,
                f"{shown} is in the {shown.document.dialect} dialect, the root in {root.dialect}",
                hint="show files of one repository only",
            )

    def _refuse(self, rule: str, shown: Shown, message: str, *, hint: str) -> RuleRefusedError:
        context = Context(self._repository, shown.role)
        return refuse(rule, message, hint=hint, context=context, content=shown.document)


def _root_of(shown: Shown) -> Root:
    assert isinstance(shown.document, Root)  # read_file looked at its kind
    return shown.document
