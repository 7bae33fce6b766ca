"""What a new root or targets shall say: edits of python-tuf's objects, without files or keys."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from securesystemslib.signer import Key as TufKey
from tuf.api.metadata import DelegatedRole, Delegations, Root, TargetFile, Targets

from keyd.adapters.tufrepo.published import Delegator
from keyd.errors import RepositoryError

# Clients quote a role's name into the file's URL; these names mean the same on every server.
_ROLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")


def check_threshold(role: str, threshold: int, keys: int) -> None:
    """Refuse a threshold nobody can reach, or that asks for nothing.

    Raises:
        RepositoryError: naming the role.
    """
    if not 1 <= threshold <= keys:
        raise RepositoryError(
            f"{role}: a threshold of {threshold} does not fit {keys} key(s)", role=role
        )


def set_role_keys(
    delegator: Delegator, role: str, keys: Iterable[TufKey], threshold: int = 0
) -> None:
    """Make exactly these the role's keys; keys no role lists any more are removed.

    ``threshold`` 0 keeps the one there is. Fields keyd does not know stay.

    Raises:
        RepositoryError: no such role, or the threshold does not fit.
    """
    listed = _role(delegator, role)
    wanted = list({key.keyid: key for key in keys}.values())
    check_threshold(role, threshold or listed.threshold, len(wanted))
    known = _keys(delegator)
    for keyid in list(listed.keyids):
        listed.keyids.remove(keyid)
        if not any(keyid in other.keyids for other in _roles(delegator)):
            known.pop(keyid, None)
    for key in wanted:
        known[key.keyid] = key
        listed.keyids.append(key.keyid)
    listed.threshold = threshold or listed.threshold


def role_keys(delegator: Delegator, role: str) -> list[TufKey]:
    """The keys a delegator lists for a role, in its order.

    Raises:
        RepositoryError: no such role.
    """
    return [_keys(delegator)[keyid] for keyid in _role(delegator, role).keyids]


def _role(delegator: Delegator, role: str) -> Any:
    try:
        return delegator.get_delegated_role(role)
    except ValueError as e:
        raise RepositoryError(f"there is no role {role}", role=role) from e


def _keys(delegator: Delegator) -> dict[str, TufKey]:
    if isinstance(delegator, Root):
        return delegator.keys
    assert delegator.delegations is not None
    return delegator.delegations.keys


def _roles(delegator: Delegator) -> list[Any]:
    if isinstance(delegator, Root):
        return list(delegator.roles.values())
    assert delegator.delegations is not None
    succinct = delegator.delegations.succinct_roles
    return [*(delegator.delegations.roles or {}).values(), *([succinct] if succinct else [])]


def put_targets(targets: Targets, files: Iterable[TargetFile]) -> None:
    """Add or replace target files; fields of a former entry that keyd does not know stay."""
    for file in files:
        before = targets.targets.get(file.path)
        if before is not None:
            kept = copy.deepcopy(before.unrecognized_fields)
            file.unrecognized_fields = {**kept, **file.unrecognized_fields}
        targets.targets[file.path] = file


def remove_targets(targets: Targets, paths: Sequence[str]) -> None:
    """Take target files out.

    Raises:
        RepositoryError: one of them is not listed; nothing was removed.
    """
    unknown = [path for path in paths if path not in targets.targets]
    if unknown:
        raise RepositoryError(
            f"not in these targets: {', '.join(unknown)}",
            hint="keydctl tuf show lists what is there",
        )
    for path in paths:
        del targets.targets[path]


def delegate(
    targets: Targets,
    role: str,
    keys: Mapping[str, TufKey],
    *,
    threshold: int,
    paths: Sequence[str],
    terminating: bool,
) -> None:
    """Delegate path patterns to a role; an existing delegation of that name is replaced.

    Raises:
        RepositoryError: the name is taken by a top-level role or not usable as a file name, no
            pattern was given, or the threshold does not fit.
    """
    if role in TOP_LEVEL or not _ROLE_NAME.fullmatch(role):
        raise RepositoryError(
            f"{role!r} cannot be a delegated role: use letters, digits, '.', '_', '-', and none "
            f"of {', '.join(TOP_LEVEL)}",
            role=role,
        )
    if not paths:
        raise RepositoryError(f"{role}: say which paths it may sign for", role=role)
    check_threshold(role, threshold, len(keys))
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    if targets.delegations.roles is None:
        raise RepositoryError("these targets delegate to hash bins, which take no named role")
    targets.delegations.roles.setdefault(
        role, DelegatedRole(role, [], 1, terminating, paths=list(paths))
    )
    entry = targets.delegations.roles[role]
    entry.paths, entry.path_hash_prefixes = list(paths), None
    entry.terminating = terminating
    set_role_keys(targets, role, keys.values(), threshold)
