"""Lines of TOML values."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from keyd import toml_source
from keyd.errors import ConfigError

TEXT = '''\
# a comment with [brackets] and "quotes
top = 1
"quoted key" = "a # no comment"

[server] # [not] a table
path = "x\\"]"
multi = """
[not.a.table]
still = "text"
"""
literal = \'\'\'
[[nor.this]]
\'\'\'
a.b = 5

[[grant]]
keys = [
  "one", # [[two]]

  "three", 4, [5,
    6],
]

[grant.sub]
x = { y = 1, z = ["a", "b"] }

[[grant]]
keys = ["last"]
[[grant.inner]]
deep = 1979-05-27T07:32:00Z
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("quoted key",), 3),
        (("server",), 5),
        (("server", "path"), 6),
        (("server", "multi"), 7),
        (("server", "literal"), 11),
        (("server", "a", "b"), 14),
        (("grant", 0), 16),
        (("grant", 0, "keys"), 17),
        (("grant", 0, "keys", 0), 18),
        (("grant", 0, "keys", 1), 20),
        (("grant", 0, "keys", 3, 1), 21),
        (("grant", 0, "sub", "x", "z", 1), 25),
        (("grant", 1), 27),
        (("grant", 1, "keys", 0), 28),
        (("grant", 1, "inner", 0, "deep"), 30),
        (("grant", 1, "keys", 7), 28),  # unknown: the nearest parent
        (("nothing",), None),
    ],
)
def test_every_value_knows_its_line(path: toml_source.Path, line: int | None) -> None:
    assert toml_source.parse(TEXT, "x.toml").line(path) == line


def test_every_value_of_the_file_is_found_on_a_line_of_its_own_path() -> None:
    def paths(value: Any, at: toml_source.Path) -> list[toml_source.Path]:
        if isinstance(value, dict):
            return [p for k, v in value.items() for p in [(*at, k), *paths(v, (*at, k))]]
        if isinstance(value, list):
            return [p for i, v in enumerate(value) for p in [(*at, i), *paths(v, (*at, i))]]
        return []

    source = toml_source.parse(TEXT, "x.toml")

    assert set(paths(tomllib.loads(TEXT), ())) == set(source.lines)


def test_a_syntax_error_names_its_line_and_no_value() -> None:
    with pytest.raises(ConfigError) as e:
        toml_source.parse('a = 1\npin = "123456', "x.toml")

    assert e.value.facts["line"] == "2"
    assert "123456" not in str(e.value)
    assert e.value.__cause__ is None
    assert e.value.__context__ is None


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(ConfigError, match="nested too deep"):
        toml_source.parse("a = " + "[" * 100_000, "x.toml")
