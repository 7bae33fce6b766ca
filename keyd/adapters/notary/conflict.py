"""What other publishers did meanwhile."""

from __future__ import annotations

from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.trusted import Trusted
from keyd.errors import ConflictError

_MAX_NAMES = 8
_MAX_STEP = 200


def published_between(server: NotaryServer, role: str, base: int, version: int) -> None:
    """Refuse to publish over versions of others that the new one is not made from.

    Raises:
        ConflictError: one of the numbers between has been published.
    """
    for number in range(version - 1, max(base, version - _MAX_STEP), -1):
        if server.find(f"{number}.{role}") is not None:
            raise ConflictError(f"{server.gun}: somebody else has published {role} {number}")


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
