"""Cutting a batch into messages."""

from __future__ import annotations

from keyd.client.retry import Retries
from keyd.client.signcalls import MAX_CHUNK_BYTES, MAX_ITEMS, Batch
from keyd.errors import DeviceBusyError, KeydError, KeyNotFoundError
from keyd.model import SignRequest


def a_batch(sizes: list[int], retries: Retries | None = None) -> Batch:
    requests = [SignRequest("k", bytes(size)) for size in sizes]
    return Batch(requests, retries or Retries(), "")


def test_no_message_has_more_than_ten_thousand_items() -> None:
    chunks = a_batch([1] * (2 * MAX_ITEMS + 1)).chunks()

    assert [len(c.numbers) for c in chunks] == [MAX_ITEMS, MAX_ITEMS, 1]
    assert [n for c in chunks for n in c.numbers] == list(range(2 * MAX_ITEMS + 1))


def test_no_message_is_larger_than_the_limit_unless_one_item_is() -> None:
    third = MAX_CHUNK_BYTES // 3
    chunks = a_batch([third, third, third, 2 * MAX_CHUNK_BYTES, 10]).chunks()

    assert [list(c.numbers) for c in chunks] == [[0, 1], [2], [3], [4]]
    assert all(len(c.call.body) <= MAX_CHUNK_BYTES for c in chunks if list(c.numbers) != [3])


def test_only_what_may_succeed_is_asked_for_again() -> None:
    batch = a_batch([1, 1, 1], Retries(1))
    busy, no = DeviceBusyError("busy", retry_after_s=0.1), KeyNotFoundError("no")
    (first,) = batch.chunks()
    batch.take(first.numbers, [busy, no, busy])

    wait_s = batch.wait_s(10)
    (second,) = batch.chunks()
    batch.take(second.numbers, [busy, busy])

    assert wait_s is not None
    assert list(second.numbers) == [0, 2]
    assert batch.wait_s(10) is None
    assert [type(o) for o in batch.outcomes()] == [
        DeviceBusyError,
        KeyNotFoundError,
        DeviceBusyError,
    ]


def test_a_message_that_failed_as_a_whole_fails_for_each_of_its_items() -> None:
    batch = a_batch([MAX_CHUNK_BYTES, MAX_CHUNK_BYTES])
    first, second = batch.chunks()
    batch.take(first.numbers, [KeyNotFoundError("no")])
    batch.take(second.numbers, KeydError("gone"))

    assert [type(o) for o in batch.outcomes()] == [KeyNotFoundError, KeydError]
