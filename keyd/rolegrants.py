"""Who may do what to a role: grants are on keys, and roles are what keys are bound to.

A role belongs to those who have the grant on at least one key bound to it, as long as no rule
denies it on any of them. A role that no key here is bound to (an offline root, somebody else's
delegation) goes by the keys of its repository.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from keyd.errors import PolicyDeniedError
from keyd.gate import RESERVED, Gate
from keyd.gunnames import without_number
from keyd.model import Action, Caller, Context, Key, Registry, Requirement


def binds(key: Key, repository: str, role: str = "") -> bool:
    """True when the key is bound to the role, or to any role of the repository. ``GUN@N``, under
    which the marks of a collection's further keys are kept, counts as that collection."""
    names = {repository, without_number(repository)}
    return any(
        any(fnmatch.fnmatchcase(name, binding.repository) for name in names)
        and (not role or fnmatch.fnmatchcase(role, binding.role))
        for binding in key.bindings
    )


class RoleGrants:
    """Asks the gate about roles."""

    def __init__(self, gate: Gate, registry: Registry) -> None:
        self._gate = gate
        self._registry = registry

    def keys_of(self, repository: str, role: str) -> list[Key]:
        """The keys a role goes by: those bound to it, else all of the repository."""
        everything = self._registry.keys()
        keys = [key for key in everything if not key.name.startswith(RESERVED)]
        bound = [key for key in keys if binds(key, repository, role)]
        return bound or [key for key in keys if binds(key, repository)]

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
