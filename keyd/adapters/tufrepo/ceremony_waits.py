"""Whose consent a ceremony waits for, found by what it was asked for.

The run that asked may be long gone, and the daemon keeps approvals apart from ceremonies. So an
open request belongs to a ceremony when whoever drives it asked for what its phase does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyd.adapters.tufrepo.ceremony import Work
from keyd.adapters.tufrepo.ceremony_draft import digest
from keyd.errors import ApprovalNotFoundError
from keyd.model import Action, Phase

if TYPE_CHECKING:
    from keyd.client import Approval

_MOST = 1000
"""As many as the daemon keeps open, and lists at once."""

_ON_KEYS = {
    Phase.GENERATE: (Action.ROTATE, Action.BIND),
    Phase.RETIRE: (Action.ACTIVATE, Action.DISABLE),
}


def find_waiting(work: Work) -> tuple[Approval, ...]:
    """The open approvals that the phase which is next needs, newest first; those that everybody
    has consented to as well. Asked for by the caller, or by whoever began the ceremony.

    Raises:
        KeydError: the daemon cannot be asked.
    """
    drivers = {work.ceremony.started_by, work.client.whoami().principal}
    found = work.client.list_approvals(limit=_MOST)
    keys = work.keys().names() if work.ceremony.phase in _ON_KEYS else frozenset()
    return tuple(a for a in found if a.requester in drivers and _is_for(a, work, keys))


def find_elsewhere(work: Work) -> tuple[str, ...]:
    """Ids of approvals that a run at CONSENT met at other daemons, where this one cannot look."""
    elsewhere = []
    for each in work.ceremony.facts.get("approvals", "").split():
        try:
            work.client.get_approval(each)
        except ApprovalNotFoundError:
            elsewhere.append(each)
    return tuple(elsewhere) if work.ceremony.phase is Phase.CONSENT else ()


def _is_for(approval: Approval, work: Work, keys: frozenset[str]) -> bool:
    phase = work.ceremony.phase
    if phase in _ON_KEYS:
        return approval.action in _ON_KEYS[phase] and approval.subject in keys
    if approval.action != Action.SIGN or approval.repository != work.ceremony.repository:
        return False
    if phase in (Phase.CONSENT, Phase.SIGN):
        return approval.digest == digest(work.ceremony.draft)
    return phase is Phase.PUBLISH and approval.role != "root"
