"""Grants, rules and the decision: a pure function of the policy and the question.

The order is fixed. Without a grant for (principal, action, name) the answer is "no grant" and
nothing else, so that a stranger learns nothing about rules. A rule that denies wins over every
grant. Among the remaining grants, the first whose content restrictions fit allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from keyd.model import (
    MAX_NAME_CHARS,
    Action,
    Context,
    Decision,
    KeyDemand,
    Limits,
    Principal,
    Requirement,
    Statement,
)
from keyd.policy.consents import TOKEN_ACTIONS, ConsentRule, ConsentRules, counts_for
from keyd.policy.demands import DemandRule, demands_of
from keyd.policy.limits import Limit, LimitTable
from keyd.policy.patterns import PatternIndex, matches_any

NAMELESS_ACTIONS = frozenset({Action.AUDIT})
"""Actions that concern neither a key nor a token."""

KEY_ACTIONS = frozenset(Action) - TOKEN_ACTIONS - NAMELESS_ACTIONS
"""Actions whose name is a key's; an empty name (all keys) fits only the pattern ``*``."""

ACTION_SETS = {
    "admin": frozenset(Action) - {Action.SIGN, Action.CERTIFY, Action.APPROVE},
    "signer": frozenset({Action.SIGN, Action.LIST, Action.ADVANCE, Action.CEREMONY}),
    "approver": frozenset({Action.LIST, Action.AUDIT, Action.APPROVE}),
    "auditor": frozenset({Action.LIST, Action.AUDIT, Action.TOKENS}),
}
"""Names that stand for several actions. ``admin`` neither signs nor consents: give it ``signer`` or
``approver`` too."""

CONTENT_ACTIONS = frozenset({Action.SIGN, Action.CERTIFY})
"""Actions that grants can restrict by what the signature is for."""

KINDS = ("root", "targets", "snapshot", "timestamp", "opaque")
"""What content can be recognised as; opaque is everything else, digests included."""

NO_GRANT = "no grant"
"""Decision.rule where nothing allows the action on that name, whatever the content."""

_NO_GRANT = Decision(False, NO_GRANT)
_MAX_PRINCIPALS_CACHED = 1024
_MAX_QUESTIONS_CACHED = 32_768


@dataclass(frozen=True, slots=True)
class Grant:
    """Allows principals some actions on keys and tokens, each a list of globs.

    ``kinds`` restricts ``sign`` alone, ``repositories`` and ``roles`` restrict ``sign`` and
    ``certify``; empty means no restriction. ``remote_unlock``: ``unlock`` also over TCP.
    """

    name: str
    principals: tuple[str, ...]
    actions: frozenset[Action]
    keys: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    remote_unlock: bool = False

    def objection(self, action: Action, statement: Statement, context: Context) -> str:
        """Why this content is outside the grant, or nothing.

        A claimed role that contradicts a recognised root, snapshot or timestamp does not count;
        ``targets`` also is what delegated roles look like.
        """
        if action is Action.SIGN and self.kinds and statement.kind not in self.kinds:
            return f"only {_listed(self.kinds)}, not {statement.kind}"
        if self.repositories and not matches_any(self.repositories, context.repository):
            return f"only for repositories {_listed(self.repositories)}"
        if self.roles:
            if not matches_any(self.roles, context.role):
                return f"only for roles {_listed(self.roles)}"
            recognised = statement.kind in ("root", "snapshot", "timestamp")
            if recognised and statement.kind != context.role:
                return f"the content is {statement.kind}, not {context.role}"
        return ""

    def line(self) -> str:
        """The grant as people read it in WhoAmI."""
        on = [f"keys {_listed(self.keys)}"] if self.keys else []
        on += [f"tokens {_listed(self.tokens)}"] if self.tokens else []
        limits = [f"only {_listed(self.kinds)}"] if self.kinds else []
        limits += [f"repositories {_listed(self.repositories)}"] if self.repositories else []
        limits += [f"roles {_listed(self.roles)}"] if self.roles else []
        limits += ["also remote unlock"] if self.remote_unlock else []
        return (
            f"{self.name}: {_listed(sorted(self.actions))}"
            + (f" on {' and '.join(on)}" if on else "")
            + (f" ({'; '.join(limits)})" if limits else "")
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Denies actions on keys and tokens, whatever grants say. No principals: to everyone."""

    name: str
    deny: frozenset[Action]
    principals: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()


class GrantPolicy:
    """Implements model.Policy: pure, total, deny by default.

    A principal's part of the policy is sorted out once, and each (principal, action, name) once
    more; both memories are bounded, so that strangers with invented names cannot fill them.
    """

    def __init__(
        self,
        grants: tuple[Grant, ...] = (),
        rules: tuple[Rule, ...] = (),
        policy_hash: str = "",
        *,
        consents: Iterable[ConsentRule] = (),
        demands: Iterable[DemandRule] = (),
        limits: Iterable[Limit] = (),
        approvers: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """``approvers``: principal -> OpenSSH public keys."""
        self._hash = policy_hash
        self.grants = grants
        self.rules = rules
        asking, self._demands = tuple(consents), tuple(demands)
        self._consents = ConsentRules(asking)
        self._rule_count = len(rules) + len(asking) + len(self._demands)
        self._limits = LimitTable(limits)
        self._approvers = dict(approvers or {})
        self._part = lru_cache(_MAX_PRINCIPALS_CACHED)(self._sort_out)
        self._fitting = lru_cache(_MAX_QUESTIONS_CACHED)(self._find_fitting)

    @property
    def hash(self) -> str:
        """SHA-256 of the policy text, hex."""
        return self._hash

    @property
    def rule_count(self) -> int:
        """Those that deny, that want consent and that want a kind of key, together."""
        return self._rule_count

    def decide(
        self,
        principal: Principal,
        action: Action,
        key: str,
        *,
        statement: Statement | None = None,
        context: Context | None = None,
    ) -> Decision:
        """Decide one action; see model.Policy. No statement counts as opaque content."""
        if len(key) > MAX_NAME_CHARS:  # no such name can exist; nor shall it fill the memory
            return _NO_GRANT
        granted, denied_by = self._fitting(principal.id, action, key)
        if not granted:
            return _NO_GRANT
        if denied_by:
            return Decision(False, f"rule {denied_by}")
        why = ""
        for grant in granted:
            if action is Action.UNLOCK and principal.is_remote and not grant.remote_unlock:
                objection = "no unlock over TCP without remote_unlock"
            elif action in CONTENT_ACTIONS:
                objection = grant.objection(action, statement or Statement(), context or Context())
            else:
                objection = ""
            if not objection:
                return Decision(True, f"grant {grant.name}")
            why = why or f"grant {grant.name}: {objection}"
        return Decision(False, why)

    def visible(self, principal: Principal, key: str) -> bool:
        """True when the principal may know whether this key exists."""
        return self.decide(principal, Action.LIST, key).allowed

    def grants_of(self, principal: Principal) -> list[str]:
        """The principal's grants as readable lines. Rules are not among them: they may name keys
        the principal must not know of."""
        return [g.line() for g in self.grants if matches_any(g.principals, principal.id)]

    def requirements(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[Requirement, ...]:
        """See model.Policy."""
        return self._consents.requirements(principal, action, key, context)

    def counts_for(self, requirement: Requirement, principal: Principal) -> bool:
        """See model.Policy."""
        return counts_for(requirement, principal)

    def demands(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[KeyDemand, ...]:
        """See model.Policy."""
        return demands_of(self._demands, principal, action, key, context)

    def limits(self, repository: str, role: str, dialect: str) -> Limits:
        """See model.Policy."""
        return self._limits.find(repository, role, dialect)

    def approver_keys(self, principal: str) -> tuple[str, ...]:
        """See model.Policy."""
        return self._approvers.get(principal, ())

    def _sort_out(self, principal: str, action: Action) -> _Part:
        names = "tokens" if action in TOKEN_ACTIONS else "keys"
        grants = tuple(
            g for g in self.grants if action in g.actions and matches_any(g.principals, principal)
        )
        rules = tuple(
            r
            for r in self.rules
            if action in r.deny and (not r.principals or matches_any(r.principals, principal))
        )
        return _Part(
            grants,
            PatternIndex(getattr(g, names) for g in grants),
            rules,
            PatternIndex(getattr(r, names) for r in rules),
        )

    def _find_fitting(
        self, principal: str, action: Action, name: str
    ) -> tuple[tuple[Grant, ...], str]:
        """The grants for this question, and the rule that denies it, if one does."""
        part = self._part(principal, action)
        if action in NAMELESS_ACTIONS:
            return part.grants, part.rules[0].name if part.rules else ""
        granted = tuple(part.grants[at] for at in part.grant_names.find(name))
        denied = part.rule_names.find(name) if granted else []
        return granted, part.rules[denied[0]].name if denied else ""


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a policy concerns one principal and one action."""

    grants: tuple[Grant, ...]
    grant_names: PatternIndex
    rules: tuple[Rule, ...]
    rule_names: PatternIndex


def _listed(words: tuple[str, ...] | list[Action]) -> str:
    return ", ".join(words)
