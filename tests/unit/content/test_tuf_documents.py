"""TUF 1.0 documents, held against python-tuf's own metadata and serialiser."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api import metadata as api
from tuf.api.serialization.json import CanonicalJSONSerializer

from keyd.content import documents, parse_document
from keyd.content.canonical import MAX_INTEGER, encode
from keyd.content.holders import MAX_KEYS
from keyd.errors import ContentError

D = TypeVar("D", bound=documents.Document)

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12)
VERSIONS = st.integers(1, MAX_INTEGER)
TIMES = st.datetimes(datetime(2001, 1, 1), datetime(9999, 1, 1)).map(
    lambda t: t.replace(microsecond=0, tzinfo=UTC)
)
HASHES = st.dictionaries(
    st.sampled_from(["sha256", "blake2b-256", "x-own"]),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    min_size=1,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
UNKNOWN = st.dictionaries(TEXT.map(lambda t: f"x-{t}"), JSON, max_size=3)
KEYS = [
    signer.public_key
    for signer in (
        CryptoSigner.generate_ed25519(),
        CryptoSigner.generate_ecdsa(),
        CryptoSigner.generate_ecdsa(),
        CryptoSigner.generate_rsa(),
    )
    if isinstance(signer.public_key, SSlibKey)
]
KEYIDS = st.lists(st.sampled_from([key.keyid for key in KEYS]), unique=True)
META = st.builds(api.MetaFile, VERSIONS, st.none() | st.integers(0, 2**40), st.none() | HASHES)


@st.composite
def roots(draw: st.DrawFn) -> api.Root:
    names = ["root", "targets", "snapshot", "timestamp"]
    roles = {n: api.Role(draw(KEYIDS), draw(st.integers(1, 5)), draw(UNKNOWN)) for n in names}
    keys = {key.keyid: key for key in KEYS}
    consistent = draw(st.booleans() | st.none())
    return api.Root(
        draw(VERSIONS), "1.0.31", draw(TIMES), dict(keys), roles, consistent, draw(UNKNOWN)
    )


@st.composite
def all_targets(draw: st.DrawFn) -> api.Targets:
    paths = draw(st.lists(TEXT, unique=True, max_size=4))
    lengths = st.integers(0, 2**40)
    files = {
        p: api.TargetFile(draw(lengths), draw(HASHES), p, draw(UNKNOWN | st.just({"custom": 5})))
        for p in paths
    }
    names = draw(st.lists(TEXT.map(lambda t: f"d{t}"), unique=True, max_size=3))
    roles = {}
    for name in names:
        by_path = draw(st.booleans())
        patterns = draw(st.lists(TEXT, max_size=3))
        roles[name] = api.DelegatedRole(
            name,
            draw(KEYIDS),
            draw(st.integers(1, 3)),
            draw(st.booleans()),
            patterns if by_path else None,
            None if by_path else patterns,
            draw(UNKNOWN),
        )
    bins = api.SuccinctRoles(draw(KEYIDS), 1, draw(st.integers(1, 32)), "bin")
    keys: dict[str, api.Key] = {key.keyid: key for key in KEYS}
    delegations = draw(
        st.sampled_from(
            [
                None,
                api.Delegations(keys, roles, None, draw(UNKNOWN)),
                api.Delegations(keys, None, bins),
            ]
        )
    )
    return api.Targets(draw(VERSIONS), "1.0", draw(TIMES), files, delegations, draw(UNKNOWN))


def snapshots() -> st.SearchStrategy[api.Snapshot]:
    meta = st.dictionaries(TEXT.map(lambda t: f"r{t}.json"), META, max_size=4)
    return st.builds(api.Snapshot, VERSIONS, st.just("1.0.31"), TIMES, meta, UNKNOWN)


def timestamps() -> st.SearchStrategy[api.Timestamp]:
    return st.builds(api.Timestamp, VERSIONS, st.just("1.0.31"), TIMES, META, UNKNOWN)


def signed_bytes(signed: api.Signed) -> bytes:
    return CanonicalJSONSerializer().serialize(signed)


def read_as(kind: type[D], signed: api.Signed) -> D:
    document = parse_document(signed_bytes(signed))
    assert isinstance(document, kind)
    assert document.dialect is documents.Dialect.TUF
    assert document.version == signed.version
    assert document.expires == signed.expires
    assert document.expires_text == signed.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert document.spec_version == signed.spec_version
    assert document.unknown == signed.unrecognized_fields
    return document


def check_role(ours: documents.RoleKeys, theirs: api.Role) -> None:
    assert list(ours.keyids) == theirs.keyids
    assert ours.threshold == theirs.threshold
    assert ours.unknown == theirs.unrecognized_fields


def check_meta(ours: documents.MetaFile, theirs: api.MetaFile) -> None:
    assert (ours.version, ours.length) == (theirs.version, theirs.length)
    assert {a: d.hex() for a, d in ours.hashes.items()} == (theirs.hashes or {})


@settings(max_examples=40)
@given(roots())
def test_a_root_says_what_python_tuf_wrote(root: api.Root) -> None:
    ours = read_as(documents.Root, root)

    assert ours.roles.keys() == root.roles.keys()
    for name, role in root.roles.items():
        check_role(ours.roles[name], role)
    assert ours.consistent_snapshot == root.consistent_snapshot
    assert {k: (i.keytype, i.scheme, i.public) for k, i in ours.keys.items()} == {
        k: (i.keytype, i.scheme, i.keyval["public"]) for k, i in root.keys.items()
    }
    assert all(info.spki for info in ours.keys.values())


@settings(max_examples=40)
@given(all_targets())
def test_targets_say_what_python_tuf_wrote(targets: api.Targets) -> None:
    ours = read_as(documents.Targets, targets)

    assert ours.targets.keys() == targets.targets.keys()
    for path, file in targets.targets.items():
        mine = ours.targets[path]
        assert mine.length == file.length
        assert {a: d.hex() for a, d in mine.hashes.items()} == file.hashes
        told = dict(mine.unknown) | ({"custom": mine.custom} if mine.custom is not None else {})
        assert told == file.unrecognized_fields
    theirs = targets.delegations
    if theirs is None:
        assert ours.delegations is None
        return
    assert ours.delegations is not None
    assert ours.delegations.unknown == theirs.unrecognized_fields
    assert [r.name for r in ours.delegations.roles] == list(theirs.roles or {})
    for role in ours.delegations.roles:
        wanted = (theirs.roles or {})[role.name]
        check_role(role, wanted)
        assert role.terminating == wanted.terminating
        assert (list(role.paths) if role.paths is not None else None) == wanted.paths
        prefixes = role.path_hash_prefixes
        assert (list(prefixes) if prefixes is not None else None) == wanted.path_hash_prefixes
    if theirs.succinct_roles is not None:
        assert ours.delegations.succinct is not None
        check_role(ours.delegations.succinct, theirs.succinct_roles)
        assert ours.delegations.succinct.bit_length == theirs.succinct_roles.bit_length


@given(snapshots())
def test_a_snapshot_says_what_python_tuf_wrote(snapshot: api.Snapshot) -> None:
    ours = read_as(documents.Snapshot, snapshot)

    assert {f"{role}.json" for role in ours.meta} == snapshot.meta.keys()
    for name, meta in snapshot.meta.items():
        check_meta(ours.meta[name.removesuffix(".json")], meta)


@given(timestamps())
def test_a_timestamp_says_what_python_tuf_wrote(timestamp: api.Timestamp) -> None:
    check_meta(read_as(documents.Timestamp, timestamp).snapshot, timestamp.snapshot_meta)


@given(roots() | all_targets() | snapshots() | timestamps(), st.data())
def test_mutated_documents_are_read_by_python_tuf_too_or_refused(
    signed: api.Signed, data: st.DataObject
) -> None:
    """Whatever keyd reads as a document, python-tuf reads as the same role and version."""
    payload = signed_bytes(signed)
    place = data.draw(st.integers(0, len(payload) - 1))
    payload = payload[:place] + data.draw(st.binary(max_size=2)) + payload[place + 1 :]

    try:
        ours = parse_document(payload)
    except ContentError:
        return
    kinds: dict[str, type[api.Signed]] = {
        "root": api.Root,
        "targets": api.Targets,
        "snapshot": api.Snapshot,
        "timestamp": api.Timestamp,
    }
    loaded = json.loads(payload, strict=False)
    try:
        theirs = kinds[ours.kind].from_dict(loaded)
    except ValueError as e:
        assert "Unsupported public key" in str(e)  # they refuse schemes they do not have
        return
    assert theirs.version == ours.version
    assert signed_bytes(theirs) == payload


def a_root() -> dict[str, Any]:
    keyid = KEYS[1].keyid
    roles = ("root", "targets", "snapshot", "timestamp")
    return {
        "_type": "root",
        "consistent_snapshot": True,
        "expires": "2030-01-31T00:00:00Z",
        "keys": {keyid: copy.deepcopy(KEYS[1].to_dict())},
        "roles": {name: {"keyids": [keyid], "threshold": 1} for name in roles},
        "spec_version": "1.0.31",
        "version": 1,
    }


def a_targets_file() -> dict[str, Any]:
    role = {"keyids": [], "name": "d", "paths": ["*"], "terminating": False, "threshold": 1}
    return {
        "_type": "targets",
        "delegations": {"keys": {}, "roles": [role]},
        "expires": "2030-01-31T00:00:00Z",
        "spec_version": "1.0.31",
        "targets": {"a": {"hashes": {"sha256": "0" * 64}, "length": 1}},
        "version": 1,
    }


def a_snapshot() -> dict[str, Any]:
    return {
        "_type": "snapshot",
        "expires": "2030-01-31T00:00:00Z",
        "meta": {"targets.json": {"version": 1}},
        "spec_version": "1.0.31",
        "version": 1,
    }


DELETED = object()


@pytest.mark.parametrize(
    ("make", "path", "value", "field"),
    [
        (a_root, "_type", "ROOT", "_type"),
        (a_root, "_type", "mirrors", "_type"),
        (a_root, "_type", "Root", "spec_version"),
        (a_root, "spec_version", DELETED, "spec_version"),
        (a_root, "spec_version", "2.0.0", "spec_version"),
        (a_root, "spec_version", "1.0.31\n", "spec_version"),
        (a_root, "version", 0, "version"),
        (a_root, "version", True, "version"),
        (a_root, "version", "1", "version"),
        (a_root, "expires", "2030-02-30T00:00:00Z", "expires"),
        (a_root, "expires", "2030-1-1T00:00:00Z", "expires"),
        (a_root, "expires", "2030-01-31T00:00:00.5Z", "expires"),
        (a_root, "expires", "2030-01-31T00:00:00+00:00", "expires"),
        (a_root, "expires", "٢٠٣٠-01-31T00:00:00Z", "expires"),
        (a_root, "expires", "0000-01-31T00:00:00Z", "expires"),
        (a_root, "consistent_snapshot", 1, "consistent_snapshot"),
        (a_root, "keys", [], "keys"),
        (a_root, "keys.k", {"keytype": "x", "scheme": "y"}, "keys.k.keyval"),
        (a_root, "keys.k", {"keytype": "x", "scheme": "y", "keyval": {"public": 1}}, "keys.k.key"),
        (a_root, "roles.root", DELETED, "roles"),
        (a_root, "roles.mirrors", {"keyids": [], "threshold": 1}, "roles"),
        (a_root, "roles.root.threshold", 0, "roles.root.threshold"),
        (a_root, "roles.root.keyids", ["a", "a"], "roles.root.keyids"),
        (a_root, "roles.root.keyids", [1], "roles.root.keyids"),
        (a_root, "roles.root.keyids", None, "roles.root.keyids"),
        (a_targets_file, "targets.a.length", -1, "targets.a.length"),
        (a_targets_file, "targets.a.hashes", {}, "targets.a.hashes"),
        (a_targets_file, "targets.a.hashes.sha256", "0" * 62, "targets.a.hashes.sha256"),
        (a_targets_file, "targets.a.hashes.sha256", "A" * 64, "targets.a.hashes.sha256"),
        (a_targets_file, "delegations.succinct_roles", {}, "delegations"),
        (a_targets_file, "delegations.roles.0.name", "root", "delegations.roles"),
        (a_targets_file, "delegations.roles.0.name", "", "delegations.roles"),
        (a_targets_file, "delegations.roles.0.paths", DELETED, "delegations.roles.0"),
        (a_targets_file, "delegations.roles.0.path_hash_prefixes", [], "delegations.roles.0"),
        (a_targets_file, "delegations.roles.0.terminating", None, "delegations.roles.0.term"),
        (a_snapshot, "meta.targets", {"version": 1}, "meta.targets"),
        (a_snapshot, "meta.targets\\.json.version", 0, "meta.targets.json.version"),
        (a_snapshot, "meta.targets\\.json", 7, "meta.targets.json"),
    ],
    ids=lambda v: "DELETED" if v is DELETED else getattr(v, "__name__", str(v)),
)
def test_a_field_that_is_wrong_is_named(
    make: Callable[[], dict[str, Any]], path: str, value: object, field: str
) -> None:
    document = make()
    parse_document(encode(document))
    where: Any = document
    *parents, last = [p.replace("\0", ".") for p in path.replace("\\.", "\0").split(".")]
    for name in parents:
        where = where[int(name)] if isinstance(where, list) else where[name]
    if value is DELETED:
        del where[last]
    else:
        where[last] = value

    with pytest.raises(ContentError) as e:
        parse_document(encode(document))

    assert e.value.facts["field"].startswith(field)


def test_the_same_delegation_twice_is_refused() -> None:
    document = a_targets_file()
    document["delegations"]["roles"] *= 2

    with pytest.raises(ContentError, match="delegates twice to d"):
        parse_document(encode(document))


def test_a_delegation_that_stands_twice_is_named_safely() -> None:
    role = {"keyids": [], "name": "d\u202e", "paths": [], "terminating": False, "threshold": 1}
    signed = api.Targets(1, expires=datetime(2030, 1, 31, tzinfo=UTC)).to_dict()
    signed["delegations"] = {"keys": {}, "roles": [role, role]}

    with pytest.raises(ContentError) as e:
        parse_document(encode(signed))

    assert "\\u202e" in e.value.message
    assert e.value.message.isprintable()


def test_private_key_material_in_a_root_is_refused() -> None:
    document = a_root()
    document["keys"][KEYS[1].keyid]["keyval"]["private"] = "secret"

    with pytest.raises(ContentError) as e:
        parse_document(encode(document))

    assert e.value.facts["problem"] == "private-key"
    assert "secret" not in str(e.value)


@pytest.mark.parametrize("public", ["", "04abcd", "-----BEGIN CERTIFICATE-----\nAAAA\n", "z" * 64])
@pytest.mark.parametrize("keytype", ["ecdsa", "ed25519", "ml-dsa"])
def test_a_key_of_a_foreign_kind_is_kept_but_unreadable(keytype: str, public: str) -> None:
    document = a_root()
    document["keys"]["k"] = {"keytype": keytype, "scheme": "odd", "keyval": {"public": public}}

    root = parse_document(encode(document))

    assert isinstance(root, documents.Root)
    assert root.keys["k"].spki == b""
    assert root.keys["k"].public == public


def test_more_keys_than_anybody_has_are_refused_unread() -> None:
    document = a_root()
    document["keys"] = {str(n): {} for n in range(MAX_KEYS + 1)}

    with pytest.raises(ContentError) as e:
        parse_document(encode(document))

    assert e.value.facts["problem"] == "too-large"


def test_a_field_of_attackers_choice_cannot_reach_the_terminal_raw() -> None:
    document = a_root()
    document["roles"]["\x7f\u202e"] = 7

    with pytest.raises(ContentError) as e:
        parse_document(encode(document))

    assert e.value.message.isprintable()
