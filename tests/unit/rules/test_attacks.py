"""What thieves of a bound key's daemon would try, and the honest work that looks almost alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api import metadata as api

from keyd.errors import RuleRefusedError, VersionTakenError
from keyd.model import Limits
from keyd.rules import refusal
from keyd.rules.refusal import WORDS
from tests.unit.rules.ledger import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    NOW,
    Ledger,
    delegating,
    root,
    snapshot,
    targets,
    timestamp,
)

Steps = Callable[[Ledger], object]


@dataclass(frozen=True)
class Case:
    """``attack`` is refused by ``rule`` ("taken": VersionTakenError); ``twin``, on the same
    ground, is signed. Each is what the last step asks for."""

    words: str
    ground: Steps
    attack: Steps
    rule: str
    twin: Steps
    way_out: str


def published(ledger: Ledger) -> None:
    """Root 1 of Alice and Bob, both needed; targets 5, snapshot 7, timestamp 9, all out."""
    ledger.sign("root", root(1, ALICE, BOB, threshold=2), ALICE, BOB)
    ledger.sign("targets", targets(5, "app"))
    ledger.sign("snapshot", snapshot(7, targets=5))
    ledger.sign("timestamp", timestamp(9, 7))
    for role in ("root", "targets", "snapshot", "timestamp"):
        ledger.publish(role)


def draft(ledger: Ledger) -> None:
    """And root 2, which Alice alone signed."""
    published(ledger)
    ledger.sign("root", root(2, ALICE, BOB, threshold=2), ALICE)


def nothing(ledger: Ledger) -> None:
    del ledger


def sign(
    role: str, signed: api.Signed, by: CryptoSigner = CAROL, limits: Limits | None = None
) -> Steps:
    return lambda ledger: ledger.sign(role, signed, by, limits=limits or Limits(400))


def after_giving_up(role: str, step: Steps) -> Steps:
    def steps(ledger: Ledger) -> object:
        ledger.supersede(role)
        return step(ledger)

    return steps


FAR = NOW + timedelta(days=3650)
STABLE = Limits(400, paths=("stable/*",))
CASES = [
    Case(
        "roll targets back to a version with the hole in it",
        published,
        sign("targets", targets(4, "app")),
        "version-lower",
        sign("targets", targets(6, "app")),
        "role supersede acme/app targets",
    ),
    Case(
        "show half of the clients other targets under the same version",
        published,
        sign("targets", targets(5, "malware")),
        "taken",
        sign("targets", targets(5, "app")),
        "role supersede acme/app targets",
    ),
    Case(
        "run the version up so far that no repair can follow",
        published,
        sign("targets", targets(2**62, "app")),
        "version-step",
        sign("targets", targets(105, "app")),
        "role advance acme/app",
    ),
    Case(
        "start a new repository at a version nobody can come after",
        nothing,
        sign("targets", targets(101)),
        "version-step",
        sign("targets", targets(100)),
        "role import acme/app",
    ),
    Case(
        "have the online key sign targets as a snapshot",
        published,
        sign("snapshot", targets(8, "app")),
        "wrong-role",
        sign("snapshot", snapshot(8, targets=5)),
        "targets",
    ),
    Case(
        "have a delegate's key sign a root",
        published,
        sign("team-a", root(2, MALLORY)),
        "wrong-role",
        sign("team-a", targets(1, "app")),
        "root",
    ),
    Case(
        "pass a timestamp off as targets",
        published,
        sign("targets", timestamp(6, 7)),
        "wrong-role",
        sign("targets", targets(6)),
        "timestamp",
    ),
    Case(
        "have the root of another repository signed, which knows other keys",
        published,
        sign("root", root(2, MALLORY), CAROL),
        "root-key-missing",
        sign("root", root(2, ALICE, BOB, CAROL, threshold=2), CAROL),
        "keydctl key show acme/key",
    ),
    Case(
        "found a repository whose root somebody else holds",
        nothing,
        sign("root", root(1, MALLORY), ALICE),
        "root-key-missing",
        sign("root", root(1, ALICE), ALICE),
        "keydctl key show acme/key",
    ),
    Case(
        "skip a root, so that clients that are behind are left behind for ever",
        published,
        sign("root", root(3, ALICE, BOB), ALICE),
        "root-step",
        sign("root", root(2, ALICE, BOB, threshold=2), ALICE),
        "role advance acme/app",
    ),
    Case(
        "build on a draft that the other holder never signed",
        draft,
        sign("root", root(3, ALICE, BOB, threshold=2), ALICE),
        "root-incomplete",
        sign("root", root(2, ALICE, BOB, threshold=2), BOB),
        "role supersede acme/app root",
    ),
    Case(
        "swap the draft after the first holder has read and signed it",
        draft,
        sign("root", root(2, ALICE, BOB, MALLORY, threshold=2), BOB),
        "taken",
        after_giving_up("root", sign("root", root(2, ALICE, BOB, threshold=2, x="fixed"), BOB)),
        "role supersede acme/app root",
    ),
    Case(
        "fork the chain of roots at a version that is out",
        published,
        sign("root", root(1, ALICE, BOB, MALLORY), ALICE),
        "taken",
        sign("root", root(1, ALICE, BOB, threshold=2), BOB),
        "version 2",
    ),
    Case(
        "bring an old root back",
        draft,
        sign("root", root(1, ALICE, BOB, MALLORY), ALICE),
        "version-lower",
        sign("root", root(1, ALICE, BOB, threshold=2), ALICE),
        "role reset acme/app root",
    ),
    Case(
        "tell a fresh daemon that root 7 comes next",
        nothing,
        sign("root", root(7, ALICE, MALLORY), ALICE),
        "no-history",
        sign("root", root(1, ALICE), ALICE),
        "role import acme/app",
    ),
    Case(
        "freeze clients by a timestamp that is good for ten years",
        published,
        sign("timestamp", timestamp(10, 7, expires=FAR)),
        "expiry-too-far",
        sign("timestamp", timestamp(10, 7)),
        "max_expiry_days",
    ),
    Case(
        "break clients with metadata that has expired",
        published,
        sign("targets", targets(6, "app", expires=NOW)),
        "expired",
        sign("targets", targets(6, "app", expires=NOW + timedelta(seconds=1))),
        "later expiry",
    ),
    Case(
        "roll the snapshot back",
        published,
        sign("snapshot", snapshot(6, targets=5)),
        "version-lower",
        sign("snapshot", snapshot(8, targets=5)),
        "role reset acme/app snapshot",
    ),
    Case(
        "change a snapshot that clients hold",
        published,
        sign("snapshot", snapshot(7, targets=6)),
        "taken",
        sign("snapshot", snapshot(8, targets=6)),
        "version 8",
    ),
    Case(
        "let a delegate put a target where only the release team may",
        published,
        sign("team-a", targets(1, "stable/a", "core/kernel"), CAROL, STABLE),
        "path-outside",
        sign("team-a", targets(1, "stable/a", "stable/b/c"), CAROL, STABLE),
        "paths",
    ),
    Case(
        "climb out of the delegate's own directory",
        published,
        sign("team-a", targets(1, "stable/../core/kernel"), CAROL, STABLE),
        "path-outside",
        sign("team-a", targets(1, "stable/..core/kernel"), CAROL, STABLE),
        "paths",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_the_attack_is_refused_for_its_reason_and_names_a_way_out(case: Case) -> None:
    ledger = Ledger()
    case.ground(ledger)
    before = dict(ledger.marks)

    with pytest.raises((RuleRefusedError, VersionTakenError)) as e:
        case.attack(ledger)

    assert e.value.facts.get("rule", "taken") == case.rule
    assert e.value.facts["repository"] == "acme/app"
    assert int(e.value.facts["version"]) > 0
    assert case.way_out in e.value.hint
    assert ledger.marks == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_its_honest_twin_is_signed(case: Case) -> None:
    ledger = Ledger()
    case.ground(ledger)

    verdict = case.twin(ledger)

    assert verdict is not None


def test_every_word_of_a_refusal_is_explained_in_the_table() -> None:
    told = re.findall(r"^    ([a-z-]+) +\S.*\n +-> ", refusal.__doc__ or "", re.MULTILINE)

    assert tuple(told) == WORDS


def test_a_taken_version_tells_a_pipeline_all_it_needs_to_renumber() -> None:
    ledger = Ledger()
    published(ledger)

    with pytest.raises(VersionTakenError) as e:
        ledger.judge("targets", targets(5, "other"))

    facts = e.value.facts
    assert facts["signed_digest"] == ledger.marks["targets"].newest.digest.hex()
    assert facts["digest"] != facts["signed_digest"]
    assert len(bytes.fromhex(facts["digest"])) == 32
    assert (facts["last_version"], facts["next_version"]) == ("5", "6")


def test_a_root_draft_keeps_its_number_when_it_is_superseded() -> None:
    ledger = Ledger()
    draft(ledger)

    with pytest.raises(VersionTakenError) as e:
        ledger.judge("root", root(2, ALICE, BOB, CAROL, threshold=2), BOB)

    assert e.value.facts["next_version"] == "2"


def test_a_lower_version_names_the_next_free_one() -> None:
    ledger = Ledger()
    published(ledger)

    with pytest.raises(RuleRefusedError) as e:
        ledger.judge("timestamp", timestamp(3, 7))

    assert e.value.facts["next_version"] == "10"


def test_names_of_an_attackers_choice_reach_no_terminal_raw() -> None:
    ledger = Ledger("acme/\x1b[2J app")
    ledger.sign("targets", delegating(1, "x", ALICE))

    with pytest.raises(VersionTakenError) as e:
        ledger.judge("targets", targets(1, "a"))
    with pytest.raises(RuleRefusedError) as outside:
        ledger.judge("x", targets(1, "red\n\u202egreen"), limits=STABLE)

    shown = [e.value.message, e.value.hint, *e.value.facts.values()]
    shown += [outside.value.message, outside.value.hint, *outside.value.facts.values()]
    assert all(text.isprintable() for text in shown)
    assert "'acme/\\x1b[2J app'" in e.value.hint


def test_many_paths_outside_are_counted_not_listed() -> None:
    with pytest.raises(RuleRefusedError) as e:
        Ledger().judge("team-a", targets(1, *(f"f{n}" for n in range(5000))), limits=STABLE)

    assert e.value.facts["outside"] == "5000"
    assert "and 4997 more" in e.value.message
    assert len(e.value.message) < 400
