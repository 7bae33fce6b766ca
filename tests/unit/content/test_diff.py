"""What an approver sees: every difference, and the grave ones first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from keyd.content import documents, parse_document
from keyd.content.canonical import encode
from keyd.content.change import Change, lines
from keyd.content.describe import MAX_LISTED, describe, summary
from keyd.content.diff import compare
from keyd.errors import ContentError
from keyd.model import Scheme
from keyd.publickeys import tuf_key
from tests.unit.content import notary_made as made

DIGEST = "07" * 32


def key_object(owner: str = "") -> dict[str, Any]:
    private = ec.generate_private_key(ec.SECP256R1())
    key = tuf_key(made.spki(private), Scheme.ECDSA_P256_SHA256)
    return key | ({"x-owner": owner} if owner else {})


KEYS = {"k1": key_object("@anna"), "k2": key_object(), "k3": key_object()}
ROLES = ("root", "targets", "snapshot", "timestamp")


def header(kind: str) -> dict[str, Any]:
    return {
        "_type": kind,
        "expires": "2030-01-31T00:00:00Z",
        "spec_version": "1.0.31",
        "version": 4,
    }


def a_root() -> dict[str, Any]:
    roles: dict[str, Any] = {r: {"keyids": ["k3"], "threshold": 1} for r in ROLES}
    roles["root"] = {"keyids": ["k1", "k2"], "threshold": 2}
    return header("root") | {"consistent_snapshot": True, "keys": dict(KEYS), "roles": roles}


def a_delegation(name: str, **changes: Any) -> dict[str, Any]:
    role = {"keyids": ["k1"], "paths": [f"{name}/*"], "terminating": False, "threshold": 1}
    return {"name": name} | role | changes


def a_targets_file() -> dict[str, Any]:
    target = {"hashes": {"sha256": DIGEST}, "length": 3}
    delegations = {"keys": {"k1": KEYS["k1"]}, "roles": [a_delegation("d1"), a_delegation("d2")]}
    return header("targets") | {
        "delegations": delegations,
        "targets": {"a": target, "b": {**target}},
    }


def a_snapshot() -> dict[str, Any]:
    return header("snapshot") | {"meta": {f"{r}.json": {"version": 3} for r in ("targets", "d1")}}


def a_timestamp() -> dict[str, Any]:
    return header("timestamp") | {"meta": {"snapshot.json": {"version": 3}}}


def read(signed: dict[str, Any]) -> documents.Document:
    return parse_document(encode(signed))


def changes(make: Callable[[], dict[str, Any]], edit: Callable[[Any], object]) -> list[str]:
    after = make()
    edit(after)
    return lines(compare(read(make()), read(after)))


def put(*path: str | int) -> Callable[[Any], Callable[[Any], None]]:
    """An edit that puts a value at a path."""

    def with_value(value: Any) -> Callable[[Any], None]:
        def edit(document: Any) -> None:
            for name in path[:-1]:
                document = document[name]
            document[path[-1]] = value

        return edit

    return with_value


def drop(*path: str | int) -> Callable[[Any], None]:
    def edit(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        del document[path[-1]]

    return edit


ROLE_D1 = ("delegations", "roles", 0)


@pytest.mark.parametrize(
    ("make", "edit", "wanted"),
    [
        (a_root, put("version")(5), ["  ~ version root: v4 -> v5"]),
        (a_root, put("version")(6), ["! ~ version root: v4 -> v6"]),
        (a_root, put("version")(3), ["! ~ version root: v4 -> v3"]),
        (a_targets_file, put("version")(9), ["  ~ version targets: v4 -> v9"]),
        (a_targets_file, put("version")(3), ["! ~ version targets: v4 -> v3"]),
        (
            a_root,
            put("expires")("2031-01-31T00:00:00Z"),
            ["  ~ expires root: 2030-01-31T00:00:00Z -> 2031-01-31T00:00:00Z"],
        ),
        (a_root, put("roles", "root", "threshold")(1), ["! ~ threshold root: 2 of 2 -> 1 of 2"]),
        (a_root, put("roles", "root", "threshold")(3), ["  ~ threshold root: 2 of 2 -> 3 of 2"]),
        (
            a_root,
            put("roles", "root", "keyids")(["k1"]),
            ["! - key root: k2 (ecdsa-sha2-nistp256)"],
        ),
        (
            a_root,
            put("roles", "targets", "keyids")(["k1"]),
            [
                "  - key targets: k3 (ecdsa-sha2-nistp256)",
                '  + key targets: k1 (ecdsa-sha2-nistp256, x-owner "@anna")',
            ],
        ),
        (
            a_root,
            put("keys", "k9")(KEYS["k3"]),
            ["  + key-object k9: k9 (ecdsa-sha2-nistp256)"],
        ),
        (
            a_root,
            put("consistent_snapshot")(False),
            ["  ~ consistent_snapshot root: true -> false"],
        ),
        (a_root, put("x-note")("hi"), ['  + field root x-note: "hi"']),
        (a_targets_file, drop("targets", "a"), [f"  - target a: 3 bytes, sha256:{DIGEST}"]),
        (
            a_targets_file,
            put("targets", "a", "length")(4),
            [f"  ~ target a: 3 bytes, sha256:{DIGEST} -> 4 bytes, sha256:{DIGEST}"],
        ),
        (
            a_targets_file,
            put("targets", "a", "custom")({"n": 1}),
            [
                f"  ~ target a: 3 bytes, sha256:{DIGEST} -> "
                f'3 bytes, sha256:{DIGEST}, custom {{"n": 1}}'
            ],
        ),
        (
            a_targets_file,
            put(*ROLE_D1, "paths")(["*"]),
            ['  - path d1: "d1/*"', '  + path d1: "*"'],
        ),
        (a_targets_file, put(*ROLE_D1, "terminating")(True), ["  ~ terminating d1: false -> true"]),
        (
            a_targets_file,
            drop("delegations", "roles", 1),
            ["  - delegation d2: 1 of 1 key, 1 pattern by path"],
        ),
        (
            a_targets_file,
            lambda t: t["delegations"]["roles"].reverse(),
            ['  ~ order delegations: ["d1", "d2"] -> ["d2", "d1"]'],
        ),
        (
            a_targets_file,
            lambda t: t["delegations"]["roles"].insert(0, a_delegation("new", terminating=True)),
            [
                "  + delegation new: 1 of 1 key, 1 pattern by path, terminating, 1 of 3 in order",
                '  + key new: k1 (ecdsa-sha2-nistp256, x-owner "@anna")',
                '  + path new: "new/*"',
            ],
        ),
        (a_snapshot, put("meta", "d1.json", "version")(4), ["  ~ meta d1: v3 -> v4"]),
        (a_snapshot, put("meta", "d1.json", "version")(2), ["! ~ meta d1: v3 -> v2"]),
        (a_snapshot, drop("meta", "d1.json"), ["! - meta d1: v3"]),
        (a_snapshot, put("meta", "d9.json")({"version": 1}), ["  + meta d9: v1"]),
        (a_timestamp, put("meta", "snapshot.json", "version")(2), ["! ~ meta snapshot: v3 -> v2"]),
        (a_root, lambda r: None, []),
    ],
)
def test_a_change_is_shown(
    make: Callable[[], dict[str, Any]], edit: Callable[[Any], object], wanted: list[str]
) -> None:
    assert changes(make, edit) == wanted


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (a_root, ("x-a",)),
        (a_root, ("keys", "k2", "x-a")),
        (a_root, ("roles", "root", "x-a")),
        (a_targets_file, ("targets", "a", "custom")),
        (a_targets_file, ("targets", "a", "x-a")),
        (a_targets_file, ("delegations", "x-a")),
        (a_snapshot, ("meta", "d1.json", "x-a")),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_one_and_true_are_told_apart(
    make: Callable[[], dict[str, Any]], path: tuple[str, ...]
) -> None:
    before, after = copy.deepcopy(make()), copy.deepcopy(make())
    put(*path)(1)(before)
    put(*path)(True)(after)

    (change,) = compare(read(before), read(after))

    assert change.before != change.after


def test_another_key_under_a_known_id_is_grave() -> None:
    (line,) = changes(a_root, put("keys", "k1")(key_object("@anna")))

    assert line.startswith("! ~ key-object k1: k1 (")


def test_a_key_written_differently_is_told_but_not_grave() -> None:
    def edit(root: Any) -> None:
        key = {**root["keys"]["k1"]}
        key["keyval"] = {"public": key["keyval"]["public"].rstrip("\n")}
        root["keys"]["k1"] = key

    (line,) = changes(a_root, edit)

    assert line.startswith("  ~ key-object k1")
    assert line.endswith("written differently")


def test_one_key_pair_under_a_second_id_is_grave() -> None:
    def edit(root: Any) -> None:
        root["keys"]["twin"] = root["keys"]["k1"]
        root["roles"]["root"]["keyids"].append("twin")

    shown = changes(a_root, edit)

    assert shown[0].startswith("! + doubled-key root: one key pair, ")
    assert shown[0].endswith("stands under 2 ids")


def test_a_role_left_with_a_key_that_is_not_there_is_grave() -> None:
    (line,) = changes(a_root, drop("keys", "k2"))

    assert line == "! - key-object k2: k2 (ecdsa-sha2-nistp256)"


def test_a_lower_threshold_of_a_delegation_is_grave() -> None:
    before, after = a_targets_file(), a_targets_file()
    before["delegations"]["roles"][0]["threshold"] = 2

    (change,) = compare(read(before), read(after))

    assert change == Change("threshold", "d1", "2 of 1", "1 of 1", grave=True)


def test_a_notary_root_for_another_gun_is_grave() -> None:
    private, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    online = made.bare_key(other)
    before = read(made.root(made.certificate_key(private, "registry/app"), online))
    after = read(made.root(made.certificate_key(private, "registry/evil"), online))

    found = compare(before, after)

    assert Change("gun", "root", "registry/app", "registry/evil", grave=True) in found


def test_two_kinds_or_dialects_are_not_compared() -> None:
    for other in (a_snapshot(), made.targets()):
        with pytest.raises(ContentError) as e:
            compare(read(a_targets_file()), read(other))
        assert e.value.facts["problem"] == "type"


def test_a_change_behind_the_part_that_is_shown_still_shows() -> None:
    before, after = a_targets_file(), a_targets_file()
    before["targets"]["a"]["custom"] = "x" * 500 + "1"
    after["targets"]["a"]["custom"] = "x" * 500 + "2"

    (change,) = compare(read(before), read(after))

    assert change.before != change.after


def test_grave_changes_are_shown_before_any_number_of_others() -> None:
    many = [Change("target", str(n), "", "x") for n in range(500)]
    grave = [Change("threshold", "root", "2 of 2", "1 of 2", grave=True)] * 3

    shown = lines([*many, *grave], limit=10)

    assert shown[:3] == ["! ~ threshold root: 2 of 2 -> 1 of 2"] * 3
    assert shown[-1] == "    and 490 more changes"
    assert len(shown) == 14


# Small parts of documents, so that two of them often agree in some and differ in others.
_KEYIDS = st.lists(st.sampled_from(["k1", "k2", "twin"]), unique=True, max_size=3)
_OBJECTS = st.sampled_from([KEYS["k1"], KEYS["k2"], KEYS["k1"] | {"x-owner": "@eve"}])
_KEY_MAPS = st.dictionaries(st.sampled_from(["k1", "k2", "twin"]), _OBJECTS)
_ROLE = st.fixed_dictionaries(
    {"keyids": _KEYIDS, "threshold": st.integers(1, 2)}, optional={"x-a": st.integers(0, 1)}
)
_NAMES = st.lists(st.sampled_from(["d1", "d2"]), unique=True)
_PATHS = st.lists(st.sampled_from(["", "a/*"]), max_size=2)


@st.composite
def some_roots(draw: st.DrawFn) -> dict[str, Any]:
    roles = {name: draw(_ROLE) for name in ROLES}
    return header("root") | {"keys": draw(_KEY_MAPS), "roles": roles}


@st.composite
def some_targets(draw: st.DrawFn) -> dict[str, Any]:
    roles = [
        draw(_ROLE)
        | {"name": name, "terminating": draw(st.booleans())}
        | {draw(st.sampled_from(["paths", "path_hash_prefixes"])): draw(_PATHS)}
        for name in draw(_NAMES)
    ]
    bins = draw(_ROLE) | {"bit_length": draw(st.integers(1, 2)), "name_prefix": "b"}
    keys = draw(_KEY_MAPS)
    delegations = draw(
        st.sampled_from([{"keys": keys, "roles": roles}, {"keys": keys, "succinct_roles": bins}])
    )
    found = header("targets") | {"targets": {}}
    return found | ({"delegations": delegations} if draw(st.booleans()) else {})


@given(st.tuples(some_roots(), some_roots()) | st.tuples(some_targets(), some_targets()))
def test_no_difference_goes_unshown_and_none_is_made_up(
    pair: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    before, after = map(read, pair)

    found = compare(before, after)

    assert bool(found) == (before != after)
    assert all(c.before != c.after for c in found)
    assert all(line.isprintable() for line in lines(found))


def test_a_root_is_described_by_who_holds_it() -> None:
    shown = describe(read(a_root() | {"x-note": "\u202ehi"}))

    assert shown[:4] == [
        "root v4 (tuf), expires 2030-01-31T00:00:00Z",
        "root: 2 of 2 keys",
        '  k1 (ecdsa-sha2-nistp256, x-owner "@anna")',
        "  k2 (ecdsa-sha2-nistp256)",
    ]
    assert shown[-2:] == ["consistent_snapshot: true", 'unknown to keyd: x-note = "\\u202ehi"']


def test_targets_are_described_with_their_delegations() -> None:
    assert describe(read(a_targets_file())) == [
        "targets v4 (tuf), expires 2030-01-31T00:00:00Z",
        "2 targets",
        f"  a: 3 bytes, sha256:{DIGEST}",
        f"  b: 3 bytes, sha256:{DIGEST}",
        "2 delegations",
        '  d1: 1 of 1 key, paths "d1/*"',
        '    k1 (ecdsa-sha2-nistp256, x-owner "@anna")',
        '  d2: 1 of 1 key, paths "d2/*"',
        '    k1 (ecdsa-sha2-nistp256, x-owner "@anna")',
    ]


def test_a_snapshot_and_a_timestamp_are_described_by_versions() -> None:
    assert describe(read(a_snapshot()))[1:] == ["d1: v3", "targets: v3"]
    assert describe(read(a_timestamp()))[1:] == ["snapshot: v3"]


def test_long_lists_are_counted() -> None:
    document = a_targets_file()
    document["targets"] = {f"{n:04}": document["targets"]["a"] for n in range(1000)}

    shown = describe(read(document))

    assert f"  and {1000 - MAX_LISTED} targets more" in shown
    assert len(shown) < 2 * MAX_LISTED


def test_a_notary_root_shows_gun_and_certificate() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    document = read(
        made.root(made.certificate_key(private, "registry/app"), made.bare_key(private))
    )

    shown = describe(document)

    assert summary(document) == f"root v1 (notary), expires {made.EXPIRES}"
    assert "CN registry/app, until 2036-01-29 00:00:00Z)" in shown[2]
    assert "GUN: registry/app" in shown
