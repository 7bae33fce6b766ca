"""Repositories with file keys: what python-tuf's own client thinks of every step."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Targets

from keyd.adapters.tufrepo import cosign, edits, inspection, verification
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing, SigningKey
from keyd.adapters.tufrepo.repository import Repository, RoleKeys
from keyd.errors import RepositoryError
from tests.tuf_repositories import (
    ROLES,
    StockClient,
    a_published_repository,
    a_repository,
    file_key,
    file_roles,
)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Repository, StockClient]:
    repository, _ = a_published_repository(tmp_path / "repo", tmp_path / "keys")
    return repository, StockClient(tmp_path / "client", tmp_path / "repo")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_a_stock_client_accepts_a_new_repository(
    made: tuple[Repository, StockClient],
) -> None:
    _, client = made

    assert client.download("app/hello.txt") == b"hello, world\n"


def test_a_tampered_target_is_refused_by_client_and_verify(
    made: tuple[Repository, StockClient],
) -> None:
    repository, client = made
    (target,) = (repository.folder.targets / "app").iterdir()
    target.write_bytes(b"hello, w0rld\n")

    with pytest.raises(LengthOrHashMismatchError):
        client.download("app/hello.txt")
    with pytest.raises(RepositoryError, match="a client refuses"):
        verification.verify(repository.folder)


def test_tampered_metadata_is_refused_by_client_verify_and_every_change(
    made: tuple[Repository, StockClient],
) -> None:
    repository, client = made
    path = repository.folder.metadata / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":2', b'"version":3'))

    with pytest.raises(TufError):
        client.update()
    with pytest.raises(RepositoryError, match="a client refuses"):
        verification.verify(repository.folder)
    before = tree(repository.folder.metadata)
    with pytest.raises(RepositoryError, match="timestamp"):
        repository.refresh()
    assert tree(repository.folder.metadata) == before


def test_a_removed_target_is_gone_for_clients_and_its_file_stays(
    made: tuple[Repository, StockClient],
) -> None:
    repository, client = made

    repository.remove(["app/hello.txt"])

    assert client.update().get_targetinfo("app/hello.txt") is None
    assert len(list((repository.folder.targets / "app").iterdir())) == 1


def test_removing_what_is_not_listed_changes_nothing(
    made: tuple[Repository, StockClient],
) -> None:
    repository, _ = made
    before = tree(repository.folder.path)

    with pytest.raises(RepositoryError, match="nothing/here"):
        repository.remove(["app/hello.txt", "nothing/here"])

    assert tree(repository.folder.path) == before


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/./b", "a\\b", "a\nb", ""])
def test_a_target_path_that_leaves_the_folder_is_refused(
    made: tuple[Repository, StockClient], tmp_path: Path, path: str
) -> None:
    repository, _ = made
    (tmp_path / "file").write_text("x")

    with pytest.raises(RepositoryError, match="is no target path"):
        repository.add({path: tmp_path / "file"})


def test_adding_the_same_file_again_publishes_nothing(
    made: tuple[Repository, StockClient], tmp_path: Path
) -> None:
    repository, _ = made

    report = repository.add({"app/hello.txt": tmp_path / "keys/hello.txt"})

    assert report.published == []


def test_custom_data_reaches_the_client(
    made: tuple[Repository, StockClient], tmp_path: Path
) -> None:
    repository, client = made
    (tmp_path / "b.bin").write_bytes(b"\0" * 100)

    repository.add({"b.bin": tmp_path / "b.bin"}, custom={"os": "linux"})

    info = client.update().get_targetinfo("b.bin")
    assert info is not None
    assert info.custom == {"os": "linux"}


def test_refresh_renews_snapshot_and_timestamp_only(
    made: tuple[Repository, StockClient],
) -> None:
    repository, client = made

    report = repository.refresh()

    assert report.published == ["3.snapshot.json", "timestamp.json"]
    client.update()


def test_refresh_if_due_leaves_fresh_metadata_alone(
    made: tuple[Repository, StockClient],
) -> None:
    repository, _ = made

    assert repository.refresh(if_due=True).published == []


def test_an_expired_root_is_renewed_by_the_keys_it_has(
    made: tuple[Repository, StockClient], tmp_path: Path
) -> None:
    repository, client = made
    repository.settings.expiry_days["root"] = -1
    repository.refresh(["root"])
    with pytest.raises(TufError, match="expired"):
        client.update()

    repository.settings.expiry_days["root"] = 365
    report = repository.refresh(["root"])

    assert "3.root.json" in report.published
    assert client.download("app/hello.txt")


def test_a_delegated_role_signs_its_own_paths_and_no_others(
    made: tuple[Repository, StockClient], tmp_path: Path
) -> None:
    repository, client = made
    plugin = tmp_path / "plugin"
    plugin.write_text("plug")
    key = file_key(tmp_path / "keys", "plugins")

    repository.delegate("plugins", RoleKeys((key,)), paths=["plugins/*"])
    repository.add({"plugins/a": plugin}, role="plugins")

    assert client.download("plugins/a") == b"plug"
    assert "plugins/a" in verification.verify(repository.folder).targets
    with pytest.raises(RepositoryError, match="may not sign for app/a"):
        repository.add({"app/a": plugin}, role="plugins")


def test_unknown_fields_survive_every_change(tmp_path: Path) -> None:
    repository, roles = a_published_repository(tmp_path / "repo", tmp_path / "keys")
    key = file_key(tmp_path / "keys", "t2")
    key.public.unrecognized_fields["x-owner"] = "release team"
    with repository.changing() as change:
        assert change.published is not None
        change.published.targets["targets"].signed.unrecognized_fields["x-note"] = {"a": [1]}
        change.renew("targets")
        change.finish()
    roles["targets"] = RoleKeys((key,))
    repository.remember([key])
    with repository.changing() as change:
        change.stage_root(lambda root: root.add_key(key.public, "targets"))
        change.finish()

    repository.remove(["app/hello.txt"])
    repository.refresh(["root"])

    newest = max(repository.folder.root_versions())
    root = json.loads((repository.folder.metadata / f"{newest}.root.json").read_bytes())
    assert root["signed"]["keys"][key.public.keyid]["x-owner"] == "release team"
    number = repository.folder.highest_version("targets")
    targets = json.loads((repository.folder.metadata / f"{number}.targets.json").read_bytes())
    assert targets["signed"]["x-note"] == {"a": [1]}


# ------------------------------------------------------------------------------ thresholds


def two_of_three(tmp_path: Path) -> tuple[dict[str, RoleKeys], dict[str, SigningKey]]:
    """Root needs two of three people; only alice's key is here."""
    roles = file_roles(tmp_path / "keys")
    people = {name: file_key(tmp_path / "people", name) for name in ("alice", "bob", "carol")}
    away = [SigningKey(people[name].public) for name in ("bob", "carol")]
    roles["root"] = RoleKeys((people["alice"], *away), 2)
    return roles, people


def test_a_root_waits_for_the_people_it_needs_and_is_published_with_them(tmp_path: Path) -> None:
    roles, people = two_of_three(tmp_path)
    repository = a_repository(tmp_path / "repo")

    report = repository.create(roles)

    (waiting,) = report.waiting
    assert (waiting.role, waiting.version, waiting.needs) == ("root", 1, 1)
    missing = {people[name].public.keyid for name in ("bob", "carol")}
    assert {m.keyid for m in waiting.missing} == missing
    assert not repository.folder.metadata.exists()

    staged = repository.folder.staged / "1.root.json"
    bobs = KeyRing(repository.settings)
    signed = cosign.sign_file(staged, bobs, repository.folder, [people["bob"]])
    assert (signed.added, signed.needs) == ((people["bob"].public.keyid,), 0)

    a_repository(tmp_path / "repo").refresh()
    StockClient(tmp_path / "client", tmp_path / "repo").update()
    assert repository.folder.staged_files() == {}


def test_status_names_who_has_not_signed(tmp_path: Path) -> None:
    roles, people = two_of_three(tmp_path)
    repository = a_repository(tmp_path / "repo")
    repository.create(roles)

    (root,) = inspection.status(repository.folder, repository.ring)

    assert (root.where, root.threshold, root.valid) == ("staged", 2, 1)
    states = {line.keyid: line.state for line in root.signatures}
    assert states[people["alice"].public.keyid] == "valid"
    assert states[people["bob"].public.keyid] == "missing"


def test_a_signature_by_the_wrong_person_is_not_taken(tmp_path: Path) -> None:
    roles, _ = two_of_three(tmp_path)
    repository = a_repository(tmp_path / "repo")
    repository.create(roles)
    staged = repository.folder.staged / "1.root.json"
    before = staged.read_bytes()
    mallory = file_key(tmp_path / "people", "mallory")

    with pytest.raises(RepositoryError, match="not a key of root"):
        cosign.sign_file(staged, repository.ring, repository.folder, [mallory])

    assert staged.read_bytes() == before


def test_a_published_file_is_not_signed_in_place(made: tuple[Repository, StockClient]) -> None:
    repository, _ = made
    path = repository.folder.metadata / "1.root.json"

    with pytest.raises(RepositoryError, match="published"):
        cosign.sign_file(path, repository.ring, cosign.folder_of(path))


def test_another_change_does_not_silently_replace_a_staged_one(tmp_path: Path) -> None:
    roles, _ = two_of_three(tmp_path)
    a_repository(tmp_path / "repo").create(roles)
    staged = tree(tmp_path / "repo/staged")
    other = {**roles, "targets": RoleKeys((file_key(tmp_path / "keys", "other"),))}

    with pytest.raises(RepositoryError, match="says something else") as e:
        a_repository(tmp_path / "repo").create(other)

    assert "refresh" in e.value.hint
    assert tree(tmp_path / "repo/staged") == staged


@pytest.mark.parametrize(("threshold", "keys"), [(0, 1), (2, 1), (-1, 1)])
def test_a_threshold_nobody_can_reach_is_refused(tmp_path: Path, threshold: int, keys: int) -> None:
    roles = file_roles(tmp_path / "keys")
    roles["root"] = RoleKeys(roles["root"].keys[:keys], threshold)

    with pytest.raises(RepositoryError, match="threshold"):
        a_repository(tmp_path / "repo").create(roles)

    assert not (tmp_path / "repo/metadata").exists()


# ------------------------------------------------------------------------------ what is not ours


def test_init_does_not_touch_a_folder_with_files_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "repo/metadata").mkdir(parents=True)
    (tmp_path / "repo/metadata/notes.txt").write_text("mine")

    with pytest.raises(RepositoryError, match="not empty"):
        a_repository(tmp_path / "repo").create(file_roles(tmp_path / "keys"))

    assert tree(tmp_path / "repo") == {"metadata/notes.txt": b"mine"}


def test_init_does_not_touch_a_repository(made: tuple[Repository, StockClient]) -> None:
    repository, _ = made
    before = tree(repository.folder.path)

    with pytest.raises(RepositoryError, match="not empty") as e:
        repository.create(file_roles(repository.folder.path.parent / "more"))

    assert "migrate" in e.value.hint
    assert tree(repository.folder.path) == before


def test_a_root_its_predecessor_did_not_sign_stops_everything(
    made: tuple[Repository, StockClient], tmp_path: Path
) -> None:
    repository, _ = made
    intruder, _ = a_published_repository(tmp_path / "evil", tmp_path / "evil-keys")
    intruder.refresh(["root"])
    forged = intruder.folder.metadata / "2.root.json"
    shutil.copy(forged, repository.folder.metadata / "2.root.json")
    before = tree(repository.folder.metadata)

    with pytest.raises(RepositoryError, match="not signed as root 1 demands"):
        repository.refresh()

    assert tree(repository.folder.metadata) == before


def test_a_settings_file_of_a_newer_keydctl_is_left_alone(
    made: tuple[Repository, StockClient],
) -> None:
    repository, _ = made
    path = repository.folder.path / ".keyd-tuf.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))

    with pytest.raises(RepositoryError, match="newer keydctl"):
        a_repository(repository.folder.path)


def test_two_runs_at_once_are_kept_apart(made: tuple[Repository, StockClient]) -> None:
    repository, _ = made

    with repository.folder.locked(), pytest.raises(RepositoryError, match="another") as e:
        a_repository(repository.folder.path).refresh()

    assert e.value.retry_after_s is not None


# ------------------------------------------------------------------------------ crash halfway


class PowerLossError(Exception):
    """Power goes."""


class CrashingFolder(Folder):
    """A folder whose power goes before rename number ``survives`` of a publication."""

    survives = 1_000

    def publish(self, files: list[tuple[str, bytes]]) -> None:  # type: ignore[override]
        for name, data in files:
            if self.survives == 0:
                raise PowerLossError
            self.survives -= 1
            super().publish([(name, data)])


def rotate_all_online(repository: Repository, keys: dict[str, SigningKey]) -> None:
    """Give targets, snapshot and timestamp new keys in one root."""

    def edit(root: Root) -> None:
        for role, key in keys.items():
            edits.set_role_keys(root, role, [key.public])

    repository.remember(list(keys.values()))
    with repository.changing() as change:
        change.stage_root(edit)
        change.finish()


@pytest.mark.parametrize("survives", range(7))
def test_a_crash_before_any_rename_leaves_what_clients_accept(
    tmp_path: Path, survives: int
) -> None:
    """Every top-level online key changes at once: the hardest publication there is."""
    repository, _ = a_published_repository(tmp_path / "repo", tmp_path / "keys")
    new = {role: file_key(tmp_path / "new", role) for role in ROLES[1:]}
    crashing = CrashingFolder(tmp_path / "repo")
    crashing.survives = survives
    broken = Repository(crashing, repository.settings, repository.ring, repository.now)
    updated = StockClient(tmp_path / "updated", tmp_path / "repo")
    fresh = StockClient(tmp_path / "fresh", tmp_path / "repo")
    updated.update()
    try:
        rotate_all_online(broken, new)
        crashed = False
    except PowerLossError:
        crashed = True

    assert crashed == (survives < 4)
    assert updated.download("app/hello.txt") == fresh.download("app/hello.txt")
    rotate_all_online(repository, new)
    assert updated.download("app/hello.txt") == fresh.download("app/hello.txt")
    state = {s.role: s for s in inspection.status(repository.folder, repository.ring)}
    assert state["root"].version == 2
    assert all(
        line.keyid == new[role].public.keyid
        for role in new
        for line in state[role].signatures
        if line.state == "valid"
    )


@pytest.mark.parametrize("survives", range(4))
def test_a_crash_in_the_first_publication_is_finished_by_running_it_again(
    tmp_path: Path, survives: int
) -> None:
    roles = file_roles(tmp_path / "keys")
    repository = a_repository(tmp_path / "repo")
    crashing = CrashingFolder(tmp_path / "repo")
    crashing.survives = survives
    with pytest.raises(PowerLossError):
        Repository(crashing, repository.settings, repository.ring, repository.now).create(roles)

    a_repository(tmp_path / "repo").create(roles)

    StockClient(tmp_path / "client", tmp_path / "repo").update()


def test_clients_that_poll_during_publications_never_see_a_broken_repository(
    made: tuple[Repository, StockClient], tmp_path: Path
) -> None:
    repository, client = made
    refused: list[Exception] = []
    polls: list[int] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            try:
                client.download("app/hello.txt")
            except Exception as e:  # noqa: BLE001 - whatever a client refuses with
                refused.append(e)
                return
            polls.append(1)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        for number in range(6):
            new = {role: file_key(tmp_path / f"new{number}", role) for role in ROLES[1:]}
            rotate_all_online(repository, new)
    finally:
        done.set()
        thread.join(30)

    assert refused == []
    assert len(polls) > 2


def test_what_a_dead_run_left_behind_is_cleared_away(made: tuple[Repository, StockClient]) -> None:
    repository, _ = made
    leftovers = [
        repository.folder.metadata / ".keyd-tmp-abc",
        repository.folder.targets / "app/.keyd-tmp-def",
    ]
    for path in leftovers:
        path.write_text("half")

    repository.refresh()

    assert not any(path.exists() for path in leftovers)


def test_a_published_version_is_never_written_over(made: tuple[Repository, StockClient]) -> None:
    repository, _ = made

    with pytest.raises(RepositoryError, match="never change"):
        repository.folder.publish([("1.root.json", b"{}")])


def test_a_left_over_version_number_is_not_used_again(
    made: tuple[Repository, StockClient], tmp_path: Path
) -> None:
    repository, client = made
    metadata: Metadata[Targets] = Metadata(Targets(version=9))
    metadata.to_file(str(repository.folder.metadata / "9.targets.json"))

    repository.remove(["app/hello.txt"])

    assert (repository.folder.metadata / "10.targets.json").exists()
    client.update()


def test_published_files_can_be_read_by_the_web_server(
    made: tuple[Repository, StockClient],
) -> None:
    repository, _ = made
    files = [p for p in repository.folder.path.rglob("*") if p.is_file() and "lock" not in p.name]

    assert len(files) > 4
    assert all(p.stat().st_mode & 0o777 == 0o644 for p in files)
