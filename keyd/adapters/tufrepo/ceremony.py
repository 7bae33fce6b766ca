"""A change of the root in phases that outlive every process.

    PLAN      the plan fits what is published
    GENERATE  new key versions on their tokens, staged
    STAGE     root N+1 lies in staged/, and the daemon has its bytes
    CONSENT   the daemon's own keys sign, once people have consented where rules ask for it
    SIGN      everybody else signs, through bundles; the daemon is shown the complete root
    CHECK     python-tuf's client follows from the old root to the new one
    PUBLISH   what has to follow is signed anew, checked, and published; old and new keys verify
    RETIRE    new versions become active, old ones that no published root names are disabled

What a phase left is with the daemon (phase, facts, draft) or in the folder (staged files), and
every phase sees when its work is done already. So after a crash anywhere the same call goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from securesystemslib.signer import Key as TufKey
from tuf.api.metadata import Metadata, Root

from keyd.adapters.tufrepo import published as reading
from keyd.adapters.tufrepo.ceremony_check import check_root, check_state
from keyd.adapters.tufrepo.ceremony_draft import (
    check_followers,
    lacking,
    published_root,
    rehearse,
    restored,
)
from keyd.adapters.tufrepo.ceremony_keys import Keys
from keyd.adapters.tufrepo.ceremony_plan import Plan, read_plan
from keyd.adapters.tufrepo.change import Change
from keyd.adapters.tufrepo.folder import file_name
from keyd.adapters.tufrepo.keyring import SigningKey
from keyd.adapters.tufrepo.report import Missing
from keyd.adapters.tufrepo.repository import Repository
from keyd.content import parse_document
from keyd.errors import ApprovalNeededError, RepositoryError, RuleRefusedError
from keyd.model import Ceremony, Phase

if TYPE_CHECKING:
    from keyd.client import Client

ORDER = tuple(Phase)


@dataclass(frozen=True, slots=True)
class Halt:
    """What a ceremony waits for. ``needs``: signatures at least; ``missing``: of whom.
    ``approvals``: ids. ``next``: the command that brings it further."""

    why: str
    next: str
    needs: int = 0
    missing: tuple[Missing, ...] = ()
    approvals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a ceremony came. ``halt``: None when it is done, or stopped where it was told to.
    ``published``: file names, in their order. ``notes``: what somebody should know."""

    ceremony: Ceremony
    halt: Halt | None = None
    published: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_open(client: Client, repository: str) -> Ceremony | None:
    """The open ceremony of a repository, or None."""
    return next(iter(client.list_ceremonies(repository, open=True)), None)


def get_open(client: Client, repository: str) -> Ceremony:
    """The open ceremony of a repository.

    Raises:
        RepositoryError: there is none.
    """
    found = find_open(client, repository)
    if found is None:
        raise RepositoryError(
            f"no ceremony of {repository} is open",
            hint="begin one with: keydctl tuf ceremony start DIR",
        )
    return found


@dataclass(slots=True)
class Work:
    """One run over a ceremony; use it once."""

    repository: Repository
    client: Client
    ceremony: Ceremony
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def resume(self, until: Phase | None = None) -> Outcome:
        """Do phase after phase until one waits for people. ``until``: stop when that one is next.

        Raises:
            KeydError: what failed; the ceremony stays where it is, and may be resumed.
        """
        steps = {
            Phase.PLAN: self._plan,
            Phase.GENERATE: self._generate,
            Phase.STAGE: self._stage,
            Phase.CONSENT: self._consent,
            Phase.SIGN: self._sign,
            Phase.CHECK: self._check,
            Phase.PUBLISH: self._publish,
            Phase.RETIRE: self._retire,
        }
        halt = None
        while halt is None and self.ceremony.phase.is_open:
            if until and ORDER.index(self.ceremony.phase) >= ORDER.index(until):
                break
            try:
                halt = steps[self.ceremony.phase]()
            except ApprovalNeededError as e:
                halt = _consent_halt(e)
        return Outcome(self.ceremony, halt, tuple(self.files), tuple(self.notes))

    @property
    def plan(self) -> Plan:
        """What shall change."""
        return read_plan(self.ceremony.plan)

    @property
    def version(self) -> int:
        """Of the new root."""
        return self.plan.base + 1

    @property
    def _where(self) -> str:
        return str(self.repository.folder.path)

    def _advance(
        self, phase: Phase, facts: Mapping[str, str] | None = None, draft: bytes | None = None
    ) -> None:
        self.ceremony = self.client.advance_ceremony(
            self.ceremony.id, self.ceremony.step, phase, facts=facts or {}, draft=draft
        )

    # ------------------------------------------------------------------------------ the phases

    def _plan(self) -> None:
        with self.repository.changing() as change:
            root = published_root(change)
            if root.signed.version != self.plan.base:
                raise self._overtaken(root.signed.version)
            rehearse(self.plan, root.signed)
        self._advance(Phase.GENERATE)

    def _generate(self) -> None:
        self._advance(Phase.STAGE, self.keys().generate())

    def _stage(self) -> None:
        new = self.keys().new_keys(self.ceremony.facts)
        added = [SigningKey(a.public, a.uri) for a in self.plan.add]
        with self.repository.changing() as change:
            if published_root(change).signed.version != self.plan.base:
                raise self._overtaken(published_root(change).signed.version)
            self.repository.remember([*new, *added])
            if not change.stage_root(lambda root: self.plan.edit(root, [k.public for k in new])):
                raise RepositoryError(
                    "the published root says all of this already",
                    hint=f"keydctl tuf ceremony abort {self._where}",
                )
            staged = reading.parse(change.folder.staged_files()["root"], Root)
            assert change.published is not None
            can_sign = self.keys().can_sign(self.repository.settings.signers)
            try:
                check_followers(change.published, staged.signed, can_sign)
            except RepositoryError:
                change.folder.unstage("root")
                raise
            payload = staged.signed_bytes
        parse_document(payload)
        self._advance(Phase.CONSENT, draft=payload)

    def _consent(self) -> Halt | None:
        needs, missing = self._collect()
        for one in missing:
            if isinstance(one.error, RuleRefusedError):
                raise one.error
        waits = [m.error for m in missing if isinstance(m.error, ApprovalNeededError)]
        ids = tuple(dict.fromkeys(e.facts["approval"] for e in waits))
        if needs and ids:
            self.note({"approvals": " ".join(ids)})
            return Halt(
                "; ".join(dict.fromkeys(e.message for e in waits)),
                "\n".join(f"keydctl approve {each}" for each in ids),
                needs,
                missing,
                ids,
            )
        self._advance(Phase.SIGN, {"approvals": ""})
        return None

    def _sign(self) -> Halt | None:
        needs, missing = self._collect()
        if needs:
            return Halt(
                f"root {self.version} needs {needs} more signature(s)",
                f"keydctl tuf ceremony export {self._where}",
                needs,
                missing,
            )
        self.show_draft()
        self._advance(Phase.CHECK)
        return None

    def _check(self) -> None:
        with self.repository.changing() as change:
            draft = self.draft(change)
            if draft.signed.is_expired(self.repository.now()):
                raise RepositoryError(
                    f"root {self.version} expired at {draft.signed.expires} while it waited",
                    hint=f"keydctl tuf ceremony abort {self._where}, and begin another one",
                )
            assert change.published is not None
            check_root(change.folder, change.published, draft)
        self._advance(Phase.PUBLISH)

    def _publish(self) -> Halt | None:
        with self.repository.changing() as change:
            before = change.published
            assert before is not None
            if not self.is_published(change):
                self.keep(change, self.draft(change))
            change.check = lambda after: check_state(change.folder, before, after)
            expired = [before.snapshot.signed, before.timestamp.signed]
            now = self.repository.now()
            report = change.finish(refresh=any(each.is_expired(now) for each in expired))
            self.files += report.published
        if report.waiting:
            waiting = report.waiting[0]
            return Halt(
                f"{waiting.role} {waiting.version} needs {waiting.needs} more signature(s)",
                f"keydctl tuf sign {waiting.path}",
                waiting.needs,
                waiting.missing,
            )
        self.show_draft(published=True)
        self._advance(Phase.RETIRE)
        return None

    def _retire(self) -> None:
        keys = self.keys()
        keys.activate(self.ceremony.facts)
        if not self.plan.keep_old:
            with self.repository.changing() as change:
                assert change.published is not None
                self.notes += keys.disable_old(change.published)
        self._advance(Phase.DONE)

    # ------------------------------------------------------------------------------ the draft

    def draft(self, change: Change) -> Metadata[Root]:
        """The staged root with its signatures; made from the daemon's copy when it is gone.

        Raises:
            RepositoryError: something else is staged, or published as that version.
        """
        newest = published_root(change).signed.version
        if newest != self.plan.base:
            raise self._overtaken(newest)
        path = change.folder.staged_files().get("root")
        if path is not None:
            staged = reading.parse(path, Root)
            if staged.signed_bytes == self.ceremony.draft:
                return staged
            raise RepositoryError(
                f"{path} is not the draft of this ceremony",
                hint=f"move it away, then: keydctl tuf ceremony resume {self._where}",
                file=path,
            )
        return restored(self.ceremony.draft, self._where)

    def is_published(self, change: Change) -> bool:
        """True when the draft is what clients see."""
        root = published_root(change)
        return root.signed_bytes == self.ceremony.draft

    def keep(self, change: Change, draft: Metadata[Root]) -> None:
        """Write the draft with the signatures it has now."""
        change.folder.stage("root", draft.signed.version, draft.to_bytes())

    def _collect(self) -> tuple[int, tuple[Missing, ...]]:
        """Sign with everybody within reach; how many signatures lack, and why each is missing."""
        with self.repository.changing() as change:
            draft = self.draft(change)
            before = published_root(change).signed
            keys: dict[str, TufKey] = {}
            for judge in (before, draft.signed):
                keys |= {keyid: judge.keys[keyid] for keyid in judge.roles["root"].keyids}
            needs = lacking(before, draft)
            missing = []
            if needs:
                missing = self.repository.ring.sign(draft, "root", keys.values())
            self.keep(change, draft)
            return lacking(before, draft), tuple(missing)

    def show_draft(self, *, published: bool = False) -> None:
        """Show the daemon the root with all its signatures, its own and those of others."""
        from keyd.client import RoleFile

        with self.repository.changing() as change:
            file = published_root(change) if published else self.draft(change)
            self.client.advance_role(
                self.repository.settings.repository,
                [RoleFile("root", file.to_bytes())],
                published=published,
                reason=f"ceremony {self.ceremony.id}",
            )

    # ------------------------------------------------------------------------------ inside

    def keys(self) -> Keys:
        """The daemon's keys that it is about."""
        path = self.repository.folder.metadata / file_name("root", self.plan.base)
        return Keys(self.client, self.plan, reading.parse(path, Root).signed)

    def note(self, facts: Mapping[str, str]) -> None:
        """Have the daemon remember something, unless it does already."""
        known = self.ceremony.facts
        if any(known.get(name, "") != value for name, value in facts.items()):
            self._advance(self.ceremony.phase, facts)

    def _overtaken(self, newest: int) -> RepositoryError:
        return RepositoryError(
            f"root {newest} is published; the ceremony starts from root {self.plan.base}",
            hint=f"keydctl tuf ceremony abort {self._where}, and begin another one",
        )


def _consent_halt(error: ApprovalNeededError) -> Halt:
    """That a change of a key, or what has to be published with the root, waits for people."""
    ids = tuple(each for each in (error.facts.get("approval", ""),) if each)
    return Halt(error.message, "\n".join(f"keydctl approve {i}" for i in ids), approvals=ids)
