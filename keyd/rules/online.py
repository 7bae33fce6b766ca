"""Rules of snapshot and timestamp, which servers sign anew before they store them.

They may not go below the mark. Other bytes at the mark are an accident of nobody (a publish that
failed, two at once), as long as that version is not known to be published.
"""

from __future__ import annotations

from keyd.content.documents import Snapshot, Timestamp
from keyd.model import Limits
from keyd.rules.case import Asked, History
from keyd.rules.refusal import taken
from keyd.rules.versions import Standing, check_above, standing


def check_version(
    asked: Asked, document: Snapshot | Timestamp, history: History, limits: Limits
) -> tuple[Standing, str]:
    """How the bytes stand to those signed before, and that in words.

    Raises:
        RuleRefusedError: version-lower, version-step.
        VersionTakenError: other bytes are published as this version.
    """
    mark = history.mark
    if standing(asked, document, mark) is Standing.SAME:
        told = f"the same bytes as version {document.version} that is signed already"
        return Standing.SAME, told
    if mark is not None and document.version == mark.newest.version:
        if not mark.may_be_reissued:
            raise taken(asked.context, asked.digest, mark, next_version=document.version + 1)
        return Standing.REPLACE, f"other bytes as version {document.version}, not known published"
    return Standing.NEW, check_above(asked, document, mark, limits)
