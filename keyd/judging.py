"""Rules and people: what a bound key may sign, whose consent it takes, and what is recorded with
the signature for that."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace

from keyd import rules
from keyd.approvals import Approvals, Operation
from keyd.content.documents import Document
from keyd.errors import KeydError
from keyd.gate import Gate
from keyd.gunnames import history_of
from keyd.markbook import MarkBook, Reservation
from keyd.model import (
    Caller,
    Clock,
    Context,
    HashAlgorithm,
    Limits,
    Registry,
    VersionState,
)
from keyd.plan import Plan, Ruling
from keyd.rules import Asked, History, Verdict

_JUDGE_AT_ONCE_BYTES = 64 * 1024
"""Larger documents are judged on a worker thread: limits on paths look at every target. Of a batch
as much as this is judged between two looks at other callers."""

_NO_VERDICT = Verdict(effect=None)
_NO_LIMITS = Limits(max_expiry_days=0)
_NO_HISTORY = History()


class Judging:
    """Asks rules and people about the items that need it; reserves what they allow."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        approvals: Approvals,
        clock: Clock,
        workers: Executor,
    ) -> None:
        """``workers``: threads that compare large documents."""
        self._gate = gate
        self._registry = registry
        self._approvals = approvals
        self._clock = clock
        self._workers = workers

    async def rule(
        self, caller: Caller, plans: Sequence[Plan], book: MarkBook, reserved: ExitStack
    ) -> list[Plan | KeydError]:
        """Each plan with its ruling, or why it is refused, in their order.

        What is allowed is reserved in ``book`` until ``reserved`` is closed, so that later items
        and other callers see it. Dry runs reserve in ``book.aside()``.
        """
        if not any(plan.is_ruled for plan in plans):
            return list(plans)
        aside = book.aside()
        ruled: list[Plan | KeydError] = []
        in_turn_bytes = 0
        for plan in plans:
            if not plan.is_ruled:
                ruled.append(plan)
                continue
            if in_turn_bytes > _JUDGE_AT_ONCE_BYTES:
                await asyncio.sleep(0)  # others have their turn; what is reserved stays so
                in_turn_bytes = 0
            in_turn_bytes += len(plan.request.message or b"")
            where = aside if plan.request.dry_run else book
            ruled.append(await self._rule(caller, plan, where, reserved))
        return ruled

    async def _rule(
        self, caller: Caller, plan: Plan, book: MarkBook, reserved: ExitStack
    ) -> Plan | KeydError:
        try:
            if not plan.terms.key.bindings:
                ruling = await self._ask_people(caller, plan, book, _NO_VERDICT)
                return replace(plan, ruling=ruling)
            verdict, history, reservation = await self._judge(plan, book)
            with ExitStack() as undone:
                if reservation is not None:
                    undone.enter_context(reservation)
                ruling = await self._ask_people(caller, plan, book, verdict)
                reserved.push(undone.pop_all())
        except KeydError as e:
            return e
        details = {**_told(plan, verdict, history), **ruling.details}
        effects = (*((verdict.effect,) if verdict.effect else ()), *ruling.effects)
        return replace(
            plan,
            ruling=replace(
                ruling,
                effects=effects,
                details=details,
                reissued=verdict.reissue,
                checks=verdict.checks if plan.request.dry_run else (),
            ),
        )

    async def _judge(
        self, plan: Plan, book: MarkBook
    ) -> tuple[Verdict, History, Reservation | None]:
        """What the rules say. From the last ``await`` on nobody else has a turn, so that the
        verdict and the reservation are of one moment: what was judged on a worker thread counts
        only if nothing has changed since."""
        terms, payload = plan.terms, plan.request.message
        context = terms.context
        found = rules.read(plan.reading, terms.key, context)
        kept = _kept_under(plan)
        assert payload is not None  # rules.read refuses a digest
        asked = Asked(
            payload,
            found,
            terms.key,
            terms.version,
            kept,
            lambda spki: self._is_root_key(context.repository, spki),
        )
        now = self._clock.now()
        if not isinstance(found, Document):
            return rules.judge(asked, _NO_HISTORY, _NO_LIMITS, now), _NO_HISTORY, None
        limits = self._gate.limits(context, found.dialect.value)
        early: tuple[History, Verdict] | None = None
        if len(payload) > _JUDGE_AT_ONCE_BYTES:
            history = await self._look(book, asked, found)
            judged = asyncio.get_running_loop().run_in_executor(
                self._workers, rules.judge, asked, history, limits, now
            )
            early = history, await judged
        history = await self._look(book, asked, found)
        if early is not None and early[0] == history:
            verdict = early[1]
        else:
            verdict = rules.judge(asked, history, limits, now)
        if verdict.effect is None:
            return verdict, history, None
        alone = bool(verdict.grave)
        return verdict, history, book.reserve(verdict.effect, found, now, alone=alone)

    async def _look(self, book: MarkBook, asked: Asked, document: Document) -> History:
        """The history to judge by, unless others have to be waited for."""
        repository, role = asked.context.repository, asked.context.role
        history = await book.history(repository, role)
        book.check_free(repository, role, document.version, asked.digest)
        return history

    def _is_root_key(self, repository: str, spki: bytes) -> bool:
        version = self._registry.find_public_key(spki)
        key = self._registry.find(version.key) if version else None
        if version is None or key is None or version.state is not VersionState.ENABLED:
            return False
        return any(
            fnmatch.fnmatchcase(repository, b.repository) and fnmatch.fnmatchcase("root", b.role)
            for b in key.bindings
        )

    async def _ask_people(
        self, caller: Caller, plan: Plan, book: MarkBook, verdict: Verdict
    ) -> Ruling:
        """The approval that is used up, or for a dry run whose would be needed.

        Raises:
            ApprovalNeededError: people have to consent first.
        """
        terms, request = plan.terms, plan.request
        if not terms.waits and not verdict.grave:
            return Ruling()
        payload = request.message or b""
        previous = b""
        if terms.context.repository and terms.context.role and terms.key.bindings:
            kept = _kept_under(plan)
            previous = await book.previous(kept.repository, kept.role)
        operation = Operation(
            caller,
            terms.action,
            terms.key.name,
            payload,
            hashlib.sha256(payload).digest() if payload else plan.digest.value,
            terms.statement.summary or "opaque",
            key_version=terms.version.number,
            context=terms.context,
            metadata_version=terms.statement.version,
            grave=verdict.grave,
            previous=previous,
            said=request.reason,
        )
        if request.dry_run:
            return Ruling(needs=self._approvals.needs(operation))
        effects = await self._approvals.consent(operation)
        return Ruling(effects=effects, details=self._approvals.details(effects))


def _kept_under(plan: Plan) -> Context:
    """Where the marks are that an item is judged by: its context, but that each key of a Notary
    collection's server-managed role has a history of its own (gunnames.py)."""
    context = plan.terms.context
    kept = history_of(plan.terms.key.name, context.repository, context.role)
    return context if kept == context.repository else replace(context, repository=kept)


def _told(plan: Plan, verdict: Verdict, history: History) -> dict[str, str]:
    """What an entry says of the mark: ``new`` for a version signed first, ``reissued`` for other
    bytes at it and how often, ``cosign`` for the same bytes by another key, ``again`` by the
    same."""
    effect, mark = verdict.effect, history.mark
    if effect is None:
        return {"mark": "again"} if mark is not None else {}
    told = {"mark": "new"}
    if verdict.reissue and mark is not None:
        told = {"mark": "reissued", "reissued": str(mark.reissued + 1)}
    elif mark is not None and mark.newest.digest == effect.marked.digest:
        told = {"mark": "again" if effect.signer in mark.signers else "cosign"}
    if plan.digest.algorithm is not HashAlgorithm.SHA256:
        told["metadata_digest"] = f"sha256:{effect.marked.digest.hex()}"
    if verdict.grave:
        told["grave"] = " ".join(sorted({change.rule for change in verdict.grave}))
    return told
