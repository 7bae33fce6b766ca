"""A role as one caller may see it."""

from __future__ import annotations

from dataclasses import dataclass

from keyd.model import Caller, Mark, MarkContents
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


class RoleViews:
    """Makes them."""

    def __init__(self, grants: RoleGrants) -> None:
        self._grants = grants

    def find(self, caller: Caller, mark: Mark) -> RoleView | None:
        """The role, or None where the caller may see no key that it goes by."""
        view = self.show(caller, mark)
        return view if view.keys else None

    def show(self, caller: Caller, mark: Mark) -> RoleView:
        """The role, for a caller who was let in already."""
        keys = tuple(k.name for k in self._grants.seen_keys(caller, mark.repository, mark.role))
        signers = tuple(
            (who, self._grants.find_signer(caller, who)) for who in sorted(mark.signers)
        )
        return RoleView(mark, keys, signers)
