"""keyd, its token, notary-server and its database fail while somebody publishes.

notary-server keeps its collections in PostgreSQL here, so that they survive it.

| fault                          | what the user sees             | what is true afterwards       |
|--------------------------------|--------------------------------|-------------------------------|
| keyd dies before the upload    | exit 4, "no daemon answers",   | staged; list, resolve, verify |
|                                | how to start it                | go on without keyd            |
| keyd dies during the upload    | exit 4, "its signer says"      | nothing published, all kept   |
| keyd dies after the upload     | published, with a note         | published                     |
| keyd's token is gone           | exit 4, the token's name, and  | staged; the same command      |
|                                | what to look at                | works, keyd as it was         |
| the token of the server's keys | the same, as the signer's word | nothing published, all kept   |
| notary-server dies             | exit 4, "does not answer", run | published once, or by the     |
|                                | the same command again         | next run; readers go on       |
| PostgreSQL dies                | exit 4, "its database failed"  | the same                      |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.notary_programs import TABLES, a_port
from tests.notary_wire import Wire
from tests.postgres import Postgres
from tests.trust_gate import Gate, Moment
from tests.trust_ledger import Ledger
from tests.trust_stage import Person, Stage, a_stage
from tests.waiting import until

pytestmark = pytest.mark.softhsm
_BACK_S = 120.0


@dataclass
class Place:
    """Real programs that can be taken away, and the gate before them."""

    stage: Stage
    gate: Gate
    postgres: Postgres

    def fails(
        self, at: tuple[str, str], fault: Callable[[], object], person: Person, *words: str | Path
    ) -> tuple[int, str]:
        """Run a command; at one moment of it something fails. Its exit code, and what it said."""
        came: list[Moment] = []

        def act(moment: Moment) -> bool:
            if not came and (moment.when, moment.what) == at:
                came.append(moment)
                fault()
            return False

        with self.gate.watch(act):
            code, out, err = person.fork(*words).wait()
        assert came, (at, out, err)
        return code, out + err

    def works_again(self, person: Person, *words: str | Path) -> None:
        """The same command; notary-server finds its way back to its signer within two minutes."""
        until(lambda: person.fork(*words).wait()[0] == 0, f"{words}", _BACK_S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("f")
    with Postgres(a_port()) as postgres:
        postgres.query("CREATE DATABASE notary")
        postgres.query(TABLES, "notary")
        storage = {"backend": "postgres", "db_url": postgres.url("notary")}
        with (
            a_stage(folder, storage=storage) as stage,
            Gate(stage.sandbox, folder / "gate.sock") as gate,
        ):
            yield Place(stage, gate, postgres)


@pytest.fixture
def alice(place: Place) -> Person:
    return place.stage.person(place.gate.url, place.gate.endpoint)


@pytest.fixture
def gun(place: Place, alice: Person) -> str:
    """A collection that signs v1, which is "one"."""
    name = place.stage.gun()
    file = alice.file("v1", "one")
    place.works_again(alice, "init", name)
    place.works_again(alice, "add", name, "v1", file, "-p")
    return name


def test_keyd_killed_during_a_publish_goes_on_where_it_was(
    place: Place, alice: Person, gun: str
) -> None:
    keyd, ledger, file = place.stage.sandbox.keyd, Ledger(place.stage, gun), alice.folder / "v1"
    place.stage.registry.push(gun.partition("/")[2], "v3", {"x": 1})
    add, sign = ("add", gun, "v2", file, "-p"), ("sign", f"{gun}:v3")
    rotate, last = ("key", "rotate", gun, "root"), ("add", gun, "v4", file, "-p")

    code, told = place.fails(("before", "Sign"), keyd.kill, alice, *add)
    assert code == 4
    assert "no daemon answers" in told and "keyd-server" in told
    for words in (("list", gun), ("inspect", gun), ("resolve", f"{gun}:v1"), ("status", gun)):
        assert alice.fork(*words).wait()[0] == 0, words
    assert alice.run("trust", "verify", gun, "v1", stdin=b"one").stdout == b"one"
    keyd.start()
    place.works_again(alice, *add)

    code, told = place.fails(("after", "Sign"), keyd.kill, alice, *rotate)
    assert (code, "no daemon answers" in told) == (4, True), told
    keyd.start()
    place.works_again(alice, *rotate)

    code, told = place.fails(("before", "POST "), keyd.kill, alice, *sign)
    assert code == 4
    assert "its signer says" in told and "same command" in told and "kept" in told
    keyd.start()
    place.works_again(alice, *sign)

    code, told = place.fails(("after", "POST "), keyd.kill, alice, *last)
    assert (code, "the daemon was not told what is published" in told) == (0, True), told
    keyd.start()
    place.works_again(alice, *last)

    assert place.stage.sandbox.version(gun, "root") == 2
    ledger.check("v1", "v2", "v3", "v4")


def test_a_token_that_is_gone_is_named_and_all_goes_on_when_it_is_back(
    place: Place, alice: Person, gun: str
) -> None:
    hsm, file = place.stage.sandbox.hsm, alice.folder / "v1"

    def gone() -> None:
        hsm.take_away()
        with Wire(place.stage.sandbox) as calls:
            until(lambda: 1 not in calls.health().values(), "keyd knows that the token is gone")

    for number, at in enumerate((("before", "Sign"), ("before", "POST "))):
        add = ("add", gun, f"gone{number}", file, "-p")
        try:
            code, told = place.fails(at, gone, alice, *add)
            assert code == 4, told
            assert "token online" in told and "keydctl token list" in told
            assert alice.fork("list", gun).wait()[0] == 0
        finally:
            hsm.bring_back()
        place.works_again(alice, *add)
    Ledger(place.stage, gun).check("v1", "gone0", "gone1")


@pytest.mark.parametrize("name", ["notary-server", "PostgreSQL"])
def test_a_server_killed_anywhere_in_a_publish_loses_nothing(
    place: Place, alice: Person, gun: str, name: str
) -> None:
    server, postgres = place.stage.sandbox.server, place.postgres
    stop, start = (
        (server.kill, server.start) if name == "notary-server" else (postgres.stop, postgres.start)
    )
    reader = place.stage.sandbox.client(f"reads-{name}")
    names, ledger = ["v1"], Ledger(place.stage, gun)
    for when in ("before", "sending", "storing", "after"):
        names.append(when)
        add = ("add", gun, when, alice.folder / "v1", "-p")
        try:
            code, told = place.fails((when, "POST "), stop, alice, *add)
            again, _, down = alice.fork("publish", gun).wait()
        finally:
            start()
        # The whole upload was there: what is too quick to be cut off is done.
        assert code == 4 or when == "storing", told
        assert code == 0 or "same command" in told, told
        assert (again, "same command" in down or "does not answer" in down) == (4, True), down
        place.works_again(alice, "publish", gun)
        assert alice("status", gun) == []
        ledger.check(*names)
        assert set(reader.targets(gun)) == set(names)
    assert place.stage.sandbox.version(gun, "targets") == len(names)
