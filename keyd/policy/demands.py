"""Rules that demand something of the key that signs: that its device has proven where it was made,
and that it wants a touch.

They never allow anything, and no consent makes up for what they miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keyd.model import Action, Context, KeyDemand, Principal
from keyd.policy.patterns import fits_or_unknown, matches_any

DEMANDING = frozenset({Action.SIGN, Action.CERTIFY})
"""Actions that use a key."""


@dataclass(frozen=True, slots=True)
class DemandRule:
    """``principals``: whose actions; empty for everybody's. ``repositories`` and ``roles`` narrow
    it to what the signature is for; one that says nothing about that is not let off."""

    name: str
    actions: frozenset[Action]
    keys: tuple[str, ...]
    attested: bool
    touch: bool
    principals: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


def demands_of(
    rules: Sequence[DemandRule], principal: Principal, action: Action, key: str, context: Context
) -> tuple[KeyDemand, ...]:
    """See model.Policy."""
    return tuple(
        KeyDemand(rule.name, rule.attested, rule.touch)
        for rule in rules
        if action in rule.actions
        and matches_any(rule.keys, key)
        and (not rule.principals or matches_any(rule.principals, principal.id))
        and fits_or_unknown(rule.repositories, context.repository)
        and fits_or_unknown(rule.roles, context.role)
    )
