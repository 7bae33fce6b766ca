"""Who has to sign, by which root or delegator, and whether they changed."""

from __future__ import annotations

from typing import TypeVar

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api import metadata as api

from keyd.content import documents, parse_document
from keyd.model import Need
from keyd.rules.needs import find_holders, has_changed, identity_of, keyset_of, needs_of
from tests.unit.rules.ledger import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    delegating,
    payload_of,
    root,
    snapshot,
    spki_of,
    targets,
)

D = TypeVar("D", bound=documents.Document)


def read(kind: type[D], signed: api.Signed) -> D:
    document = parse_document(payload_of(signed))
    assert isinstance(document, kind)
    return document


def a_root(*holders: CryptoSigner, version: int = 1, threshold: int = 1) -> documents.Root:
    return read(documents.Root, root(version, *holders, threshold=threshold))


def ids(*signers: CryptoSigner) -> frozenset[str]:
    return frozenset(identity_of(spki_of(signer)) for signer in signers)


def test_a_root_needs_its_own_holders_and_those_of_the_root_before() -> None:
    before = a_root(ALICE, BOB, threshold=2)
    after = a_root(ALICE, CAROL, version=2)

    assert needs_of("root", after, before, None) == (
        Need(1, ids(ALICE, CAROL)),
        Need(2, ids(ALICE, BOB)),
    )


def test_the_first_root_needs_its_own_holders() -> None:
    assert needs_of("root", a_root(ALICE), None, None) == (Need(1, ids(ALICE)),)


def test_a_root_with_the_same_holders_needs_them_once() -> None:
    before, after = a_root(ALICE, BOB, threshold=2), a_root(ALICE, BOB, version=2, threshold=2)

    assert needs_of("root", after, before, None) == (Need(2, ids(ALICE, BOB)),)


def test_a_root_needs_nothing_of_one_that_came_later() -> None:
    assert needs_of("root", a_root(ALICE), a_root(BOB, version=2), None) == (Need(1, ids(ALICE)),)


def test_one_key_under_two_ids_is_one_signer() -> None:
    made = root(1, ALICE, BOB, threshold=2)
    made.keys["0a" * 32] = api.Key.from_dict("0a" * 32, ALICE.public_key.to_dict())
    made.roles["root"].keyids.append("0a" * 32)

    (need,) = needs_of("root", read(documents.Root, made), None, None)

    assert need == Need(2, ids(ALICE, BOB))
    assert not need.is_met(ids(ALICE))


def test_a_top_level_role_needs_whom_the_root_names() -> None:
    document = read(documents.Snapshot, snapshot(1))

    assert needs_of("snapshot", document, a_root(ALICE), None) == (Need(1, ids(CAROL)),)


def test_a_delegated_role_needs_whom_its_delegator_names() -> None:
    delegator = read(documents.Targets, delegating(1, "team-a", ALICE, BOB, threshold=2))
    document = read(documents.Targets, targets(1))

    assert needs_of("team-a", document, a_root(ALICE), delegator) == (Need(2, ids(ALICE, BOB)),)
    assert needs_of("team-b", document, a_root(ALICE), delegator) == ()


def test_where_nobody_knows_the_holders_nothing_is_needed() -> None:
    document = read(documents.Targets, targets(1))

    assert needs_of("targets", document, None, None) == ()
    assert needs_of("team-a", document, None, None) == ()
    assert needs_of("team-a", document, None, document) == ()


@pytest.mark.parametrize("bit_length", [1, 3, 4, 5, 8, 14])
def test_hash_bins_are_held_by_the_keys_that_python_tuf_gives_them(bit_length: int) -> None:
    bins = api.SuccinctRoles([ALICE.public_key.keyid], 1, bit_length, "bin")
    made = targets(1)
    made.delegations = api.Delegations({ALICE.public_key.keyid: ALICE.public_key}, None, bins)
    delegator = read(documents.Targets, made)
    document = read(documents.Targets, targets(1))
    names = list(bins.get_roles())

    assert all(needs_of(n, document, None, delegator) for n in (names[0], names[-1]))
    longest = names[-1].removeprefix("bin-")
    others = ["bin", "bin-", f"bin-0{longest}", "bin-xyz", "other-0", f"bin-{'f' * 9}", "bin-٣"]
    assert not any(needs_of(name, document, None, delegator) for name in others)


def test_no_bin_has_a_number_beyond_the_last() -> None:
    made = targets(1)
    bins = api.SuccinctRoles([ALICE.public_key.keyid], 1, 5, "bin")
    made.delegations = api.Delegations({ALICE.public_key.keyid: ALICE.public_key}, None, bins)
    delegator = read(documents.Targets, made)

    assert find_holders("bin-1f", None, delegator)
    assert not find_holders("bin-20", None, delegator)
    assert not find_holders("bin-1F", None, delegator)


def test_a_keyset_is_of_keys_not_of_their_order_or_threshold() -> None:
    one, other = a_root(ALICE, BOB), a_root(BOB, ALICE, version=2, threshold=2)

    assert keyset_of("root", one, None) == keyset_of("root", other, None) != ""
    assert keyset_of("root", one, None) != keyset_of("root", a_root(ALICE), None)
    assert keyset_of("targets", None, None) == keyset_of("team-a", one, None) == ""


def test_a_keyset_of_snapshot_tells_whose_keys_changed() -> None:
    before = read(documents.Root, root(1, ALICE, online=CAROL))
    after = read(documents.Root, root(2, ALICE, online={"targets": MALLORY}))
    old, new = keyset_of("snapshot", before, None), keyset_of("snapshot", after, None)

    assert has_changed("targets", old, new)
    assert not has_changed("snapshot", old, new)
    assert not has_changed("timestamp", old, new)
    assert not has_changed("targets", "", new)
    assert not has_changed("targets", old, "")
