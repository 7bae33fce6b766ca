"""The policy in force: read from its file, and read again when a person says so (SIGHUP)."""

from __future__ import annotations

from pathlib import Path

from keyd.errors import ConfigError
from keyd.model import (
    Action,
    Context,
    Decision,
    KeyDemand,
    Limits,
    Policy,
    Principal,
    Requirement,
    Statement,
)
from keyd.policy.parse import MAX_POLICY_BYTES, parse_policy
from keyd.policy.rules import GrantPolicy


class FilePolicy(Policy):
    """Implements model.Policy by the last text of the file that parsed."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: with file and, where known, line.
        """
        self._path = path
        self._current = _read(path)

    @property
    def current(self) -> GrantPolicy:
        """The policy in force, as an immutable value."""
        return self._current

    @property
    def hash(self) -> str:
        """SHA-256 of the policy text in force, hex."""
        return self._current.hash

    def reload(self) -> bool:
        """Read the file again; False when the text is the one in force.

        Raises:
            ConfigError: and the policy in force stays what it was.
        """
        new = _read(self._path)
        changed = new.hash != self._current.hash
        self._current = new
        return changed

    def decide(
        self,
        principal: Principal,
        action: Action,
        key: str,
        *,
        statement: Statement | None = None,
        context: Context | None = None,
    ) -> Decision:
        """See model.Policy."""
        return self._current.decide(principal, action, key, statement=statement, context=context)

    def grants_of(self, principal: Principal) -> list[str]:
        """See model.Policy."""
        return self._current.grants_of(principal)

    def requirements(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[Requirement, ...]:
        """See model.Policy."""
        return self._current.requirements(principal, action, key, context)

    def counts_for(self, requirement: Requirement, principal: Principal) -> bool:
        """See model.Policy."""
        return self._current.counts_for(requirement, principal)

    def demands(
        self, principal: Principal, action: Action, key: str, context: Context
    ) -> tuple[KeyDemand, ...]:
        """See model.Policy."""
        return self._current.demands(principal, action, key, context)

    def limits(self, repository: str, role: str, dialect: str) -> Limits:
        """See model.Policy."""
        return self._current.limits(repository, role, dialect)

    def approver_keys(self, principal: str) -> tuple[str, ...]:
        """See model.Policy."""
        return self._current.approver_keys(principal)


def _read(path: Path) -> GrantPolicy:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_POLICY_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}", file=path) from e
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8", file=path, line=line) from None
    return parse_policy(text, str(path))
