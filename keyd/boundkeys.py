"""Which keys a role goes by, and whose a signature is, found without a look at every key.

Somebody with tens of thousands of collections has more keys and roles than one answer may compare
with each other while other callers wait.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from keyd.gunnames import without_number
from keyd.model import Key, KeyVersion, Registry

_WILDCARDS = frozenset("*?[")


def binds(key: Key, repository: str, role: str = "") -> bool:
    """True when the key is bound to the role, or to any role of the repository. ``GUN@N``, under
    which the marks of a collection's further keys are kept, counts as that collection."""
    names = {repository, without_number(repository)}
    return any(
        any(fnmatch.fnmatchcase(name, binding.repository) for name in names)
        and (not role or fnmatch.fnmatchcase(role, binding.role))
        for binding in key.bindings
    )


class BoundKeys:
    """The registry's keys by what they are bound to; sorted anew when they are others."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sorted = _Sorted(())

    def of(self, repository: str, role: str = "") -> list[Key]:
        """The keys bound to the role, or to any role of the repository, by name."""
        found = self._now().near(repository)
        return [key for key in found if binds(key, repository, role)]

    def find_signer(self, identity: str) -> KeyVersion | None:
        """The version with that fingerprint, or None."""
        return self._now().signers.get(identity)

    def _now(self) -> _Sorted:
        # A registry answers with the same sequence until a commit changes a key.
        keys = self._registry.keys()
        if keys is not self._sorted.keys:
            self._sorted = _Sorted(keys)
        return self._sorted


@dataclass(frozen=True)
class _Sorted:
    keys: Sequence[Key]

    def near(self, repository: str) -> list[Key]:
        """All that may be bound to the repository, by name."""
        found = {key.name: key for key in self._by_pattern}
        for name in {repository, without_number(repository)}:
            found |= {key.name: key for key in self._by_repository.get(name, ())}
        return [found[name] for name in sorted(found)]

    @cached_property
    def signers(self) -> Mapping[str, KeyVersion]:
        """All versions by fingerprint."""
        return {v.fingerprint: v for k in self.keys for v in k.versions if v.public_key}

    @cached_property
    def _by_repository(self) -> Mapping[str, Iterable[Key]]:
        found: dict[str, list[Key]] = {}
        for key in self.keys:
            for binding in key.bindings:
                if not _is_pattern(binding.repository):
                    found.setdefault(binding.repository, []).append(key)
        return found

    @cached_property
    def _by_pattern(self) -> Sequence[Key]:
        return [k for k in self.keys if any(_is_pattern(b.repository) for b in k.bindings)]


def _is_pattern(text: str) -> bool:
    return not _WILDCARDS.isdisjoint(text)
