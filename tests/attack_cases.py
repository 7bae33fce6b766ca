"""An attack and its honest twin, on the same ground, and how both are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from keyd.client.types import Signature
from keyd.errors import ApprovalNeededError, ContentError, KeydError
from tests.attack_stage import NOW, Site, Stage, delegating, snapshot, targets, timestamp

Step = Callable[[Site], Signature]
BOTH = ("case/root", "case/root-2")


def nothing(site: Site) -> None:
    """Nobody knows the repository."""
    del site


def published(site: Site) -> None:
    """Root 1, targets 5 that delegate to the team, snapshot 7 and timestamp 9, all out."""
    site.publish([site.file("root", site.root())])
    rest = {
        "targets": delegating(5, site.stage.versions["case/team"]),
        "snapshot": snapshot(7, targets=5, team=3),
        "timestamp": timestamp(9, 7),
    }
    site.publish([site.file(role, message) for role, message in rest.items()])


def held_by_two(site: Site) -> None:
    """Root 1 takes two people; it is out."""
    site.publish([site.file("root", site.root(holders=BOTH, threshold=2), *BOTH)])


def draft(site: Site) -> None:
    """And one of them has signed root 2."""
    held_by_two(site)
    site.sign("root", site.root(2, BOTH, threshold=2))


@dataclass(frozen=True)
class Case:
    """``attack`` raises ``error``, and the log has ``reason`` and ``rule`` of it; ``twin``, on the
    same ground, is signed."""

    words: str
    ground: Callable[[Site], None]
    attack: Step
    error: type[KeydError]
    rule: str
    twin: Step


def sign(role: str, message: bytes, key: str = "", **more: object) -> Step:
    return lambda site: site.sign(role, message, key, **more)


def root(*arguments: object, key: str = "case/root", **more: object) -> Step:
    return lambda site: site.sign("root", site.root(*arguments, **more), key)  # type: ignore[arg-type]


PLAIN = sign("targets", targets(6, "app"))
FAR = NOW + timedelta(days=3650)


def check_attack(stage: Stage, case: Case) -> None:
    """It is refused for its reason, at the client and in one entry of the log."""
    site = stage.site()
    case.ground(site)
    before = len(stage.refusals(site.principal))

    with pytest.raises(case.error) as e:
        case.attack(site)

    refused = stage.refusals(site.principal)[before:]
    (entry,) = refused
    assert entry["reason_code"] == case.error.reason == e.value.reason
    if case.error is ApprovalNeededError:
        assert entry["details"]["approval"] == e.value.facts["approval"]
        assert entry["details"]["grave"] == case.rule
    elif case.rule:
        assert entry["rule"] == f"rule {case.rule}"
        assert e.value.facts.get("rule", e.value.facts.get("problem", "version-taken")) == case.rule
    else:
        assert e.value.facts["field"] == "context"
    assert entry["key"].startswith("case/")
    assert e.value.hint or case.error is ContentError


def check_twin(stage: Stage, case: Case) -> None:
    """It is signed, and nothing is refused."""
    site = stage.site()
    case.ground(site)
    before = len(stage.refusals(site.principal))

    signature = case.twin(site)

    assert signature.signature
    assert len(stage.refusals(site.principal)) == before
