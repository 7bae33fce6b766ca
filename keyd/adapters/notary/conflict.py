"""What is served after an upload, and what other publishers did meanwhile."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keyd.adapters.notary import metadata
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.trusted import Trusted
from keyd.adapters.notary.uploads import Upload
from keyd.content import envelope
from keyd.errors import ConflictError, RepositoryError

_MAX_NAMES = 8
_MAX_STEP = 200


def check_between(server: NotaryServer, drafts: Mapping[str, Draft]) -> None:
    """Refuse to publish over versions of others that the new ones are not made from: a number that
    was skipped may have been published meanwhile.

    Raises:
        ConflictError: one of the numbers between has been published.
    """
    for role, draft in drafts.items():
        between = _between(server, role, draft.base, draft.version)
        if between:
            raise ConflictError(f"{server.gun}: somebody else has published {role} {max(between)}")


def check_served(served: Trusted, files: Mapping[str, bytes]) -> None:
    """What is served, read anew, has to be what was sent, or what others made of it since.

    Raises:
        RepositoryError: nobody can read what was published, or it is something else.
    """
    now = served.files()
    for role, file in files.items():
        there = now.get(role)
        if there == file:
            continue
        sent = envelope.parse(file).document.version
        if there is not None and envelope.parse(there).document.version > sent:
            continue  # somebody went on from it
        why = served.problems.get(role, "something else is served")
        raise RepositoryError(
            f"{served.gun} {role} {sent} was sent and taken, but {why}", gun=served.gun, role=role
        )


def overtaken(server: NotaryServer, uploads: Iterable[Upload]) -> list[Change]:
    """What others published under numbers that were skipped, in the moment between the last look
    and the upload; to be published anew, for the upload does not have it. Once that is stored the
    server takes no lower number any more, so that nothing is missed. What people have changed
    again since then stays as they have it; an upload that never arrived overtook nobody."""
    lost: list[Change] = []
    for each in uploads:
        between = _between(server, each.role, each.base, each.version)
        ours = server.find(f"{each.version}.{each.role}") if between else None
        if ours is None or hashlib.sha256(ours).hexdigest() != each.sha256:
            continue
        base = server.find(f"{each.base}.{each.role}")
        theirs = _steps(each.role, [base, *(file for _, file in sorted(between.items()))])
        newest = server.find(each.role)
        last = envelope.parse(newest).document.version if newest else each.version
        after = _between(server, each.role, each.version, last + 1)
        touched = {
            c.name for c in _steps(each.role, [ours, *(f for _, f in sorted(after.items()))])
        }
        lost += [change for change in theirs if change.name not in touched]
    return lost


def _between(server: NotaryServer, role: str, base: int, version: int) -> dict[int, bytes]:
    """The published versions above ``base`` and below ``version``."""
    lowest = max(base, version - _MAX_STEP)
    files = {n: server.find(f"{n}.{role}") for n in range(lowest + 1, version)}
    return {number: file for number, file in files.items() if file is not None}


def _steps(role: str, files: Sequence[bytes | None]) -> list[Change]:
    """The changes from each of these files to the next; None is one that signs nothing."""
    signed = [metadata.open_file(role, file).signed if file else {} for file in files]
    return [
        change for old, new in itertools.pairwise(signed) for change in _difference(role, old, new)
    ]


def _difference(role: str, before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """The changes that lead from one content of a targets role to another."""
    old, new = before.get("targets") or {}, after.get("targets") or {}
    found = [Change("remove", role, name) for name in old.keys() - new.keys()]
    found += [Change("add", role, name, new[name]) for name in new if new[name] != old.get(name)]
    old_roles, new_roles = _delegated(before), _delegated(after)
    keys = (after.get("delegations") or {}).get("keys") or {}
    found += [Change("undelegate", role, name) for name in old_roles.keys() - new_roles.keys()]
    for name, given in new_roles.items():
        there = old_roles.get(name, {})
        for action, this, other in (("delegate", given, there), ("undelegate", there, given)):
            keyids = [k for k in this.get("keyids") or [] if k not in (other.get("keyids") or [])]
            paths = [p for p in this.get("paths") or [] if p not in (other.get("paths") or [])]
            if not keyids and not paths:
                continue
            facts: dict[str, Any] = {"keyids": keyids, "paths": paths}
            if action == "delegate":
                facts = {"keys": [{"keyid": k, "value": keys[k]} for k in keyids], "paths": paths}
            found.append(Change(action, role, name, facts))
    return found


def _delegated(signed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    roles = (signed.get("delegations") or {}).get("roles") or []
    return {each["name"]: each for each in roles}


def describe_others(before: Trusted | None, after: Trusted | None) -> str:
    """What changed between two looks at a collection, in words; empty where nothing is seen."""
    if after is None:
        return ""
    if before is None:
        return "the collection was begun by somebody else"
    told = []
    if after.root.version != before.root.version:
        told.append(f"root {after.root.version}")
    for role in after.targets:
        new = after.targets_document(role).targets
        old = before.targets_document(role).targets if role in before.targets else {}
        changed = sorted(
            [f"+{n}" for n in new.keys() - old.keys()]
            + [f"-{n}" for n in old.keys() - new.keys()]
            + [f"~{n}" for n in new.keys() & old.keys() if new[n] != old[n]]
        )
        version = after.targets[role].version
        if changed:
            more = f" and {len(changed) - _MAX_NAMES} more" if len(changed) > _MAX_NAMES else ""
            told.append(f"{role} {version} ({', '.join(changed[:_MAX_NAMES])}{more})")
        elif role not in before.targets or version != before.targets[role].version:
            told.append(f"{role} {version}")
    return ", ".join(told)
