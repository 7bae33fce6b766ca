"""Ceremonies: where the change of a root stands, kept for whoever goes on with it.

The work of the phases is done by keydctl through the other services, each with its own grants,
rules and approvals. Kept here is only what a crash must not lose, and every step is an entry.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from keyd.approvals import Approvals
from keyd.content import parse_document
from keyd.content.canonical import decode
from keyd.content.documents import Root
from keyd.content.refusal import printable
from keyd.errors import (
    CeremonyNotFoundError,
    ConflictError,
    InvalidRequestError,
    KeydError,
    PolicyDeniedError,
)
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    Ceremony,
    Clock,
    Context,
    Effect,
    EntryDraft,
    Outcome,
    Phase,
    PutCeremony,
    Registry,
    check_name,
)
from keyd.model import Ceremonies as Kept
from keyd.rolegrants import RoleGrants

ROOT = "root"
MAX_PLAN_BYTES = 64 * 1024
MAX_DRAFT_BYTES = 512_000
"""As large as a root that python-tuf's clients take (UpdaterConfig.root_max_length)."""
MAX_FACTS = 100
MAX_FACT_CHARS = 4_000
"""Of one fact; its name has at most 100."""

_MAX_FACT_NAME_CHARS = 100
_ORDER = tuple(Phase)
_NEEDS_DRAFT = _ORDER[_ORDER.index(Phase.CONSENT) : _ORDER.index(Phase.ABORTED)]
_MAY_GO_BACK = (Phase.CONSENT, Phase.SIGN, Phase.CHECK)


class Ceremonies:
    """Who may move a ceremony, which moves there are, with which entry."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        ceremonies: Kept,
        approvals: Approvals,
        audit: AuditLog,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        """``new_id`` makes ids that fit into a shell word and repeat never."""
        self._gate = gate
        self._grants = RoleGrants(gate, registry)
        self._ceremonies = ceremonies
        self._approvals = approvals
        self._audit = audit
        self._clock = clock
        self._new_id = new_id

    # ------------------------------------------------------------------------------- read

    def get(self, caller: Caller, ceremony_id: str) -> Ceremony:
        """One ceremony, for whoever may see a key that is bound to its repository's root.

        Raises:
            CeremonyNotFoundError: there is none, or the caller may not see it.
        """
        found = self._ceremonies.find_ceremony(ceremony_id)
        if found is None or not self._is_visible(caller, found.repository):
            raise CeremonyNotFoundError(
                f"no ceremony {printable(ceremony_id, 64)}, or not for {caller.principal.id} to "
                "see",
                hint="keydctl tuf ceremony status DIR shows the one of a repository",
                ceremony=printable(ceremony_id, 64),
            )
        return found

    def list(
        self, caller: Caller, repository: str = "", *, only_open: bool = False
    ) -> list[Ceremony]:
        """The ceremonies the caller may see, newest first; ``repository`` empty: of all."""
        return [
            ceremony
            for ceremony in self._ceremonies.ceremonies()
            if repository in ("", ceremony.repository)
            and (ceremony.phase.is_open or not only_open)
            and self._is_visible(caller, ceremony.repository)
        ]

    # ------------------------------------------------------------------------------- change

    async def start(
        self, caller: Caller, repository: str, plan: str, *, said: str = ""
    ) -> Ceremony:
        """Begin one, in phase PLAN. Where rules demand consent for the action ``ceremony``, it is
        asked for here, and shows the plan; later steps need the grant only.

        Raises:
            ConflictError: another one of the repository is open (fact ``ceremony``).
            ApprovalNeededError: people have to consent first.
        """
        rule = await self._authorize(caller, repository)
        check_name("repository", repository)
        _check_plan(plan)
        standing = next(iter(self.list(caller, repository, only_open=True)), None)
        if standing is not None:
            raise ConflictError(
                f"ceremony {standing.id} of {repository} is open, in phase {standing.phase}",
                hint="go on with it (keydctl tuf ceremony resume DIR) or end it "
                "(keydctl tuf ceremony abort DIR)",
                ceremony=standing.id,
            )
        consent: list[Effect] = []
        for key, context in self._grants.who_demands(caller, Action.CEREMONY, repository, [ROOT]):
            consent += await self._approvals.consent_to(
                caller,
                Action.CEREMONY,
                key.name,
                {"plan": plan, "repository": repository},
                said=said,
                context=context,
                summary=f"change the root of {repository}",
            )
        now = self._clock.now()
        ceremony = Ceremony(
            id=self._new_id(),
            repository=repository,
            plan=plan,
            phase=Phase.PLAN,
            started_by=caller.principal.id,
            started_at=now,
            changed_at=now,
            said=said,
        )
        entry = self._entry(caller, "ceremony-start", ceremony, rule=rule, said=said)
        entry = replace(entry, details={**entry.details, **self._approvals.details(consent)})
        await self._audit.record(entry, (PutCeremony(ceremony), *consent))
        return ceremony

    async def advance(
        self,
        caller: Caller,
        ceremony_id: str,
        *,
        step: int,
        phase: Phase,
        facts: Mapping[str, str] | None = None,
        draft: bytes | None = None,
    ) -> Ceremony:
        """Finish a phase. ``phase``: the one that is next now; ``facts`` are added, an empty text
        removes one; ``draft`` None keeps the one there is.

        Raises:
            ConflictError: the ceremony is not at ``step`` any more, or has ended.
            InvalidRequestError: phases do not follow each other so.
            ContentError: the draft is not the signed part of a root.
        """
        before = self.get(caller, ceremony_id)
        rule = await self._authorize(caller, before.repository)
        _check_open(before)
        if step != before.step:
            raise ConflictError(
                f"ceremony {before.id} is at step {before.step}, not {step}: somebody went on "
                "with it",
                hint="look at it again: keydctl tuf ceremony status DIR",
                ceremony=before.id,
                step=before.step,
            )
        await asyncio.to_thread(_check_draft, draft)
        after = replace(
            before,
            phase=phase,
            facts=_merged(before.facts, facts or {}),
            draft=before.draft if draft is None else draft,
            step=step + 1,
            changed_at=self._clock.now(),
        )
        _check_move(before, after)
        entry = self._entry(caller, "ceremony-advance", after, rule=rule, was=before.phase)
        await self._audit.record(entry, (PutCeremony(after),))
        return after

    async def abort(self, caller: Caller, ceremony_id: str, *, said: str = "") -> Ceremony:
        """End it; one that is aborted already is answered as it is.

        Raises:
            ConflictError: it is done, or changed just now.
        """
        before = self.get(caller, ceremony_id)
        rule = await self._authorize(caller, before.repository)
        if before.phase is Phase.ABORTED:
            return before
        _check_open(before)
        now = self._clock.now()
        after = replace(before, phase=Phase.ABORTED, step=before.step + 1, changed_at=now)
        entry = self._entry(caller, "ceremony-abort", after, rule=rule, said=said, was=before.phase)
        await self._audit.record(replace(entry, alert=True), (PutCeremony(after),))
        return after

    # ------------------------------------------------------------------------------- inside

    def _is_visible(self, caller: Caller, repository: str) -> bool:
        return bool(self._grants.seen_keys(caller, repository, ROOT))

    async def _authorize(self, caller: Caller, repository: str) -> str:
        """The grant that allows it.

        Raises:
            PolicyDeniedError: nothing allows it, or no such repository; in the log when this
                raises.
        """
        try:
            return self._grants.decide(caller, Action.CEREMONY, repository, [ROOT])
        except PolicyDeniedError as e:
            await self._gate.refuse(caller, Action.CEREMONY, "", e)
            raise

    def _entry(
        self,
        caller: Caller,
        action: str,
        ceremony: Ceremony,
        *,
        rule: str,
        said: str = "",
        was: str = "",
    ) -> EntryDraft:
        details = {
            "ceremony": ceremony.id,
            "repository": ceremony.repository,
            "phase": ceremony.phase.value,
            "plan_sha256": hashlib.sha256(ceremony.plan.encode()).hexdigest(),
        }
        if was:
            details["phase_before"] = was
        if ceremony.draft:
            details["draft_sha256"] = hashlib.sha256(ceremony.draft).hexdigest()
        return EntryDraft(
            action=action,
            outcome=Outcome.ALLOWED,
            caller=caller,
            context=Context(ceremony.repository, ROOT),
            rule=rule,
            policy_hash=self._gate.policy_hash,
            said=said,
            message=f"{ceremony.repository}: {f'{was} -> ' if was else ''}{ceremony.phase}",
            details=details,
        )


def _check_open(ceremony: Ceremony) -> None:
    if not ceremony.phase.is_open:
        raise ConflictError(
            f"ceremony {ceremony.id} has ended: {ceremony.phase}",
            hint="begin another one with: keydctl tuf ceremony start",
            ceremony=ceremony.id,
        )


def _check_plan(plan: str) -> None:
    if len(plan.encode()) > MAX_PLAN_BYTES:
        raise InvalidRequestError("plan", f"at most {MAX_PLAN_BYTES} bytes are taken")
    try:
        if isinstance(decode(plan.encode()), dict):
            return
        why = "it is no JSON object"
    except KeydError as e:
        why = e.message
    raise InvalidRequestError("plan", f"canonical JSON, as docs/ceremonies.md describes: {why}")


def _check_draft(draft: bytes | None) -> None:
    if draft and len(draft) > MAX_DRAFT_BYTES:
        raise InvalidRequestError(
            "draft", f"{len(draft)} bytes; clients take a root of {MAX_DRAFT_BYTES} at most"
        )
    if draft and not isinstance(parse_document(draft), Root):
        raise InvalidRequestError("draft", "the signed part of a root is needed")


def _merged(before: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    facts = {name: value for name, value in {**before, **added}.items() if value}
    if len(facts) > MAX_FACTS:
        raise InvalidRequestError("facts", f"at most {MAX_FACTS} are kept")
    for name, value in added.items():
        if not 1 <= len(name) <= _MAX_FACT_NAME_CHARS or not name.isprintable():
            raise InvalidRequestError(
                "facts", f"a name has 1 to {_MAX_FACT_NAME_CHARS} printable characters"
            )
        if len(value) > MAX_FACT_CHARS or not value.isprintable():
            raise InvalidRequestError(
                "facts", f"{name}: at most {MAX_FACT_CHARS} printable characters"
            )
    return facts


def _check_move(before: Ceremony, after: Ceremony) -> None:
    """Forward, or back to STAGE with another draft; never to the end by the back door."""
    if after.phase is Phase.ABORTED:
        raise InvalidRequestError("phase", "a ceremony is aborted by AbortCeremony")
    if after.phase in _NEEDS_DRAFT and not after.draft:
        raise InvalidRequestError("phase", f"{after.phase} needs a draft")
    is_forward = _ORDER.index(after.phase) >= _ORDER.index(before.phase)
    is_new_draft = before.phase in _MAY_GO_BACK and after.draft != before.draft
    if not is_forward and not (after.phase is Phase.STAGE and is_new_draft):
        raise InvalidRequestError(
            "phase",
            f"{after.phase} does not follow {before.phase}; the way back is STAGE with another "
            "draft, from CONSENT, SIGN or CHECK",
        )
    if is_forward and after.draft != before.draft and before.phase in _NEEDS_DRAFT:
        raise InvalidRequestError("draft", f"in {before.phase} another draft goes back to STAGE")
