"""One signature, from request to receipt, readable top to bottom.

    plan      who may, with which version, in what form        (refusals end here, logged)
    replay    the same requester, version and digest as before: the stored signature again
    device    the token host signs
    check     with the registered public key, here in the daemon
    release   entry and signature in one durable transaction, then the answer (release.py)

A batch is the same for many items, slice by slice, several slices under way at once; one item's
error never touches its neighbours, and none is answered before the last one is done. The work
belongs to a task of the daemon: a caller that leaves drops what no token host has yet, the rest
completes and is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

from keyd import publickeys
from keyd.errors import BadSignatureError, KeydError
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    ContentReader,
    Device,
    Registry,
    SignatureLookup,
    Signed,
    SignRequest,
    Statement,
    check_encoding,
)
from keyd.plan import Plan, Terms, check_open, choose_version, digest_to_sign, find_context
from keyd.release import Recorded, Release, answer, encode

log = logging.getLogger(__name__)

_CHECK_CHUNK = 128
"""Signatures verified in one go on a worker thread; keeps the event loop answering others."""

_SLICE = 250
"""Items of a batch that go their way together: about a full frame for a token host, decided
between two looks at other callers."""

_SLICES_WITH_TOKENS = 3
"""Of one batch. Two keep a host busy; what lies there longer waits for nothing."""

_SLICES_UNDER_WAY = 6
"""Of one batch; the others than those with the tokens are checked and logged meanwhile."""

_READ_AT_ONCE_BYTES = 16 * 1024
"""Payloads up to this, together, are read on the event loop: less than a millisecond."""

_OPAQUE = Statement()

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
        read_content: ContentReader,
        workers: Executor,
    ) -> None:
        """``workers``: threads for the self-check of large batches."""
        self._gate = gate
        self._registry = registry
        self._device = device
        self._audit = audit
        self._signatures = signatures
        self._read_content = read_content
        self._workers = workers
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
        with_tokens = asyncio.Semaphore(_SLICES_WITH_TOKENS)
        if len(requests) <= _SLICE:
            outcomes = await self._slice(caller, requests, gone, with_tokens)
            return await self._release.answers(caller, outcomes)
        under_way = asyncio.Semaphore(_SLICES_UNDER_WAY)

        async def work(start: int) -> list[_Outcome]:
            async with under_way:
                part = requests[start : start + _SLICE]
                return await self._slice(caller, part, gone, with_tokens)

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
    ) -> list[_Outcome]:
        results: dict[int, _Outcome] = {}
        statements = await self._read_all(caller, requests)
        plans = await self._plan_all(caller, requests, statements, results)
        try:
            fresh = await self._replay(caller, plans, results)
            async with with_tokens:
                outcomes = await self._sign_on_tokens(fresh, gone)
            outcomes = await self._check(fresh, outcomes)
            results |= await self._release.record(caller, fresh, outcomes)
        except KeydError as e:
            # Nothing that has no durable entry leaves, whatever was signed in memory.
            results |= {p.place: e for p in plans if p.place not in results}
        return [results[place] for place in range(len(requests))]

    # ------------------------------------------------------------------------------- plan

    async def _read_all(
        self, caller: Caller, requests: Sequence[SignRequest | KeydError]
    ) -> list[Statement]:
        """What each payload says. Large ones are read on a worker thread, since reading must not
        hold up others; what comes from strangers to the key is refused whatever it says, unread.
        """

        def to_read(request: SignRequest | KeydError) -> bytes:
            if isinstance(request, KeydError) or request.message is None:
                return b""
            stranger = self._gate.is_stranger(caller, Action.SIGN, request.key)
            return b"" if stranger else request.message

        messages = [to_read(request) for request in requests]

        def read() -> list[Statement]:
            return [self._read_content(m) if m else _OPAQUE for m in messages]

        if sum(map(len, messages)) <= _READ_AT_ONCE_BYTES:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._workers, read)

    async def _plan_all(
        self,
        caller: Caller,
        requests: Sequence[SignRequest | KeydError],
        statements: Sequence[Statement],
        results: dict[int, _Outcome],
    ) -> list[Plan]:
        """Plans for the items that are to be signed; the others have their result."""
        plans: list[Plan] = []
        refused: list[tuple[str, KeydError]] = []
        for place, request in enumerate(requests):
            if isinstance(request, KeydError):
                results[place] = request
                continue
            try:
                plan = self._plan(caller, place, request, statements[place], plans[-1:])
            except KeydError as e:
                results[place] = e
                refused.append((request.key, e))
                continue
            if request.dry_run:
                results[place] = answer(Recorded(plan, b"", -1))
            else:
                plans.append(plan)
        for name, error in refused:
            await self._gate.refuse(caller, Action.SIGN, name, error)
        return plans

    def _plan(
        self,
        caller: Caller,
        place: int,
        request: SignRequest,
        statement: Statement,
        before: Sequence[Plan],
    ) -> Plan:
        """Decide everything that can be decided before a token is asked; once for neighbours
        (``before``: the one, or none) that differ only in what they sign."""
        if before and before[0].covers(request, statement):
            terms = before[0].terms
        else:
            terms = self._terms(caller, request, statement)
        return Plan(place, request, terms, digest_to_sign(terms.key, terms.scheme, request))

    def _terms(self, caller: Caller, request: SignRequest, statement: Statement) -> Terms:
        key = self._registry.find(request.key)
        # The context may come from the bindings, and the policy shall see it: so it is worked out
        # first, but whether it fits is said only to those whom the policy lets in.
        context, misfit = find_context(key, request.context, statement)
        decision = self._gate.decide(caller, Action.SIGN, request.key, statement, context)
        key = self._gate.existing(request.key)
        if misfit is not None:
            raise misfit
        version = choose_version(key, request)
        check_open(version, self._registry.freeze_on(key.name))
        scheme = request.scheme or key.scheme
        publickeys.check_scheme(key.algorithm, scheme)
        encoding = check_encoding(key.algorithm, request.encoding)
        self._audit.check_signing_allowed(bound=bool(key.bindings))
        return Terms(
            key=key,
            version=version,
            scheme=scheme,
            encoding=encoding,
            statement=statement,
            context=context,
            decision=decision,
            policy_hash=self._gate.policy_hash,
            fingerprint=version.fingerprint,
        )

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
        known = [p for p in plans if p.identity(caller) in stored]
        checked = await self._check(known, [stored[p.identity(caller)].signature for p in known])
        for plan, outcome in zip(known, checked, strict=True):
            if not isinstance(outcome, KeydError):
                index = stored[plan.identity(caller)].log_index
                again = Recorded(plan, encode(plan, outcome), index, replayed=True)
                results[plan.place] = again
        return [p for p in plans if p.place not in results]

    async def _sign_on_tokens(
        self, plans: Sequence[Plan], gone: Callable[[], bool]
    ) -> list[bytes | KeydError]:
        """Ask each token for its share, all tokens at once; results in the order of plans."""
        shares: dict[str, list[int]] = defaultdict(list)
        for number, plan in enumerate(plans):
            shares[plan.terms.key.token].append(number)
        outcomes: dict[int, bytes | KeydError] = {}

        async def ask(token: str, numbers: list[int]) -> None:
            try:
                answers = await self._device.sign(token, [plans[n].job() for n in numbers], gone)
            except KeydError as e:
                outcomes.update(dict.fromkeys(numbers, e))
            else:
                outcomes.update(zip(numbers, answers, strict=True))

        if len(shares) == 1:
            await ask(*next(iter(shares.items())))
        else:
            await asyncio.gather(*(ask(token, numbers) for token, numbers in shares.items()))
        return [outcomes[n] for n in range(len(plans))]

    async def _check(
        self, plans: Sequence[Plan], outcomes: list[bytes | KeydError]
    ) -> list[bytes | KeydError]:
        """Verify every signature with the registered public key."""
        if len(plans) <= 2:
            return _check_chunk(plans, outcomes)
        loop = asyncio.get_running_loop()
        chunks = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self._workers,
                    _check_chunk,
                    plans[start : start + _CHECK_CHUNK],
                    outcomes[start : start + _CHECK_CHUNK],
                )
                for start in range(0, len(plans), _CHECK_CHUNK)
            )
        )
        return [outcome for chunk in chunks for outcome in chunk]


def _check_chunk(
    plans: Iterable[Plan], outcomes: Iterable[bytes | KeydError]
) -> list[bytes | KeydError]:
    checked: list[bytes | KeydError] = []
    for plan, outcome in zip(plans, outcomes, strict=True):
        if isinstance(outcome, KeydError):
            checked.append(outcome)
            continue
        try:
            plan.verify(outcome)
            checked.append(outcome)
        except KeydError as e:
            name = plan.terms.version.name
            log.critical("signature of %s does not verify", name)
            checked.append(
                BadSignatureError(
                    f"the token's signature with {name} does not verify with its "
                    f"registered public key ({e.message}); it was discarded",
                    hint="look at the token and its module before signing anything else",
                    version=name,
                )
            )
    return checked
