"""What a new root or targets shall say."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Root, TargetFile, Targets

from keyd.adapters.tufrepo import edits
from keyd.errors import RepositoryError


def a_key() -> SSlibKey:
    key = CryptoSigner.generate_ed25519().public_key
    assert isinstance(key, SSlibKey)
    return key


@dataclass(frozen=True)
class Case:
    """``shared``: the key serves another role too."""

    name: str
    shared: bool
    still_known: bool


@pytest.mark.parametrize(
    "case",
    [Case("alone", False, False), Case("shared with snapshot", True, True)],
    ids=lambda case: case.name,
)
def test_a_replaced_key_is_forgotten_unless_another_role_has_it(case: Case) -> None:
    old, new = a_key(), a_key()
    root = Root()
    root.add_key(old, "targets")
    if case.shared:
        root.add_key(old, "snapshot")

    edits.set_role_keys(root, "targets", [new])

    assert root.roles["targets"].keyids == [new.keyid]
    assert (old.keyid in root.keys) == case.still_known


def test_the_same_key_given_twice_counts_once() -> None:
    key = a_key()

    with pytest.raises(RepositoryError, match="threshold of 2 does not fit 1"):
        edits.set_role_keys(Root(), "root", [key, key], 2)


@pytest.mark.parametrize(
    "role", ["root", "timestamp", "../x", "a/b", "", ".hidden", "a b", "x" * 101]
)
def test_a_name_that_is_no_file_name_everywhere_is_no_delegated_role(role: str) -> None:
    targets = Targets()

    with pytest.raises(RepositoryError, match="cannot be a delegated role"):
        edits.delegate(targets, role, {"a": a_key()}, threshold=1, paths=["*"], terminating=False)

    assert targets.delegations is None


def test_delegating_again_changes_keys_and_paths_and_keeps_unknown_fields() -> None:
    targets, first, second = Targets(), a_key(), a_key()
    edits.delegate(targets, "p", {first.keyid: first}, threshold=1, paths=["a/*"], terminating=True)
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles["p"].unrecognized_fields["x-team"] = "plugins"

    edits.delegate(
        targets, "p", {second.keyid: second}, threshold=1, paths=["b/*"], terminating=False
    )

    role = targets.delegations.roles["p"]
    assert (role.keyids, role.paths, role.terminating) == ([second.keyid], ["b/*"], False)
    assert role.unrecognized_fields == {"x-team": "plugins"}
    assert set(targets.delegations.keys) == {second.keyid}


def test_a_replaced_target_keeps_the_fields_keyd_does_not_know() -> None:
    before = TargetFile.from_data("a", b"1")
    before.unrecognized_fields["custom"] = {"os": "linux"}
    targets = Targets(targets={"a": before})

    edits.put_targets(targets, [TargetFile.from_data("a", b"2")])

    assert targets.targets["a"].length == 1
    assert targets.targets["a"].custom == {"os": "linux"}
    assert targets.targets["a"].hashes != before.hashes
