"""Changes that need consent: what weakens trust or goes back, and what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tuf.api import metadata as api

from keyd.rules import Verdict
from tests.unit.rules.ledger import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    Ledger,
    delegating,
    root,
    snapshot,
    targets,
    timestamp,
)


def rules(verdict: Verdict) -> list[str]:
    return [grave.rule for grave in verdict.grave]


def after(first: api.Root, second: api.Root, *here: object) -> Verdict:
    """The verdict over ``second`` after ``first`` is complete. All of it is Alice's to sign."""
    ledger = Ledger(here=[signer for signer in (ALICE, BOB, CAROL) if signer in here])
    ledger.sign("root", first, ALICE, BOB)
    return ledger.judge("root", second, ALICE)


@dataclass(frozen=True)
class Case:
    words: str
    before: Callable[[], api.Root]
    after: Callable[[], api.Root]
    grave: tuple[str, ...]
    here: tuple[object, ...] = ()


def with_threshold(made: api.Root, role: str, threshold: int) -> api.Root:
    made.roles[role].threshold = threshold
    return made


def renamed(made: api.Root, old: str, new: str) -> api.Root:
    """The same key pair under another id, as well as under its own."""
    key = made.keys[old]
    made.keys[new] = api.Key.from_dict(new, key.to_dict())
    made.roles["root"].keyids.append(new)
    return made


def replaced(made: api.Root) -> api.Root:
    """Mallory's key under Bob's id."""
    bob = BOB.public_key.keyid
    made.keys[bob] = api.Key.from_dict(bob, MALLORY.public_key.to_dict())
    return made


ROOTS = [
    Case(
        "nothing but the version",
        lambda: root(1, ALICE, BOB, threshold=2),
        lambda: root(2, ALICE, BOB, threshold=2),
        (),
    ),
    Case(
        "a third holder",
        lambda: root(1, ALICE, BOB, threshold=2),
        lambda: root(2, ALICE, BOB, CAROL, threshold=2),
        (),
    ),
    Case(
        "a higher threshold",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, ALICE, BOB, threshold=2),
        (),
    ),
    Case(
        "one thief with one key shall be enough",
        lambda: root(1, ALICE, BOB, threshold=2),
        lambda: root(2, ALICE, BOB, threshold=1),
        ("threshold-lowered",),
    ),
    Case(
        "one key shall be enough for targets",
        lambda: with_threshold(root(1, ALICE, BOB), "targets", 2),
        lambda: root(2, ALICE, BOB),
        ("threshold-lowered",),
    ),
    Case(
        "the thief drops the other holder",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, ALICE),
        ("root-key-dropped",),
    ),
    Case(
        "the thief takes the other holder's place",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, ALICE, MALLORY),
        ("root-key-dropped", "root-key-added"),
        (CAROL,),
    ),
    Case(
        "a rotation to a key that this daemon keeps for it",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, ALICE, CAROL),
        (),
        (CAROL,),
    ),
    Case(
        "two holders go for one new key",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, CAROL),
        ("root-key-dropped", "root-key-dropped"),
        (CAROL,),
    ),
    Case(
        "two holders go, one of the two new ones is a stranger",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, CAROL, MALLORY),
        ("root-key-dropped", "root-key-dropped", "root-key-added"),
        (CAROL,),
    ),
    Case(
        "a stranger comes first, to take over alone in the next root",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, ALICE, BOB, MALLORY),
        ("root-key-added",),
        (CAROL,),
    ),
    Case(
        "two strangers come, each of whom is enough",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, ALICE, BOB, CAROL, MALLORY),
        ("root-key-added", "root-key-added"),
    ),
    Case(
        "another key that this daemon keeps for it comes",
        lambda: root(1, ALICE, BOB),
        lambda: root(2, ALICE, BOB, CAROL),
        (),
        (CAROL,),
    ),
    Case(
        "a holder from elsewhere comes, who needs another one to sign with",
        lambda: root(1, ALICE, BOB, threshold=2),
        lambda: root(2, ALICE, BOB, MALLORY, threshold=2),
        (),
    ),
    Case(
        "a stranger's key under the id of a holder",
        lambda: root(1, ALICE, BOB),
        lambda: replaced(root(2, ALICE, BOB)),
        ("key-swapped", "root-key-dropped", "root-key-added"),
    ),
    Case(
        "one key under two ids, to be counted twice",
        lambda: root(1, ALICE, BOB, threshold=2),
        lambda: renamed(root(2, ALICE, BOB, threshold=2), ALICE.public_key.keyid, "0a" * 32),
        ("key-doubled",),
    ),
]


@pytest.mark.parametrize("case", ROOTS, ids=lambda case: case.words)
def test_of_a_root_what_weakens_trust_needs_consent(case: Case) -> None:
    verdict = after(case.before(), case.after(), *case.here)

    assert tuple(rules(verdict)) == case.grave


def test_consent_is_asked_for_by_what_a_person_can_read() -> None:
    verdict = after(root(1, ALICE, BOB, threshold=2), root(2, ALICE))

    texts = [grave.text for grave in verdict.grave]
    assert texts[0] == "the threshold of root goes down from 2 of 2 to 1 of 1"
    assert texts[1].startswith(f"root loses the key {BOB.public_key.keyid} (ecdsa-sha2-nistp256")
    assert any("compared with version 1: " + texts[0] in line for line in verdict.checks)


def test_each_co_signer_of_a_grave_draft_is_asked() -> None:
    ledger = Ledger()
    ledger.sign("root", root(1, ALICE, BOB, threshold=2), ALICE, BOB)
    lowered = root(2, ALICE, BOB)

    first = ledger.sign("root", lowered, ALICE)
    second = ledger.judge("root", lowered, BOB)

    assert first.grave == second.grave
    assert rules(second) == ["threshold-lowered"]


def test_once_complete_a_lower_threshold_is_news_to_nobody() -> None:
    ledger = Ledger()
    ledger.sign("root", root(1, ALICE, BOB, threshold=2), ALICE, BOB)
    ledger.sign("root", root(2, ALICE, BOB), ALICE, BOB)

    assert ledger.judge("root", root(3, ALICE, BOB), ALICE).grave == ()


def test_a_lower_threshold_of_a_delegation_needs_consent() -> None:
    ledger = Ledger()
    ledger.sign("targets", delegating(1, "team-a", ALICE, BOB, threshold=2))

    verdict = ledger.judge("targets", delegating(2, "team-a", ALICE, BOB))

    assert rules(verdict) == ["threshold-lowered"]


def test_targets_that_come_and_go_need_nobody() -> None:
    ledger = Ledger()
    ledger.sign("targets", targets(1, "a", "b"))

    assert ledger.judge("targets", targets(2, "c")).grave == ()


def a_repository() -> Ledger:
    ledger = Ledger()
    ledger.sign("root", root(1, ALICE, online=CAROL), ALICE)
    ledger.sign("snapshot", snapshot(3, targets=5, team=2))
    ledger.sign("timestamp", timestamp(4, 3))
    return ledger


SNAPSHOTS = [
    ("mix new targets with the old ones of a team", snapshot(4, targets=6, team=1), "meta-lowered"),
    ("mix old targets with a new team", snapshot(4, targets=4, team=3), "meta-lowered"),
    ("lose a team's role", snapshot(4, targets=6), "role-lost"),
    ("all forward", snapshot(4, targets=6, team=3), None),
    ("all as before, with a new team", snapshot(4, targets=5, team=2, other=1), None),
]


@pytest.mark.parametrize(
    ("after", "grave"), [case[1:] for case in SNAPSHOTS], ids=[case[0] for case in SNAPSHOTS]
)
def test_a_snapshot_goes_back_only_with_consent(after: api.Snapshot, grave: str | None) -> None:
    verdict = a_repository().judge("snapshot", after)

    assert rules(verdict) == ([grave] if grave else [])


def test_a_timestamp_points_at_an_older_snapshot_only_with_consent() -> None:
    ledger = a_repository()

    assert rules(ledger.judge("timestamp", timestamp(5, 2))) == ["meta-lowered"]
    assert rules(ledger.judge("timestamp", timestamp(5, 3))) == []


def test_after_the_key_of_targets_changed_its_version_may_start_again() -> None:
    ledger = a_repository()
    ledger.sign("root", root(2, ALICE, online={"targets": BOB}), ALICE)

    assert rules(ledger.judge("snapshot", snapshot(4, targets=1, team=2))) == []
    # The team's own key is as before.
    assert rules(ledger.judge("snapshot", snapshot(4, targets=1, team=1))) == ["meta-lowered"]


def test_after_the_key_of_snapshot_changed_all_it_says_may_start_again() -> None:
    ledger = a_repository()
    ledger.sign("root", root(2, ALICE, online={"snapshot": BOB}), ALICE)

    assert rules(ledger.judge("snapshot", snapshot(4, targets=1))) == []
    assert rules(ledger.judge("timestamp", timestamp(5, 1))) == []


def test_another_key_of_timestamp_alone_lets_nothing_go_back() -> None:
    ledger = a_repository()
    ledger.sign("root", root(2, ALICE, online={"timestamp": BOB}), ALICE)

    assert rules(ledger.judge("timestamp", timestamp(5, 1), BOB)) == ["meta-lowered"]
    assert rules(ledger.judge("snapshot", snapshot(4, targets=1, team=2))) == ["meta-lowered"]


def test_where_no_root_is_known_no_key_can_have_changed() -> None:
    ledger = Ledger()
    ledger.sign("snapshot", snapshot(3, targets=5))
    ledger.sign("root", root(1, ALICE), ALICE)

    assert rules(ledger.judge("snapshot", snapshot(4, targets=1))) == ["meta-lowered"]


def test_a_reissued_snapshot_is_compared_with_the_one_it_replaces() -> None:
    ledger = a_repository()

    verdict = ledger.judge("snapshot", snapshot(3, targets=4, team=2))

    assert verdict.reissue
    assert rules(verdict) == ["meta-lowered"]


def test_what_cannot_be_compared_needs_a_person_to_look_at_it() -> None:
    ledger = a_repository()
    ledger.forget("snapshot")

    verdict = ledger.judge("snapshot", snapshot(4, targets=1))

    assert [(g.rule, g.text) for g in verdict.grave] == [
        (
            "before-unknown",
            "what snapshot v3 said is not known here any more: nobody can see what changes",
        )
    ]
