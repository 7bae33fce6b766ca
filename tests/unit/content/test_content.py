"""Recognising TUF and Notary metadata, and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.content import MAX_PAYLOAD_BYTES, read
from keyd.content.canonical import MAX_CONTAINERS, MAX_MEMBERS
from keyd.model import Statement

OPAQUE = Statement()
EXPIRES = "2027-01-01T00:00:00Z"


def signed(**changes: Any) -> bytes:
    fields = {"_type": "targets", "spec_version": "1.0.31", "version": 7, "expires": EXPIRES}
    fields |= {"targets": {"a.whl": {}, "b.whl": {}}} | changes
    return json.dumps({k: v for k, v in fields.items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("payload", "kind", "dialect", "version", "summary"),
    [
        (signed(), "targets", "tuf", 7, "targets v7, expires X, 2 targets, 0 delegations"),
        (
            signed(_type="snapshot", meta={"targets.json": {"version": 1}}),
            "snapshot",
            "tuf",
            7,
            "snapshot v7, expires X, 1 file",
        ),
        (
            signed(_type="timestamp", meta={"snapshot.json": {"version": 12}}),
            "timestamp",
            "tuf",
            7,
            "timestamp v7, expires X, snapshot v12",
        ),
        (
            signed(_type="root", roles={"root": {"keyids": ["a", "b"], "threshold": 2}}),
            "root",
            "tuf",
            7,
            "root v7, expires X, root 2 of 2",
        ),
        (
            signed(_type="Timestamp", spec_version=None, meta={"snapshot": {"length": 884}}),
            "timestamp",
            "notary",
            7,
            "timestamp v7, expires X",
        ),
        (
            signed(_type="Targets", spec_version=None, delegations={"keys": {}, "roles": [{}]}),
            "targets",
            "notary",
            7,
            "targets v7, expires X, 2 targets, 1 delegation",
        ),
        (signed(_type="root", roles=5), "root", "tuf", 7, "root v7, expires X"),
        (b"\n " + signed(), "targets", "tuf", 7, "targets v7, expires X, 2 targets, 0 delegations"),
        (
            signed().replace(b"_type", b"\\u005ftype"),
            "targets",
            "tuf",
            7,
            "targets v7, expires X, 2 targets, 0 delegations",
        ),
        # canonical JSON leaves newlines bare, as in PEM keys
        (
            signed(note="A").replace(b'"A"', b'"-----BEGIN\nEND-----"'),
            "targets",
            "tuf",
            7,
            "targets v7, expires X, 2 targets, 0 delegations",
        ),
    ],
)
def test_metadata_is_recognised(
    payload: bytes, kind: str, dialect: str, version: int, summary: str
) -> None:
    assert read(payload) == Statement(
        kind, dialect, version, EXPIRES, summary.replace("X", EXPIRES)
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"\xff\xfe{",
        b'["_type"]',
        b'{"_type": ["root"], "version": 1}',
        signed()[:-1],
        signed(_type="ROOT"),
        signed(_type="mirrors"),
        signed(_type=None),
        signed(version=0),
        signed(version=-1),
        signed(version=True),
        signed(version=1.0),
        signed(version="7"),
        signed(version=None),
        signed(version=2**63),
        signed().replace(b" 7,", b" " + b"7" * 5000 + b","),
        signed(expires=None),
        signed(expires=5),
        signed(expires=""),
        signed(expires="2027\n01"),
        signed(expires="\ud800"),
        signed(expires="9" * 65),
        signed(spec_version="2.0"),
        signed(spec_version=1),
        signed().replace(b'"version": 7', b'"version": 7, "version": 8'),
        signed().replace(b'"a.whl": {}', b'"a.whl": {}, "a.whl": {}'),
        signed().replace(b" 7,", b" NaN,"),
        signed().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + signed(),
        b'{"_type":' + b"[" * 200_000,
        b'{"_type":' * 200_000,
        signed(targets={"x" * MAX_PAYLOAD_BYTES: {}}),
    ],
    ids=lambda p: repr(p[:60]),
)
def test_everything_else_is_opaque(payload: bytes) -> None:
    assert read(payload) == OPAQUE


@pytest.mark.parametrize(
    "filling", [b"{},", b"1,", b'"",', b"[],", b'{"a":1,"b":2},', b"9" * 4300 + b","]
)
def test_no_payload_takes_long_to_read(filling: bytes) -> None:
    head = b'{"_type":"root","version":1,"expires":"x","a":['
    biggest = (MAX_PAYLOAD_BYTES - 100) // len(filling)

    for times in (min(biggest, MAX_CONTAINERS - 2), min(biggest, MAX_MEMBERS - 2), biggest):
        payload = head + filling * times + b"0]}"
        started = time.process_time()
        read(payload)
        assert time.process_time() - started < 0.8  # some 0.15 s; without bounds up to 2 s


def test_targets_metadata_of_many_targets_is_recognised() -> None:
    target = {"hashes": {"sha256": "0" * 64}, "length": 1}

    statement = read(signed(targets={f"dist/package-{n}.whl": target for n in range(60_000)}))

    assert statement.summary.endswith("60000 targets, 0 delegations")


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["_type", "version", "expires", "meta", "roles", "root", "threshold"]
                )
                | st.text(max_size=3),
                inner,
                max_size=4,
            )
        ),
    ).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_make_it_raise(payload: bytes) -> None:
    assert isinstance(read(payload), Statement)


@given(
    st.dictionaries(
        st.sampled_from(["meta", "roles", "targets", "delegations"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["root", "snapshot.json", "version", "keyids", "threshold", "roles"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
        ),
    ),
    st.sampled_from(["root", "targets", "snapshot", "timestamp", "Root", "Snapshot"]),
)
def test_odd_insides_give_a_short_printable_summary(inside: dict[str, Any], type_: str) -> None:
    statement = read(
        signed(_type=type_, targets=None) if not inside else signed(_type=type_, **inside)
    )

    assert len(statement.summary) < 300
    assert statement.summary.isprintable()


@pytest.mark.parametrize(
    "also",
    [{"_Type": "root"}, {"_TYPE": "Root"}, {"Version": 1}, {"ver\u017fion": 1}, {"EXPIRES": "x"}],
    ids=str,
)
def test_a_second_reading_by_a_reader_that_ignores_case_is_opaque(also: dict[str, Any]) -> None:
    assert read(signed(**also)) == OPAQUE


def test_files_whose_names_differ_in_case_alone_hide_nothing() -> None:
    assert read(signed(targets={"README": {}, "readme": {}})).kind == "targets"
