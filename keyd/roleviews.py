"""A role as one caller may see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keyd.gate import Gate
from keyd.model import Action, Caller, Mark, MarkContents, Registry
from keyd.rolegrants import RoleGrants

_NO_CONTENTS = MarkContents()


@dataclass(frozen=True, slots=True)
class RoleView:
    """``keys``: names of the keys here that the role goes by. ``signers``: identity -> name of
    the key version, empty where it is no key of ours. Both only as far as the caller may see
    them. ``contents``: the bytes behind the mark, where they were asked for."""

    mark: Mark
    keys: tuple[str, ...]
    signers: tuple[tuple[str, str], ...]
    contents: MarkContents = _NO_CONTENTS

    @property
    def ends(self) -> datetime:
        """When its newest or its complete version expires, whichever is first."""
        versions = (self.mark.newest, self.mark.complete)
        return min(version.expires for version in versions if version is not None)


class RoleViews:
    """Makes them."""

    def __init__(self, gate: Gate, registry: Registry, grants: RoleGrants) -> None:
        self._gate = gate
        self._registry = registry
        self._grants = grants

    def find(self, caller: Caller, mark: Mark) -> RoleView | None:
        """The role, or None where the caller may see no key that it goes by."""
        view = self.show(caller, mark)
        return view if view.keys else None

    def show(self, caller: Caller, mark: Mark) -> RoleView:
        """The role, for a caller who was let in already."""
        keys = tuple(k.name for k in self._grants.seen_keys(caller, mark.repository, mark.role))
        signers = tuple((who, self._version_of(caller, who)) for who in sorted(mark.signers))
        return RoleView(mark, keys, signers)

    def _version_of(self, caller: Caller, identity: str) -> str:
        keys = self._registry.keys()
        version = next((v for k in keys for v in k.versions if v.fingerprint == identity), None)
        seen = version is not None and self._gate.may(caller, Action.LIST, version.key)
        return version.name if version is not None and seen else ""
