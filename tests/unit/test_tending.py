"""What the daemon does for itself goes on, whatever fails once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from keyd.audit.refusals import Refusals
from keyd.device.events import EventKind, TokenEvent
from keyd.errors import AuditUnavailableError, DeviceGoneError
from keyd.logkey import REPLACE
from keyd.model import EntryDraft, KeyAlgorithm, Outcome, SetFlag, TokenState, VersionState
from keyd.server.health import SIGNING_SERVICE, Health
from keyd.server.metrics import Metrics
from keyd.tending import Tending
from keyd.tokenwatch import TokenWatch
from keyd.unbroken import Unbroken
from tests.domain import ADMIN, Domain, a_domain


@pytest.fixture
def domain() -> Iterator[Domain]:
    with a_domain() as made:
        yield made


async def test_a_look_at_the_health_that_fails_once_does_not_end_them_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rounds = 0
    enough = asyncio.Event()

    def look() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 5:
            enough.set()
        if rounds < 4:
            raise RuntimeError("a room that cannot say how it is")

    tending = Tending(
        set_health=look,
        catch_up=lambda: None,
        look_ahead=lambda: None,
        refusals=Refusals(60),
        metrics=Metrics(),
        interval_s=0.001,
    )
    work = Unbroken()
    work.start(tending.run())
    try:
        async with asyncio.timeout(5):
            await enough.wait()
    finally:
        work.cancel()
        await work.drain()

    assert caplog.text.count("cannot look after itself") == 1


async def test_work_nobody_waits_for_does_not_fail_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise RuntimeError("lost")

    work = Unbroken()
    work.start(fails())
    await work.drain()
    await asyncio.sleep(0)

    assert [r.levelno for r in caplog.records] == [logging.ERROR]


async def test_a_daemon_that_drains_does_not_say_it_serves() -> None:
    ended = asyncio.Event()
    health = Health(ended)
    ended.set()

    health.set_serving(daemon=True, signing=True)

    assert health._statuses[""] == health._statuses[SIGNING_SERVICE] == 2  # NOT_SERVING


class Watched:
    """A TokenWatch over the domain; ``looks``: how often the token was listed."""

    def __init__(self, domain: Domain) -> None:
        self.looks = 0
        self.log_key = domain.log_key()

        async def made() -> None:
            """Nothing uses it here."""

        self.watch = TokenWatch(
            audit=domain.audit,
            enrolment=domain.enrolment,
            log_key=self.log_key,
            log_key_made=made,
            tokens=domain.device.tokens,
            metrics=Metrics(),
        )
        objects = domain.device.objects

        async def counted(token: str, object_id: bytes = b"") -> object:
            self.looks += 1
            return await objects(token, object_id)

        domain.device.objects = counted  # type: ignore[method-assign, assignment]


async def _left_pending_by_a_full_disk(domain: Domain) -> None:
    """The key pair is made, and its entry cannot be written."""
    generate = domain.device.generate

    async def disk_full(*args: object) -> object:
        made = await generate(*args)  # type: ignore[arg-type]
        domain.audit.unavailable = "disk full"
        return made

    domain.device.generate = disk_full  # type: ignore[method-assign, assignment]
    with pytest.raises(AuditUnavailableError):
        await domain.a_key()
    domain.device.generate = generate  # type: ignore[method-assign]


async def test_what_a_full_disk_left_pending_is_finished_without_a_restart(
    domain: Domain,
) -> None:
    await _left_pending_by_a_full_disk(domain)
    watched = Watched(domain)

    watched.watch.catch_up()  # the disk is still full
    await watched.watch.idle()
    domain.audit.unavailable = ""
    for _ in range(4):
        watched.watch.catch_up()
        await watched.watch.idle()

    key = domain.keys.get(ADMIN, "acme/targets")
    assert key.versions[0].state is VersionState.ENABLED
    assert watched.log_key.find_public_key() is not None


async def test_a_token_that_cannot_make_the_log_key_is_not_asked_for_ever(
    domain: Domain,
) -> None:
    domain.token.lacks = frozenset(KeyAlgorithm)
    watched = Watched(domain)

    for _ in range(200):
        watched.watch.catch_up()
        await watched.watch.idle()

    assert watched.looks < 50
    entries = len(domain.audit.drafts)
    domain.token.lacks = frozenset()
    watched.watch.on_event(TokenEvent("main", EventKind.RETURNED, "is back"))
    await watched.watch.idle()
    assert watched.log_key.find_public_key() is not None
    assert len(domain.audit.drafts) > entries


async def test_nothing_is_taken_up_on_a_token_that_is_away(domain: Domain) -> None:
    watched = Watched(domain)
    domain.token.state = TokenState.ABSENT

    watched.watch.catch_up()
    await watched.watch.idle()

    assert watched.looks == 0


async def test_a_new_log_key_that_was_asked_for_is_made_though_the_first_try_was_cut_off(
    domain: Domain,
) -> None:
    watched = Watched(domain)
    await watched.log_key.ensure()
    first = watched.log_key.find_public_key()
    asked = EntryDraft("log-key-replace", Outcome.ALLOWED, ADMIN)
    await domain.audit.record(asked, (SetFlag(REPLACE, "its token is lost"),))
    generate = domain.device.generate

    async def cut_off(*args: object) -> object:
        domain.device.generate = generate  # type: ignore[method-assign]
        raise DeviceGoneError("pulled", token="main")

    domain.device.generate = cut_off  # type: ignore[method-assign, assignment]
    for _ in range(4):
        watched.watch.catch_up()
        await watched.watch.idle()

    assert watched.log_key.find_public_key() not in (None, first)
    assert len(watched.log_key.public_keys()) == 2
    assert not watched.log_key.is_wanted
