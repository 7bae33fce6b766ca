"""A server that holds its own keys, and whoever stands behind it, against one who reads: another
collection's metadata, roots without end, what is hidden and comes back older, what is no metadata.

Keys are made in software here, for the attacker has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyd.adapters.notary import keyobjects, metadata, oldkeys, rootcert, trusted
from keyd.adapters.notary.cache import Cache
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.keyring import KeyRing
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.pinning import Pinning
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.settings import TlsFiles
from keyd.adapters.notary.web import Web
from keyd.client import Client
from keyd.errors import RepositoryError, ServerGoneError

GUN, RELEASES = "localhost/app", "targets/releases"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
ENDS = NOW + timedelta(days=10)
ROLES = ("root", "targets", "snapshot", "timestamp", RELEASES)


class Liar(NotaryServer):
    """Serves what it has been given, and makes it: it has every key of a collection."""

    def __init__(self, gun: str = GUN) -> None:
        super().__init__(Web("http://localhost:1", TlsFiles()), gun)
        self.keys = {role: ec.generate_private_key(ec.SECP256R1()) for role in ROLES}
        self.objects = {role: self._object(role) for role in ROLES}
        self.files: dict[str, bytes] = {}

    def find(self, name: str) -> bytes | None:
        """A file as it has it; any version of it by its hash."""
        role, _, asked = name.partition(".")
        is_hash = not role.isdigit() and asked
        return self.files.get(role if is_hash else name)

    def _object(self, role: str) -> KeyObject:
        key = self.keys[role]
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if role != "root":
            return keyobjects.of_public_key(spki)
        made = rootcert.self_signed(
            rootcert.Subject(spki, self.gun),
            lambda content: key.sign(content, ec.ECDSA(hashes.SHA256())),
            NOW - timedelta(days=1),
        )
        return keyobjects.of_certificates([made])

    def sealed(self, draft: Draft, by: Iterable[str]) -> bytes:
        """A file with the signatures of some roles' keys."""
        for role in by:
            signed = oldkeys.sign(self.keys[role], self.objects[role].keyid, draft.payload)
            draft.signatures.append(signed)
        return draft.file()

    def root(self, version: int, by: Sequence[str] = ("root",)) -> bytes:
        """A root with the same keys."""
        tops = [role for role in ROLES if role != RELEASES]
        keys = {self.objects[role].keyid: self.objects[role].value for role in tops}
        draft = metadata.new_root(keys, {r: [self.objects[r].keyid] for r in tops}, ENDS)
        draft.signed["version"] = version
        return self.sealed(draft, by)

    def serve(self, version: int, *, releases: int | None = None) -> None:
        """Serve everything as ``version``; ``releases``: of targets/releases, None hides it."""
        delegated = self.objects[RELEASES]
        targets = metadata.new_targets("targets", ENDS)
        targets.signed["version"] = version
        targets.signed["delegations"] = {
            "keys": {delegated.keyid: delegated.value},
            "roles": [
                {"keyids": [delegated.keyid], "name": RELEASES, "paths": [""], "threshold": 1}
            ],
        }
        self.files = {"1.root": self.files.get("1.root") or self.root(1)}
        self.files["root"] = self.files["1.root"]
        self.files["targets"] = self.sealed(targets, ["targets"])
        if releases is not None:
            draft = metadata.new_targets(RELEASES, ENDS)
            draft.signed["version"] = releases
            self.files[RELEASES] = self.sealed(draft, [RELEASES])
        named = ("root", "targets", *([RELEASES] if releases is not None else []))
        self.seal_top("snapshot", version, named)
        self.seal_top("timestamp", version, ("snapshot",))

    def seal_top(self, role: str, version: int, named: Iterable[str]) -> None:
        """A snapshot or timestamp over what is served."""
        signed: dict[str, Any] = {
            "_type": role.capitalize(),
            "expires": metadata.expiry_text(ENDS),
            "meta": {name: metadata.meta_of(self.files[name]) for name in named},
            "version": version,
        }
        self.files[role] = self.sealed(Draft(role, signed), [role])


def no_daemon() -> Client:
    raise ServerGoneError("reading needs no daemon")


@pytest.fixture
def liar() -> Liar:
    server = Liar()
    server.serve(1, releases=1)
    return server


Read = Callable[[NotaryServer], trusted.Trusted]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """One reader, who remembers."""

    def look(server: NotaryServer) -> trusted.Trusted:
        cache, ring = Cache(tmp_path, GUN), KeyRing(GUN, no_daemon)
        return Collection(server, cache, ring, Pinning(), lambda: NOW).get()

    return look


def test_what_is_as_it_should_be_is_believed(liar: Liar, read: Read) -> None:
    assert read(liar).targets.keys() == {"targets", RELEASES}


def test_another_collections_metadata_is_not_taken_for_this_one(read: Read) -> None:
    other = Liar("localhost/other")
    other.serve(1, releases=1)
    other.gun = GUN

    with pytest.raises(RepositoryError, match="no root certificate of localhost/app is for"):
        read(other)


def test_roots_without_end_are_given_up(liar: Liar, read: Read) -> None:
    class Endless(Liar):
        def find(self, name: str) -> bytes | None:
            """The next root, always."""
            number, _, rest = name.partition(".")
            return self.root(int(number)) if rest == "root" else super().find(name)

    endless = Endless()
    endless.keys, endless.objects, endless.files = liar.keys, liar.objects, liar.files
    read(liar)

    with pytest.raises(RepositoryError, match=f"more than {trusted.MAX_ROOTS} new roots"):
        read(endless)


@pytest.mark.parametrize(
    ("root", "why"),
    [
        (lambda liar: liar.root(3), "version 3 came for the next one"),
        (lambda liar: liar.root(2, by=["targets"]), "has 0 valid signatures"),
        (lambda liar: liar.files["targets"], "this is targets metadata"),
    ],
    ids=["skipped", "unsigned", "other"],
)
def test_a_root_that_does_not_follow_is_refused(
    liar: Liar, read: Read, root: Callable[[Liar], bytes], why: str
) -> None:
    read(liar)
    liar.files["2.root"] = root(liar)

    with pytest.raises(RepositoryError, match=why):
        read(liar)


def test_a_role_that_was_hidden_does_not_come_back_older(liar: Liar, read: Read) -> None:
    liar.serve(2, releases=7)
    read(liar)

    liar.serve(3, releases=None)
    hidden = read(liar)
    liar.serve(4, releases=6)

    assert "was seen before" in hidden.problems[RELEASES]
    with pytest.raises(RepositoryError, match="version 6, version 7 was seen here before"):
        read(liar)


def test_a_file_that_its_snapshot_does_not_name_is_refused(liar: Liar, read: Read) -> None:
    older = liar.files[RELEASES]
    liar.serve(2, releases=2)
    liar.files[RELEASES] = older

    with pytest.raises(RepositoryError, match="is not the one that its snapshot"):
        read(liar)


@pytest.mark.parametrize("role", ["root", "timestamp"])
@pytest.mark.parametrize(
    "file",
    [b"[" * 100_000, b'{"signed":' + b'{"a":' * 100_000, b"", b"null", b"\xff", b" " * (9 << 20)],
    ids=["deep", "deeper", "empty", "null", "bytes", "huge"],
)
def test_what_is_no_metadata_is_refused_in_words(
    liar: Liar, read: Read, role: str, file: bytes
) -> None:
    liar.files[role] = file

    with pytest.raises(RepositoryError, match=f"{role}: it cannot be read"):
        read(liar)
