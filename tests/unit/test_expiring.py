"""What expires first of all that was signed, looked at seldom and told in bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from keyd.expiring import KEPT, Expiries
from keyd.model import Mark, MarkContents, Marked, MarkState
from keyd.server.metrics import Gauges, Metrics

NOW = datetime(2030, 1, 10, tzinfo=UTC)


def a_mark(role: str, days: float, *, complete_days: float | None = None) -> Mark:
    def marked(version: int, after: float) -> Marked:
        expires = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(days=after)
        return Marked(version, bytes([version]) * 32, "targets", "tuf", expires)

    complete = None if complete_days is None else marked(1, complete_days)
    return Mark("acme", role, marked(2, days), MarkState.SIGNED, NOW, complete=complete)


@dataclass
class CountedMarks:
    """model.Marks of a test; ``looks``: how often all were read."""

    held: list[Mark]
    looks: int = 0

    def find_mark(self, repository: str, role: str) -> Mark | None:
        return next((m for m in self.held if m.role == role), None)

    def marks(self) -> Sequence[Mark]:
        self.looks += 1
        return self.held

    async def load_contents(self, repository: str, role: str) -> MarkContents:
        return MarkContents()


async def test_what_clients_hold_expires_though_a_newer_version_is_signed() -> None:
    expiries = Expiries(
        CountedMarks([a_mark("a", 90, complete_days=20), a_mark("b", 30), a_mark("c", 5)])
    )
    await expiries.refresh(NOW)

    found = [(e.role, e.version, e.state) for e in expiries.soonest]

    assert found == [
        ("c", 2, MarkState.SIGNED),
        ("a", 1, MarkState.COMPLETE),
        ("b", 2, MarkState.SIGNED),
    ]
    assert [expiries.expired(NOW + timedelta(days=d)) for d in (0, 20, 40)] == [1, 2, 3]


async def test_forty_thousand_marks_are_read_once_a_minute_and_two_hundred_are_told() -> None:
    marks = CountedMarks([a_mark(f"role{n}", n % 1000) for n in range(40_000)])
    expiries = Expiries(marks)
    for second in range(0, 180, 5):
        await expiries.refresh(NOW + timedelta(seconds=second))

    assert marks.looks == 3
    assert len(expiries.soonest) == KEPT
    assert expiries.expired(NOW) == 400


def test_metrics_tell_what_comes_first_and_how_much_is_over() -> None:
    metrics = Metrics()
    gauges = Gauges(
        2, 1, 0, 1, 0, 0,
        due=[("acme/root", -60.0)],
        overdue=1,
        expiring=[("acme", "timestamp", 3600.0), ("acme", "root", 7200.0)],
        expired=0,
    )  # fmt: skip
    metrics.watch(lambda: gauges, lambda: [])

    page = metrics.page().decode().splitlines()

    assert 'keyd_key_rotation_due_in_seconds{key="acme/root"} -60.0' in page
    assert "keyd_keys_overdue 1.0" in page
    assert 'keyd_role_expires_in_seconds{repository="acme",role="root"} 7200.0' in page
    assert "keyd_soonest_expiry_in_seconds 3600.0" in page
    assert "keyd_roles_expired 0.0" in page


async def test_the_last_timestamp_of_a_key_that_was_replaced_expires_unnoticed() -> None:
    old = replace(a_mark("timestamp", 3), signed_at=NOW - timedelta(days=30))
    new = replace(a_mark("timestamp", 20), repository="acme@2")
    expiries = Expiries(CountedMarks([old, new, a_mark("targets", 40)]))
    await expiries.refresh(NOW)

    assert [(e.repository, e.role) for e in expiries.soonest] == [
        ("acme@2", "timestamp"),
        ("acme", "targets"),
    ]
    assert expiries.expired(NOW) == 0
