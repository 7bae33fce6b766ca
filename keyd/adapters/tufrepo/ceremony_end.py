"""Giving a ceremony up: what is undone, and what stays."""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.metadata import Root

from keyd.adapters.tufrepo import published as reading
from keyd.adapters.tufrepo.ceremony import Work
from keyd.adapters.tufrepo.ceremony_draft import digest
from keyd.adapters.tufrepo.ceremony_keys import generated
from keyd.errors import PolicyDeniedError, RepositoryError, RoleNotFoundError
from keyd.model import Ceremony, MarkState


@dataclass(frozen=True, slots=True)
class Aborted:
    """``undone``: what was taken back. ``stays``: what was not, and what to do about it."""

    ceremony: Ceremony
    undone: tuple[str, ...]
    stays: tuple[str, ...]


def abort(work: Work, *, reason: str) -> Aborted:
    """Give the draft up here and at the daemon, then end the ceremony; the published repository is
    not touched. May be run again after a crash.

    Raises:
        RepositoryError: the new root is published: only ``resume`` ends it.
        ApprovalNeededError: people have to consent before the signed draft is given up.
    """
    undone: list[str] = []
    stays: list[str] = []
    draft = work.ceremony.draft
    if draft:
        with work.repository.changing() as change:
            if work.is_published(change):
                raise RepositoryError(
                    f"root {work.version} of this ceremony is published, and published files never "
                    "change",
                    hint=f"end it with: keydctl tuf ceremony resume {work.repository.folder.path}",
                )
        _supersede(work, reason or f"ceremony {work.ceremony.id} was aborted", undone, stays)
        with work.repository.changing() as change:
            path = change.folder.staged_files().get("root")
            if path is not None and reading.parse(path, Root).signed_bytes == draft:
                change.folder.unstage("root")
                undone.append(f"{path} is gone")
    ceremony = work.client.abort_ceremony(work.ceremony.id, reason=reason)
    for each, name in generated(work.plan, ceremony.facts):
        key, _, number = name.partition("/versions/")
        held = work.client.get_key(key)
        if held.active_version < int(number):
            stays.append(
                f"{name} stays staged: the next rotation of {each.role} takes it; or disable it: "
                f"keydctl key disable {key} {number}"
            )
    return Aborted(ceremony, tuple(undone), tuple(stays))


def _supersede(work: Work, reason: str, undone: list[str], stays: list[str]) -> None:
    """Make the daemon ready to sign another root of this version."""
    repository = work.repository.settings.repository
    signed = digest(work.ceremony.draft)
    try:
        role = work.client.get_role(repository, "root")
    except RoleNotFoundError:
        return
    if role.digest != signed or role.state is MarkState.PUBLISHED:
        return
    command = f"keydctl role supersede {repository} root"
    try:
        work.client.supersede_role(repository, "root", signed, reason=reason)
        undone.append(f"the daemon may sign another root {work.version}")
    except PolicyDeniedError:
        stays.append(
            f"the daemon has signed root {work.version} and refuses another one until somebody "
            f"with the grant `role` gives it up: {command}"
        )
    stays.append(
        f"other daemons that signed root {work.version} refuse another one until there, too: "
        f"{command}"
    )
