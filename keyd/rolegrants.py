"""Who may do what to a role: grants are on keys, and roles are what keys are bound to.

A role belongs to those who have the grant on at least one key bound to it, as long as no rule
denies it on any of them. A role that no key here is bound to (an offline root, somebody else's
delegation) goes by the keys of its repository.

So whoever binds a key to a role gets a say in it, and has to have one already where others hold it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from keyd.boundkeys import BoundKeys
from keyd.errors import PolicyDeniedError
from keyd.gate import RESERVED, Gate
from keyd.model import Action, Binding, Caller, Context, Key, Registry, Requirement


def may_meet(one: Binding, other: Binding) -> bool:
    """True when a role may fit both; of two patterns, when their fixed ends do not rule it out."""
    return all(
        _may_meet(a, b) for a, b in ((one.repository, other.repository), (one.role, other.role))
    )


def _may_meet(one: str, other: str) -> bool:
    if _is_literal(one) and _is_literal(other):
        return one == other  # most are so, and a new key is compared with all there are
    if fnmatch.fnmatchcase(one, other) or fnmatch.fnmatchcase(other, one):
        return True
    ends = [_fixed_ends(text) for text in (one, other)]
    if None in ends:
        return False  # at least one stands for itself alone
    (head, tail), (other_head, other_tail) = (e for e in ends if e is not None)
    heads_fit = head.startswith(other_head) or other_head.startswith(head)
    return heads_fit and (tail.endswith(other_tail) or other_tail.endswith(tail))


def _is_literal(text: str) -> bool:
    return "*" not in text and "?" not in text and "[" not in text


def _fixed_ends(pattern: str) -> tuple[str, str] | None:
    """What stands before the first and behind the last wildcard; None where there is none."""
    parts = re.split(r"[*?\[\]]", pattern)
    return (parts[0], parts[-1]) if len(parts) > 1 else None


class RoleGrants:
    """Asks the gate about roles."""

    def __init__(self, gate: Gate, registry: Registry) -> None:
        self._gate = gate
        self._registry = registry
        self._bound = BoundKeys(registry)

    def keys_of(self, repository: str, role: str) -> list[Key]:
        """The keys a role goes by: those bound to it, else all of the repository."""
        found = self._bound.of(repository, role) or self._bound.of(repository)
        return [key for key in found if not key.name.startswith(RESERVED)]

    def find_signer(self, caller: Caller, identity: str) -> str:
        """KEY/versions/N with that fingerprint; empty where there is none the caller may see."""
        found = self._bound.find_signer(identity)
        seen = found is not None and self._gate.may(caller, Action.LIST, found.key)
        return found.name if found is not None and seen else ""

    def seen_keys(self, caller: Caller, repository: str, role: str) -> list[Key]:
        """Those of :meth:`keys_of` that the caller may see."""
        keys = self.keys_of(repository, role)
        return [key for key in keys if self._gate.may(caller, Action.LIST, key.name)]

    def decide(self, caller: Caller, action: Action, repository: str, roles: Iterable[str]) -> str:
        """The grant that allows it for the last of the roles.

        Raises:
            PolicyDeniedError: for one of them nothing allows it, or a rule denies it; the text
                fits roles that are unknown as well.
        """
        granted = ""
        for role in sorted(set(roles)):
            granted, denied = "", ""
            for key in self.keys_of(repository, role):
                try:
                    decision = self._gate.decide(caller, action, key.name)
                    granted = granted or decision.rule
                except PolicyDeniedError as e:
                    rule = e.facts["rule"]
                    denied = rule if rule.startswith("rule ") else denied
            if denied or not granted:
                raise PolicyDeniedError(
                    f"{action} {repository}:{role}: denied, or no such role for "
                    f"{caller.principal.id}",
                    hint="see your grants with: keydctl whoami",
                    action=action,
                    rule=denied,
                )
        return granted

    def check_joining(
        self, caller: Caller, action: Action, name: str, added: Iterable[Binding]
    ) -> None:
        """Refuse to bind a key to roles that other keys are bound to, unless the caller may do
        the same with one of those.

        Raises:
            PolicyDeniedError: for one of the bindings it is so.
        """
        for binding in sorted(added):
            others = [
                key
                for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
                if key.name != name and any(may_meet(binding, b) for b in key.bindings)
            ]
            if others and not any(self._gate.may(caller, action, key.name) for key in others):
                raise PolicyDeniedError(
                    f"{action} {name}, bound to {binding}: denied for {caller.principal.id}, "
                    "other keys hold that role",
                    hint=f"it takes the grant {action} on one of them; see your grants with: "
                    "keydctl whoami",
                    action=action,
                    rule="held by others",
                )

    def who_demands(
        self, caller: Caller, action: Action, repository: str, roles: Iterable[str]
    ) -> list[tuple[Key, Context]]:
        """Where consent has to be asked for, so that every rule on any of the roles' keys is
        heard once."""
        heard: dict[tuple[Requirement, ...], tuple[Key, Context]] = {}
        for role in sorted(set(roles)):
            context = Context(repository, role)
            for key in self.keys_of(repository, role):
                demanded = self._gate.requirements(caller, action, key.name, context)
                if demanded:
                    heard.setdefault(demanded, (key, context))
        return list(heard.values())
