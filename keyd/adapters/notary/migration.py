"""From key files to tokens: the next root is signed by the old key and the new one, so that every
client follows; the targets are signed anew, delegations stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from keyd.adapters.notary import oldkeys, rotation
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.drafting import Drafting
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.keyring import Held
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.oldkeys import KeyFile, PrivateKey
from keyd.adapters.notary.pinning import Pinning
from keyd.adapters.notary.publication import Report
from keyd.adapters.notary.trusted import Reading, Trusted
from keyd.content.documents import PublicKeyInfo
from keyd.errors import KeydError, RepositoryError, RoleNotFoundError
from keyd.model import Origin

IMPORTED_LABEL = "imported"
"""Marks a key of the daemon that was made elsewhere, with where."""


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key of a role as it stands now. ``where``: ``file``, ``daemon``, ``server``, or
    ``elsewhere``: on a YubiKey, or on another machine."""

    role: str
    key_id: str
    keyid: str
    where: str
    file: KeyFile | None = None


@dataclass(slots=True)
class Plan:
    """What was found of a collection, and what is to be done."""

    gun: str
    keys: list[OldKey]
    moves: list[str]
    trusted: Trusted = field(repr=False)


@dataclass(slots=True)
class Migrated:
    """``destroy``: key files that sign nothing of this collection any more. ``keep``: those of
    them whose key is the root of other collections, with their names."""

    report: Report
    destroy: list[Path]
    keep: dict[Path, list[str]]


def plan(collection: Collection, trust_dir: Path, *, keep_root: bool) -> Plan:
    """Look for the keys of a collection; changes nothing.

    Raises:
        RepositoryError: there is no such collection.
    """
    trusted = collection.find(is_expired_taken=True)
    if trusted is None:
        raise collection.absent()
    files = {file.key_id: file for file in oldkeys.find(trust_dir)}
    keys = [
        _old_key(collection, role, info, files)
        for role, holders in trusted.root_document.roles.items()
        for keyid in holders.keyids
        if (info := trusted.root_document.keys.get(keyid))
    ]
    for name in trusted.targets:
        delegations = trusted.targets_document(name).delegations
        for delegated in delegations.roles if delegations else ():
            assert delegations is not None
            infos = (delegations.keys.get(keyid) for keyid in delegated.keyids)
            keys += [_old_key(collection, delegated.name, i, files) for i in infos if i]
    moves = [] if _stays(collection, trusted, keys, keep_root) else ["root"]
    if not _is_all(keys, "targets", "daemon"):
        moves.append("targets")
    if any(k.role == "snapshot" and k.where in ("file", "elsewhere") for k in keys):
        moves.append("snapshot")
    return Plan(collection.gun, keys, moves, trusted)


def _stays(
    collection: Collection, trusted: Trusted, keys: list[OldKey], is_imported_kept: bool
) -> bool:
    """True for a root whose keys the daemon holds and were made on its tokens, or may stay though
    they were not."""
    if not _is_all(keys, "root", "daemon"):
        return False
    infos = (trusted.root_document.keys[k.keyid] for k in keys if k.role == "root")
    held = [collection.ring.find(info.spki) for info in infos]
    made_here = all(h is not None and h.version.origin is not Origin.ADOPTED for h in held)
    return made_here or is_imported_kept


def migrate(
    collection: Collection,
    found: Plan,
    trust_dir: Path,
    unlock: Callable[[KeyFile], PrivateKey],
    *,
    root_key: str = "",
) -> Migrated:
    """Publish the collection under keys of the daemon. ``unlock``: asks for a passphrase.

    Run again after an interruption or consent, it goes on.

    Raises:
        RepositoryError: the old root key is not at hand, or what is served then is not right.
        KeydError: it cannot be signed or published now.
    """
    gun = collection.gun
    if found.moves:
        report = _publish(collection, found, unlock, root_key)
        _check_fresh(collection)
    else:
        report = Report(notes=[f"all keys of {gun} are on tokens already"])
    files = [k.file for k in found.keys if k.file and k.role in ("root", "targets", "snapshot")]
    users = {f.path: oldkeys.other_users(trust_dir, gun, f.key_id) for f in files}
    keep = {path: names for path, names in users.items() if names}
    return Migrated(report, [f.path for f in files if f.path not in keep], keep)


def _publish(
    collection: Collection,
    found: Plan,
    unlock: Callable[[KeyFile], PrivateKey],
    root_key: str,
) -> Report:
    new = _new_keys(collection, found, root_key)
    signers = _old_signers(found, unlock) if "root" in found.moves else {}

    def sign_by_old(draft: Draft) -> None:
        there = {signature.keyid for signature in draft.signatures}
        for keyid, key in signers.items():
            if keyid not in there:
                draft.signatures.append(oldkeys.sign(key, keyid, draft.payload))

    def make(trusted: Trusted | None, drafting: Drafting) -> dict[str, Draft]:
        assert trusted is not None
        root = drafting.next_root()
        for role, key in new.items():
            rotation.set_key(root.signed, role, key)
        drafts = {"root": root}
        if "targets" in new:
            drafts["targets"] = drafting.next_targets("targets")
        return drafts

    with collection.cache.locked():
        publication = collection.publication
        publication.read(is_expired_taken=True)
        _hand_over(collection)
        publication.signs_also = sign_by_old
        publication.is_snapshot_servers = True
        return publication.publish(make)


def _new_keys(collection: Collection, found: Plan, root_key: str) -> dict[str, KeyObject]:
    new: dict[str, KeyObject] = {}
    for role in found.moves:
        if role == "root":
            held = _root(collection, found, root_key)
            new[role] = rotation.object_of(collection, role, held)
        elif role == "targets":
            new[role] = collection.ring.ensure(role).object
        else:
            new[role] = rotation.server_key(collection, role, found.trusted.root_document)
    return new


def _root(collection: Collection, found: Plan, root_key: str) -> Held:
    ring = collection.ring
    held = ring.ensure("root", root_key)
    used = {found.trusted.root_document.keys[k.keyid].spki for k in found.keys if k.role == "root"}
    return ring.successor(held.key, used) if held.version.public_key in used else held


def _old_signers(found: Plan, unlock: Callable[[KeyFile], PrivateKey]) -> dict[str, PrivateKey]:
    """The old root keys whose files are here; the daemon signs for those that it holds."""
    root = found.trusted.root_document.roles["root"]
    mine = [k for k in found.keys if k.role == "root"]
    at_hand = [k for k in mine if k.where == "daemon"]
    signers: dict[str, PrivateKey] = {}
    for key in mine:
        if len(signers) + len(at_hand) < root.threshold and key.file is not None:
            signers[key.keyid] = unlock(key.file)
    if len(signers) + len(at_hand) < root.threshold:
        raise RepositoryError(
            f"the root key of {found.gun} is not here: "
            + ", ".join(f"{k.key_id} is {k.where}" for k in mine),
            hint="run it where the key file is, or name its folder with --trust-dir; a key on a "
            "YubiKey: register the token's key with keydctl key adopt first",
            gun=found.gun,
        )
    return signers


def _hand_over(collection: Collection) -> None:
    """Whoever migrates vouches for the root that is served: the daemon starts from it."""
    client = collection.ring.connect()
    try:
        client.get_role(collection.gun, "root")
    except RoleNotFoundError:
        collection.publication.evidence.hand_over(client, f"migrate {collection.gun}")


def _check_fresh(collection: Collection) -> None:
    """A client that never saw the collection takes it.

    Raises:
        RepositoryError: it does not.
    """
    reading = Reading(collection.server, {}, Pinning(), collection.now())
    fresh = reading.find()
    if fresh is None or fresh.files() != collection.cache.read():
        raise RepositoryError(
            f"{collection.gun} is published, and a new client sees something else",
            hint=f"keydctl trust list {collection.gun} says what is wrong; keep the key files",
            gun=collection.gun,
        )


def _old_key(
    collection: Collection, role: str, info: PublicKeyInfo, files: dict[str, KeyFile]
) -> OldKey:
    file = files.get(info.canonical_id)
    if role in rotation.SERVER_ROLES and collection.server.key(role).keyid == info.keyid:
        where = "server"
    elif info.spki and _find(collection, info.spki) is not None:
        where = "daemon"
    else:
        where = "file" if file else "elsewhere"
    return OldKey(role, info.canonical_id or info.keyid, info.keyid, where, file)


def _find(collection: Collection, spki: bytes) -> Held | None:
    try:
        return collection.ring.find(spki)
    except KeydError:
        return None


def _is_all(keys: list[OldKey], role: str, where: str) -> bool:
    return all(key.where == where for key in keys if key.role == role)


def mark_imported(collection: Collection, found: Plan) -> list[str]:
    """Mark root keys of the daemon that stay though they were made elsewhere; their names."""
    marked = []
    root = found.trusted.root_document
    for key in found.keys:
        held = collection.ring.find(root.keys[key.keyid].spki) if key.role == "root" else None
        if held is not None and held.version.origin is Origin.ADOPTED:
            labels = {**held.key.labels, IMPORTED_LABEL: "notary"}
            collection.ring.connect().update(
                held.key.name, labels=labels, reason="made outside a token"
            )
            collection.ring.bound(held.key, "root")
            marked.append(held.key.name)
    return marked
