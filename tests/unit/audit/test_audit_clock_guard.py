"""When a clock is not to be trusted, and what entry times do meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyd.audit.clock_guard import ClockGuard, suspect_at_start

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ahead", "suspect"),
    [
        (timedelta(minutes=-3), "behind the newest entry"),
        (timedelta(minutes=-1), ""),
        (timedelta(0), ""),
        (timedelta(hours=23), ""),
        (timedelta(days=3), "over a day after"),
    ],
)
def test_the_clock_at_start_is_compared_with_the_newest_entry(
    ahead: timedelta, suspect: str
) -> None:
    found = suspect_at_start(NOON + ahead, NOON)

    assert suspect in found
    assert bool(found) == bool(suspect)


def test_an_empty_log_has_nothing_to_compare_with() -> None:
    assert suspect_at_start(NOON, None) == ""


def test_entry_times_follow_a_good_clock() -> None:
    guard = ClockGuard(NOON, 0.0, None)

    for hours in range(1, 60):
        now = NOON + timedelta(hours=hours)
        assert guard.next_time(now, hours * 3600.0) == (now, "")


def test_a_small_step_back_is_smoothed_and_not_suspect() -> None:
    guard = ClockGuard(NOON, 0.0, NOON)

    assert guard.next_time(NOON - timedelta(seconds=90), 1.0) == (NOON, "")


def test_a_clock_set_back_by_minutes_is_suspect_and_times_do_not_follow() -> None:
    guard = ClockGuard(NOON, 0.0, NOON)

    time, suspect = guard.next_time(NOON - timedelta(minutes=5), 1.0)

    assert time == NOON
    assert "behind" in suspect


def test_a_clock_set_ahead_by_a_day_while_running_is_suspect() -> None:
    guard = ClockGuard(NOON, 0.0, NOON)

    time, suspect = guard.next_time(NOON + timedelta(days=8), 60.0)

    assert time == NOON + timedelta(days=8)
    assert "jumped ahead" in suspect


def test_a_quiet_weekend_of_a_running_daemon_is_not_suspect() -> None:
    guard = ClockGuard(NOON, 0.0, NOON)

    assert guard.next_time(NOON + timedelta(days=3), 3 * 86_400.0)[1] == ""


def test_an_accepted_clock_may_point_before_the_newest_entry() -> None:
    guard = ClockGuard(NOON, 0.0, NOON + timedelta(days=9000))
    assert guard.next_time(NOON, 1.0)[1]

    guard.accept(NOON, 2.0)

    assert guard.next_time(NOON + timedelta(seconds=1), 3.0) == (NOON + timedelta(seconds=1), "")
