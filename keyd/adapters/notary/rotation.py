"""From one key of a role to the next: a new root says so, and what the old key signed is signed
anew in the same publication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from keyd.adapters.notary import keyobjects
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.drafting import Drafting
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.keyring import Held
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.publication import Report
from keyd.adapters.notary.trusted import Trusted
from keyd.content import envelope
from keyd.content.documents import PublicKeyInfo, Root
from keyd.errors import KeydError, RepositoryError

SERVER_ROLES = ("snapshot", "timestamp")


@dataclass(slots=True)
class Rotated:
    """``new``: the id that the root names now. ``key_version``: KEY/versions/N, empty for a key of
    the server. ``old``: the ids before."""

    role: str
    new: str
    key_version: str
    old: tuple[str, ...]
    report: Report


def rotate(collection: Collection, role: str, *, key: str = "") -> Rotated:
    """Give root, targets or snapshot another key of the daemon: ``key``, else the next version of
    the one it has.

    Run again after an interruption or consent, it goes on.

    Raises:
        RepositoryError: the role is the server's, or there is no such collection.
        KeydError: it cannot be signed or published now.
    """
    if role == "timestamp":
        raise RepositoryError(
            "the timestamp key is always the server's",
            hint=f"have the server make a new one: keydctl trust key rotate {collection.gun} "
            "timestamp -r",
        )
    before = _root_of(collection)
    done = None if key else _done_before(collection, role, before, by_server=False)
    if done is not None:
        return done
    old = before.roles[role].keyids
    kept = [before.keys[k] for k in old if k in before.keys]
    held, is_done = _next_key(collection, role, kept, key)
    if is_done:
        collection.ring.activate(held)
        return Rotated(role, held.object.keyid, held.version.name, old, Report())
    new = object_of(collection, role, held)
    report = _publish(collection, role, new)
    collection.ring.activate(held)
    return Rotated(role, new.keyid, held.version.name, old, report)


def hand_to_server(collection: Collection, role: str) -> Rotated:
    """Have the server make a new key for snapshot or timestamp, and sign with it from now on.

    Raises:
        RepositoryError: another role, or there is no such collection.
        KeydError: the root cannot be signed or published now.
    """
    if role not in SERVER_ROLES:
        raise RepositoryError(
            f"{role} is never the server's",
            hint="only snapshot and timestamp go with -r (--server-managed)",
        )
    root = _root_of(collection)
    done = _done_before(collection, role, root, by_server=True)
    if done is not None:
        return done
    old = root.roles[role].keyids
    new = server_key(collection, role, root)
    collection.publication.is_snapshot_servers = role == "snapshot"
    report = _publish(collection, role, new)
    return Rotated(role, new.keyid, "", old, report)


def _done_before(
    collection: Collection, role: str, root: Root, *, by_server: bool
) -> Rotated | None:
    """What an earlier run has published without learning it: the root that it kept is served."""
    cache, server = collection.cache, collection.server
    with cache.locked():
        kept, served = cache.pending(), cache.read()
        if kept.get("root") != served["root"]:
            return None
        file = server.find(f"{root.version - 1}.root")
        before = envelope.parse(file).document if file else None
        new = root.keys[root.roles[role].keyids[0]]
        is_servers = role in SERVER_ROLES and server.key(role).keyid == new.keyid
        is_other = not isinstance(before, Root) or before.roles[role] == root.roles[role]
        if is_other or is_servers is not by_server:
            return None
        assert isinstance(before, Root)
        held = None if by_server else collection.ring.find(new.spki)
        if held is not None:
            collection.ring.activate(held)
        versions = {
            name: envelope.parse(file).document.version
            for name, file in kept.items()
            if served.get(name) == file
        }
        cache.drop_pending()
    report = Report(versions, ["an earlier run had published it"])
    key_version = held.version.name if held is not None else ""
    return Rotated(role, new.keyid, key_version, before.roles[role].keyids, report)


def _next_key(
    collection: Collection, role: str, kept: Sequence[PublicKeyInfo], name: str
) -> tuple[Held, bool]:
    """The key that comes, and True where the root names it already and it only has to sign."""
    ring = collection.ring
    used = {info.spki for info in kept}
    if name:
        held = ring.bound(ring.connect().get_key(name), role)
        return held, held.version.public_key in used
    is_servers = role == "snapshot" and collection.server.key(role).keyid in {
        info.keyid for info in kept
    }
    mine = [h for info in kept if info.spki and (h := ring.find(info.spki))]
    if not mine or is_servers:
        pending = _pending_key(collection, role, lambda info: ring.find(info.spki) is not None)
        found = ring.find(pending.spki) if pending else None
        if found is not None:
            return found, False
        if role == "snapshot":
            return ring.create(role, _ever_named(collection, role)), False
        return ring.ensure(role), False
    held = mine[0]
    if held.version.number > held.key.active_version:
        return held, True
    return ring.successor(held.key, used), False


def _ever_named(collection: Collection, role: str) -> set[bytes]:
    """The public keys that the roots so far gave a role."""
    last = envelope.parse(collection.cache.read()["root"]).document.version
    files = (collection.server.find(f"{number}.root") for number in range(1, last + 1))
    roots = (envelope.parse(file).document for file in files if file is not None)
    return {
        key.spki
        for root in roots
        if isinstance(root, Root)
        for keyid, key in root.keys.items()
        if keyid in root.roles[role].keyids
    }


def object_of(collection: Collection, role: str, held: Held) -> KeyObject:
    """A key as the root names it; a root key with a certificate for the collection."""
    if role != "root":
        return held.object
    spki = held.version.public_key
    kept = _pending_key(collection, "root", lambda info: info.spki == spki)
    chain = keyobjects.chain_of(kept) if kept else []
    # The certificate of a run that died stands in a root that is signed already.
    certificate: list[x509.Certificate] = chain or [collection.certify(held)]
    return keyobjects.of_certificates(certificate)


def server_key(collection: Collection, role: str, root: Root) -> KeyObject:
    """A new key of the server, or the one that an earlier run has got from it."""
    old = root.roles[role].keyids
    info = _pending_key(collection, role, lambda info: info.keyid not in old)
    return keyobjects.of_public_key(info.spki) if info else collection.server.new_key(role)


def _pending_key(
    collection: Collection, role: str, wanted: Callable[[PublicKeyInfo], bool]
) -> PublicKeyInfo | None:
    """A key that a root, begun by an earlier run, gives the role."""
    file = collection.cache.pending().get("root")
    if file is None:
        return None
    try:
        root = envelope.parse(file).document
    except KeydError:
        return None
    if not isinstance(root, Root):
        return None
    keys = [root.keys[k] for k in root.roles[role].keyids if k in root.keys]
    return next((info for info in keys if info.spki and wanted(info)), None)


def _root_of(collection: Collection) -> Root:
    found = collection.find(is_expired_taken=True)
    if found is None:
        raise collection.absent()
    return found.root_document


def _publish(collection: Collection, role: str, new: KeyObject) -> Report:
    def make(trusted: Trusted | None, drafting: Drafting) -> dict[str, Draft]:
        if trusted is None:
            raise collection.absent()
        if trusted.root_document.roles[role].keyids == (new.keyid,):
            return {}
        root = drafting.next_root()
        set_key(root.signed, role, new)
        drafts = {"root": root}
        if role == "targets":
            drafts["targets"] = drafting.next_targets("targets")
        return drafts

    with collection.cache.locked():
        collection.publication.retries = 0
        return collection.publication.publish(make)


def set_key(root: dict[str, Any], role: str, new: KeyObject) -> None:
    """Give a role of a root one key, and drop the keys that no role has any more."""
    root["roles"][role] = {"keyids": [new.keyid], "threshold": 1}
    root["keys"][new.keyid] = new.value
    used = {keyid for each in root["roles"].values() for keyid in each["keyids"]}
    root["keys"] = {keyid: key for keyid, key in root["keys"].items() if keyid in used}


def refresh(collection: Collection, roles: Sequence[str], due: Callable[[Any], bool]) -> Report:
    """Sign roles anew as they are: those that are named, else whatever is ``due`` by its expiry.

    Raises:
        KeydError: one of them cannot be signed or published now.
    """
    server_signs: list[str] = []

    def make(trusted: Trusted | None, drafting: Drafting) -> dict[str, Draft]:
        if trusted is None:
            raise collection.absent()
        served = {"root": trusted.root, **trusted.targets}
        chosen = roles or [r for r, s in served.items() if due(s.envelope.document.expires)]
        drafts = {}
        for role in chosen:
            if role in SERVER_ROLES:
                server_signs.append(role)
            elif role == "root":
                drafts[role] = drafting.next_root()
            else:
                drafts[role] = drafting.next_targets(role, keep_unverified=True)
        return drafts

    with collection.cache.locked():
        report = collection.publication.publish(make)
        if server_signs and not report.published:
            # An upload of nothing has the server sign its own roles anew.
            collection.server.publish({})
            after = collection.publication.read(is_expired_taken=True)
            if after is not None:
                report.published |= {
                    served.role: served.version for served in (after.snapshot, after.timestamp)
                }
        return report
