"""As whom tags are signed: as the signers whose keys the caller may sign with, and as nobody else.

docker signs with every key file that it finds, which are one person's own. A daemon holds keys of
many people, so that here the caller's grants decide; and where two of docker's signers share
targets/releases, its signature comes from a key of those who were chosen.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from keyd.adapters.notary import delegations
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.delegations import Delegation
from keyd.adapters.notary.drafting import Drafting
from keyd.adapters.notary.lookup import RELEASES
from keyd.adapters.notary.trusted import Trusted
from keyd.errors import RepositoryError


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs. ``names``: docker's signers, none for the collection's own key. ``roles``: in
    which roles. ``keys``: DER SubjectPublicKeyInfo of the keys that sign delegated roles."""

    names: tuple[str, ...]
    roles: tuple[str, ...]
    keys: frozenset[bytes]


OWNER = Signing((), ("targets",), frozenset())
"""The collection's own targets key."""


def choose(trusted: Trusted, collection: Collection, names: Sequence[str] = ()) -> Signing:
    """The signers of a collection that the caller may sign as, or those of ``names``; its owner
    where nothing is delegated and nobody is named.

    Raises:
        RepositoryError: somebody named is no signer, or their key is not the caller's to use; or
            there are signers, and the caller may sign as none.
    """
    delegated = [d for d in delegations.found(trusted) if d.role.name.count("/") == 1]
    if not delegated and not names:
        return OWNER
    signers = {_name(d): d for d in delegated if d.role.name != RELEASES}
    for name in names:
        delegations.signer_role(name)
        if name not in signers:
            raise RepositoryError(
                f"{name} is no signer of {trusted.gun}",
                hint=f"keydctl trust signer add {name} {trusted.gun} --key KEY; "
                f"keydctl trust inspect --pretty {trusted.gun} lists who is",
                gun=trusted.gun,
            )
    usable = {
        name: _usable(trusted, collection, signers[name])
        for name in dict.fromkeys(names or signers)
    }
    chosen = {name: keys for name, keys in usable.items() if keys}
    released = next((d for d in delegated if d.role.name == RELEASES), None)
    keys = frozenset[bytes]().union(*chosen.values())
    if released is not None and not names:
        # Keys of nobody's own role, as classic guides delegate to targets/releases alone.
        named = frozenset(k.spki for d in signers.values() for k in d.keys)
        keys |= _usable(trusted, collection, released) - named
    lacking = [name for name in names if name not in chosen]
    if lacking or not keys:
        raise RepositoryError(
            f"you may sign for {trusted.gun} with no key"
            + (f" of {', '.join(lacking)}" if lacking else " of its signers"),
            hint="the daemon has to hold the key, and a grant to let you sign with it: see "
            f"keydctl trust delegation list {trusted.gun} and keydctl whoami; or name another "
            "daemon with --profile",
            gun=trusted.gun,
        )
    roles = [signers[name].role.name for name in chosen]
    if released is not None and any(k.spki in keys for k in released.keys):
        roles.append(RELEASES)
    return Signing(tuple(chosen), tuple(sorted(roles)), keys)


def may_go_on(trusted: Trusted, collection: Collection, role: str, gone: Container[str]) -> bool:
    """True where the caller may sign a delegated role with another of its keys than these."""
    for delegation in delegations.found(trusted):
        if delegation.role.name == role:
            rest = tuple(key for key in delegation.keys if key.keyid not in gone)
            return bool(_usable(trusted, collection, replace(delegation, keys=rest)))
    return False


def _usable(trusted: Trusted, collection: Collection, delegation: Delegation) -> frozenset[bytes]:
    """The keys of a role that the daemon holds and lets the caller sign with."""
    role, ring = delegation.role.name, collection.ring
    draft = Drafting(collection.server, trusted, collection.now(), []).next_targets(role)
    return frozenset(
        key.spki
        for key in delegation.keys
        if key.spki
        and (held := ring.find(key.spki)) is not None
        and ring.may_sign(draft.payload, role, held)
    )


def _name(delegation: Delegation) -> str:
    return delegation.role.name.removeprefix("targets/")
