"""From key files to tokens: the next root is signed by the old key and the new one, so that every
client follows; the targets are signed anew, delegations stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from keyd.adapters.notary import delegations, oldkeys, rotation
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.drafting import Drafting
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.keyring import Held
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.oldkeys import KeyFile, PrivateKey
from keyd.adapters.notary.oldplaces import OldKey, Search, how_to_adopt
from keyd.adapters.notary.pinning import Pinning
from keyd.adapters.notary.publication import Report
from keyd.adapters.notary.served import read
from keyd.adapters.notary.trusted import Reading, Trusted
from keyd.content.documents import RoleKeys, Root
from keyd.content.verification import verify_threshold
from keyd.errors import RepositoryError, RoleNotFoundError
from keyd.model import Key, Origin

IMPORTED_LABEL = "imported"
"""Marks a key of the daemon that was made elsewhere, with where."""

_OWN_ROLES = ("root", "targets", "snapshot")
"""Roles whose key files a migration replaces; those of delegations are other people's."""


@dataclass(slots=True)
class Plan:
    """What was found of a collection, and what is to be done. ``leftovers``: files of keys that it
    had before."""

    gun: str
    keys: list[OldKey]
    moves: list[str]
    leftovers: list[KeyFile]
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
        absent = collection.absent()
        absent.hint = (  # what has key files was begun, so that it is on another server
            "name the server that has it: -s URL, or DOCKER_CONTENT_TRUST_SERVER; and compare the "
            f"name {collection.gun} with what docker or notary list there"
        )
        raise absent
    files = {file.key_id: file for file in oldkeys.find(trust_dir)}
    search = Search(collection, files)
    keys = [
        search.key(role, info)
        for role, holders in trusted.root_document.roles.items()
        for keyid in holders.keyids
        if (info := trusted.root_document.keys.get(keyid))
    ]
    for delegation in delegations.found(trusted):
        keys += [search.key(delegation.role.name, info) for info in delegation.keys]
    moves = [] if _stays(collection, trusted, keys, keep_root) else ["root"]
    if not all(key.is_held for key in keys if key.role == "targets"):
        moves.append("targets")
    if any(
        k.role == "snapshot" and k.where != "server" and (k.file or not k.is_held) for k in keys
    ):
        moves.append("snapshot")
    used = {key.key_id for key in keys}
    former = _signed_away(collection, trusted)
    leftovers = [
        f
        for f in files.values()
        if f.key_id not in used
        and (f.key_id in former or (f.gun == collection.gun and f.role in _OWN_ROLES))
    ]
    return Plan(collection.gun, keys, moves, leftovers, trusted)


def _signed_away(collection: Collection, trusted: Trusted) -> set[str]:
    """Ids of the root keys before the one that is served, which have signed it: what an earlier run
    moved off. Their own signatures say so, as no list of an untrusted server could."""
    root = trusted.root
    file = collection.server.find(f"{root.version - 1}.root") if root.version > 1 else None
    before = read("root", file, Root).envelope.document if file else None
    if not isinstance(before, Root):
        return set()
    now = trusted.root_document.roles["root"].keyids
    gone = [before.keys[k] for k in before.roles["root"].keyids if k in before.keys]
    return {
        key.canonical_id
        for key in gone
        if key.keyid not in now
        and verify_threshold(
            root.envelope.payload,
            root.envelope.signatures,
            RoleKeys(keyids=(key.keyid,), threshold=1),
            {key.keyid: key},
        ).is_met
    }


def _stays(
    collection: Collection, trusted: Trusted, keys: list[OldKey], is_imported_kept: bool
) -> bool:
    """True for a root whose keys the daemon holds and were made on its tokens, or may stay though
    they were not."""
    if not all(key.is_held for key in keys if key.role == "root"):
        return False
    infos = (trusted.root_document.keys[k.keyid] for k in keys if k.role == "root")
    held = [collection.ring.find(info.spki) for info in infos]
    made_here = all(h is not None and h.version.origin is not Origin.ADOPTED for h in held)
    return made_here or is_imported_kept


def check_signable(found: Plan) -> None:
    """Refuse to move a root off keys too few of which are at hand to sign the next one.

    Raises:
        RepositoryError: with where each of them is.
    """
    mine = [k for k in found.keys if k.role == "root"]
    needed = found.trusted.root_document.roles["root"].threshold
    if "root" not in found.moves or sum(k.is_held or k.file is not None for k in mine) >= needed:
        return
    raise RepositoryError(
        f"the root key of {found.gun} cannot sign here: "
        + ", ".join(f"{k.key_id} is {k.place}" for k in mine),
        hint=how_to_adopt(mine)
        or "run it where the key file is, or name its folder with --trust-dir; a key on a "
        "YubiKey: have the daemon know the YubiKey as a token, then see --dry-run again",
        gun=found.gun,
    )


def migrate(
    collection: Collection,
    found: Plan,
    trust_dir: Path,
    unlock: Callable[[KeyFile], PrivateKey],
    *,
    root_key: str = "",
    is_imported_kept: bool = False,
) -> Migrated:
    """Publish the collection under keys of the daemon. ``unlock``: asks for a passphrase.
    ``is_imported_kept``: its root may be a key that was not made on a token.

    Run again after an interruption or consent, it goes on.

    Raises:
        RepositoryError: the old root key is not at hand, or what is served then is not right.
        KeydError: it cannot be signed or published now.
    """
    gun = collection.gun
    if root_key and not is_imported_kept:
        _check_made_here(collection.ring.connect().get_key(root_key))
    if found.moves:
        report = _publish(collection, found, unlock, root_key)
        _check_fresh(collection)
    else:
        report = Report(notes=[f"all keys of {gun} are on tokens already"])
    files = [k.file for k in found.keys if k.file and k.role in _OWN_ROLES] + found.leftovers
    users = {f.path: oldkeys.other_users(trust_dir, gun, f.key_id) for f in files}
    keep = {path: names for path, names in users.items() if names}
    return Migrated(report, [f.path for f in files if f.path not in keep], keep)


def _publish(
    collection: Collection,
    found: Plan,
    unlock: Callable[[KeyFile], PrivateKey],
    root_key: str,
) -> Report:
    # Whoever cannot sign the way to new keys shall not have made any.
    signers = _old_signers(found, unlock) if "root" in found.moves else {}
    new = _new_keys(collection, found, root_key)

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
    check_signable(found)
    root = found.trusted.root_document.roles["root"]
    mine = [k for k in found.keys if k.role == "root"]
    at_hand = sum(k.is_held for k in mine)
    signers: dict[str, PrivateKey] = {}
    for key in mine:
        if len(signers) + at_hand < root.threshold and key.file is not None:
            signers[key.keyid] = unlock(key.file)
    return signers


def _check_made_here(key: Key) -> None:
    """Refuse a new root key that may have copies.

    Raises:
        RepositoryError: it was made outside a token, as far as anybody can prove.
    """
    version = key.active
    if version is not None and version.origin is Origin.ADOPTED:
        raise RepositoryError(
            f"{version.name} was not made by keyd, and copies of it may be anywhere",
            hint="leave --rootkey out to have a key made on a token; to keep this one all the "
            "same, and have it marked: --accept-imported",
            key=key.name,
        )


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
    mine = collection.publication.evidence.trusted
    if fresh is None or mine is None or fresh.files() != mine.files():
        raise RepositoryError(
            f"{collection.gun} is published, and a new client sees something else",
            hint=f"keydctl trust list {collection.gun} says what is wrong; keep the key files",
            gun=collection.gun,
        )


def mark_imported(collection: Collection, found: Plan, root_key: str = "") -> list[str]:
    """Mark keys of the daemon that stay or become the root's though they were made elsewhere;
    their names."""
    root, ring = found.trusted.root_document, collection.ring
    held = [ring.find(root.keys[k.keyid].spki) for k in found.keys if k.role == "root"]
    keys = [h.key for h in held if h is not None and h.version.origin is Origin.ADOPTED]
    named = ring.connect().get_key(root_key) if root_key else None
    if named is not None and named.active is not None and named.active.origin is Origin.ADOPTED:
        keys.append(named)
    marked = {key.name: key for key in keys}
    for key in marked.values():
        labels = {**key.labels, IMPORTED_LABEL: "notary"}
        changed = ring.connect().update(key.name, labels=labels, reason="made outside a token")
        ring.bound(changed, "root")
    return list(marked)
