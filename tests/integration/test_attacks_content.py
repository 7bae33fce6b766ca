"""What thieves try with content, on a real daemon: freeze, lowered thresholds, swapped keys, mix
and match, digests and tricks of form; and the honest work that looks almost alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey

from keyd.client.types import Signature
from keyd.content import canonical
from keyd.errors import (
    ApprovalNeededError,
    ContentError,
    RuleRefusedError,
)
from tests.attack_cases import (
    BOTH,
    FAR,
    PLAIN,
    Case,
    Step,
    check_attack,
    check_twin,
    held_by_two,
    published,
    root,
    sign,
)
from tests.attack_stage import NOW, Site, Stage, a_stage, snapshot, targets, timestamp

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with a_stage() as made:
        yield made


def reshaped(change: Callable[[bytes], bytes]) -> Step:
    """Targets 6, as a reader that is not strict would take them."""
    return lambda site: site.sign("targets", change(targets(6, "app")))


def a_foreign_key() -> SSlibKey:
    key = CryptoSigner.generate_ecdsa().public_key
    assert isinstance(key, SSlibKey)
    return key


def with_a_swapped_key_object(site: Site) -> Signature:
    """Another key pair behind the id that clients know for targets."""
    made = json.loads(site.root(2), strict=False)
    (keyid,) = made["roles"]["targets"]["keyids"]
    made["keys"][keyid] = a_foreign_key().to_dict()
    return site.sign("root", canonical.encode(made))


def deep(message: bytes) -> bytes:
    return message.replace(b'"targets":{', b'"targets":{"x":' + b"[" * 90_000, 1)


def replaced(old: bytes, new: bytes) -> Step:
    def change(message: bytes) -> bytes:
        assert old in message
        return message.replace(old, new, 1)

    return reshaped(change)


def backwards(message: bytes) -> bytes:
    members = json.loads(message, strict=False)
    reordered = {name: members[name] for name in sorted(members, reverse=True)}
    return json.dumps(reordered, separators=(",", ":")).encode()


def an_opaque_thing(site: Site) -> Signature:
    return site.sign("targets", b"#!/bin/sh\nrm -rf /\n")


CASES = [
    Case(
        "freeze: a timestamp that is good for ten years",
        published,
        sign("timestamp", timestamp(10, 7, expires=FAR)),
        RuleRefusedError,
        "expiry-too-far",
        sign("timestamp", timestamp(10, 7)),
    ),
    Case(
        "break clients with metadata that is over",
        published,
        sign("targets", targets(6, expires=NOW - timedelta(days=1))),
        RuleRefusedError,
        "expired",
        sign("targets", targets(6)),
    ),
    Case(
        "lower the threshold of root, so that one stolen key does",
        held_by_two,
        root(2, BOTH, threshold=1),
        ApprovalNeededError,
        "threshold-lowered",
        root(2, BOTH, threshold=2),
    ),
    Case(
        "lower the threshold of targets in passing",
        lambda site: site.publish(
            [
                site.file(
                    "root",
                    site.root(targets=("case/targets", "case/targets-2"), targets_threshold=2),
                )
            ]
        ),
        root(2, targets=("case/targets", "case/targets-2"), targets_threshold=1),
        ApprovalNeededError,
        "threshold-lowered",
        root(2, targets=("case/targets", "case/targets-2"), targets_threshold=2),
    ),
    Case(
        "key swap: mallory in the place of a holder of root",
        held_by_two,
        lambda site: site.sign(
            "root", site.root(2, ("case/root",), threshold=2, also=[a_foreign_key()])
        ),
        ApprovalNeededError,
        "root-key-dropped",
        root(2, ("case/root", "case/root-3"), threshold=2),
    ),
    Case(
        "key swap: another key pair behind the id that clients know",
        published,
        with_a_swapped_key_object,
        ApprovalNeededError,
        "key-swapped",
        root(2),
    ),
    Case(
        "mix and match: a new snapshot with the old targets",
        published,
        sign("snapshot", snapshot(8, targets=4, team=3)),
        ApprovalNeededError,
        "meta-lowered",
        sign("snapshot", snapshot(8, targets=6, team=3)),
    ),
    Case(
        "mix and match: a snapshot that forgets the team's repair",
        published,
        sign("snapshot", snapshot(8, targets=5)),
        ApprovalNeededError,
        "role-lost",
        sign("snapshot", snapshot(8, targets=5, team=4)),
    ),
    Case(
        "mix and match: a new timestamp for the old snapshot",
        published,
        sign("timestamp", timestamp(10, 6)),
        ApprovalNeededError,
        "meta-lowered",
        sign("timestamp", timestamp(10, 8)),
    ),
    Case(
        "digest laundering: only the digest of what shall be signed",
        published,
        lambda site: site.sign_digest("targets", targets(4, "malware")),
        RuleRefusedError,
        "digest-only",
        PLAIN,
    ),
    Case(
        "digest laundering: a script for another system that trusts the key",
        published,
        an_opaque_thing,
        RuleRefusedError,
        "opaque",
        PLAIN,
    ),
    Case(
        "canonicalisation: a space",
        published,
        replaced(b'"version":6', b'"version": 6'),
        ContentError,
        "not-canonical",
        PLAIN,
    ),
    Case(
        "canonicalisation: a newline at the end",
        published,
        reshaped(lambda message: message + b"\n"),
        ContentError,
        "not-canonical",
        PLAIN,
    ),
    Case(
        "canonicalisation: members in another order",
        published,
        reshaped(backwards),
        ContentError,
        "not-canonical",
        PLAIN,
    ),
    Case(
        "canonicalisation: an escape for a letter",
        published,
        replaced(b'"app"', b'"\\u0061pp"'),
        ContentError,
        "not-canonical",
        PLAIN,
    ),
    Case(
        "canonicalisation: half a surrogate pair",
        published,
        replaced(b'"app"', b'"\\ud800app"'),
        RuleRefusedError,
        "opaque",
        PLAIN,
    ),
    Case(
        "canonicalisation: two versions, each reader sees one",
        published,
        replaced(b'"version":6', b'"version":6,"version":4'),
        ContentError,
        "duplicate-key",
        PLAIN,
    ),
    Case(
        "canonicalisation: a version with a point",
        published,
        replaced(b'"version":6', b'"version":6.0'),
        ContentError,
        "number",
        PLAIN,
    ),
    Case(
        "canonicalisation: ninety thousand brackets",
        published,
        reshaped(deep),
        ContentError,
        "too-deep",
        PLAIN,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_the_attack_is_refused_and_the_log_says_for_which_reason(stage: Stage, case: Case) -> None:
    check_attack(stage, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_its_honest_twin_is_signed(stage: Stage, case: Case) -> None:
    check_twin(stage, case)
