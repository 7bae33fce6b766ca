"""A repository signed by other keys becomes one whose keys keyd holds.

Root N+1 names the new root keys, and for the other roles the old keys beside the new ones; the
old and the new root keys sign it, so every client follows. Root N+2 names the new keys only.
Between the two everything is signed anew. The old targets, snapshot and timestamp keys need not
sign, only the old root keys. The daemons of the new keys start from the oldest root in the folder:
whoever migrates vouches for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuf.api.metadata import Root, Targets

from keyd.adapters.tufrepo import edits, published
from keyd.adapters.tufrepo.change import Change
from keyd.adapters.tufrepo.evidence import Daemon
from keyd.adapters.tufrepo.folder import ROOT_COPY, Folder, check_target_path
from keyd.adapters.tufrepo.keyring import SigningKey
from keyd.adapters.tufrepo.published import Published
from keyd.adapters.tufrepo.report import Report
from keyd.adapters.tufrepo.repository import Repository, RoleKeys
from keyd.adapters.uri import SCHEME, KeydUri
from keyd.errors import RepositoryError


def migrate(repository: Repository, roles: Mapping[str, RoleKeys]) -> Report:
    """Hand all four top-level roles to new keys; delegations keep theirs.

    The signers of the old root keys are among ``repository.ring.extra``. Run again, it goes on
    where it stopped.

    Raises:
        RepositoryError: nothing to take over, or it does not verify.
    """
    folder = repository.folder
    with folder.locked():
        _name_root(folder)
    if not folder.root_versions():
        raise RepositoryError(
            f"{folder.metadata} holds no root.json", hint="a new one: keydctl tuf init"
        )
    with repository.changing(taking_over=True) as change:
        keys = [key for role in roles.values() for key in role.keys]
        repository.remember(keys)
        done = Report()
        for daemon in _daemons(repository, keys):
            change.evidence.hand_over(daemon)
        if change.published and not change.published.root.signed.consistent_snapshot:
            done.published += _add_consistent_names(folder, change.published)
        for step in (_old_and_new, _new_only):
            if step is _old_and_new and _names_all(change, roles):
                continue
            change.stage_root(lambda root, step=step: step(root, roles))  # type: ignore[misc]
            done.add(change.finish())
            if done.waiting:
                break
        return done


def _daemons(repository: Repository, keys: Iterable[SigningKey]) -> list[Daemon]:
    uris = (KeydUri.parse(key.uri) for key in keys if key.uri.startswith(f"{SCHEME}:"))
    return list(dict.fromkeys(repository.ring.daemon(uri) for uri in uris))


def _old_and_new(root: Root, roles: Mapping[str, RoleKeys]) -> None:
    root.consistent_snapshot = True
    edits.set_role_keys(root, "root", roles["root"].public.values(), roles["root"].threshold)
    for role in ("targets", "snapshot", "timestamp"):
        both = [*edits.role_keys(root, role), *roles[role].public.values()]
        # What the old keys signed and what the new ones will sign must both pass meanwhile.
        threshold = min(root.roles[role].threshold, roles[role].threshold)
        edits.set_role_keys(root, role, both, threshold)


def _new_only(root: Root, roles: Mapping[str, RoleKeys]) -> None:
    for role in edits.TOP_LEVEL:
        edits.set_role_keys(root, role, roles[role].public.values(), roles[role].threshold)


def _names_all(change: Change, roles: Mapping[str, RoleKeys]) -> bool:
    assert change.published is not None
    root = change.published.root.signed
    return root.consistent_snapshot is True and all(
        set(roles[role].public) <= set(root.roles[role].keyids) for role in edits.TOP_LEVEL
    )


def _name_root(folder: Folder) -> None:
    """Give a lone root.json the name with its version, under which clients look for it."""
    path = folder.metadata / ROOT_COPY
    if folder.root_versions() or not path.exists():
        return
    root = published.parse(path, Root)
    folder.publish([(f"{root.signed.version}.root.json", path.read_bytes())])


def _add_consistent_names(folder: Folder, state: Published) -> list[str]:
    """Copies of metadata and target files under the names consistent snapshots use.

    Raises:
        RepositoryError: a target file is missing or not what the metadata says.
    """
    files = []
    for role, version in [
        ("snapshot", state.snapshot.signed.version),
        *((name, metadata.signed.version) for name, metadata in state.targets.items()),
    ]:
        files.append((f"{version}.{role}.json", (folder.metadata / f"{role}.json").read_bytes()))
    for metadata in state.targets.values():
        _copy_targets(folder, metadata.signed)
    folder.publish(files)
    return [name for name, _ in files]


def _copy_targets(folder: Folder, targets: Targets) -> None:
    for path, listed in targets.targets.items():
        check_target_path(path)
        made = folder.add_target(folder.targets / path, path, list(listed.hashes))
        if made.hashes != listed.hashes or made.length != listed.length:
            raise RepositoryError(
                f"{folder.targets / path} is not the file the metadata lists",
                file=folder.targets / path,
            )
