"""Published files from a folder, verified before anybody is asked to trust them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyd.adapters.tufrepo import chain
from keyd.adapters.tufrepo.repository import RoleKeys
from keyd.errors import KeydError, RepositoryError
from tests.tuf_repositories import a_published_repository, file_key
from tests.unit.content import notary_made as made

GUN = "registry.example/app"
NOW = datetime(2027, 1, 1, tzinfo=UTC)
ROOT, NEXT, ONLINE, RELEASES = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """Two roots, targets with a delegation, two snapshots."""
    repository, _ = a_published_repository(tmp_path / "repo", tmp_path / "keys")
    key = file_key(tmp_path / "keys", "plugins")
    repository.delegate("plugins", RoleKeys((key,)), paths=["plugins/*"])
    repository.refresh(["root"])
    return repository.folder.metadata


def test_a_chain_holds_what_a_client_would_fetch(metadata: Path) -> None:
    found = chain.read_tuf(metadata / "1.root.json", metadata)

    assert [(f.role, f.version) for f in found.found] == [
        ("root", 1),
        ("root", 2),
        ("timestamp", 4),
        ("snapshot", 4),
        ("targets", 3),
        ("plugins", 1),
    ]
    assert [role for role, _ in found.files] == [f.role for f in found.found[1:]]
    assert found.root == (metadata / "1.root.json").read_bytes()


def test_a_repository_that_expired_long_ago_can_still_be_taken_over(tmp_path: Path) -> None:
    repository, _ = a_published_repository(tmp_path / "repo", tmp_path / "keys")
    for role in ("root", "targets", "snapshot", "timestamp"):
        repository.settings.expiry_days[role] = -100
    repository.refresh(["root", "targets"])
    folder = repository.folder.metadata

    found = chain.read_tuf(folder / "1.root.json", folder)

    assert {f.role for f in found.found if f.expires < datetime.now(UTC)} == {
        *("root", "targets", "snapshot", "timestamp")
    }


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":4', b'"version":5'))


@pytest.mark.parametrize(
    "attack",
    [
        lambda folder: flip(folder / "timestamp.json"),
        lambda folder: shutil.copy(folder / "3.snapshot.json", folder / "4.snapshot.json"),
        lambda folder: (folder / "3.targets.json").write_text("{"),
        lambda folder: (folder / "1.plugins.json").write_bytes(
            (folder / "3.targets.json").read_bytes()
        ),
        lambda folder: shutil.copy(folder / "1.root.json", folder / "3.root.json"),
    ],
    ids=["tampered", "mix and match", "not metadata", "another role's file", "root goes back"],
)
def test_a_folder_that_clients_would_not_follow_is_refused(
    metadata: Path, attack: Callable[[Path], Any]
) -> None:
    chain.read_tuf(metadata / "1.root.json", metadata)
    attack(metadata)

    with pytest.raises(RepositoryError, match="does not follow"):
        chain.read_tuf(metadata / "1.root.json", metadata)


def test_a_file_that_the_metadata_lists_and_is_not_there_is_named(metadata: Path) -> None:
    (metadata / "1.plugins.json").unlink()

    with pytest.raises(RepositoryError, match=r"1\.plugins\.json cannot be read"):
        chain.read_tuf(metadata / "1.root.json", metadata)


def test_files_are_given_by_name_by_role_or_by_folder(metadata: Path, tmp_path: Path) -> None:
    shutil.copy(metadata / "3.targets.json", tmp_path / "saved")

    single = chain.read_files([str(metadata / "timestamp.json"), f"targets={tmp_path / 'saved'}"])
    whole = chain.read_files([str(metadata)])

    assert [role for role, _ in single] == ["timestamp", "targets"]
    roots = [data for role, data in whole if role == "root"]
    assert roots == [(metadata / f"{n}.root.json").read_bytes() for n in (1, 2)]
    assert [role for role, _ in whole[:2]] == ["root", "root"]
    assert {"plugins", "snapshot", "timestamp", "targets"} <= {role for role, _ in whole}


# ------------------------------------------------------------------------------ Notary


def a_file(signed: dict[str, Any], *signers: tuple[ec.EllipticCurvePrivateKey, str]) -> bytes:
    signatures = [made.signature(private, signed, keyid) for private, keyid in signers]
    return json.dumps({"signed": signed, "signatures": signatures}).encode()


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """As the cache of a Notary client, with a rotated root and a delegation."""
    old, new = made.certificate_key(ROOT, GUN), made.certificate_key(NEXT, GUN)
    online, team = made.bare_key(ONLINE), made.bare_key(RELEASES)
    delegations = {
        "keys": dict([team]),
        "roles": [{"name": "targets/releases", "paths": [""], **made.role(team[0])}],
    }
    folder = tmp_path / "metadata"
    (folder / "targets").mkdir(parents=True)
    (folder / "1.root.json").write_bytes(a_file(made.root(old, online), (ROOT, old[0])))
    second = made.root(new, online, version=2)
    (folder / "root.json").write_bytes(a_file(second, (ROOT, old[0]), (NEXT, new[0])))
    targets = made.targets(delegations=delegations)
    (folder / "targets.json").write_bytes(a_file(targets, (ONLINE, online[0])))
    releases = a_file(made.targets(), (RELEASES, team[0]))
    (folder / "targets/releases.json").write_bytes(releases)
    return folder


def test_a_notary_collection_is_read_with_its_delegations(collection: Path) -> None:
    found = chain.read_notary(GUN, collection / "1.root.json", collection, NOW)

    assert [(f.role, f.version) for f in found.found[:2]] == [("root", 1), ("root", 2)]
    assert [f.role for f in found.found[2:]] == ["targets", "targets/releases"]


def test_a_notary_collection_of_another_name_is_refused(collection: Path) -> None:
    with pytest.raises(KeydError) as e:
        chain.read_notary("registry.example/other", collection / "root.json", collection, NOW)

    assert e.value.facts["rule"] == "wrong-gun"


def test_a_notary_root_that_the_old_one_did_not_sign_is_refused(collection: Path) -> None:
    new = made.certificate_key(NEXT, GUN)
    forged = made.root(new, made.bare_key(NEXT), version=2)
    (collection / "root.json").write_bytes(a_file(forged, (NEXT, new[0])))

    with pytest.raises(KeydError) as e:
        chain.read_notary(GUN, collection / "1.root.json", collection, NOW)

    assert e.value.facts["rule"] == "evidence-signatures"


def test_a_notary_folder_names_its_roles_by_its_paths(collection: Path) -> None:
    roles = [role for role, _ in chain.read_files([str(collection)])]

    assert roles[:2] == ["root", "root"]
    assert set(roles[2:]) == {"targets", "targets/releases"}
