"""The tree on top of keyd/errors.py is the tree of its classes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from keyd import errors
from keyd.errors import KeydError, from_reason

ROW = re.compile(r"^    ([│ ]*)[├└]── (\w+) *(\w*)", re.MULTILINE)


def drawn() -> list[tuple[int, str, str]]:
    """Depth, class and reason of each row."""
    assert errors.__doc__ is not None
    return [(len(m[1]) // 4 + 1, m[2], m[3]) for m in ROW.finditer(errors.__doc__)]


def written(base: type[KeydError] = KeydError, depth: int = 1) -> Iterator[tuple[int, str, str]]:
    """The same of the classes, in the order in which they stand in the file."""
    for cls in base.__subclasses__():
        if cls.__module__ == errors.__name__:
            own = cls.reason if cls.reason != base.reason else ""
            yield depth, cls.__name__, own
            yield from written(cls, depth + 1)


def test_the_tree_names_every_error_in_its_order_with_its_reason() -> None:
    assert drawn() == list(written())


def test_every_reason_brings_its_own_class_back() -> None:
    for _, name, reason in written():
        if reason:
            assert type(from_reason(reason, "why")).__name__ == name
