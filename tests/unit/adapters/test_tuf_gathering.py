"""Signatures for metadata: for which role they are asked, and at which version."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from keyd.adapters.tuf import tuf_key
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.gathering import Gathering
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.adapters.tufrepo.settings import Settings
from keyd.client import Key, KeyFilter, Signature
from keyd.errors import (
    ApprovalNeededError,
    KeydError,
    RepositoryError,
    RuleRefusedError,
    VersionTakenError,
)
from keyd.model import Context, Scheme
from tests.unit.adapters.test_tuf_signer import FakeClient, der_of

NOW = datetime(2029, 6, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = tuf_key(der_of(KEY), Scheme.ECDSA_P256_SHA256)


class RefusingClient(FakeClient):
    """Raises what it was told to, one error for each request, before it signs."""

    def __init__(self, *refusals: KeydError) -> None:
        super().__init__(KEY)
        self.refusals = list(refusals)

    def sign(self, key: str, message: bytes | None = None, **asked: Any) -> Signature:
        if self.refusals:
            self.asked.append({"message": message, **asked})
            raise self.refusals.pop(0)
        return super().sign(key, message, **asked)

    def list_keys(self, wanted: KeyFilter | None = None, *, page_size: int = 0) -> Iterator[Key]:
        yield from ()


def taken(next_version: int) -> KeydError:
    return VersionTakenError("taken", next_version=next_version)


def lower(next_version: int) -> KeydError:
    return RuleRefusedError("lower", rule="version-lower", next_version=next_version)


def a_root() -> Root:
    root = Root(expires=NOW + timedelta(days=1))
    for role in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(PUBLIC, role)
    return root


def gathering(folder: Path, client: FakeClient, uri: str = "keyd:acme/online") -> Gathering:
    settings = Settings("acme", signers={PUBLIC.keyid: uri})
    return Gathering(Folder(folder), settings, KeyRing(settings, lambda: client), lambda: NOW)


def test_one_key_of_several_roles_is_asked_for_the_role_that_is_signed(tmp_path: Path) -> None:
    """Whatever role the URI in the settings names."""
    client = FakeClient(KEY)
    gather = gathering(tmp_path, client, "keyd:acme/online?role=snapshot")

    gather.collect_online("timestamp", Metadata(Timestamp()), [a_root()])
    gather.collect_online("snapshot", Metadata(Snapshot()), [a_root()])

    assert [a["context"] for a in client.asked] == [
        Context("acme", "timestamp"),
        Context("acme", "snapshot"),
    ]


@pytest.mark.parametrize(
    ("refusals", "version"),
    [([taken(4)], 4), ([lower(9)], 9), ([taken(4), taken(6), lower(7)], 7)],
)
def test_targets_take_the_next_free_version_by_themselves(
    tmp_path: Path, refusals: list[KeydError], version: int
) -> None:
    gather = gathering(tmp_path, RefusingClient(*refusals))
    metadata = Metadata(Targets(3))
    gather.stage("targets", metadata, 3)

    waiting = gather.collect("targets", metadata, [a_root()])

    assert waiting is None
    assert metadata.signed.version == version
    assert [p.name for p in (tmp_path / "staged").iterdir()] == [f"{version}.targets.json"]
    assert gather.notes == [
        f"targets became version {version}: version 3 was signed before with other content"
    ]
    PUBLIC.verify_signature(metadata.signatures[PUBLIC.keyid], metadata.signed_bytes)


def test_a_new_number_is_on_disk_before_it_is_signed(tmp_path: Path) -> None:
    """A kill right after the signature leaves the bytes that were signed."""
    gather = gathering(tmp_path, RefusingClient(taken(4), KeydError("killed")))
    metadata = Metadata(Targets(3))
    gather.stage("targets", metadata, 3)

    gather.collect("targets", metadata, [a_root()])

    staged = Metadata[Targets].from_file(str(tmp_path / "staged/4.targets.json"))
    assert staged.signed == metadata.signed


def test_a_root_is_never_renumbered(tmp_path: Path) -> None:
    gather = gathering(tmp_path, RefusingClient(taken(2)))
    metadata = Metadata(a_root())
    gather.stage("root", metadata, 1)

    with pytest.raises(VersionTakenError):
        gather.collect("root", metadata, [metadata.signed])

    assert metadata.signed.version == 1


def test_a_daemon_that_names_no_free_version_is_not_asked_for_ever(tmp_path: Path) -> None:
    gather = gathering(tmp_path, RefusingClient(taken(3)))
    with pytest.raises(VersionTakenError):
        gather.collect_online("timestamp", Metadata(Timestamp(3)), [a_root()])

    client = RefusingClient(*(taken(n) for n in range(4, 100)))
    with pytest.raises(RepositoryError, match="no version of timestamp was free"):
        gathering(tmp_path, client).collect_online("timestamp", Metadata(Timestamp(3)), [a_root()])

    assert len(client.asked) < 20


def test_a_snapshot_that_waits_for_consent_keeps_its_bytes(tmp_path: Path) -> None:
    needed = ApprovalNeededError("1 more person has to consent", approval="ap-1")
    client = RefusingClient(needed, needed)
    first, later = gathering(tmp_path, client), gathering(tmp_path, client)
    later.now = lambda: NOW + timedelta(hours=3)

    for gather in (first, later):
        with pytest.raises(ApprovalNeededError):
            gather.collect_online("snapshot", Metadata(Snapshot(5)), [a_root()])
    signed = later.collect_online("snapshot", Metadata(Snapshot(5)), [a_root()])

    assert len({a["message"] for a in client.asked}) == 1
    assert signed.signed.expires == NOW + timedelta(days=7)


def test_a_snapshot_of_other_content_does_not_use_the_bytes_that_wait(tmp_path: Path) -> None:
    needed = ApprovalNeededError("1 more person has to consent", approval="ap-1")
    client = RefusingClient(needed)
    gather = gathering(tmp_path, client)
    with pytest.raises(ApprovalNeededError):
        gather.collect_online("snapshot", Metadata(Snapshot(5)), [a_root()])

    other = Snapshot(5, meta={"targets.json": MetaFile(9)})
    signed = gather.collect_online("snapshot", Metadata(other), [a_root()])

    assert signed.signed.meta["targets.json"].version == 9


def test_targets_that_expired_while_they_waited_get_a_new_expiry(tmp_path: Path) -> None:
    gather = gathering(tmp_path, FakeClient(KEY))
    metadata = Metadata(Targets(3, expires=NOW - timedelta(days=1)))
    gather.folder.stage("targets", 3, metadata.to_bytes())

    assert gather.collect("targets", metadata, [a_root()]) is None
    assert metadata.signed.expires == NOW + timedelta(days=90)


def test_what_nobody_signed_takes_a_shorter_expiry_from_the_settings(tmp_path: Path) -> None:
    """The policy refused the longer one, and a person shortened it in .keyd-tuf.json."""
    gather = gathering(tmp_path, RefusingClient(KeydError("expiry too far")))
    metadata = Metadata(a_root())
    gather.settings.expiry_days["root"] = 3650
    gather.stage("root", metadata, 1)
    assert gather.collect("root", metadata, [metadata.signed]) is not None

    gather.settings.expiry_days["root"] = 30
    assert gather.collect("root", metadata, [metadata.signed]) is None

    assert metadata.signed.expires == NOW + timedelta(days=30)


def test_a_root_that_expired_half_signed_names_the_way_out(tmp_path: Path) -> None:
    """Its bytes cannot change: somebody has signed them."""
    gather = gathering(tmp_path, FakeClient(KEY))
    metadata = Metadata(a_root())
    gather.stage("root", metadata, 1)
    assert gather.collect("root", metadata, [metadata.signed]) is None
    gather.now = lambda: NOW + timedelta(days=400)

    with pytest.raises(RepositoryError, match="expired on") as e:
        gather.collect("root", metadata, [metadata.signed])

    assert "keydctl role supersede acme root" in e.value.hint
