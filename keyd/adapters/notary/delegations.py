"""Delegations: who else may sign, and for which names."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.lookup import RELEASES
from keyd.adapters.notary.trusted import Trusted
from keyd.content.documents import DelegatedRole, PublicKeyInfo, RoleKeys
from keyd.content.verification import verify_threshold
from keyd.errors import InvalidRequestError, RepositoryError

ALL_PATHS = ""
"""The prefix of every name."""

_ROLE = re.compile(r"targets(?:/[-a-z0-9_]+)+", re.ASCII)
_SIGNER = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_MAX_ROLE_CHARS = 255


@dataclass(frozen=True, slots=True)
class Delegation:
    """A delegated role with its keys, as its delegator names them."""

    role: DelegatedRole
    keys: tuple[PublicKeyInfo, ...]


def check_role(role: str) -> str:
    """Return the name of a delegated role.

    Raises:
        InvalidRequestError: not one that Notary takes.
    """
    if len(role) > _MAX_ROLE_CHARS or not _ROLE.fullmatch(role):
        raise InvalidRequestError(
            "role", f"{role[:80]!r} is none: targets/NAME of a-z, 0-9, - and _, as targets/releases"
        )
    return role


def signer_role(name: str) -> str:
    """The role of docker's signer of that name.

    Raises:
        InvalidRequestError: a name docker does not take.
    """
    if not _SIGNER.fullmatch(name) or name == "releases":
        raise InvalidRequestError(
            "name",
            f"{name[:80]!r} cannot be a signer: lower-case letters, digits, - and _, not releases",
        )
    return check_role(f"targets/{name}")


def found(trusted: Trusted) -> list[Delegation]:
    """All delegations of a collection, by name."""
    every = []
    for served in trusted.targets:
        delegations = trusted.targets_document(served).delegations
        for role in delegations.roles if delegations else ():
            assert delegations is not None
            keys = tuple(delegations.keys[k] for k in role.keyids if k in delegations.keys)
            every.append(Delegation(role, keys))
    return sorted(every, key=lambda d: d.role.name)


def add(role: str, keys: Sequence[KeyObject], paths: Sequence[str]) -> Change:
    """The change that lets keys sign as a role, and for which prefixes of names.

    Raises:
        InvalidRequestError: a name that is none, or neither keys nor paths.
    """
    if not keys and not paths:
        raise InvalidRequestError("key", "give a key, --paths or --all-paths")
    facts = {
        "keys": [{"keyid": key.keyid, "value": key.value} for key in keys],
        "paths": list(paths),
    }
    return Change("delegate", _delegator(check_role(role)), role, facts)


def remove(role: str, keyids: Sequence[str] = (), paths: Sequence[str] | None = None) -> Change:
    """The change that takes keys and paths from a role; the whole role where neither is given."""
    facts: dict[str, object] = {}
    if keyids:
        facts["keyids"] = list(keyids)
    if paths is not None:
        facts["paths"] = list(paths)
    return Change("undelegate", _delegator(check_role(role)), role, facts)


def signer(name: str, keys: Sequence[KeyObject]) -> list[Change]:
    """docker's signer: a role of its own, and a say in what docker pulls."""
    return [add(role, keys, [ALL_PATHS]) for role in (signer_role(name), RELEASES)]


def keyids_of(trusted: Trusted | None, staged: Sequence[Change], role: str) -> dict[str, str]:
    """How the keys of a role may be called, published or staged -> their id in metadata: by that
    id, or by the id of the bare key that lists show."""
    names: dict[str, str] = {}
    for delegation in found(trusted) if trusted else ():
        if delegation.role.name == role:
            for key in delegation.keys:
                names |= {key.keyid: key.keyid, key.canonical_id: key.keyid}
    for change in staged:
        if change.action == "delegate" and change.name == role:
            names |= {key["keyid"]: key["keyid"] for key in change.facts["keys"]}
    return names


def check_known(trusted: Trusted | None, gun: str, role: str) -> None:
    """Refuse a role that nobody delegates to.

    Raises:
        RepositoryError: it is none of the published ones.
    """
    if trusted is None or role not in {each.role.name for each in found(trusted)}:
        raise RepositoryError(
            f"{gun} does not delegate to {role}",
            hint=f"keydctl trust delegation list {gun} shows to whom it does",
            gun=gun,
            role=role,
        )


def select(names: dict[str, str], given: Sequence[str], role: str) -> list[str]:
    """Ids in metadata for what a person called them; a beginning that fits one key is enough.

    Raises:
        RepositoryError: no key of the role, or several.
    """
    selected: list[str] = []
    for text in given:
        fitting = {keyid for name, keyid in names.items() if text and name.startswith(text)}
        if len(fitting) != 1:
            raise RepositoryError(
                f"{text!r} fits {len(fitting) or 'no'} keys of {role}",
                hint="keydctl trust delegation list shows the ids",
                role=role,
            )
        selected += fitting
    return selected


def purged(
    trusted: Trusted | None, staged: Sequence[Change], given: Sequence[str]
) -> dict[str, list[str]]:
    """Delegated role -> those of its keys, by id in metadata, that a person called by any id.

    Raises:
        RepositoryError: an id of no role's key, or of several keys.
    """
    roles = {d.role.name for d in (found(trusted) if trusted else ())}
    roles |= {change.name for change in staged if change.action == "delegate"}
    cut: dict[str, list[str]] = {}
    for text in given:
        known = {role: keyids_of(trusted, staged, role) for role in sorted(roles)}
        having = {r: n for r, n in known.items() if any(text and i.startswith(text) for i in n)}
        if not having:
            select({}, [text], "any delegated role")
        for role, names in having.items():
            cut.setdefault(role, []).extend(select(names, [text], role))
    return cut


def left_unsigned(trusted: Trusted, role: str, gone: Collection[str]) -> bool:
    """True where what is published of a role does not count without these of its keys."""
    served, holders = trusted.targets.get(role), trusted.holders(role)
    if served is None or holders is None:
        return False
    before, keys = holders
    rest = RoleKeys(
        keyids=tuple(k for k in before.keyids if k not in gone), threshold=before.threshold
    )
    made = served.envelope.signatures
    return not verify_threshold(served.envelope.payload, made, rest, keys).is_met


def vanishing(trusted: Trusted, *roles: str) -> list[str]:
    """The names that nobody would sign any more without these roles and those below them."""
    gone = {r for r in trusted.targets if any(f"{r}/".startswith(f"{role}/") for role in roles)}
    kept = {
        name
        for other in trusted.targets.keys() - gone
        for name in trusted.targets_document(other).targets
    }
    return sorted(
        {name for r in gone for name in trusted.targets_document(r).targets if name not in kept}
    )


def _delegator(role: str) -> str:
    return role.rpartition("/")[0]
