"""Changes in what a targets file delegates, to whom, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from keyd.content import describe
from keyd.content.change import Change, compare_unknown
from keyd.content.documents import (
    DelegatedRole,
    Delegations,
    PublicKeyInfo,
    RoleKeys,
    SuccinctRoles,
)
from keyd.content.holderdiff import compare_keys, compare_role
from keyd.content.refusal import printable

_NONE = Delegations(keys={})


def compare_delegations(
    old_section: Delegations | None, new_section: Delegations | None
) -> Iterator[Change]:
    """Delegations that came, went or changed: their keys, thresholds, paths and order."""
    if (old_section is None) != (new_section is None):
        told = ("", "a section") if old_section is None else ("a section", "")
        yield Change("delegations", "targets", *told)
    before, after = old_section or _NONE, new_section or _NONE
    old_roles = {role.name: role for role in before.roles}
    new_roles = {role.name: role for role in after.roles}
    for name, old in old_roles.items():
        if name not in new_roles:
            yield Change("delegation", printable(name), _delegation(old), "")
    for position, (name, new) in enumerate(new_roles.items(), start=1):
        if name in old_roles:
            yield from _delegated(old_roles[name], before, new, after)
        else:
            # Where it stands counts: clients take the first delegation that has a target.
            place = f"{position} of {len(new_roles)} in order"
            yield Change("delegation", printable(name), "", f"{_delegation(new)}, {place}")
            yield from compare_role(printable(name), _nobody(new), (new, after.keys))
            for path in _patterns(new):
                yield Change("path", printable(name), "", _quoted(path))
    kept_before = [name for name in old_roles if name in new_roles]
    kept_after = [name for name in new_roles if name in old_roles]
    if kept_before != kept_after:
        yield Change(
            "order", "delegations", describe.shown([*kept_before]), describe.shown([*kept_after])
        )
    yield from _succinct(before, after)
    yield from compare_keys(before.keys, after.keys, _used(before), _used(after))
    yield from compare_unknown("delegations", before.unknown, after.unknown)


def _delegated(
    old: DelegatedRole, before: Delegations, new: DelegatedRole, after: Delegations
) -> Iterator[Change]:
    subject = printable(new.name)
    yield from compare_role(subject, (old, before.keys), (new, after.keys))
    yield from _paths(subject, old, new)
    if old.terminating != new.terminating:
        yield Change(
            "terminating", subject, str(old.terminating).lower(), str(new.terminating).lower()
        )


def _paths(subject: str, old: DelegatedRole, new: DelegatedRole) -> Iterator[Change]:
    before, after = _patterns(old), _patterns(new)
    gone, came = set(before) - set(after), set(after) - set(before)
    for path in sorted(gone):
        yield Change("path", subject, _quoted(path), "")
    for path in sorted(came):
        yield Change("path", subject, "", _quoted(path))
    if _manner(old) != _manner(new):
        yield Change("paths", subject, _manner(old), _manner(new))
    elif not gone and not came and before != after:
        told_before, told_after = describe.shown([*before]), describe.shown([*after])
        yield Change("paths", subject, told_before, told_after)


def _patterns(role: DelegatedRole) -> tuple[str, ...]:
    return role.paths if role.paths is not None else role.path_hash_prefixes or ()


def _manner(role: DelegatedRole) -> str:
    if role.paths is not None:
        return "by path"
    return "by path hash" if role.path_hash_prefixes is not None else "no paths"


def _succinct(before: Delegations, after: Delegations) -> Iterator[Change]:
    old, new = before.succinct, after.succinct
    if new is not None:
        held_before = (old, before.keys) if old is not None else _nobody(new)
        yield from compare_role("hash bins", held_before, (new, after.keys))
    told_before, told_after = _bins(old), _bins(new)
    if told_before != told_after:
        yield Change("hash-bins", "delegations", told_before, told_after)


def _bins(bins: SuccinctRoles | None) -> str:
    if bins is None:
        return ""
    return f"{2**bins.bit_length} named {printable(bins.name_prefix)}-*, {_of(bins)}"


def _delegation(role: DelegatedRole) -> str:
    paths = f"{describe.plural(len(_patterns(role)), 'pattern')} {_manner(role)}"
    terminating = ", terminating" if role.terminating else ""
    return f"{_of(role)}, {paths}{terminating}"


def _quoted(path: str) -> str:
    # Notary writes an empty pattern for everything.
    return f'"{printable(path)}"'


def _nobody(role: RoleKeys) -> tuple[RoleKeys, Mapping[str, PublicKeyInfo]]:
    """What a new role is compared with, so that all its keys show as new."""
    return RoleKeys(keyids=(), threshold=role.threshold), {}


def _of(role: RoleKeys) -> str:
    return f"{role.threshold} of {describe.plural(len(role.keyids), 'key')}"


def _used(delegations: Delegations) -> set[str]:
    roles: list[RoleKeys] = [*delegations.roles]
    if delegations.succinct is not None:
        roles.append(delegations.succinct)
    return {keyid for role in roles for keyid in role.keyids}
