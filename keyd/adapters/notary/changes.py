"""What people staged for a collection, and how it changes metadata.

Kept as JSON until it is published, in the order in which it was staged. A change says what shall
be, not how to get there: on top of what others published meanwhile it means the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyd.errors import RepositoryError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Change:
    """``action``: ``init``, ``add``, ``remove``, ``delegate``, ``undelegate`` or ``witness``.
    ``role``: whose file changes. ``name``: the target's or the delegated role's.

    ``facts``: for add ``length``, ``hashes`` (name -> base64) and maybe ``custom``; for delegate
    ``keys`` (``keyid`` and ``value`` of each) and ``paths`` to add; for undelegate ``keyids`` and
    ``paths`` to take out, neither for the whole role; for init ``certificate``, PEM.
    """

    action: str
    role: str
    name: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return {"action": self.action, "role": self.role, "name": self.name, "facts": self.facts}


def read(content: bytes | None) -> list[Change]:
    """The staged changes of a collection.

    Raises:
        RepositoryError: not what this version writes.
    """
    if content is None:
        return []
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise RepositoryError("the staged changes were written by a newer keydctl")
        return [Change(**each) for each in found["changes"]]
    except (ValueError, KeyError, TypeError) as e:
        raise RepositoryError(f"the staged changes cannot be read: {e!r}") from e


def write(changes: Sequence[Change]) -> bytes | None:
    """The text that keeps them; None for none."""
    if not changes:
        return None
    content = {"format": FORMAT, "changes": [c.to_json() for c in changes]}
    return json.dumps(content, indent=1).encode() + b"\n"


def add(role: str, name: str, length: int, digests: dict[str, bytes], custom: Any = None) -> Change:
    """Sign a target. ``digests``: algorithm -> digest, with sha256 among them."""
    hashes = {a: base64.b64encode(d).decode("ascii") for a, d in digests.items()}
    facts: dict[str, Any] = {"length": length, "hashes": hashes}
    if custom is not None:
        facts["custom"] = custom
    return Change("add", role, name, facts)


def apply(signed: dict[str, Any], role: str, changes: Iterable[Change]) -> list[str]:
    """Change the content of a targets role; what did not fit, in words.

    Raises:
        RepositoryError: a change that cannot be made, as a removal of nothing.
    """
    notes: list[str] = []
    for change in changes:
        if change.role == role and change.action in _APPLY:
            notes += _APPLY[change.action](signed, change)
    return notes


def _add(signed: dict[str, Any], change: Change) -> list[str]:
    signed["targets"] = {**(signed.get("targets") or {}), change.name: dict(change.facts)}
    return []


def _remove(signed: dict[str, Any], change: Change) -> list[str]:
    if change.name not in (signed.get("targets") or {}):
        return [f"{change.role} does not sign {change.name}: nothing to remove"]
    del signed["targets"][change.name]
    return []


def _delegate(signed: dict[str, Any], change: Change) -> list[str]:
    delegations = _delegations(signed)
    role = _find(delegations, change.name)
    if role is None:
        if not change.facts["keys"]:
            raise RepositoryError(
                f"there is no delegation {change.name} yet: it needs a key", role=change.name
            )
        role = {"keyids": [], "name": change.name, "threshold": 1}
        delegations["roles"].append(role)
    for key in change.facts["keys"]:
        delegations["keys"][key["keyid"]] = key["value"]
    role["keyids"] = _united(role.get("keyids"), [k["keyid"] for k in change.facts["keys"]])
    _set_paths(role, _united(role.get("paths"), change.facts["paths"]))
    return []


def _undelegate(signed: dict[str, Any], change: Change) -> list[str]:
    delegations = _delegations(signed)
    role = _find(delegations, change.name)
    if role is None:
        return [f"there is no delegation {change.name}: nothing to remove"]
    keyids, paths = change.facts.get("keyids"), change.facts.get("paths")
    if keyids is None and paths is None:
        delegations["roles"] = [
            r
            for r in delegations["roles"]
            if r["name"] != change.name and not r["name"].startswith(f"{change.name}/")
        ]
    if keyids:
        role["keyids"] = [k for k in role.get("keyids") or [] if k not in keyids]
    if paths is not None:
        _set_paths(role, [p for p in role.get("paths") or [] if p not in paths])
    used = {k for r in delegations["roles"] for k in r.get("keyids") or []}
    delegations["keys"] = {k: v for k, v in delegations["keys"].items() if k in used}
    return []


def _witness(signed: dict[str, Any], change: Change) -> list[str]:
    del signed, change  # The same content under a new version and signature.
    return []


_APPLY = {
    "add": _add,
    "remove": _remove,
    "delegate": _delegate,
    "undelegate": _undelegate,
    "witness": _witness,
}


def _delegations(signed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = signed.setdefault("delegations", {})
    found["keys"] = found.get("keys") or {}
    found["roles"] = found.get("roles") or []
    return found


def _find(delegations: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((r for r in delegations["roles"] if r["name"] == name), None)


def _set_paths(role: dict[str, Any], paths: list[str]) -> None:
    """No paths are no member: Go leaves an empty list out, and would hash another file."""
    role.pop("paths", None)
    if paths:
        role["paths"] = paths


def _united(old: Sequence[str] | None, new: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*(old or []), *new]))
