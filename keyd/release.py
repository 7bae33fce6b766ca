"""What happens to a signature between the token and the caller: a last look, the entry, the answer.

Seconds may pass between the decision and the token's answer. What a person stopped meanwhile (a
freeze, a disabled version, a grant taken away) is looked at again, twice: before the entry, so
that the log says what came of it, and before the answer, so that nothing leaves once the command
that stopped it has returned.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

from keyd import publickeys
from keyd.errors import BadSignatureError, DeadlineError, KeydError, TokenError
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    Context,
    Effect,
    EntryDraft,
    Outcome,
    Receipt,
    Registry,
    Signed,
    Statement,
    StoreSignature,
)
from keyd.plan import Plan, check_open

_OPAQUE = Statement()
_AT_ONCE = 250
"""Entries that are made between two looks at other callers."""


class Release:
    """Lets signatures out, each with its durable entry."""

    def __init__(self, *, gate: Gate, registry: Registry, audit: AuditLog) -> None:
        self._gate = gate
        self._registry = registry
        self._audit = audit

    def objection(self, caller: Caller, plan: Plan) -> KeydError | None:
        """Why what was decided before must not leave now; None while nothing has changed."""
        key = self._registry.find(plan.key.name)
        version = key.find_version(plan.version.number) if key else None
        try:
            if self._gate.policy_hash != plan.policy_hash:
                self._gate.decide(caller, Action.SIGN, plan.key.name, plan.statement, plan.context)
            check_open(version or plan.version, self._registry.freeze_on(plan.key.name))
        except KeydError as e:
            return e
        return None

    async def record(
        self, caller: Caller, plans: Sequence[Plan], outcomes: Sequence[bytes | KeydError]
    ) -> dict[int, Signed | KeydError]:
        """Write an entry for each; an answer for each, by place.

        What the token itself did not do (it is away, locked, busy) is counted like a refusal:
        a key whose token is away must not be a way to fill the disk.
        """
        results: dict[int, Signed | KeydError] = {}
        signed: list[tuple[Plan, bytes]] = []
        items: list[tuple[EntryDraft, Sequence[Effect]]] = []
        kept: list[tuple[EntryDraft, Sequence[Effect]]] = []
        counted: list[EntryDraft] = []
        for number, (plan, outcome) in enumerate(zip(plans, outcomes, strict=True), 1):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if isinstance(outcome, KeydError):
                results[plan.place] = outcome
                failure = self._without_signature(caller, plan, outcome, Outcome.FAILED)
                if isinstance(outcome, TokenError | DeadlineError):
                    counted.append(failure)
                else:
                    kept.append((failure, ()))
            elif (why := self.objection(caller, plan)) is not None:
                results[plan.place] = why
                kept.append((self._without_signature(caller, plan, why, Outcome.REFUSED), ()))
            else:
                released = publickeys.encode(plan.key.algorithm, outcome, plan.encoding)
                sha256 = hashlib.sha256(released).hexdigest()
                signed.append((plan, outcome))
                items.append((self._entry(caller, plan, sha256), (StoreSignature(outcome),)))
        receipts: Sequence[Receipt | KeydError] = []
        if items or kept:
            receipts = await self._audit.record_many([*items, *kept])
        for (plan, raw), receipt in zip(signed, receipts, strict=False):
            results[plan.place] = (
                receipt
                if isinstance(receipt, KeydError)
                else self.answer(caller, plan, raw, receipt.index)
            )
        for failure in counted:
            await self._audit.refuse(failure)
        return results

    def answer(
        self, caller: Caller, plan: Plan, raw: bytes, log_index: int, *, replayed: bool = False
    ) -> Signed | KeydError:
        """The answer to a signature that has its entry, unless it must not leave any more."""
        return self.objection(caller, plan) or answer(plan, raw, log_index, replayed=replayed)

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
            policy_hash=plan.policy_hash,
            said=plan.request.reason,
        )

    def _without_signature(
        self, caller: Caller, plan: Plan, error: KeydError, outcome: Outcome
    ) -> EntryDraft:
        return replace(
            self._entry(caller, plan, ""),
            outcome=outcome,
            reason_code=error.reason,
            message=error.message,
            alert=isinstance(error, BadSignatureError),
        )


def answer(plan: Plan, raw: bytes, log_index: int, *, replayed: bool = False) -> Signed:
    """What the caller gets; without a signature for a dry run."""
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
