"""Which version may come next: what all roles but root have in common."""

from __future__ import annotations

from enum import Enum

from keyd.content.documents import Document
from keyd.errors import RuleRefusedError
from keyd.model import Limits, Mark
from keyd.rules.case import Asked
from keyd.rules.refusal import command, of, refuse


class Standing(Enum):
    """How the bytes stand to what was signed before: a NEW version; the SAME bytes as the newest;
    those of the complete version BELOW a newer draft; other bytes that REPLACE the newest."""

    NEW = "new"
    SAME = "same"
    BELOW = "below"
    REPLACE = "replace"


def standing(asked: Asked, document: Document, mark: Mark | None) -> Standing | None:
    """Where it is the identical bytes of a version that is known; None for anything else."""
    if mark is None:
        return None
    if document.version == mark.newest.version and asked.digest == mark.newest.digest:
        return Standing.SAME
    complete = mark.complete
    if complete and document.version == complete.version and asked.digest == complete.digest:
        return Standing.BELOW
    return None


def check_above(asked: Asked, document: Document, mark: Mark | None, limits: Limits) -> str:
    """A version above the last, by at most ``max_step``. What was looked at, in words.

    Raises:
        RuleRefusedError: version-lower, or version-step.
    """
    last = mark.newest.version if mark else 0
    if mark is not None and document.version < last:
        raise lower(asked, document, mark)
    if document.version > last + limits.max_step:
        context = asked.context
        said = f"the last one is {last}" if mark else "none is known"
        known = command("advance" if mark else "import", context)
        raise refuse(
            "version-step",
            f"{of(context)}: version {document.version} is too far up, {said} and a step is at "
            f"most {limits.max_step}",
            hint=f"take version {last + 1}; if later versions are published, show them with: "
            f"{known}",
            context=context,
            content=document,
            last_version=last,
            next_version=last + 1,
            max_step=limits.max_step,
        )
    said = f"after version {last}" if mark else "nothing signed before is known"
    return f"version {document.version}, {said}, at most {limits.max_step} up"


def lower(asked: Asked, document: Document, mark: Mark) -> RuleRefusedError:
    """The refusal of a version below the newest: clients would call it a rollback."""
    context, newest = asked.context, mark.newest
    return refuse(
        "version-lower",
        f"{of(context)}: version {document.version} is below version {newest.version}, which is "
        f"{mark.state}",
        hint=f"sign it as version {newest.version + 1}; if the later versions are not published, "
        f"go back with: {command('supersede', context)}, or for a restored server: "
        f"{command('reset', context)}",
        context=context,
        content=document,
        digest=asked.digest.hex(),
        signed_digest=newest.digest.hex(),
        last_version=newest.version,
        next_version=newest.version + 1,
    )
