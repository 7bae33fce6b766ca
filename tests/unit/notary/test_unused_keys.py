"""Which keys of collections are listed as unused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from keyd.cli.notarykeys import IDLE, NEVER, ServerKey, find_unused
from keyd.gunnames import find_gun_name, key_name
from keyd.model import Key, KeyAlgorithm, KeyVersion, Origin, Scheme, VersionState

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def a_key(role: str, number: int = 1, *, made: int = 400, signed: int | None = None) -> ServerKey:
    """A key of acme/app; ``made`` and ``signed`` days ago."""
    name = key_name("acme/app", role, number)
    meant = find_gun_name(name)
    assert meant is not None
    version = KeyVersion(
        key=name,
        number=1,
        state=VersionState.ENABLED,
        origin=Origin.GENERATED,
        token_serial="S",
        object_id=b"1",
        public_key=b"k",
        keyids={},
        created_at=NOW - made * DAY,
        created_by="dns:notary-server",
    )
    algorithm = KeyAlgorithm.ECDSA_P256
    key = Key(name, "main", algorithm, Scheme.ECDSA_P256_SHA256, version.created_at, "x")
    return ServerKey(key, version, meant, None if signed is None else NOW - signed * DAY)


def unused(*keys: ServerKey, idle: int | None = None) -> dict[str, str]:
    """Key name -> why."""
    found = find_unused(
        keys, NOW, older_than=DAY, idle=timedelta(days=idle) if idle is not None else None
    )
    return {each.of.key.name.removeprefix("notary/acme/app/"): each.why for each in found}


def test_a_key_that_never_signed_is_listed_once_nobody_can_be_waiting_for_it() -> None:
    assert unused(a_key("timestamp", made=2)) == {"timestamp": NEVER}
    assert unused(a_key("timestamp", made=0)) == {}


def test_a_key_in_whose_place_a_later_one_signs_is_listed() -> None:
    old, new = a_key("timestamp", signed=30), a_key("timestamp", 2, made=30, signed=1)

    assert unused(old, new) == {"timestamp": f"replaced by {new.key.name}"}


def test_a_later_key_replaces_nothing_before_it_signs_after_the_old_one() -> None:
    assert unused(a_key("timestamp", signed=2), a_key("timestamp", 2, made=0)) == {}
    assert unused(a_key("timestamp", signed=2), a_key("timestamp", 2, signed=9)) == {}
    assert unused(a_key("timestamp", signed=30), a_key("snapshot", 2, signed=2)) == {}


def test_a_later_key_that_signs_no_more_does_not_make_the_old_one_useless() -> None:
    later = a_key("timestamp", 2, made=30, signed=3)
    stopped = replace(later, version=replace(later.version, state=VersionState.DISABLED))

    assert unused(a_key("timestamp", signed=30), stopped) == {}


def test_a_snapshot_key_that_is_silent_for_a_year_is_in_use_all_the_same() -> None:
    quiet = a_key("snapshot", signed=399)

    assert unused(quiet) == {}
    assert unused(quiet, a_key("timestamp", signed=3), idle=90) == {}


def test_a_collection_that_is_silent_as_a_whole_is_listed_only_on_request() -> None:
    keys = (a_key("snapshot", signed=399), a_key("timestamp", signed=100))

    assert unused(*keys) == {}
    assert unused(*keys, idle=90) == {"snapshot": IDLE, "timestamp": IDLE}
