"""A policy that changes while something is under way."""

from __future__ import annotations

from typing import Any

from keyd.model import Decision, KeyDemand, Limits, Principal, Requirement
from keyd.policy import parse_policy


class ReloadedPolicy:
    """model.Policy that a reload replaces: set ``now``."""

    def __init__(self, text: str) -> None:
        self.now = parse_policy(text, "policy.toml")
        self.grants_of = self.now.grants_of

    @property
    def hash(self) -> str:
        return self.now.hash

    def decide(self, *args: Any, **kwargs: Any) -> Decision:
        return self.now.decide(*args, **kwargs)

    def requirements(self, *args: Any) -> tuple[Requirement, ...]:
        return self.now.requirements(*args)

    def counts_for(self, requirement: Requirement, principal: Principal) -> bool:
        return self.now.counts_for(requirement, principal)

    def demands(self, *args: Any) -> tuple[KeyDemand, ...]:
        return self.now.demands(*args)

    def limits(self, repository: str, role: str, dialect: str) -> Limits:
        return self.now.limits(repository, role, dialect)

    def approver_keys(self, principal: str) -> tuple[str, ...]:
        return self.now.approver_keys(principal)
