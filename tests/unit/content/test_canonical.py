"""Canonical JSON: the same bytes as others write, and nothing but those taken."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from keyd.content.canonical import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_PAYLOAD_BYTES,
    decode,
    encode,
    load,
)
from keyd.content.refusal import printable
from keyd.errors import ContentError

# Every control character but those canonical JSON keeps bare, and no surrogates.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters=[chr(n) for n in range(32)])
    | st.sampled_from('\t\n\r"\\/<>&\u007f\u2028é😀')
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def refusal(payload: bytes) -> str:
    with pytest.raises(ContentError) as e:
        decode(payload)
    return e.value.facts["problem"]


@given(VALUES)
def test_the_bytes_are_those_of_securesystemslib(value: Any) -> None:
    theirs = encode_canonical(value)

    assert theirs is not None
    assert encode(value) == theirs.encode()


@given(VALUES)
def test_what_was_encoded_decodes_to_the_same(value: Any) -> None:
    decoded = decode(encode(value))

    assert decoded == value
    assert encode(decoded) == encode(value)


@given(st.binary() | VALUES.map(encode), st.data())
def test_what_decodes_is_the_canonical_form_of_itself(payload: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(payload)))
    mutated = payload[:place] + data.draw(st.binary(max_size=3)) + payload[place + 1 :]

    try:
        value = decode(mutated)
    except ContentError:
        return
    assert encode(value) == mutated


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b"{}x", "not-json"),
        (b"{}\n", "not-canonical"),
        (b'{"a": 1}', "not-canonical"),
        (b'{"b":1,"a":1}', "not-canonical"),
        (b'{"a":-0}', "not-canonical"),
        (b'{"a":"\\u003c"}', "not-canonical"),
        (b'{"a":"\\n"}', "not-canonical"),
        (b'{"a":"\\/"}', "not-canonical"),
        (b'{"a":1,"a":1}', "duplicate-key"),
        (b'{"a":{"b":1,"\\u0062":2}}', "duplicate-key"),
        (b'{"a":1.0}', "number"),
        (b'{"a":1e3}', "number"),
        (b'{"a":NaN}', "number"),
        (b'{"a":-Infinity}', "number"),
        (b'{"a":1e999}', "number"),
        (b'{"a":9223372036854775808}', "number"),
        (b'{"a":' + b"9" * 5000 + b"}", "number"),
        (b'{"a":"\x00"}', "control"),
        (b'{"a":"\x1b[2J"}', "control"),
        (b'{"\x08":1}', "control"),
        (b'{"a":"\\b"}', "control"),
        (b'{"a":"\\ud800"}', "not-utf8"),
        (b'{"a":"\xed\xa0\x80"}', "not-utf8"),
        (b'{"a":"\xff"}', "not-utf8"),
        (b'{"a":"\xc0\xaf"}', "not-utf8"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "too-deep"),
        (b"[" * 150_000 + b"]" * 150_000, "too-deep"),
        (b'{"a":' * 150_000 + b"1" + b"}" * 150_000, "too-deep"),
        (b"[" + b"{}," * MAX_CONTAINERS + b"{}]", "too-large"),
        (b'"' + b"x" * MAX_PAYLOAD_BYTES + b'"', "too-large"),
    ],
    ids=lambda v: repr(v[:40]),
)
def test_anything_else_is_refused_with_its_reason(payload: bytes, problem: str) -> None:
    assert refusal(payload) == problem


def test_the_escape_that_only_a_file_may_carry_is_named() -> None:
    with pytest.raises(ContentError, match="escape at byte 6") as e:
        decode(b'{"a":"\\u003c"}')

    assert "file around" in e.value.message


def test_the_first_byte_that_differs_is_named() -> None:
    with pytest.raises(ContentError, match="byte 4 differs"):
        decode(b'{"a" :1}')


def test_depth_up_to_the_limit_is_read() -> None:
    payload = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH

    assert encode(decode(payload)) == payload


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), {1: 2}, {True: 1}, {None: 1}, b"x", {1}, object(), 2**63, "\ud800", "\x00"],
    ids=lambda v: "object" if type(v) is object else repr(v),
)
def test_what_has_no_canonical_form_is_not_encoded(value: object) -> None:
    with pytest.raises(ContentError):
        encode({"a": value} if not isinstance(value, dict) else value)


def test_a_file_may_be_pretty_and_escaped() -> None:
    assert load(b'{\n "b": "\\u003c",\n "a": 1\n}') == {"b": "<", "a": 1}


@pytest.mark.parametrize(
    "filling",
    [b"{},", b"1,", b'"",', b'{"a":1},', b"9" * 4300 + b",", b'"\\n\\t\\\\",', b'"\\u0041",'],
    ids=lambda v: repr(v[:10]),
)
def test_no_payload_takes_long_to_refuse(filling: bytes) -> None:
    biggest = (MAX_PAYLOAD_BYTES - 100) // len(filling)

    for times in (biggest, min(biggest, MAX_CONTAINERS - 2)):
        tried = b'{"a":[' + filling * times + b"0]}"
        started = time.process_time()
        with contextlib.suppress(ContentError):
            decode(tried)
        assert time.process_time() - started < 2  # some 0.3 s


def test_a_doubled_key_among_very_many_is_found_quickly() -> None:
    members = b",".join(b'"%d":0' % n for n in range(400_000))
    started = time.process_time()

    assert refusal(b"{" + members + b',"399999":0}') == "duplicate-key"
    assert time.process_time() - started < 2


@given(st.text(), st.integers(1, 30))
def test_shown_text_is_plain_and_short(text: str, limit: int) -> None:
    shown = printable(text, limit)

    assert shown.isprintable()
    assert len(shown) <= 10 * limit + 60


@given(st.text(max_size=8), st.text(max_size=8))
def test_two_texts_never_look_alike(one: str, other: str) -> None:
    assert (printable(one, 4) == printable(other, 4)) == (one == other)


def test_a_name_that_only_looks_like_another_is_told_apart() -> None:
    assert printable("app\u202egpj.exe") == "app\\u202egpj.exe"
    assert printable("a\u0301") == "a\\u0301"
    assert printable("a\u200bb\x1b[2J") == "a\\u200bb\\x1b[2J"
