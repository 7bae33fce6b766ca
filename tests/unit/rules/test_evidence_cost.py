"""Who may show files must not be able to keep the daemon busy with few bytes."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Sequence
from datetime import UTC, datetime

from tuf.api.metadata import DelegatedRole, Delegations

from keyd.rules.evidence import Known, RoleFile, verify_advance, verify_import
from tests.tuf_documents import ALICE, a_root, a_targets, signed

NOW = datetime(2029, 12, 1, tzinfo=UTC)
TEAMS = [f"team-{n}" for n in range(200)]


def known() -> dict[str, Known]:
    """A repository whose targets are large and delegate to many."""
    targets = a_targets(1, *(f"file-{n}" for n in range(3000)))
    key = ALICE.public_key
    roles = {team: DelegatedRole(team, [key.keyid], 1, False, ["*"]) for team in TEAMS}
    targets.signed.delegations = Delegations({key.keyid: key}, roles)
    root = a_root(1, key, signed_by=[ALICE]).to_bytes()
    files = [RoleFile("targets", signed(targets, [ALICE]).to_bytes())]
    shown = verify_import("acme", root, files, {}, NOW)
    return {change.mark.role: Known(change.mark, change.contents) for change in shown.changes}


def calls_made(before: dict[str, Known], teams: Sequence[str]) -> int:
    """Work as a count of calls: the same on a busy machine."""
    content = a_targets(1, "x", signed_by=[ALICE]).to_bytes()
    files = [RoleFile(team, content) for team in teams]
    profile = cProfile.Profile()
    found = profile.runcall(verify_advance, "acme", files, before, NOW, published=True)
    assert len(found.changes) == len(teams)
    return int(vars(pstats.Stats(profile))["total_calls"])


def test_many_small_delegated_files_do_not_have_the_large_delegator_read_for_each() -> None:
    before = known()

    few = calls_made(before, TEAMS[:2])
    many = calls_made(before, TEAMS)

    assert many < 20 * few  # 100 times as many files
