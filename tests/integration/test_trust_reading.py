"""What readers of a collection believe, and what not: servers that lie or move on, expired metadata
and pinned roots. The engine in this process, against the real notary-server and a real keyd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyd.adapters.notary import changes, delegations, lookup, rotation
from keyd.adapters.notary.pinning import Pinning
from keyd.errors import KeydError, RepositoryError, ServerGoneError
from tests.trust_servers import DIGESTS, Interrupted, Moving, Recorded, add, begun, die
from tests.trust_stage import Stage, a_stage

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("r")) as running:
        yield running


def test_who_reads_while_another_root_is_published_looks_again(stage: Stage) -> None:
    gun = begun(stage)

    def somebody_else() -> None:
        with stage.collection(gun) as other:
            rotation.hand_to_server(other, "snapshot")

    moving = Moving(stage.server(gun), somebody_else)
    with stage.collection(gun, server=moving) as reader:
        assert reader.get().root.version == 2


def test_a_tag_in_releases_comes_before_one_in_targets(stage: Stage, tmp_path: Path) -> None:
    gun = begun(stage)
    with stage.collection(gun, trust_dir=tmp_path) as mine:
        held = mine.ring.ensure("targets/releases")
        mine.stage(delegations.add("targets/releases", [held.object], [""]))
        mine.stage(changes.add("targets", "v1", 1, DIGESTS))
        mine.stage(changes.add("targets/releases", "v1", 2, {"sha256": b"\2" * 32}))
        mine.stage(changes.add("targets", "v2", 3, DIGESTS))
        mine.publish()
        trusted = mine.get()

    assert lookup.tag(trusted, "v1").target.length == 2
    assert lookup.tag(trusted, "v2").role == "targets"
    with pytest.raises(KeydError, match="no trust data"):
        lookup.tag(trusted, "v3")


def test_a_server_that_goes_back_is_refused(stage: Stage, tmp_path: Path) -> None:
    gun = begun(stage)
    old = Recorded(stage.server(gun))
    with stage.collection(gun, trust_dir=tmp_path) as mine:
        add(mine, "v1")
        mine.publish()

    with (
        stage.collection(gun, trust_dir=tmp_path, server=old) as fooled,
        pytest.raises(RepositoryError, match="was seen here before"),
    ):
        fooled.get()


def test_a_collection_that_vanished_is_not_taken_for_a_new_one(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)
    with stage.collection(gun, trust_dir=tmp_path) as mine:
        mine.get()
        stage.server(gun).delete()

        with pytest.raises(RepositoryError, match="which was seen there before"):
            mine.init(mine.ring.ensure("root"))


def test_bytes_that_the_server_hashes_differently_are_found(stage: Stage, tmp_path: Path) -> None:
    """The trap of notary-server: it takes a pretty-printed file, and nobody can read it."""
    gun = begun(stage)
    dead = Interrupted(stage.server(gun), before=die)
    with stage.collection(gun, trust_dir=tmp_path, server=dead) as mine:
        add(mine, "v1")
        with pytest.raises(ServerGoneError):
            mine.publish()
        file = mine.cache.pending()["targets"]
    pretty = json.dumps(json.loads(file), indent=1, sort_keys=True).encode()
    stage.server(gun).publish({"targets": pretty})

    with (
        stage.collection(gun) as reader,
        pytest.raises(RepositoryError, match="is not the one that its snapshot"),
    ):
        reader.get()


def test_expired_metadata_is_refused_to_readers_and_renewed_by_publishers(
    stage: Stage, tmp_path: Path
) -> None:
    gun = begun(stage)

    def later() -> datetime:
        return datetime.now(UTC) + timedelta(days=1200)

    with stage.collection(gun, now=later) as reader, pytest.raises(RepositoryError) as error:
        reader.get()
    with stage.collection(gun, trust_dir=tmp_path, now=later) as owner:
        assert owner.find(is_expired_taken=True) is not None

    assert "expired" in error.value.message
    assert "trust refresh" in error.value.hint


def test_only_the_pinned_root_is_trusted(stage: Stage) -> None:
    gun = begun(stage)
    with stage.collection(gun) as reader:
        root = reader.get().root_document
    pin = frozenset(root.roles["root"].keyids)
    prefix = gun.rpartition("/")[0] + "/*"

    for certs in ({gun: pin}, {prefix: pin}):
        pinned = Pinning(certs=certs, is_first_use_trusted=False)
        with stage.collection(gun, pinning=pinned) as reader:
            assert reader.get().is_first_sight
    with (
        stage.collection(gun, pinning=Pinning(certs={gun: frozenset({"ab" * 32})})) as reader,
        pytest.raises(RepositoryError, match="not the pinned one"),
    ):
        reader.get()
    with (
        stage.collection(gun, pinning=Pinning(is_first_use_trusted=False)) as reader,
        pytest.raises(RepositoryError, match="trust on first use is switched off"),
    ):
        reader.get()


def test_a_root_of_another_ca_is_not_trusted(stage: Stage) -> None:
    gun = begun(stage)
    pinned = Pinning(cas={gun: stage.sandbox.certificates.ca}, is_first_use_trusted=False)

    with (
        stage.collection(gun, pinning=pinned) as reader,
        pytest.raises(RepositoryError, match=r"trust_pinning\.ca"),
    ):
        reader.get()
