"""What comes due is told once ahead and once when it is over, whatever restarts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from keyd.due import Rotations
from keyd.model import SYSTEM
from tests.domain import ADMIN, Domain, a_domain
from tests.looking_ahead import DAY_S, MONTH, NEARLY_DUE, Ahead, a_key, states


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


@pytest.mark.parametrize(
    ("period", "told_before"),
    [
        (timedelta(days=365), timedelta(days=14)),
        (timedelta(days=30), timedelta(days=3)),
        (timedelta(hours=10), timedelta(hours=1)),
    ],
    ids=["a year", "a month: a tenth", "hours"],
)
async def test_a_rotation_is_told_two_weeks_ahead_and_at_most_a_tenth_of_its_period(
    domain: Domain, period: timedelta, told_before: timedelta
) -> None:
    await a_key(domain, "acme/root", period=period)
    rotations = Rotations(domain.audit, ahead_s=14 * DAY_S)
    (due,) = rotations.all()
    second = timedelta(seconds=1)

    assert due.at == domain.clock.now() + period
    assert rotations.ahead(due.at - told_before - second) == []
    assert rotations.ahead(due.at - told_before) == [due]
    assert (rotations.overdue(due.at - second), rotations.overdue(due.at)) == (0, 1)


async def test_keys_without_a_period_or_an_enabled_version_are_never_due(domain: Domain) -> None:
    await a_key(domain, "acme/none", period=timedelta(0))
    await a_key(domain, "acme/stopped")
    await a_key(domain, "acme/after-the-year-9999", period=timedelta(days=3_000_000))
    await domain.keys.disable(ADMIN, "acme/stopped", 1)

    assert Rotations(domain.audit, ahead_s=DAY_S).all() == ()


async def test_a_new_period_counts_at_once(domain: Domain) -> None:
    await a_key(domain, "acme/a")
    await a_key(domain, "acme/b", period=2 * MONTH)
    rotations = Rotations(domain.audit, ahead_s=DAY_S)
    before = [due.key.name for due in rotations.all()]

    await domain.keys.update(ADMIN, "acme/b", rotation_period_s=60)

    assert before == ["acme/a", "acme/b"]
    assert [due.key.name for due in rotations.all()] == ["acme/b", "acme/a"]


# ----------------------------------------------------------------------------- told once


async def test_it_is_told_once_ahead_and_once_overdue_whatever_restarts(domain: Domain) -> None:
    ahead = Ahead(domain, prepare=False)
    await a_key(domain, "acme/root")
    await ahead.look()
    assert ahead.alerts == []

    domain.clock.advance(NEARLY_DUE)
    for _ in range(3):
        await ahead.look(times=2)
        ahead = ahead.restarted()
    assert [a.details["stage"] for a in ahead.alerts] == ["ahead"]

    domain.clock.advance(timedelta(days=3))
    for _ in range(3):
        await ahead.look(times=2)
        ahead = ahead.restarted()
    assert [a.details["stage"] for a in ahead.alerts] == ["ahead", "overdue"]
    alert = ahead.alerts[0]
    assert alert.alert and (alert.key, alert.version) == ("acme/root", 1)
    assert alert.caller.principal is SYSTEM
    assert "keydctl key rotate acme/root" in alert.message


async def test_what_is_overdue_when_first_seen_is_told_once(domain: Domain) -> None:
    await a_key(domain, "acme/root")
    domain.clock.advance(2 * MONTH)
    ahead = Ahead(domain, prepare=False)

    await ahead.look(times=3)

    assert [a.details["stage"] for a in ahead.alerts] == ["overdue"]


async def test_a_clock_set_back_tells_nothing_again(domain: Domain) -> None:
    await a_key(domain, "acme/root")
    domain.clock.advance(2 * MONTH)
    ahead = Ahead(domain, prepare=False)
    await ahead.look()
    domain.clock.advance(-timedelta(days=31))

    await ahead.look(times=2)

    assert [a.details["stage"] for a in ahead.alerts] == ["overdue"]


async def test_a_rotated_key_is_told_again_in_its_next_period(domain: Domain) -> None:
    await a_key(domain, "acme/key")
    ahead = Ahead(domain, prepare=False)
    domain.clock.advance(2 * MONTH)
    await ahead.look()
    await domain.keys.rotate(ADMIN, "acme/key", at_once=True)
    await ahead.look()
    assert len(ahead.alerts) == 1

    domain.clock.advance(2 * MONTH)
    await ahead.look()

    assert [(a.version, a.details["stage"]) for a in ahead.alerts] == [
        (1, "overdue"),
        (2, "overdue"),
    ]


async def test_an_alert_that_could_not_be_written_is_written_later(domain: Domain) -> None:
    await a_key(domain, "acme/root")
    domain.clock.advance(2 * MONTH)
    ahead = Ahead(domain, prepare=False)
    domain.audit.unavailable = "disk full"
    await ahead.look(times=2)
    assert ahead.alerts == []

    domain.audit.unavailable = ""
    await ahead.look()

    assert len(ahead.alerts) == 1


async def test_a_clock_that_is_not_trusted_makes_nothing_due(domain: Domain) -> None:
    await a_key(domain, "acme/root")
    domain.clock.advance(2 * MONTH)
    domain.clock_suspect = True
    ahead = Ahead(domain)

    await ahead.look(times=2)
    assert (ahead.alerts, len(states(domain, "acme/root"))) == ([], 1)

    domain.clock_suspect = False
    await ahead.look()
    assert (len(ahead.alerts), len(states(domain, "acme/root"))) == (1, 2)


async def test_looks_do_not_overlap_and_none_begins_once_it_is_stopped(domain: Domain) -> None:
    await a_key(domain, "acme/root")
    domain.clock.advance(2 * MONTH)
    ahead = Ahead(domain, prepare=False)

    for _ in range(5):
        ahead.look_ahead.look()
    await ahead.look_ahead.stop()
    assert len(ahead.alerts) == 1

    await a_key(domain, "acme/later", period=MONTH / 30)
    domain.clock.advance(MONTH)
    ahead.look_ahead.look()
    await ahead.look_ahead.stop()
    assert len(ahead.alerts) == 1
