"""Targets that were signed and never published: a snapshot that lists what is published would take
them back, which is grave. Versions above them are not.

So it is when a job died with its files after it had signed targets and a snapshot, or when a person
deleted what was staged. The content of those targets is given up; their numbers are not used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyd.adapters.tufrepo.evidence import Daemon
from keyd.content import parse_document
from keyd.content.documents import Snapshot
from keyd.errors import ApprovalNeededError, KeydError

_RULE = "meta-lowered"


def takes_back(refusal: ApprovalNeededError) -> bool:
    """True when consent is wanted because a snapshot lists lower versions than the one before."""
    return _RULE in refusal.facts.get("grave", "").split()


def find_above(daemons: Sequence[Daemon], here: Mapping[str, int]) -> dict[str, int]:
    """Role -> the highest version that a daemon's last complete snapshot lists of it, where that
    is above the one in ``here``. Daemons that do not tell are left out."""
    above: dict[str, int] = {}
    for daemon in daemons:
        for role, version in _listed(daemon).items():
            if role in here and version > max(here[role], above.get(role, 0)):
                above[role] = version
    return above


def withdraw(daemons: Sequence[Daemon], refusal: ApprovalNeededError) -> None:
    """Take back the request for a consent that is not needed any more; it expires otherwise."""
    for daemon in daemons:
        try:
            daemon.client.revoke(refusal.facts["approval"], reason="signed above it instead")
        except KeydError:
            continue  # It is another daemon's, or over.


def _listed(daemon: Daemon) -> dict[str, int]:
    try:
        content = daemon.client.get_role(daemon.repository, "snapshot").complete_content
        snapshot = parse_document(content)
    except KeydError:
        return {}
    if not isinstance(snapshot, Snapshot):
        return {}
    return {role: meta.version or 0 for role, meta in snapshot.meta.items()}
