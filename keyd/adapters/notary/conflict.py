"""What other publishers did meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyd.adapters.notary import metadata
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.trusted import Trusted
from keyd.errors import ConflictError

_MAX_NAMES = 8
_MAX_STEP = 200


def check_between(server: NotaryServer, drafts: Mapping[str, Draft]) -> None:
    """Refuse to publish over versions of others that the new ones are not made from: a number that
    was skipped may have been published meanwhile.

    Raises:
        ConflictError: one of the numbers between has been published.
    """
    for role, draft in drafts.items():
        between = _between(server, role, draft)
        if between:
            raise ConflictError(f"{server.gun}: somebody else has published {role} {max(between)}")


def overtaken(server: NotaryServer, drafts: Mapping[str, Draft]) -> list[Change]:
    """What others published under numbers that were skipped, in the moment between the last look
    and the upload; to be published anew, for the upload does not have it. Now that it is stored
    the server takes no lower number any more, so that nothing is missed."""
    lost: list[Change] = []
    for role, draft in drafts.items():
        if role != "targets" and not role.startswith("targets/"):
            continue
        between = _between(server, role, draft)
        base = server.find(f"{draft.base}.{role}") if between else None
        said = metadata.open_file(role, base).signed if base else {}
        for _, file in sorted(between.items()):
            theirs = metadata.open_file(role, file).signed
            lost += _difference(role, said, theirs)
            said = theirs
    return lost


def _between(server: NotaryServer, role: str, draft: Draft) -> dict[int, bytes]:
    lowest = max(draft.base, draft.version - _MAX_STEP)
    files = {n: server.find(f"{n}.{role}") for n in range(lowest + 1, draft.version)}
    return {number: file for number, file in files.items() if file is not None}


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
