"""The gate: one question to the policy, with the refusal written down.

A stranger must not be able to tell an unknown key from a forbidden one, so every refusal here says
"denied, or no such key" whether the key exists or not, and the registry is asked only afterwards.
"""

from __future__ import annotations

from keyd.errors import (
    ContentError,
    KeydError,
    KeyNotFoundError,
    PolicyDeniedError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    Context,
    Decision,
    EntryDraft,
    Key,
    KeyDemand,
    Limits,
    Outcome,
    Policy,
    Registry,
    Requirement,
    Statement,
)
from keyd.policy.rules import NO_GRANT

RESERVED = "keyd/"
"""Names that start so belong to the daemon (the log key); no grant reaches them."""

_ON_RESERVED = frozenset({Action.LIST, Action.TOKENS, Action.AUDIT})


class Gate:
    """Asks the policy on behalf of a caller."""

    def __init__(self, policy: Policy, audit: AuditLog, registry: Registry) -> None:
        self._policy = policy
        self._audit = audit
        self._registry = registry

    @property
    def policy_hash(self) -> str:
        """SHA-256 of the policy in force, hex."""
        return self._policy.hash

    def decide(
        self,
        caller: Caller,
        action: Action,
        name: str,
        statement: Statement | None = None,
        context: Context | None = None,
    ) -> Decision:
        """Decide without writing anything down.

        Raises:
            PolicyDeniedError: no grant allows it; the text fits unknown and forbidden keys.
        """
        if name.startswith(RESERVED) and action not in _ON_RESERVED:
            decision = Decision(False, "reserved")
        else:
            decision = self._policy.decide(
                caller.principal, action, name, statement=statement, context=context
            )
        if not decision.allowed:
            what = f"{action} {name}".strip()
            raise PolicyDeniedError(
                f"{what}: denied, or no such name for {caller.principal.id}",
                hint="see your grants with: keydctl whoami",
                action=action,
                rule=decision.rule,
            )
        return decision

    async def authorize(self, caller: Caller, action: Action, name: str) -> Decision:
        """Decide; a refusal is in the log when this raises.

        Raises:
            PolicyDeniedError: as in :meth:`decide`.
        """
        try:
            return self.decide(caller, action, name)
        except PolicyDeniedError as e:
            await self.refuse(caller, action, name, e)
            raise

    def may(self, caller: Caller, action: Action, name: str) -> bool:
        """True when the policy allows it; for filtering lists, never for granting."""
        return self._policy.decide(caller.principal, action, name).allowed

    def is_stranger(self, caller: Caller, action: Action, name: str) -> bool:
        """True when no content could make the policy allow it; for saving work, never for
        granting."""
        return self._policy.decide(caller.principal, action, name).rule == NO_GRANT

    def requirements(
        self, caller: Caller, action: Action, name: str, context: Context
    ) -> tuple[Requirement, ...]:
        """Whose consent the policy demands first; empty for none."""
        return self._policy.requirements(caller.principal, action, name, context)

    def demands(
        self, caller: Caller, action: Action, name: str, context: Context
    ) -> tuple[KeyDemand, ...]:
        """What the policy demands of the key version that does it; empty for nothing."""
        return self._policy.demands(caller.principal, action, name, context)

    def limits(self, context: Context, dialect: str) -> Limits:
        """What the policy lets metadata of the role say."""
        return self._policy.limits(context.repository, context.role, dialect)

    def get(self, caller: Caller, name: str) -> Key:
        """The key, for a caller who may see it.

        Raises:
            PolicyDeniedError: the caller may not see this name, whether or not it exists.
            KeyNotFoundError: the caller may see the name, and there is no such key.
        """
        self.decide(caller, Action.LIST, name)
        return self.existing(name)

    def existing(self, name: str) -> Key:
        """The key, for a caller who was let in already.

        Raises:
            KeyNotFoundError: no such key.
        """
        key = self._registry.find(name)
        if key is None:
            raise KeyNotFoundError(
                f"no key {name}", hint="list the keys you may see with: keydctl key list", key=name
            )
        return key

    async def refuse_remote_secret(self, caller: Caller, action: Action, token: str) -> None:
        """PIN and PUK of a YubiKey count only where they came over a unix socket, whatever the
        policy says; a refusal is in the log.

        Raises:
            PolicyDeniedError: they came over TCP.
        """
        if not caller.principal.is_remote:
            return
        error = PolicyDeniedError(
            f"{action} {token}: PIN and PUK travel over unix sockets only, never over TCP",
            hint="run the command on the daemon's machine",
            rule="secrets stay local",
        )
        await self.refuse(caller, action, token, error)
        raise error

    async def refuse(self, caller: Caller, action: str, name: str, error: KeydError) -> None:
        """Write a refusal of an action on a key (or token) into the log."""
        await self._audit.refuse(
            EntryDraft(
                action=action,
                outcome=Outcome.REFUSED,
                caller=caller,
                key=name,
                rule=rule_of(error),
                policy_hash=self._policy.hash,
                reason_code=error.reason,
                message=error.message,
            )
        )


def rule_of(error: KeydError) -> str:
    """What an entry names as the rule that refused: the policy's grant or rule, or one of keyd's
    own, as ``rule version-lower``; empty where no rule is behind the refusal."""
    word = error.facts.get("rule", "")
    if isinstance(error, RuleRefusedError):
        return f"rule {word}"
    if isinstance(error, VersionTakenError):
        return "rule version-taken"
    if isinstance(error, ContentError):
        return f"rule {error.facts.get('problem', 'content')}"
    return word
