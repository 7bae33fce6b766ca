"""What the rules let pass, what they record of it, and that they never do anything else."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api import metadata as api

from keyd.content import examine
from keyd.content.certificates import CertificateRequest
from keyd.errors import ContentError, KeydError, RuleRefusedError, VersionTakenError
from keyd.model import ONLINE_ROLES, Context, Limits, MarkState, Need
from keyd.rules import read
from keyd.rules.needs import identity_of
from tests.unit.rules.ledger import (
    ALICE,
    BOB,
    CAROL,
    LIMITS,
    MALLORY,
    NOW,
    REPOSITORY,
    Ledger,
    a_key,
    delegating,
    payload_of,
    root,
    snapshot,
    spki_of,
    targets,
    timestamp,
)


def complete(threshold: int = 1) -> Ledger:
    ledger = Ledger()
    ledger.sign("root", root(1, ALICE, BOB, threshold=threshold), ALICE, BOB)
    return ledger


def test_a_verdict_records_all_that_the_next_one_needs() -> None:
    ledger = complete()
    document = targets(1, "app")

    verdict = ledger.judge("targets", document)

    effect = verdict.effect
    assert effect is not None
    assert (effect.repository, effect.role) == (REPOSITORY, "targets")
    assert effect.content == payload_of(document)
    assert (effect.marked.version, effect.marked.kind) == (1, "targets")
    assert (effect.marked.dialect, effect.marked.expires) == ("tuf", document.expires)
    assert effect.marked.keyset
    assert effect.signer == identity_of(spki_of(CAROL))
    assert effect.needs == (Need(1, frozenset({effect.signer})),)


@pytest.mark.parametrize("order", [*itertools.permutations([ALICE, BOB, CAROL])])
def test_holders_of_root_sign_in_any_order(order: tuple[CryptoSigner, ...]) -> None:
    ledger = complete(threshold=2)
    draft = root(2, ALICE, BOB, CAROL, threshold=3)

    states = [(ledger.sign("root", draft, s), ledger.marks["root"].state)[1] for s in order]

    assert states == [MarkState.SIGNED, MarkState.SIGNED, MarkState.COMPLETE]


def test_a_holder_who_comes_late_signs_a_root_that_is_published() -> None:
    ledger = complete()
    ledger.publish("root")

    verdict = ledger.sign("root", root(1, ALICE, BOB), BOB)

    assert ledger.marks["root"].state is MarkState.PUBLISHED
    assert verdict.grave == ()


def test_a_holder_who_comes_later_still_signs_the_root_under_a_newer_draft() -> None:
    ledger = complete()
    ledger.sign("root", root(2, ALICE, BOB, threshold=2), ALICE)

    verdict = ledger.sign("root", root(1, ALICE, BOB), BOB)

    assert verdict.effect is None
    assert ledger.marks["root"].newest.version == 2


def test_who_goes_signs_the_root_that_drops_him_before_and_after_it_is_complete() -> None:
    ledger = Ledger(here=[CAROL])
    ledger.sign("root", root(1, ALICE, BOB, threshold=2), ALICE, BOB)
    without_bob = root(2, ALICE, CAROL, threshold=2)

    ledger.sign("root", without_bob, ALICE, CAROL)
    missing = ledger.marks["root"].missing
    ledger.sign("root", without_bob, BOB)
    ledger.sign("root", without_bob, BOB)

    assert missing == 1
    assert ledger.marks["root"].state is MarkState.COMPLETE

    with pytest.raises(RuleRefusedError) as e:
        ledger.judge("root", root(3, ALICE, CAROL, threshold=2), BOB)
    assert e.value.facts["rule"] == "root-key-missing"


def test_a_publish_that_failed_is_made_again_under_the_same_version() -> None:
    ledger = complete()
    ledger.sign("snapshot", snapshot(1, targets=1))
    ledger.sign("timestamp", timestamp(1))

    again = ledger.sign("snapshot", snapshot(1, targets=2))
    other = ledger.sign("timestamp", timestamp(1, expires=NOW + timedelta(days=31)))

    assert (again.reissue, other.reissue) == (True, True)
    assert not ledger.judge("timestamp", timestamp(2)).reissue


def test_expired_metadata_is_signed_again_under_the_next_version() -> None:
    ledger = complete()
    ledger.sign("targets", targets(1, "app"))
    later = NOW + timedelta(days=60)

    again = targets(2, "app", expires=later + timedelta(days=30))

    assert ledger.judge("targets", again, now=later).effect is not None
    with pytest.raises(RuleRefusedError) as e:
        ledger.judge("targets", targets(1, "app"), now=later)
    assert e.value.facts["rule"] == "expired"


def test_a_delegated_role_has_a_mark_and_holders_of_its_own() -> None:
    ledger = complete()
    ledger.sign("targets", delegating(7, "team-a", BOB, MALLORY, threshold=2))

    ledger.sign("team-a", targets(1, "x"), BOB)

    mark = ledger.marks["team-a"]
    assert (mark.newest.version, mark.state, mark.missing) == (1, MarkState.SIGNED, 1)


@pytest.mark.parametrize(("days", "passes"), [(400, True), (400.0001, False)])
def test_an_expiry_up_to_the_limit_passes(days: float, passes: bool) -> None:
    document = timestamp(1, expires=(NOW + timedelta(days=400)))
    at = NOW if days == 400 else NOW - timedelta(seconds=9)

    if passes:
        assert Ledger().judge("timestamp", document, now=at).effect
        return
    with pytest.raises(RuleRefusedError) as e:
        Ledger().judge("timestamp", document, limits=Limits(400, rule="short"), now=at)
    assert e.value.facts["rule"] == "expiry-too-far"
    assert "limit short" in e.value.message


def test_checks_tell_in_order_what_was_looked_at() -> None:
    ledger = complete()
    ledger.sign("targets", targets(1))

    verdict = ledger.judge(
        "targets", targets(2, "stable/a"), MALLORY, limits=Limits(400, paths=("stable/*",))
    )

    assert verdict.checks == (
        "targets metadata for the role targets",
        "dialect tuf, as before",
        "version 2, after version 1, at most 100 up",
        "note: acme/key/versions/1 is none of the keys that hold the role by now",
        "expires in 30.0 days, at most 400 days (default)",
        "all targets lie under stable/*",
        "compared with version 1: nothing weakened or taken back",
    )


def test_a_digest_says_nothing_and_is_refused() -> None:
    with pytest.raises(RuleRefusedError) as e:
        read(None, a_key(), Context(REPOSITORY, "root"))

    assert e.value.facts["rule"] == "digest-only"
    assert "send the message" in e.value.hint


@pytest.mark.parametrize("payload", [b"", b"MZ\x90\x00", b'{"_type":"link"}', b"[]", b"\xff\xfe"])
def test_bytes_that_are_nothing_known_are_opaque(payload: bytes) -> None:
    with pytest.raises(RuleRefusedError) as e:
        read(examine(payload), a_key(), Context(REPOSITORY, "root"))

    assert e.value.facts["rule"] == "opaque"


@pytest.mark.parametrize(
    "trick",
    [
        lambda payload: payload.replace(b'"version":1', b'"version": 1'),
        lambda payload: payload.replace(b'"version":1', b'"version":1,"version":1'),
        lambda payload: payload + b"\n",
        lambda payload: payload.replace(b'"targets":{}', b'"targets":{"\\u0061":{}}'),
        lambda payload: payload.replace(b'"version":1', b'"version":1.0'),
    ],
    ids=["a blank", "a second version", "a newline", "an escape", "a float"],
)
def test_tricks_with_the_canonical_form_are_refused_before_any_rule(trick: object) -> None:
    assert callable(trick)
    payload = trick(payload_of(targets(1)))

    with pytest.raises(ContentError):
        read(examine(payload), a_key(), Context(REPOSITORY, "targets"))


def test_what_can_be_read_is_what_is_judged() -> None:
    payload = payload_of(targets(1))

    content = read(examine(payload), a_key(), Context(REPOSITORY, "targets"))

    assert not isinstance(content, CertificateRequest)
    assert content.version == 1


ROLES = ("root", "targets", "snapshot", "timestamp", "team-a")
STEPS = st.tuples(
    st.sampled_from(ROLES), st.integers(1, 6), st.integers(0, 2), st.sampled_from([ALICE, BOB])
)


def document(role: str, version: int, variant: int) -> api.Signed:
    if role == "root":
        return root(version, ALICE, BOB, threshold=2, x=variant)
    if role in ONLINE_ROLES:
        made = snapshot if role == "snapshot" else timestamp
        return made(version, expires=NOW + timedelta(days=1 + variant))
    return targets(version, f"file-{variant}")


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=25), st.data())
def test_no_order_of_requests_gets_two_contents_for_a_version_or_a_way_back(
    steps: list[tuple[str, int, int, CryptoSigner]], data: st.DataObject
) -> None:
    """Whatever is asked for and published in between, each role only goes up, and only servers'
    roles get other bytes at a version, never once it is published."""
    ledger = Ledger()
    published: dict[tuple[str, int], bytes] = {}
    for role, version, variant, signer in steps:
        before = ledger.marks.get(role)
        try:
            verdict = ledger.sign(role, document(role, version, variant), signer)
        except (RuleRefusedError, VersionTakenError) as e:
            assert e.hint
            continue
        after = ledger.marks[role]
        if before is not None:
            assert after.newest.version >= before.newest.version
            assert role != "root" or after.newest.version <= before.newest.version + 1
        digest = after.newest.digest
        if verdict.effect is not None:
            assert published.get((role, after.newest.version), digest) == digest
        if after.is_complete and data.draw(st.booleans()):
            ledger.publish(role)
            published[role, after.newest.version] = digest
    for role in ("root", "targets", "team-a"):
        by_version: dict[int, set[bytes]] = {}
        for signed_role, version, digest in ledger.signed:
            if signed_role == role:
                by_version.setdefault(version, set()).add(digest)
        assert all(len(digests) == 1 for digests in by_version.values())


@settings(max_examples=150)
@given(st.sampled_from(ROLES), st.integers(1, 3), st.data())
def test_no_garbage_gets_anything_but_an_error_of_keyd(
    role: str, version: int, data: st.DataObject
) -> None:
    ledger = complete()
    ledger.sign("snapshot", snapshot(1, targets=3, team=2))
    ledger.sign("targets", delegating(1, "team-a", ALICE))
    payload = payload_of(document(data.draw(st.sampled_from(ROLES)), version, 0))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload = payload[:place] + data.draw(st.binary(max_size=3)) + payload[place + 1 :]

    try:
        read(examine(payload), a_key(), Context(REPOSITORY, role))
        verdict = ledger.judge(role, payload, ALICE, limits=LIMITS)
    except KeydError as e:
        assert e.message.isprintable()
        assert e.hint.isprintable()
        return
    assert all(line.isprintable() for line in verdict.checks)
