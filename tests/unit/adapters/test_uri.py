"""keyd: URIs, which land in metadata and settings files of other people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.adapters.uri import KeydUri

NAMES = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), max_size=20)


def test_a_name_alone_is_enough() -> None:
    assert KeydUri.parse("keyd:acme/root") == KeydUri("acme/root")


def test_every_field_is_read() -> None:
    uri = "keyd:acme/root?repository=acme&role=root&version=3&endpoint=unix:/run/k.sock&profile=ci"

    parsed = KeydUri.parse(uri)

    assert parsed == KeydUri("acme/root", "acme", "root", 3, "unix:/run/k.sock", "ci")
    assert str(parsed) == uri


@given(NAMES, TEXTS, TEXTS, st.integers(0, 999_999_999), TEXTS)
def test_what_is_written_is_read_back(
    key: str, repository: str, role: str, version: int, endpoint: str
) -> None:
    uri = KeydUri(key, repository, role, version, endpoint)

    assert KeydUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file2:acme/root", "not a keyd: URI"),
        ("keyd", "not a valid name"),
        ("keyd:", "not a valid name"),
        ("keyd:Acme/../root", "not a valid name"),
        ("keyd://acme/root", "not a valid name"),
        ("keyd:acme/root?rol=root", "rol is unknown"),
        ("keyd:acme/root?pin=1234", "pin is unknown"),
        ("keyd:acme/root?role=a&role=b", "repeated"),
        ("keyd:acme/root?role", "NAME=VALUE"),
        ("keyd:acme/root?version=-1", "has to be a number"),
        ("keyd:acme/root?version=\u0663", "has to be a number"),
        ("keyd:acme/root?version=9999999999", "has to be a number"),
        ("keyd:" + "a" * 3000, "not a keyd: URI"),
    ],
)
def test_anything_else_is_a_value_error_that_says_why(uri: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        KeydUri.parse(uri)
