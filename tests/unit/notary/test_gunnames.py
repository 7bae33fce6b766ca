"""Names of collections as names of keys, and back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyd.errors import InvalidRequestError
from keyd.gunnames import (
    GunName,
    find_gun_name,
    history_of,
    key_name,
    without_number,
)
from keyd.model import check_name

WRITTEN = {
    ("docker.io/library/alpine", "timestamp"): "notary/docker.io/library/alpine/timestamp",
    ("localhost:5000/app", "snapshot"): "notary/localhost0x3a5000/app/snapshot",
    ("registry.example.org/my_app", "root"): "notary/registry.example.org/my_app/root",
    ("acme/app", "targets/releases"): "notary/acme/app/targets0x2freleases",
    ("acme/targets", "releases"): "notary/acme/targets/releases",
    ("Acme//App/", "timestamp"): "notary/0x41cme0x2f0x2f0x41pp0x2f/timestamp",
    ("/a", "timestamp"): "notary/0x2fa/timestamp",
    ("-a/.b/c_", "timestamp"): "notary/0x2da/0x2eb/c0x5f/timestamp",
    ("0x3a", "timestamp"): "notary/0x30x3a/timestamp",
    ("0xa:", "timestamp"): "notary/0x30xa0x3a/timestamp",
    ("é", "timestamp"): "notary/0xc30xa9/timestamp",
}


@pytest.mark.parametrize(("meant", "name"), WRITTEN.items(), ids=str)
def test_a_collection_and_role_have_one_name_that_tells_both(
    meant: tuple[str, str], name: str
) -> None:
    assert key_name(*meant) == name
    assert find_gun_name(name) == GunName(*meant)


# The first character of all of Unicode takes a second on a busy machine.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(
        st.one_of(st.sampled_from("0x3a9f/._-:A"), st.characters(exclude_categories=["C", "Z"])),
        min_size=1,
        max_size=24,
    ),
    st.sampled_from(["root", "timestamp", "targets/releases", "targets/-a_/b", "snapshot"]),
    st.integers(1, 99),
)
def test_every_collection_comes_back_as_it_was(gun: str, role: str, number: int) -> None:
    try:
        name = key_name(gun, role, number)
    except InvalidRequestError as e:
        is_history = without_number(gun) != gun
        is_odd = is_history or any(c in gun for c in "*?[") or not gun.isprintable()
        assert "too long" in str(e) or is_odd
        return

    assert check_name("name", name) == name
    assert find_gun_name(name) == GunName(gun, role, number)


@pytest.mark.parametrize(
    "name",
    [
        "acme/timestamp",
        "notary/timestamp",
        "notary/acme/0x61pp/timestamp",
        "notary/acme/timestamp.1",
        "notary/acme/timestamp.02",
        "notary/acme/0xff/timestamp",
        "notary/acme0x2a/timestamp",
    ],
)
def test_a_name_that_nobody_would_write_so_tells_nothing(name: str) -> None:
    assert find_gun_name(name) is None


@given(*(st.tuples(st.from_regex(r"[ab]/[ab@0-9]{1,5}", fullmatch=True), st.integers(1, 20)),) * 2)
def test_no_two_keys_share_a_history_unless_they_are_the_same(
    one: tuple[str, int], other: tuple[str, int]
) -> None:
    try:
        histories = [
            history_of(key_name(g, "timestamp", n), g, "timestamp") for g, n in (one, other)
        ]
    except InvalidRequestError as e:
        assert "ends as the history" in e.message
        return

    assert (histories[0] == histories[1]) is (one == other)


def test_a_collection_named_as_the_history_of_another_ones_key_gets_no_key() -> None:
    """Whoever may push to it could make keyd refuse the other one's versions."""
    with pytest.raises(InvalidRequestError, match="history of a further key of 'acme/app'"):
        key_name("acme/app@2", "timestamp")


@pytest.mark.parametrize("gun", ["", "a b", "a*", "a?", "a[b]", "a\0", "a\nb", "x" * 201])
def test_a_collection_that_would_read_as_a_pattern_or_not_at_all_gets_no_key(gun: str) -> None:
    with pytest.raises(InvalidRequestError) as e:
        key_name(gun, "timestamp")

    assert e.value.facts["field"] == "gun"


def test_a_collection_whose_name_does_not_fit_is_refused_rather_than_cut() -> None:
    with pytest.raises(InvalidRequestError, match="too long"):
        key_name("a" * 120, "timestamp")


def test_each_further_key_of_a_collection_has_a_history_of_its_own() -> None:
    first, third = key_name("acme/app", "timestamp"), key_name("acme/app", "timestamp", 3)

    assert history_of(first, "acme/app", "timestamp") == "acme/app"
    assert history_of(third, "acme/app", "timestamp") == "acme/app@3"
    assert without_number("acme/app@3") == "acme/app"
    assert without_number("user@host/app") == "user@host/app"
    assert without_number("acme/app@1") == "acme/app@1"


def test_keys_of_people_share_one_history_whatever_they_are_called() -> None:
    assert history_of(key_name("acme/app", "root", 2), "acme/app", "root") == "acme/app"
    assert history_of("acme/timestamp.2", "acme", "timestamp") == "acme"
    assert history_of(key_name("acme/app", "timestamp", 2), "other", "timestamp") == "other"
