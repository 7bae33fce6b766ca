"""One signature, from request to receipt, readable top to bottom.

    plan      who may, with which version, in what form (planning.py; refusals are logged)
    replay    the same requester, version, digest and role as before: the stored signature again
    rules     what a bound key may sign, and whose consent it takes; reserved (judging.py)
    device    the token host signs
    check     with the registered public key, here in the daemon (selfcheck.py)
    release   entry, signature, mark and used approval in one durable transaction, then the
              answer (release.py)

A batch is the same for many items, slice by slice, several slices under way at once; one item's
error never touches its neighbours, and none is answered before the last one is done. The work
belongs to a task of the daemon: a caller that leaves drops what no token host has yet, the rest
completes and is logged.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace

from keyd.approvals import Approvals
from keyd.content import Reading
from keyd.errors import KeydError
from keyd.gate import Gate
from keyd.judging import Judging
from keyd.markbook import MarkBook
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    Clock,
    ContentReader,
    Device,
    Registry,
    SignatureLookup,
    Signed,
    SignRequest,
    Statement,
)
from keyd.plan import Plan, Ruling
from keyd.planning import Planning, Refused
from keyd.release import Recorded, Release, answer, encode
from keyd.selfcheck import SelfCheck

_SLICE = 250
"""Items of a batch that go their way together: about a full frame for a token host, decided
between two looks at other callers."""

_SLICES_WITH_TOKENS = 3
"""Of one batch. Two keep a host busy; what lies there longer waits for nothing."""

_SLICES_UNDER_WAY = 6
"""Of one batch; the others than those with the tokens are checked and logged meanwhile."""

_AGAIN = Ruling(checks=("signed before: the stored signature is given again",))
"""Of a dry run of what was signed already."""

_Outcome = Recorded | Signed | KeydError


class Signing:
    """Signs for callers; every answer has its durable entry."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        device: Device,
        audit: AuditLog,
        signatures: SignatureLookup,
        marks: MarkBook,
        approvals: Approvals,
        clock: Clock,
        read_content: ContentReader,
        workers: Executor,
    ) -> None:
        """``read_content``: names what keys without bindings are asked to sign; what bound keys
        sign is parsed. ``workers``: threads that read large payloads and check large batches."""
        self._gate = gate
        self._device = device
        self._signatures = signatures
        self._marks = marks
        self._self_check = SelfCheck(workers)
        self._planning = Planning(
            gate=gate, registry=registry, audit=audit, read_content=read_content, workers=workers
        )
        self._judging = Judging(
            gate=gate, registry=registry, approvals=approvals, clock=clock, workers=workers
        )
        self._release = Release(gate=gate, registry=registry, audit=audit)
        self._running: set[asyncio.Task[list[Signed | KeydError]]] = set()

    async def sign(self, caller: Caller, request: SignRequest) -> Signed:
        """Sign one message or digest.

        Raises:
            KeydError: why not; the refusal or failure is in the log.
        """
        (result,) = await self.sign_batch(caller, [request])
        if isinstance(result, KeydError):
            raise result
        return result

    async def sign_batch(
        self, caller: Caller, requests: Sequence[SignRequest | KeydError]
    ) -> list[Signed | KeydError]:
        """Sign many; a result or an error for each, in order. An item that is an error already
        (it could not be parsed) stays that error."""
        left = False
        task = asyncio.create_task(self._run(caller, requests, lambda: left))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            left = True
            raise

    async def drain(self) -> None:
        """Wait until what callers left behind is signed and logged, or dropped."""
        if self._running:
            await asyncio.wait(list(self._running))

    async def _run(
        self,
        caller: Caller,
        requests: Sequence[SignRequest | KeydError],
        gone: Callable[[], bool],
    ) -> list[Signed | KeydError]:
        """Slice by slice, so that a large batch keeps token, checks and log busy all at once."""
        with_tokens, with_rules = asyncio.Semaphore(_SLICES_WITH_TOKENS), asyncio.Lock()
        if len(requests) <= _SLICE:
            outcomes = await self._slice(caller, requests, gone, with_tokens, with_rules)
            return await self._release.answers(caller, outcomes)
        under_way = asyncio.Semaphore(_SLICES_UNDER_WAY)

        async def work(start: int) -> list[_Outcome]:
            async with under_way:
                part = requests[start : start + _SLICE]
                return await self._slice(caller, part, gone, with_tokens, with_rules)

        parts = await asyncio.gather(
            *(work(start) for start in range(0, len(requests), _SLICE)), return_exceptions=True
        )
        outcomes = []
        for part in parts:
            if isinstance(part, BaseException):
                raise part
            outcomes += part
        return await self._release.answers(caller, outcomes)

    async def _slice(
        self,
        caller: Caller,
        requests: Sequence[SignRequest | KeydError],
        gone: Callable[[], bool],
        with_tokens: asyncio.Semaphore,
        with_rules: asyncio.Lock,
    ) -> list[_Outcome]:
        results: dict[int, _Outcome] = {}
        found = await self._planning.read_all(caller, requests)
        plans = await self._plan_all(caller, requests, found, results)
        with ExitStack() as reserved:
            try:
                fresh = await self._replay(caller, plans, results)
                async with with_rules:  # what follows each other in a batch is judged so
                    fresh = await self._rule_all(caller, fresh, reserved, results)
                async with with_tokens:
                    outcomes = await self._sign_on_tokens(caller, fresh, gone)
                outcomes = await self._self_check.check(fresh, outcomes)
                results |= await self._release.record(caller, fresh, outcomes)
            except KeydError as e:
                # Nothing that has no durable entry leaves, whatever was signed in memory.
                results |= {p.place: e for p in plans if p.place not in results}
        return [results[place] for place in range(len(requests))]

    # ------------------------------------------------------------------------------- decide

    async def _plan_all(
        self,
        caller: Caller,
        requests: Sequence[SignRequest | KeydError],
        found: Sequence[Reading | Statement],
        results: dict[int, _Outcome],
    ) -> list[Plan]:
        """Plans for the items that may be signed; the others have their result."""
        plans: list[Plan] = []
        refused: list[Refused] = []
        for place, request in enumerate(requests):
            if isinstance(request, KeydError):
                results[place] = request
                continue
            before = plans[-1] if plans else None
            plan = self._planning.plan(caller, place, request, found[place], before)
            if isinstance(plan, Refused):
                results[place] = plan.error
                # What one may do with a key that one sees is a question, not an attempt.
                if not (request.dry_run and self._gate.may(caller, Action.LIST, plan.key)):
                    refused.append(plan)
            else:
                plans.append(plan)
        for item in refused:
            await self._gate.refuse(caller, item.action, item.key, item.error)
        return plans

    async def _rule_all(
        self,
        caller: Caller,
        plans: Sequence[Plan],
        reserved: ExitStack,
        results: dict[int, _Outcome],
    ) -> list[Plan]:
        """Those that rules and people allow to be signed; the others have their result."""
        fresh: list[Plan] = []
        refused: list[tuple[Plan, KeydError]] = []
        ruled = await self._judging.rule(caller, plans, self._marks, reserved)
        for plan, ruling in zip(plans, ruled, strict=True):
            if isinstance(ruling, KeydError):
                results[plan.place] = ruling
                if not plan.request.dry_run:
                    refused.append((plan, ruling))
            elif plan.request.dry_run:
                results[plan.place] = answer(Recorded(ruling, b"", -1))
            else:
                fresh.append(ruling)
        for plan, error in refused:
            await self._release.refuse(caller, plan, error)
        return fresh

    # ------------------------------------------------------------------------------- sign

    async def _replay(
        self, caller: Caller, plans: Sequence[Plan], results: dict[int, _Outcome]
    ) -> list[Plan]:
        """Answer what was answered before from the stored signatures, checked like new ones;
        return what is left to sign."""
        if not plans:
            return []
        stored = await self._signatures.find_signatures([p.identity(caller) for p in plans])
        if not stored:
            return list(plans)
        known = [p for p in plans if p.identity(caller) in stored and self._is_remembered(p)]
        checked = await self._self_check.check(
            known, [stored[p.identity(caller)].signature for p in known]
        )
        for plan, outcome in zip(known, checked, strict=True):
            if isinstance(outcome, KeydError):
                continue
            if plan.request.dry_run:
                again = replace(plan, ruling=_AGAIN)
                results[plan.place] = answer(Recorded(again, b"", -1, replayed=True))
                continue
            index = stored[plan.identity(caller)].log_index
            results[plan.place] = Recorded(plan, encode(plan, outcome), index, replayed=True)
        return [p for p in plans if p.place not in results]

    def _is_remembered(self, plan: Plan) -> bool:
        """False for metadata that the role's mark knows nothing of (any more): the rules judge it,
        and the mark shall know it from then on."""
        document, context = plan.document, plan.terms.context
        if document is None or plan.request.message is None:
            return True
        digest = hashlib.sha256(plan.request.message).digest()
        return self._marks.remembers(context.repository, context.role, document.version, digest)

    async def _sign_on_tokens(
        self, caller: Caller, plans: Sequence[Plan], gone: Callable[[], bool]
    ) -> list[bytes | KeydError]:
        """Ask each token for its share, all tokens at once; results in the order of plans."""
        shares: dict[str, list[int]] = defaultdict(list)
        for number, plan in enumerate(plans):
            shares[plan.terms.key.token].append(number)
        outcomes: dict[int, bytes | KeydError] = {}

        async def ask(token: str, numbers: list[int]) -> None:
            try:
                jobs = [plans[n].job(caller) for n in numbers]
                answers = await self._device.sign(token, jobs, gone)
            except KeydError as e:
                outcomes.update(dict.fromkeys(numbers, e))
            else:
                outcomes.update(zip(numbers, answers, strict=True))

        if len(shares) == 1:
            await ask(*next(iter(shares.items())))
        else:
            await asyncio.gather(*(ask(token, numbers) for token, numbers in shares.items()))
        return [outcomes[n] for n in range(len(plans))]
