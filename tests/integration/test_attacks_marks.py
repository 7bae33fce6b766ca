"""What thieves try with versions, roles and repositories, on a real daemon: each is refused for its
reason, at the client and in the log, and the honest work that looks almost alike is signed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from keyd.errors import (
    ApprovalNeededError,
    InvalidRequestError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import Context
from tests.attack_cases import (
    BOTH,
    PLAIN,
    Case,
    Step,
    check_attack,
    check_twin,
    draft,
    held_by_two,
    nothing,
    published,
    root,
    sign,
)
from tests.attack_stage import Stage, a_stage, delegating, snapshot, targets, timestamp

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with a_stage() as made:
        yield made


def of_another_repository(version: int) -> Step:
    """The root of ``elsewhere``, which names other keys, in the name of this repository."""
    return root(version, ("elsewhere/root",), targets=("elsewhere/targets",))


CASES = [
    Case(
        "rollback: targets with last month's hole",
        published,
        sign("targets", targets(4, "app")),
        RuleRefusedError,
        "version-lower",
        PLAIN,
    ),
    Case(
        "rollback: a root that knows a key we stole back then",
        held_by_two,
        lambda site: (
            site.sign("root", site.root(2, BOTH, threshold=2)),
            site.sign("root", site.root(1, BOTH)),
        )[1],
        RuleRefusedError,
        "version-lower",
        root(2, BOTH, threshold=2),
    ),
    Case(
        "rollback: the timestamp of yesterday",
        published,
        sign("timestamp", timestamp(8, 7)),
        RuleRefusedError,
        "version-lower",
        sign("timestamp", timestamp(10, 7)),
    ),
    Case(
        "equivocation: half of the clients get other targets",
        published,
        sign("targets", targets(5, "malware")),
        VersionTakenError,
        "version-taken",
        lambda site: site.sign("targets", delegating(5, site.stage.versions["case/team"])),
    ),
    Case(
        "equivocation: other bytes of a snapshot that clients hold",
        published,
        sign("snapshot", snapshot(7, targets=6, team=3)),
        VersionTakenError,
        "version-taken",
        sign("snapshot", snapshot(8, targets=6, team=3)),
    ),
    Case(
        "equivocation: swap the draft after the first holder has signed it",
        draft,
        root(2, BOTH, threshold=2, x_evil="1", key="case/root-2"),
        VersionTakenError,
        "version-taken",
        root(2, BOTH, threshold=2, key="case/root-2"),
    ),
    Case(
        "run versions up until nothing can follow",
        published,
        sign("targets", targets(2**62)),
        RuleRefusedError,
        "version-step",
        sign("targets", targets(105)),
    ),
    Case(
        "skip a root, and leave behind the clients that miss it",
        published,
        root(3),
        RuleRefusedError,
        "root-step",
        root(2),
    ),
    Case(
        "build on a draft that the other holder never saw",
        draft,
        root(3, BOTH, threshold=2),
        RuleRefusedError,
        "root-incomplete",
        root(2, BOTH, threshold=2, key="case/root-2"),
    ),
    Case(
        "tell a daemon without history that root 7 is next",
        nothing,
        root(7),
        RuleRefusedError,
        "no-history",
        root(1),
    ),
    Case(
        "wrong role: targets in the coat of a snapshot",
        published,
        sign("snapshot", targets(8, "app")),
        RuleRefusedError,
        "wrong-role",
        sign("snapshot", snapshot(8, targets=5, team=3)),
    ),
    Case(
        "wrong role: a delegate's key signs a root",
        published,
        lambda site: site.sign("team", site.root(2), "case/team"),
        RuleRefusedError,
        "wrong-role",
        sign("team", targets(4, "team/app")),
    ),
    Case(
        "wrong role: the online key signs targets",
        published,
        sign("targets", targets(6, "app"), "case/online"),
        InvalidRequestError,
        "",
        PLAIN,
    ),
    Case(
        "wrong role: a delegate reaches for what is not the team's",
        published,
        sign("team", targets(4, "kernel")),
        RuleRefusedError,
        "path-outside",
        sign("team", targets(4, "team/kernel")),
    ),
    Case(
        "wrong role: climb out of the team's directory",
        published,
        sign("team", targets(4, "team/../kernel")),
        RuleRefusedError,
        "path-outside",
        sign("team", targets(4, "team/..kernel")),
    ),
    Case(
        "wrong repository: one that the key does not serve",
        published,
        sign("targets", targets(1), repository="elsewhere"),
        InvalidRequestError,
        "",
        PLAIN,
    ),
    Case(
        "wrong repository: found this one on another one's root",
        nothing,
        of_another_repository(1),
        RuleRefusedError,
        "root-key-missing",
        root(1),
    ),
    Case(
        "wrong repository: another one's root in this one's name",
        published,
        of_another_repository(2),
        ApprovalNeededError,
        "root-key-added root-key-dropped",
        root(2),
    ),
    Case(
        "wrong repository: leave open which one, and pick later",
        published,
        sign("targets", targets(6), context=Context()),
        InvalidRequestError,
        "",
        PLAIN,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_the_attack_is_refused_and_the_log_says_for_which_reason(stage: Stage, case: Case) -> None:
    check_attack(stage, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_its_honest_twin_is_signed(stage: Stage, case: Case) -> None:
    check_twin(stage, case)


def test_a_stored_signature_is_no_way_past_the_mark_of_another_repository(stage: Stage) -> None:
    site = stage.site()
    other = replace(site, repository=stage.site().repository)
    site.sign("targets", targets(5, "app"))
    other.sign("targets", targets(7, "app"))

    with pytest.raises(RuleRefusedError) as e:
        other.sign("targets", targets(5, "app"))
    again = site.sign("targets", targets(5, "app"))

    assert e.value.facts["rule"] == "version-lower"
    assert stage.refusals(site.principal)[-1]["context"]["repository"] == other.repository
    assert again.replayed


def test_a_rollback_is_seen_in_the_log_behind_the_noise_of_other_refusals(stage: Stage) -> None:
    site = stage.site()
    published(site)
    for _ in range(5):
        with pytest.raises(RuleRefusedError):
            site.sign("targets", b"noise")

    with pytest.raises(RuleRefusedError):
        site.sign("targets", targets(4, "app"))

    rules = [entry["rule"] for entry in stage.refusals(site.principal)]
    assert rules == ["rule opaque", "rule version-lower"]
