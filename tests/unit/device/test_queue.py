"""The queue of one token: turns, frames, bounds, and callers that leave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import pytest

from keyd.device.queue import Call, Frame, SignQueue
from keyd.errors import DeadlineError, DeviceBusyError
from keyd.model import KeyAlgorithm, Scheme, SignJob, never_gone


def job(payload: bytes, key: bytes = b"k") -> SignJob:
    return SignJob(key, b"spki", KeyAlgorithm.ED25519, Scheme.ED25519, payload)


def call(*jobs: SignJob, gone: Callable[[], bool] = never_gone, at: float = 0.0) -> Call:
    future = asyncio.get_running_loop().create_future()
    return Call(jobs, future, at, deque(range(len(jobs))), gone)


def batch(name: str, count: int) -> Call:
    return call(*(job(f"{name}{number}".encode()) for number in range(count)))


def payloads(frame: Frame | None) -> list[bytes]:
    assert frame is not None
    sent = [payload for group in frame.message.groups for payload in group.payloads]
    assert sent == [owner.jobs[index].payload for owner, index in frame.items]
    return sent


async def test_calls_take_turns_within_and_between_frames() -> None:
    queue = SignQueue("main", 100)
    queue.put(batch("a", 6), 0)
    queue.put(batch("b", 1), 0)
    queue.put(batch("c", 2), 0)

    first, second = payloads(queue.take(4, 1.0)), payloads(queue.take(4, 1.0))

    assert {"b0", "c0"} <= {payload.decode() for payload in first}
    assert len(first) == len(second) == 4
    assert sorted(first + second + payloads(queue.take(4, 1.0))) == sorted(
        [b"a0", b"a1", b"a2", b"a3", b"a4", b"a5", b"b0", b"c0", b"c1"]
    )
    assert queue.take(4, 1.0) is None


async def test_jobs_of_one_key_travel_as_one_group() -> None:
    queue = SignQueue("main", 100)
    queue.put(call(job(b"1"), job(b"2", b"other"), job(b"3")), 0)

    frame = queue.take(10, 1.0)

    assert payloads(frame) == [b"1", b"3", b"2"]
    assert frame is not None and len(frame.message.groups) == 2


async def test_a_frame_tells_how_long_its_oldest_job_waited() -> None:
    queue = SignQueue("main", 100)
    queue.put(call(job(b"1"), at=10.0), 0)
    queue.put(call(job(b"2"), at=11.0), 0)

    frame = queue.take(10, 12.5)

    assert frame is not None and frame.waited_s == 2.5


async def test_a_large_message_travels_alone() -> None:
    queue = SignQueue("main", 100)
    large = bytes(2 * 1024 * 1024)
    queue.put(call(job(b"small"), job(large), job(b"last")), 0)

    frames = [payloads(queue.take(10, 0.0)) for _ in range(3)]

    assert frames == [[b"small"], [large], [b"last"]]


async def test_a_call_that_does_not_fit_is_refused_whole() -> None:
    queue = SignQueue("main", 3)
    queue.put(batch("a", 2), 0)

    with pytest.raises(DeviceBusyError) as busy:
        queue.put(batch("b", 2), 7.0)

    assert queue.size == 2
    assert busy.value.retry_after_s == 7.0
    queue.put(batch("c", 1), 0)


async def test_messages_are_bounded_in_bytes_as_well() -> None:
    queue = SignQueue("main", 1000)
    queue.put(call(*[job(bytes(16 * 1024 * 1024))] * 16), 0)

    with pytest.raises(DeviceBusyError):
        queue.put(call(job(b"one more")), 0)


async def test_a_cancelled_call_is_dropped_and_makes_room() -> None:
    queue = SignQueue("main", 3)
    leaving = batch("a", 3)
    queue.put(leaving, 0)
    leaving.future.cancel()
    queue.drop(leaving)
    queue.put(batch("b", 3), 0)

    assert payloads(queue.take(10, 0.0)) == [b"b0", b"b1", b"b2"]


async def test_a_caller_that_says_it_has_gone_gets_deadline_errors_for_the_rest() -> None:
    gone = False
    queue = SignQueue("main", 10)
    leaving = call(*(job(bytes((n,))) for n in range(3)), gone=lambda: gone)
    queue.put(leaving, 0)
    frame = queue.take(1, 0.0)
    assert frame is not None
    gone = True

    assert queue.take(10, 0.0) is None
    leaving.settle(0, b"signature")

    first, *rest = await leaving.future
    assert first == b"signature"
    assert [type(result) for result in rest] == [DeadlineError] * 2
    assert queue.size == 0


async def test_a_job_that_is_put_back_goes_first() -> None:
    queue = SignQueue("main", 10)
    queue.put(batch("a", 1), 0)
    frame = queue.take(10, 0.0)
    assert frame is not None
    queue.put(batch("b", 1), 0)
    queue.put_back(frame.items[0])

    assert queue.size == 2
    assert payloads(queue.take(1, 0.0)) == [b"a0"]


async def test_take_all_empties_the_queue() -> None:
    queue = SignQueue("main", 10)
    queue.put(batch("a", 2), 0)
    queue.put(batch("b", 1), 0)

    assert [owner.jobs[index].payload for owner, index in queue.take_all()] == [b"a0", b"a1", b"b0"]
    assert queue.size == 0 and queue.take(10, 0.0) is None


async def test_a_job_that_does_not_fit_waits_and_others_pass_it() -> None:
    queue = SignQueue("main", 10)
    queue.put(call(job(b"slow", b"touched"), job(b"slow2", b"touched")), 0)
    queue.put(batch("b", 2), 0)

    def fits(one: SignJob, taken: int) -> bool:
        return one.object_id != b"touched" or taken == 0

    frames = [payloads(queue.take(10, 0.0, fits)) for _ in range(2)]

    assert frames == [[b"slow", b"b0", b"b1"], [b"slow2"]]
    assert queue.take(10, 0.0, fits) is None


async def test_jobs_that_are_brought_forward_keep_their_order() -> None:
    queue = SignQueue("main", 10)
    queue.put(call(job(b"1"), job(b"2", b"warm"), job(b"3"), job(b"4", b"warm")), 0)
    queue.put(call(job(b"5"), job(b"6", b"warm")), 0)
    queue.put(batch("z", 1), 0)

    queue.bring_forward(lambda one: one.object_id == b"warm")

    assert [payloads(queue.take(1, 0.0)) for _ in range(3)] == [[b"2"], [b"6"], [b"z0"]]


async def test_jobs_that_are_withdrawn_are_counted_out() -> None:
    queue = SignQueue("main", 10)
    leaving = call(job(b"1", b"k"), job(b"2", b"other"), job(b"3", b"k"))
    queue.put(leaving, 0)

    withdrawn = queue.withdraw(leaving, lambda one: one.object_id == b"k")

    assert withdrawn == [0, 2]
    assert queue.size == 1
    assert payloads(queue.take(10, 0.0)) == [b"2"]
