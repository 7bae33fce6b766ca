"""One signature, from request to receipt, readable top to bottom.

    plan      who may, with which version, in what form        (refusals end here, logged)
    replay    the same requester, version and digest as before: the stored signature again
    device    the token host signs
    check     with the registered public key, here in the daemon
    record    entry and signature in one durable transaction
    answer

A batch is the same for many items at once; one item's error never touches its neighbours. The
work belongs to a task of the daemon: a caller that leaves drops what no token host has yet, the
rest completes and is logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from keyd import publickeys
from keyd.errors import (
    BadSignatureError,
    FrozenError,
    KeydError,
    KeyNotEnabledError,
)
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    ContentReader,
    Context,
    Device,
    Effect,
    EntryDraft,
    Outcome,
    Registry,
    SignatureKey,
    SignatureLookup,
    Signed,
    SignRequest,
    Statement,
    StoredSignature,
    StoreSignature,
    VersionState,
    check_encoding,
)
from keyd.plan import Plan, choose_version, digest_to_sign, find_context, state_hint

log = logging.getLogger(__name__)

_CHECK_CHUNK = 128
"""Signatures verified in one go on a worker thread; keeps the event loop answering others."""

_AT_ONCE = 250
"""Items of a batch that are decided between two looks at other callers."""

_READ_AT_ONCE_BYTES = 16 * 1024
"""Payloads up to this, together, are read on the event loop: less than a millisecond."""

_OPAQUE = Statement()


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
        results: dict[int, Signed | KeydError] = {}
        plans: list[Plan] = []
        refusals = []
        statements = await self._read_all(requests)
        for place, request in enumerate(requests):
            if place % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            if isinstance(request, KeydError):
                results[place] = request
                continue
            try:
                plan = self._plan(caller, place, request, statements[place])
            except KeydError as e:
                results[place] = e
                refusals.append(self._gate.refuse(caller, Action.SIGN, request.key, e))
                continue
            if request.dry_run:
                results[place] = _answer(plan, b"", -1)
            else:
                plans.append(plan)
        if refusals:
            await asyncio.gather(*refusals)

        try:
            stored = await self._find_stored(caller, plans)
            fresh = []
            for plan in plans:
                earlier = stored.get(plan.identity(caller))
                if earlier is None:
                    fresh.append(plan)
                else:
                    results[plan.place] = _answer(
                        plan, earlier.signature, earlier.log_index, replayed=True
                    )
            outcomes = await self._sign_on_tokens(fresh, gone)
            outcomes = await self._check(fresh, outcomes)
            recorded = await self._record(caller, fresh, outcomes)
        except KeydError as e:
            # Nothing that has no durable entry leaves, whatever was signed in memory.
            recorded = {p.place: e for p in plans if p.place not in results}
        results |= recorded
        return [results[place] for place in range(len(requests))]

    # ------------------------------------------------------------------------------- plan

    async def _read_all(self, requests: Sequence[SignRequest | KeydError]) -> list[Statement]:
        """What each payload says. Large ones are read on a worker thread: they come from callers
        of whom nothing is decided yet, and must not hold up the others."""
        messages = [b"" if isinstance(r, KeydError) else r.message or b"" for r in requests]

        def read() -> list[Statement]:
            return [self._read_content(m) if m else _OPAQUE for m in messages]

        if sum(map(len, messages)) <= _READ_AT_ONCE_BYTES:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._workers, read)

    def _plan(self, caller: Caller, place: int, request: SignRequest, statement: Statement) -> Plan:
        """Decide everything that can be decided before a token is asked."""
        key = self._registry.find(request.key)
        # The context may come from the bindings, and the policy shall see it: so it is worked out
        # first, but whether it fits is said only to those whom the policy lets in.
        context, misfit = find_context(key, request.context, statement)
        decision = self._gate.decide(caller, Action.SIGN, request.key, statement, context)
        key = self._gate.existing(request.key)
        if misfit is not None:
            raise misfit
        freeze = self._registry.freeze_on(key.name)
        if freeze is not None:
            raise FrozenError(
                f"signing with {freeze.key or 'all keys'} was frozen by {freeze.by}: {freeze.said}",
                hint=f"ends with: keydctl unfreeze {freeze.key or 'all'}",
                key=key.name,
            )
        version = choose_version(key, request)
        if version.state is not VersionState.ENABLED:
            raise KeyNotEnabledError(
                f"{version.name} is {version.state} and does not sign",
                hint=state_hint(version),
                version=version.name,
                state=version.state,
            )
        scheme = request.scheme or key.scheme
        publickeys.check_scheme(key.algorithm, scheme)
        encoding = check_encoding(key.algorithm, request.encoding)
        digest = digest_to_sign(key, scheme, request)
        self._audit.check_signing_allowed(bound=bool(key.bindings))
        return Plan(
            place, request, key, version, scheme, encoding, digest, statement, context, decision
        )

    # ------------------------------------------------------------------------------- sign

    async def _find_stored(
        self, caller: Caller, plans: Sequence[Plan]
    ) -> dict[SignatureKey, StoredSignature]:
        if not plans:
            return {}
        return await self._signatures.find_signatures([p.identity(caller) for p in plans])

    async def _sign_on_tokens(
        self, plans: Sequence[Plan], gone: Callable[[], bool]
    ) -> list[bytes | KeydError]:
        """Ask each token for its share, all tokens at once; results in the order of plans."""
        shares: dict[str, list[int]] = defaultdict(list)
        for number, plan in enumerate(plans):
            shares[plan.key.token].append(number)
        outcomes: dict[int, bytes | KeydError] = {}

        async def ask(token: str, numbers: list[int]) -> None:
            try:
                answers = await self._device.sign(token, [plans[n].job() for n in numbers], gone)
            except KeydError as e:
                outcomes.update(dict.fromkeys(numbers, e))
            else:
                outcomes.update(zip(numbers, answers, strict=True))

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

    # ------------------------------------------------------------------------------- record

    async def _record(
        self, caller: Caller, plans: Sequence[Plan], outcomes: Sequence[bytes | KeydError]
    ) -> dict[int, Signed | KeydError]:
        """Write an entry for each, then and only then make the answers."""
        items: list[tuple[EntryDraft, Sequence[Effect]]] = []
        for plan, outcome in zip(plans, outcomes, strict=True):
            if isinstance(outcome, KeydError):
                items.append((self._failure(caller, plan, outcome), ()))
            else:
                released = publickeys.encode(plan.key.algorithm, outcome, plan.encoding)
                sha256 = hashlib.sha256(released).hexdigest()
                items.append((self._entry(caller, plan, sha256), (StoreSignature(outcome),)))
        receipts = await self._audit.record_many(items) if items else []
        results: dict[int, Signed | KeydError] = {}
        for plan, outcome, receipt in zip(plans, outcomes, receipts, strict=True):
            if isinstance(outcome, KeydError):
                results[plan.place] = outcome
            elif isinstance(receipt, KeydError):
                results[plan.place] = receipt
            else:
                results[plan.place] = _answer(plan, outcome, receipt.index)
        return results

    def _entry(self, caller: Caller, plan: Plan, signature_sha256: str) -> EntryDraft:
        return EntryDraft(
            action=Action.SIGN,
            outcome=Outcome.ALLOWED,
            caller=caller,
            key=plan.key.name,
            version=plan.version.number,
            keyid=plan.version.keyids.get("tuf", ""),
            fingerprint=plan.version.fingerprint,
            token=plan.key.token,
            token_serial=plan.version.token_serial,
            scheme=plan.scheme,
            encoding=plan.encoding,
            digest=plan.digest,
            signature_sha256=signature_sha256,
            statement=plan.statement if plan.statement.kind != _OPAQUE.kind else None,
            context=plan.context if plan.context != Context() else None,
            rule=plan.decision.rule,
            policy_hash=self._gate.policy_hash,
            said=plan.request.reason,
        )

    def _failure(self, caller: Caller, plan: Plan, error: KeydError) -> EntryDraft:
        return replace(
            self._entry(caller, plan, ""),
            outcome=Outcome.FAILED,
            reason_code=error.reason,
            message=error.message,
            alert=isinstance(error, BadSignatureError),
        )


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
            log.critical("signature of %s does not verify", plan.version.name)
            checked.append(
                BadSignatureError(
                    f"the token's signature with {plan.version.name} does not verify with its "
                    f"registered public key ({e.message}); it was discarded",
                    hint="look at the token and its module before signing anything else",
                    version=plan.version.name,
                )
            )
    return checked


def _answer(plan: Plan, raw: bytes, log_index: int, *, replayed: bool = False) -> Signed:
    return Signed(
        version=plan.version,
        scheme=plan.scheme,
        encoding=plan.encoding,
        signature=publickeys.encode(plan.key.algorithm, raw, plan.encoding) if raw else b"",
        digest=plan.digest,
        log_index=log_index,
        statement=plan.statement,
        rule=plan.decision.rule,
        replayed=replayed,
        unbound=not plan.key.bindings,
    )
