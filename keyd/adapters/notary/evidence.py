"""What the daemon is shown of a published collection, so that it need not take anybody's word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.trusted import MAX_ROOTS, Trusted
from keyd.errors import KeydError, RuleRefusedError

if TYPE_CHECKING:
    from keyd.client import Client, RoleFile

_HELPED = ("no-history", "root-incomplete", "root-step", "version-step")


@dataclass(slots=True)
class Evidence:
    """Shows one collection to one daemon. ``trusted``: as it is served, None before it is."""

    server: NotaryServer
    trusted: Trusted | None = None
    _shown: set[str] = field(default_factory=set)

    def helps(self, client: Client, role: str, refusal: RuleRefusedError) -> bool:
        """Show the daemon what is published; True when the refused call is worth repeating.

        Once for each role: a daemon that still refuses knows something else.
        """
        if self.trusted is None or refusal.facts.get("rule") not in _HELPED or role in self._shown:
            return False
        self._shown.add(role)
        try:
            self._advance(client)
        except KeydError:
            return False  # The refusal itself says what a person can do.
        return True

    def hand_over(self, client: Client, reason: str) -> None:
        """Have a daemon that knows nothing of the collection start from the root that is trusted
        here. Only on the word of a person: nobody else vouches for that root.

        Raises:
            KeydError: the daemon refuses it.
        """
        assert self.trusted is not None
        root = self.trusted.root.file
        files = [f for f in self._files() if f.role != "root"]
        client.import_role(self.server.gun, root, files, reason=reason)

    def tell(self, client: Client) -> list[str]:
        """Tell the daemon what is published now; what went wrong, in words.

        Nothing depends on it: a daemon that was not told asks for evidence when it needs some.
        """
        try:
            self._advance(client)
        except KeydError as e:
            # A daemon that holds a delegated key alone knows no root to judge by.
            if e.facts.get("rule") != "no-history" and e.reason != KeydError.reason:
                return [f"the daemon was not told what is published: {e.message}"]
        return []

    def _advance(self, client: Client) -> None:
        gun = self.server.gun
        try:
            known = client.get_role(gun, "root").complete_version
        except KeydError:
            known = 0
        assert self.trusted is not None
        roots = self._roots(max(1, known), self.trusted.root.version) if known else []
        client.advance_role(gun, [*roots, *self._files()], published=True)

    def _roots(self, first: int, last: int) -> Sequence[RoleFile]:
        """The roots below the newest one."""
        from keyd.client import RoleFile

        numbers = range(max(first, last - MAX_ROOTS), last)
        files = (self.server.find(f"{number}.root") for number in numbers)
        return [RoleFile("root", file) for file in files if file is not None]

    def _files(self) -> list[RoleFile]:
        from keyd.client import RoleFile

        assert self.trusted is not None
        files = self.trusted.files()
        order = sorted(files, key=lambda r: (r != "root", not r.startswith("targets"), r))
        return [RoleFile(role, files[role]) for role in order]
