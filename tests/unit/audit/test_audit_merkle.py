"""The Merkle tree against RFC 6962 written down a second time, by brute force."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyd.audit import merkle
from keyd.errors import LogProofError


def leaf(number: int) -> bytes:
    return merkle.leaf_hash(number.to_bytes(4, "big"))


def brute_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return merkle.node_hash(brute_root(leaves[:k]), brute_root(leaves[k:]))


def lookup(leaves: list[bytes]) -> merkle.NodeLookup:
    def node(level: int, position: int) -> bytes:
        part = leaves[position << level : (position + 1) << level]
        assert len(part) == 1 << level, "asked for an incomplete subtree"
        return brute_root(part)

    return node


def test_the_roots_are_those_of_the_reference_tree() -> None:
    # Inputs and roots of the reference implementation of certificate transparency.
    inputs = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        bytes(range(0x50, 0x58)),
        bytes(range(0x60, 0x70)),
    ]
    leaves = [merkle.leaf_hash(data) for data in inputs]

    roots = [
        merkle.root_hash(merkle.append(0, (), leaves[:size])[0]).hex()
        for size in range(len(leaves) + 1)
    ]

    assert roots[0] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert roots[1] == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert roots[2] == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    assert roots[8] == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.lists(st.integers(0, 40), max_size=12))
@settings(max_examples=60, deadline=None)
def test_appending_in_any_groups_gives_the_brute_force_root(groups: list[int]) -> None:
    leaves = [leaf(number) for number in range(sum(groups))]
    frontier: tuple[bytes, ...] = ()
    size = 0

    for group in groups:
        frontier, _ = merkle.append(size, frontier, leaves[size : size + group])
        size += group

    assert merkle.root_hash(frontier) == brute_root(leaves)
    assert len(frontier) == size.bit_count()


@pytest.mark.parametrize("first", [0, 1, 255, 256, 300])
def test_appending_hands_out_each_complete_tile_once(first: int) -> None:
    leaves = [leaf(number) for number in range(1100)]
    frontier, before = merkle.append(0, (), leaves[:first])

    _, after = merkle.append(first, frontier, leaves[first:])

    assert [(n.level, n.position) for n in before + after] == [(8, n) for n in range(4)]
    for node in before + after:
        assert node.hash == brute_root(leaves[node.position * 256 : (node.position + 1) * 256])


def test_appending_hands_out_the_nodes_of_level_16() -> None:
    leaves = [leaf(0)] * 65_536

    _, nodes = merkle.append(0, (), leaves)

    assert [node.position for node in nodes if node.level == 16] == [0]
    assert len([node for node in nodes if node.level == 8]) == 256
    assert nodes[-1].hash == brute_root(leaves)


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(LogProofError, match="cannot have 1 subtrees"):
        merkle.append(3, (leaf(0),), [leaf(1)])


@given(st.data(), st.integers(1, 70))
@settings(max_examples=120, deadline=None)
def test_an_inclusion_proof_verifies_for_its_entry_and_no_other(
    data: st.DataObject, size: int
) -> None:
    leaves = [leaf(number) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1))
    root = brute_root(leaves)

    proof = merkle.inclusion_proof(index, size, lookup(leaves))

    merkle.verify_inclusion(leaves[index], index, size, proof, root)
    if other != index:
        with pytest.raises(LogProofError):
            merkle.verify_inclusion(leaves[index], other, size, proof, root)
    with pytest.raises(LogProofError):
        merkle.verify_inclusion(leaves[index], index, size, [*proof, root], root)
    if proof:
        with pytest.raises(LogProofError):
            merkle.verify_inclusion(leaves[index], index, size, proof[:-1], root)
        flipped = [bytes([proof[0][0] ^ 1]) + proof[0][1:], *proof[1:]]
        with pytest.raises(LogProofError):
            merkle.verify_inclusion(leaves[index], index, size, flipped, root)


@given(st.integers(0, 70), st.integers(0, 70))
@settings(max_examples=200, deadline=None)
def test_a_consistency_proof_verifies_for_its_two_trees_only(one: int, two: int) -> None:
    old, new = sorted((one, two))
    leaves = [leaf(number) for number in range(new)]
    roots = brute_root(leaves[:old]), brute_root(leaves)

    proof = merkle.consistency_proof(old, new, lookup(leaves))

    merkle.verify_consistency(old, roots[0], new, roots[1], proof)
    wrong = merkle.leaf_hash(b"wrong")
    with pytest.raises(LogProofError):
        merkle.verify_consistency(old, wrong, new, roots[1], proof)
    if 0 < old < new:
        with pytest.raises(LogProofError):
            merkle.verify_consistency(old, roots[0], new, wrong, proof)
        with pytest.raises(LogProofError):
            merkle.verify_consistency(old, roots[0], new, roots[1], proof[:-1])
    with pytest.raises(LogProofError):
        merkle.verify_consistency(old, roots[0], new, roots[1], [*proof, wrong])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_there_is_no_proof_for_an_entry_outside_the_tree(index: int, size: int) -> None:
    leaves = [leaf(number) for number in range(size)]

    with pytest.raises(LogProofError, match="has no entry"):
        merkle.inclusion_proof(index, size, lookup(leaves))
    with pytest.raises(LogProofError, match="has no entry"):
        merkle.verify_inclusion(leaf(0), index, size, [], brute_root(leaves))


def test_there_is_no_consistency_with_a_smaller_tree() -> None:
    with pytest.raises(LogProofError, match="does not hold"):
        merkle.consistency_proof(5, 4, lookup([leaf(n) for n in range(4)]))
