"""Rules of the targets role and of delegated ones: upwards only, one content per version."""

from __future__ import annotations

import re

from keyd.content.documents import Targets
from keyd.content.refusal import printable
from keyd.model import Limits
from keyd.policy.patterns import matches_any
from keyd.rules.case import Asked, History
from keyd.rules.refusal import of, refuse, taken
from keyd.rules.versions import Standing, check_above, standing

_MAX_NAMED = 3


def check_version(
    asked: Asked, targets: Targets, history: History, limits: Limits
) -> tuple[Standing, str]:
    """How the bytes stand to those signed before, and that in words.

    Raises:
        RuleRefusedError: version-lower, version-step.
        VersionTakenError: other bytes are signed as this version.
    """
    mark = history.mark
    known = standing(asked, targets, mark)
    if known is not None:
        return known, f"the same bytes as version {targets.version} that is signed already"
    if mark is not None and targets.version == mark.newest.version:
        raise taken(asked.context, asked.digest, mark, next_version=targets.version + 1)
    return Standing.NEW, check_above(asked, targets, mark, limits)


def check_paths(asked: Asked, targets: Targets, limits: Limits) -> str:
    """Every target lies where the policy's limit lets the role have some.

    Globs of the policy: ``*`` matches ``/`` too. A path that goes up, ``a/../b``, is outside
    whatever it seems to match.

    Raises:
        RuleRefusedError: path-outside, with the first paths and how many there are.
    """
    if not limits.paths:
        return "no limit on paths"
    outside = [
        path for path in targets.targets if goes_up(path) or not matches_any(limits.paths, path)
    ]
    shown_limits = ", ".join(printable(glob) for glob in limits.paths)
    if outside:
        named = ", ".join(f'"{printable(path)}"' for path in outside[:_MAX_NAMED])
        more = f" and {len(outside) - _MAX_NAMED} more" if len(outside) > _MAX_NAMED else ""
        raise refuse(
            "path-outside",
            f"{of(asked.context)} may have targets under {shown_limits} only, not {named}{more}",
            hint="let another role have these targets, or widen paths in the [[limit]] of the "
            "policy",
            context=asked.context,
            content=targets,
            outside=len(outside),
        )
    return f"all targets lie under {shown_limits}"


def goes_up(path: str) -> bool:
    """True for a path with a part that clients may resolve to somewhere else."""
    return any(part in ("", ".", "..") for part in re.split(r"[/\\]", path))
