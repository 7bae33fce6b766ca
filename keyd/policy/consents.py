"""Rules that demand consent before an action: how many people, which ones, for how long.

They never allow anything: whoever may do it by a grant has to bring the consent as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from keyd.model import MAX_NAME_CHARS, Action, Context, Principal, Requirement
from keyd.policy.patterns import PatternIndex, fits_or_unknown, matches_any

TOKEN_ACTIONS = frozenset({Action.UNLOCK, Action.LOCK, Action.TOKENS, Action.PROVISION})
"""Actions whose name is a token's."""

WITHOUT_CONSENT = frozenset(
    {Action.LIST, Action.TOKENS, Action.AUDIT, Action.LOCK, Action.ADVANCE, Action.APPROVE}
)
"""Actions no rule can make wait for people: those that read, the one that only stops, the one that
brings its evidence along, and consent itself."""

DEFAULT_EXPIRES_S = 86_400
"""How long an approval lives where its rule says nothing."""

_MAX_QUESTIONS_CACHED = 32_768


@dataclass(frozen=True, slots=True)
class ConsentRule:
    """Actions on keys and tokens wait for ``approvals`` people out of ``approvers`` (globs; empty:
    everybody whom a grant lets approve).

    ``principals``: whose actions; empty for everybody's. ``repositories`` and ``roles`` narrow it
    to what an action is for; one that says nothing about that is not let off. ``own``: the
    requester counts too. ``signed``: consent has to carry a signature. ``expires_s``: how long an
    approval lives.
    """

    name: str
    actions: frozenset[Action]
    approvals: int
    principals: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    own: bool = False
    signed: bool = False
    expires_s: int = DEFAULT_EXPIRES_S
    repositories: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def concerns(self, context: Context) -> bool:
        """True when what the action is for fits, or is not known."""
        return fits_or_unknown(self.repositories, context.repository) and fits_or_unknown(
            self.roles, context.role
        )

    def requirement(self) -> Requirement:
        """What the rule demands."""
        return Requirement(
            self.name, self.approvals, self.approvers, self.own, self.signed, self.expires_s
        )


class ConsentRules:
    """All rules that demand consent, indexed by name; each question is worked out once, in a
    bounded memory."""

    def __init__(self, rules: Iterable[ConsentRule]) -> None:
        self._rules = tuple((rule, rule.requirement()) for rule in rules)
        self._keys = PatternIndex(r.keys for r, _ in self._rules)
        self._tokens = PatternIndex(r.tokens for r, _ in self._rules)
        self._fitting = lru_cache(_MAX_QUESTIONS_CACHED)(self._find_fitting)

    def requirements(
        self, principal: Principal, action: Action, name: str, context: Context
    ) -> tuple[Requirement, ...]:
        """See model.Policy."""
        if not self._rules or len(name) > MAX_NAME_CHARS:
            return ()
        fitting = self._fitting(principal.id, action, name)
        if not fitting:
            return ()
        return tuple(demanded for rule, demanded in fitting if rule.concerns(context))

    def _find_fitting(
        self, principal: str, action: Action, name: str
    ) -> tuple[tuple[ConsentRule, Requirement], ...]:
        names = self._tokens if action in TOKEN_ACTIONS else self._keys
        return tuple(
            (rule, demanded)
            for rule, demanded in (self._rules[at] for at in names.find(name))
            if action in rule.actions
            and (not rule.principals or matches_any(rule.principals, principal))
        )


def counts_for(requirement: Requirement, principal: Principal) -> bool:
    """See model.Policy."""
    if principal.is_group or principal.method == "system":
        return False
    return not requirement.of or matches_any(requirement.of, principal.id)
