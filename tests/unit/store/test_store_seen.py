"""The filter in front of the kept signatures never hides one."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from keyd.store.seen import SeenDigests

MARKS = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.lists(MARKS, max_size=50))
def test_what_was_added_is_never_denied(marks: list[int]) -> None:
    seen = SeenDigests()
    seen.loaded = True

    seen.add(marks)

    assert all(seen.may_hold(mark) for mark in marks)


def test_until_it_is_loaded_it_denies_nothing() -> None:
    assert SeenDigests().may_hold(1)


def test_what_was_not_added_is_nearly_always_denied() -> None:
    chance = random.Random(1)
    seen = SeenDigests()
    seen.loaded = True
    seen.add(chance.getrandbits(64) - (1 << 63) for _ in range(100_000))

    wrong = sum(seen.may_hold(chance.getrandbits(64) - (1 << 63)) for _ in range(10_000))

    assert wrong < 50
