"""Where the keys of a collection are before it is moved: in files of notary, on the daemon's
tokens, at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keyd import gunnames
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.keyring import Held, KeyRing
from keyd.adapters.notary.oldkeys import KeyFile
from keyd.content.documents import PublicKeyInfo
from keyd.errors import KeydError


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key of a role as it stands now. ``where``: ``file``, ``daemon``, ``yubikey`` (one of the
    daemon's tokens), ``server``, or ``elsewhere``: on a YubiKey or a machine that is not here.
    ``key_version``: KEY/versions/N where the daemon knows it, else empty. ``object_id``: CKA_ID of
    one that lies on the YubiKey ``token`` and was not registered."""

    role: str
    key_id: str
    keyid: str
    where: str
    file: KeyFile | None = None
    key_version: str = ""
    token: str = ""
    object_id: str = ""

    @property
    def is_held(self) -> bool:
        """True where the daemon can be asked to sign with it."""
        return bool(self.key_version)

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.object_id:
            return f"on the YubiKey {self.token}, not registered"
        return self.where


class Search:
    """Where keys are: in files, on the daemon's tokens, at the server."""

    def __init__(self, collection: Collection, files: Mapping[str, KeyFile]) -> None:
        self._collection = collection
        self._files = files
        self._yubikeys = _yubikeys(collection.ring)

    def key(self, role: str, info: PublicKeyInfo) -> OldKey:
        """One key of a role."""
        file = self._files.get(info.canonical_id)
        known = OldKey(role, info.canonical_id or info.keyid, info.keyid, "elsewhere", file)
        held = _find(self._collection, info.spki) if info.spki else None
        name = held.version.name if held else ""
        if role == "timestamp" or (held is not None and gunnames.is_made_for_server(held.key)):
            return replace(known, where="server", key_version=name)
        if held is not None:
            where = "yubikey" if held.key.token in self._yubikeys else "daemon"
            return replace(known, where=where, key_version=name, token=held.key.token)
        # Asked last: a server that has no key of its own would make one.
        if role == "snapshot" and not file:
            servers = self._collection.server.key(role)
            return replace(known, where="server") if servers.keyid == info.keyid else known
        for token, objects in self._yubikeys.items():
            if info.spki in objects:
                at = objects[info.spki].hex()
                return replace(known, where="yubikey", token=token, object_id=at)
        return replace(known, where="file") if file else known


def _yubikeys(ring: KeyRing) -> dict[str, dict[bytes, bytes]]:
    """YubiKeys of the daemon -> public key of each key pair -> its CKA_ID; none where the caller
    may not look, or the daemon does not answer: what is needed of it later says so."""
    found: dict[str, dict[bytes, bytes]] = {}
    try:
        client = ring.connect()
        for token in client.list_tokens():
            if token.is_yubikey:
                objects = client.list_objects(token.name)
                found[token.name] = {o.public_key: o.object_id for o in objects}
    except KeydError:
        return found
    return found


def _find(collection: Collection, spki: bytes) -> Held | None:
    try:
        return collection.ring.find(spki)
    except KeydError:
        return None


def how_to_adopt(keys: Sequence[OldKey]) -> str:
    """How to have the daemon sign with keys that it sees on a token; empty for none."""
    return "; ".join(
        f"keydctl key adopt NAME --token {k.token} --object-id {k.object_id}"
        for k in keys
        if k.object_id
    )
