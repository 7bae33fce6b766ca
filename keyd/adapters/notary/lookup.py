"""Which signature counts for a name: Notary's order of roles, and docker's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyd.adapters.notary.trusted import Trusted
from keyd.content.documents import DelegatedRole, TargetFile
from keyd.errors import RepositoryError

RELEASES = "targets/releases"
"""The delegated role from which docker takes tags first."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A name as a role signs it."""

    name: str
    role: str
    target: TargetFile

    @property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes; empty where the role gives none."""
        return self.target.hashes.get("sha256", b"")


def listed(trusted: Trusted, roles: Sequence[str] = ("targets",)) -> list[Signed]:
    """What these roles and those below them sign, by name; whoever is asked first counts."""
    found: dict[str, Signed] = {}
    for top in roles:
        for role in _walk(trusted, top):
            for name, target in trusted.targets_document(role).targets.items():
                if name not in found and may_sign(trusted, role, name):
                    found[name] = Signed(name, role, target)
    return [found[name] for name in sorted(found)]


def find(trusted: Trusted, name: str, roles: Sequence[str] = ("targets",)) -> Signed | None:
    """The first of these roles, with those below them, that signs a name; None for none."""
    for top in roles:
        for role in _walk(trusted, top):
            target = trusted.targets_document(role).targets.get(name)
            if target is not None and may_sign(trusted, role, name):
                return Signed(name, role, target)
    return None


def get(trusted: Trusted, name: str, roles: Sequence[str] = ("targets",)) -> Signed:
    """The same.

    Raises:
        RepositoryError: nobody who may signs it.
    """
    found = find(trusted, name, roles)
    if found is None:
        raise RepositoryError(
            f"{trusted.gun} does not sign {name}",
            hint=f"keydctl trust list {trusted.gun} shows what it signs",
            gun=trusted.gun,
        )
    return found


def tag(trusted: Trusted, name: str) -> Signed:
    """A tag as docker pulls it: targets/releases counts before targets, others do not.

    Raises:
        RepositoryError: it is not signed for docker.
    """
    found = find(trusted, name, (RELEASES, "targets"))
    if found is None or found.role not in (RELEASES, "targets"):
        by = f": only {found.role} signs it, from which docker takes nothing" if found else ""
        raise RepositoryError(
            f"no trust data for {name} of {trusted.gun}{by}",
            hint=f"sign it: keydctl trust sign {trusted.gun}:{name}",
            gun=trusted.gun,
        )
    if not found.digest:
        raise RepositoryError(f"{trusted.gun}:{name} is signed without a SHA-256")
    return found


def may_sign(trusted: Trusted, role: str, name: str) -> bool:
    """True when the paths of a role, and of all above it, allow a name (prefixes)."""
    while role != "targets":
        holders = trusted.holders(role)
        if holders is None or not isinstance(holders[0], DelegatedRole):
            return False
        if not any(name.startswith(prefix) for prefix in holders[0].paths or ()):
            return False
        role = role.rpartition("/")[0]
    return True


def _walk(trusted: Trusted, top: str) -> Iterator[str]:
    """A role and those below it that verify, each level before the next."""
    waiting = [top]
    while waiting:
        role = waiting.pop(0)
        if role not in trusted.targets:
            continue
        yield role
        delegations = trusted.targets_document(role).delegations
        waiting += [r.name for r in delegations.roles] if delegations else []
