"""What happens to a signature between the token and the caller: a last look, the entry, the answer.

Seconds may pass between the decision and the token's answer. What a person stopped meanwhile (a
freeze, a disabled version, a grant taken away, other bindings) is looked at again, twice: before
the entry, so that the log says what came of it, and before the answer, so that nothing leaves once
the command that stopped it has returned.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keyd import publickeys
from keyd.errors import BadSignatureError, ConflictError, DeadlineError, KeydError, TokenError
from keyd.gate import Gate, rule_of
from keyd.model import (
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
from keyd.plan import Plan, Terms, check_open

_OPAQUE = Statement()
_NO_CONTEXT = Context()
_FACTS = ("signed_digest", "last_version", "next_version", "missing", "approval", "grave")
"""Facts of a refusal that an auditor wants to see in its entry."""
_AGAIN_S = 1.0
_AT_ONCE = 250
"""Answers that are given between two looks at other callers."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A signature that has its entry, encoded as asked; it leaves after a last look."""

    plan: Plan
    signature: bytes
    log_index: int
    replayed: bool = False


class Release:
    """Lets signatures out, each with its durable entry."""

    def __init__(self, *, gate: Gate, registry: Registry, audit: AuditLog) -> None:
        self._gate = gate
        self._registry = registry
        self._audit = audit

    async def record(
        self, caller: Caller, plans: Sequence[Plan], outcomes: Sequence[bytes | KeydError]
    ) -> dict[int, Recorded | KeydError]:
        """Write an entry for each; what came of each, by place.

        What the token itself did not do (it is away, locked, busy) is counted like a refusal:
        a key whose token is away must not be a way to fill the disk.
        """
        results: dict[int, Recorded | KeydError] = {}
        signed: list[tuple[Plan, bytes]] = []
        items: list[tuple[EntryDraft, Sequence[Effect]]] = []
        kept: list[tuple[EntryDraft, Sequence[Effect]]] = []
        counted: list[EntryDraft] = []
        look = _Look(self._gate, self._registry, caller)
        for plan, outcome in zip(plans, outcomes, strict=True):
            if isinstance(outcome, KeydError):
                results[plan.place] = outcome
                failure = self._without_signature(caller, plan, outcome, Outcome.FAILED)
                if isinstance(outcome, TokenError | DeadlineError):
                    counted.append(failure)
                else:
                    kept.append((failure, ()))
            elif (why := look.objection(plan.terms)) is not None:
                results[plan.place] = why
                kept.append((self._without_signature(caller, plan, why, Outcome.REFUSED), ()))
            else:
                released = encode(plan, outcome)
                sha256 = hashlib.sha256(released).hexdigest()
                signed.append((plan, released))
                effects = (StoreSignature(outcome), *plan.ruling.effects)
                items.append((self._entry(caller, plan, sha256), effects))
        receipts: Sequence[Receipt | KeydError] = []
        if items or kept:
            receipts = await self._audit.record_many([*items, *kept])
        for (plan, released), receipt in zip(signed, receipts, strict=False):
            results[plan.place] = (
                receipt
                if isinstance(receipt, KeydError)
                else Recorded(plan, released, receipt.index)
            )
        for failure in counted:
            await self._audit.refuse(failure)
        return results

    async def refuse(self, caller: Caller, plan: Plan, error: KeydError) -> None:
        """Write down that rules or people refused what was planned."""
        refusal = self._without_signature(caller, plan, error, Outcome.REFUSED)
        details = {name: error.facts[name] for name in _FACTS if error.facts.get(name)}
        await self._audit.refuse(
            replace(refusal, rule=rule_of(error) or refusal.rule, details=details)
        )

    async def answers(
        self, caller: Caller, outcomes: Sequence[Recorded | Signed | KeydError]
    ) -> list[Signed | KeydError]:
        """The answers to items that were dealt with, in their order, and for signatures that must
        not leave any more the error that says why."""
        found: list[Signed | KeydError] = []
        for start in range(0, len(outcomes), _AT_ONCE):
            if start:
                await asyncio.sleep(0)
            look = _Look(self._gate, self._registry, caller)
            found += [
                (look.objection(o.plan.terms) or answer(o)) if isinstance(o, Recorded) else o
                for o in outcomes[start : start + _AT_ONCE]
            ]
        return found

    def _entry(self, caller: Caller, plan: Plan, signature_sha256: str) -> EntryDraft:
        terms = plan.terms
        return EntryDraft(
            action=terms.action,
            outcome=Outcome.ALLOWED,
            caller=caller,
            key=terms.key.name,
            version=terms.version.number,
            keyid=terms.version.keyids.get("tuf", ""),
            fingerprint=terms.fingerprint,
            token=terms.key.token,
            token_serial=terms.version.token_serial,
            scheme=terms.scheme,
            encoding=terms.encoding,
            digest=plan.digest,
            signature_sha256=signature_sha256,
            statement=terms.statement if terms.statement.kind != _OPAQUE.kind else None,
            context=terms.context if terms.context != _NO_CONTEXT else None,
            rule=terms.decision.rule,
            policy_hash=terms.policy_hash,
            said=plan.request.reason,
            details=plan.ruling.details,
        )

    def _without_signature(
        self, caller: Caller, plan: Plan, error: KeydError, outcome: Outcome
    ) -> EntryDraft:
        return replace(
            self._entry(caller, plan, ""),
            details={},
            outcome=outcome,
            reason_code=error.reason,
            message=error.message,
            alert=isinstance(error, BadSignatureError),
        )


class _Look:
    """One look at what has changed since the decisions; good until others had their turn."""

    def __init__(self, gate: Gate, registry: Registry, caller: Caller) -> None:
        self._gate = gate
        self._registry = registry
        self._caller = caller
        self._last: tuple[Terms, KeydError | None] | None = None

    def objection(self, terms: Terms) -> KeydError | None:
        """Why what was decided before must not leave now; None while nothing has changed."""
        # Items of a batch mostly share their terms.
        if self._last is None or self._last[0] is not terms:
            self._last = terms, self._find_objection(terms)
        return self._last[1]

    def _find_objection(self, terms: Terms) -> KeydError | None:
        name, action = terms.key.name, terms.action
        key = self._registry.find(name)
        version = key.find_version(terms.version.number) if key else None
        try:
            if self._gate.policy_hash != terms.policy_hash:
                self._gate.decide(self._caller, action, name, terms.statement, terms.context)
                if not terms.waits and self._gate.requirements(
                    self._caller, action, name, terms.context
                ):
                    return ConflictError(
                        f"the policy demands consent for {action} {name} since it was asked for",
                        hint="ask again",
                        key=name,
                    )
            check_open(version or terms.version, self._registry.freeze_on(name))
            if key is not None and key.bindings != terms.key.bindings:
                # What was judged without rules, or by those of another role, is not what the
                # bindings of now stand for.
                return ConflictError(
                    f"the bindings of {name} have changed since it was asked for",
                    hint="ask again",
                    retry_after_s=_AGAIN_S,
                    key=name,
                )
        except KeydError as e:
            return e
        return None


def encode(plan: Plan, raw: bytes) -> bytes:
    """A token's signature as the caller wants it."""
    return publickeys.encode(plan.terms.key.algorithm, raw, plan.terms.encoding)


def answer(recorded: Recorded) -> Signed:
    """What the caller gets; a dry run has neither signature nor index."""
    plan, terms = recorded.plan, recorded.plan.terms
    return Signed(
        version=terms.version,
        scheme=terms.scheme,
        encoding=terms.encoding,
        signature=recorded.signature,
        digest=plan.digest,
        log_index=recorded.log_index,
        statement=terms.statement,
        rule=terms.decision.rule,
        replayed=recorded.replayed,
        unbound=not terms.key.bindings,
        reissued=plan.ruling.reissued,
        checks=plan.ruling.checks,
        needs=plan.ruling.needs,
    )
