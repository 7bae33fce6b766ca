"""Counting what is in progress."""

from __future__ import annotations

import pytest

from keyd.errors import RateLimitedError
from keyd.server.limits import Slots


def some_slots(total: int = 3, per_principal: int = 2, total_bytes: int = 100) -> Slots:
    return Slots(
        total=total, per_principal=per_principal, total_bytes=total_bytes, retry_after_s=0.5
    )


def test_one_caller_cannot_take_the_slots_of_the_others() -> None:
    slots = some_slots()
    slots.take("greedy", 1)
    slots.take("greedy", 1)

    with pytest.raises(RateLimitedError) as e:
        slots.take("greedy", 1)

    assert e.value.retry_after_s == 0.5
    assert e.value.facts["limit"] == "per-principal"
    slots.take("modest", 1)


def test_the_total_holds_for_all_together() -> None:
    slots = some_slots(total=2)
    slots.take("a", 1)
    slots.take("b", 1)

    with pytest.raises(RateLimitedError) as e:
        slots.take("c", 1)

    assert e.value.facts["limit"] == "total"


def test_large_requests_are_bounded_together_but_one_alone_always_fits() -> None:
    slots = some_slots()
    give_back = slots.take("a", 1000)

    with pytest.raises(RateLimitedError) as e:
        slots.take("b", 1)
    give_back()

    assert e.value.facts["limit"] == "bytes"
    slots.take("b", 100)


def test_one_caller_cannot_take_the_bytes_of_the_others() -> None:
    slots = some_slots()
    give_back = slots.take("greedy", 40)

    with pytest.raises(RateLimitedError) as e:
        slots.take("greedy", 20)
    slots.take("modest", 50)
    give_back()

    assert e.value.facts["limit"] == "bytes"
    slots.take("greedy", 20)


def test_a_refusal_takes_nothing_and_what_is_given_back_can_be_taken_again() -> None:
    slots = some_slots(per_principal=1)

    for _ in range(10):
        give_back = slots.take("a", 60)
        with pytest.raises(RateLimitedError):
            slots.take("a", 60)
        give_back()

    assert slots.held == 0
