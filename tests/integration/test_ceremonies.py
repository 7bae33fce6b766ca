"""CeremonyService over gRPC on a real daemon: two who drive one ceremony, one who only looks, one
who must not know of it, and a daemon that is killed in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from keyd.client import Client
from keyd.errors import (
    CeremonyNotFoundError,
    ConflictError,
    ContentError,
    InvalidRequestError,
    PolicyDeniedError,
)
from keyd.model import Binding, Ceremony, KeyAlgorithm, Phase
from tests.e2e.daemon_process import DaemonProcess
from tests.tuf_documents import ALICE, BOB, a_root, a_targets

pytestmark = pytest.mark.softhsm

POLICY = """
[[grant]]
name = "drivers"
principals = ["socket:dev", "socket:alice"]
actions = ["admin", "signer"]
keys = ["*"]
tokens = ["*"]

[[grant]]
name = "watchers"
principals = ["socket:carol"]
actions = ["list"]
keys = ["site*/root"]
"""
PLAN = '{"base":1,"rotate":["root"]}'
DRAFT = a_root(2, ALICE.public_key).signed_bytes
OTHER = a_root(2, BOB.public_key).signed_bytes


@dataclass
class Office:
    """A daemon, everybody's way to it, and a repository of the test's own."""

    daemon: DaemonProcess
    dev: Client
    alice: Client
    carol: Client
    mallory: Client
    repository: str

    def start(self) -> Ceremony:
        return self.dev.start_ceremony(self.repository, PLAN, reason="yearly")

    def at(self, phase: Phase) -> Ceremony:
        """A ceremony with a draft that has come to this phase."""
        return self.dev.advance_ceremony(self.start().id, 1, phase, draft=DRAFT)

    def entries(self) -> list[dict[str, Any]]:
        found = [json.loads(entry.body) for entry in self.dev.list_entries()]
        return [e for e in found if e.get("details", {}).get("repository") == self.repository]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("c") / "d"
    folder.mkdir(mode=0o700)
    (folder / "policy.toml").write_text(POLICY)
    people = [word for name in ("alice", "carol", "mallory") for word in ("--person", name)]
    with DaemonProcess(folder, *people, forked=True) as running:
        yield running


@pytest.fixture
def office(daemon: DaemonProcess) -> Iterator[Office]:
    name = f"site{time.monotonic_ns()}"
    with ExitStack() as stack:

        def client(who: str) -> Client:
            endpoint = f"unix:{daemon.socket.with_name(who)}.sock"
            return stack.enter_context(Client(endpoint, keep_checkpoints=False))

        dev, alice, carol, mallory = map(client, ("keyd", "alice", "carol", "mallory"))
        made = Office(daemon, dev, alice, carol, mallory, name)
        bindings = {Binding(name, "root")}
        made.dev.create_key(f"{name}/root", KeyAlgorithm.ECDSA_P256, bindings=bindings)
        yield made


def test_what_one_begins_another_carries_on_and_ends(office: Office) -> None:
    begun = office.start()
    generated = office.alice.advance_ceremony(
        begun.id, 1, Phase.STAGE, facts={"new 0": "acme/root/versions/2", "note": "x"}
    )
    staged = office.dev.advance_ceremony(
        begun.id, 2, Phase.CONSENT, facts={"note": ""}, draft=DRAFT
    )
    seen = [who.get_ceremony(begun.id) for who in (office.dev, office.alice, office.carol)]
    for step, phase in enumerate((Phase.SIGN, Phase.CHECK, Phase.PUBLISH, Phase.RETIRE), 3):
        office.alice.advance_ceremony(begun.id, step, phase)
    done = office.dev.advance_ceremony(begun.id, 7, Phase.DONE)

    assert (begun.phase, begun.step, begun.plan) == (Phase.PLAN, 1, PLAN)
    assert (begun.started_by, begun.said, begun.draft) == ("socket:dev", "yearly", b"")
    assert generated.facts == {"new 0": "acme/root/versions/2", "note": "x"}
    assert staged.facts == {"new 0": "acme/root/versions/2"}
    assert seen == [staged] * 3
    assert (done.phase, done.step, done.draft) == (Phase.DONE, 8, DRAFT)
    entries = office.entries()
    assert [e["action"] for e in entries] == ["ceremony-start", *["ceremony-advance"] * 7]
    assert {e["principal"] for e in entries} == {"socket:dev", "socket:alice"}
    assert entries[-1]["details"]["phase_before"] == "RETIRE"


def test_of_two_who_go_on_from_the_same_step_one_is_told_to_look_again(office: Office) -> None:
    begun = office.start()

    office.dev.advance_ceremony(begun.id, 1, Phase.GENERATE)
    with pytest.raises(ConflictError) as e:
        office.alice.advance_ceremony(begun.id, 1, Phase.GENERATE, facts={"new 0": "mine"})

    assert e.value.facts["step"] == "2"
    assert "ceremony status" in e.value.hint
    now = office.alice.get_ceremony(begun.id)
    assert (now.step, now.phase, now.facts) == (2, Phase.GENERATE, {})


def test_a_repository_has_one_open_ceremony(office: Office) -> None:
    first = office.start()

    with pytest.raises(ConflictError) as e:
        office.alice.start_ceremony(office.repository, PLAN)
    assert e.value.facts["ceremony"] == first.id
    office.alice.abort_ceremony(first.id, reason="another day")
    second = office.start()

    listed = office.carol.list_ceremonies(office.repository)
    assert [(c.id, c.phase) for c in listed] == [
        (second.id, Phase.PLAN),
        (first.id, Phase.ABORTED),
    ]
    assert [c.id for c in office.carol.list_ceremonies(office.repository, open=True)] == [second.id]


@pytest.mark.parametrize("end", [Phase.DONE, Phase.ABORTED])
def test_an_ended_ceremony_stays_as_it_is(office: Office, end: Phase) -> None:
    begun = office.at(Phase.RETIRE)
    if end is Phase.DONE:
        office.dev.advance_ceremony(begun.id, 2, Phase.DONE)
    else:
        office.dev.abort_ceremony(begun.id, reason="lost")
    before = office.dev.get_ceremony(begun.id)

    with pytest.raises(ConflictError, match="has ended"):
        office.alice.advance_ceremony(begun.id, 3, Phase.RETIRE)
    if end is Phase.DONE:
        with pytest.raises(ConflictError, match="has ended"):
            office.alice.abort_ceremony(begun.id)
    else:
        assert office.alice.abort_ceremony(begun.id, reason="again") == before

    assert office.dev.get_ceremony(begun.id) == before
    assert before.phase is end


@pytest.mark.parametrize("to", [Phase.PLAN, Phase.GENERATE, Phase.CONSENT, Phase.ABORTED])
def test_a_phase_that_is_over_does_not_come_back(office: Office, to: Phase) -> None:
    begun = office.at(Phase.CHECK)

    with pytest.raises(InvalidRequestError, match=r"does not follow|AbortCeremony"):
        office.dev.advance_ceremony(begun.id, 2, to)

    assert office.dev.get_ceremony(begun.id) == begun


def test_the_way_back_is_staging_another_draft_and_only_that(office: Office) -> None:
    begun = office.at(Phase.SIGN)

    with pytest.raises(InvalidRequestError, match="does not follow"):
        office.dev.advance_ceremony(begun.id, 2, Phase.STAGE)
    with pytest.raises(InvalidRequestError, match="another draft goes back to STAGE"):
        office.dev.advance_ceremony(begun.id, 2, Phase.CHECK, draft=OTHER)
    back = office.dev.advance_ceremony(begun.id, 2, Phase.STAGE, draft=OTHER)

    assert (back.phase, back.draft, back.step) == (Phase.STAGE, OTHER, 3)


def test_what_is_no_plan_or_no_root_is_refused_and_nothing_is_kept(office: Office) -> None:
    for plan in ("", "[]", '{"b":1,"a":2}', "rotate root"):
        with pytest.raises(InvalidRequestError, match="plan"):
            office.dev.start_ceremony(office.repository, plan)
    begun = office.start()
    with pytest.raises(ContentError):
        office.dev.advance_ceremony(begun.id, 1, Phase.CONSENT, draft=b"garbage")
    with pytest.raises(InvalidRequestError, match="signed part of a root"):
        office.dev.advance_ceremony(begun.id, 1, Phase.CONSENT, draft=a_targets(2).signed_bytes)
    with pytest.raises(InvalidRequestError, match="needs a draft"):
        office.dev.advance_ceremony(begun.id, 1, Phase.CONSENT)

    assert office.dev.list_ceremonies(office.repository) == [begun]


def test_whoever_only_sees_the_key_may_look_and_not_touch(office: Office) -> None:
    begun = office.start()

    touches: list[Callable[[], Ceremony]] = [
        lambda: office.carol.start_ceremony(office.repository, PLAN),
        lambda: office.carol.advance_ceremony(begun.id, 1, Phase.GENERATE),
        lambda: office.carol.abort_ceremony(begun.id),
    ]
    for touch in touches:
        with pytest.raises(PolicyDeniedError):
            touch()

    assert office.carol.get_ceremony(begun.id) == begun


def test_a_stranger_does_not_learn_that_there_is_one(office: Office) -> None:
    begun = office.start()

    looks: list[Callable[[str], Ceremony]] = [
        lambda id: office.mallory.get_ceremony(id),
        lambda id: office.mallory.advance_ceremony(id, 1, Phase.GENERATE),
        lambda id: office.mallory.abort_ceremony(id),
    ]
    for look in looks:
        said = []
        for id in (begun.id, "a" * len(begun.id)):
            with pytest.raises(CeremonyNotFoundError) as e:
                look(id)
            said.append(e.value.message.replace(id, "ID"))
        assert said[0] == said[1]
    for repository in (office.repository, "no-such"):
        with pytest.raises(PolicyDeniedError) as denied:
            office.mallory.start_ceremony(repository, PLAN)
        assert "or no such role" in denied.value.message
    assert office.mallory.list_ceremonies() == []


def test_a_daemon_that_was_killed_knows_where_it_stood(office: Office) -> None:
    begun = office.at(Phase.SIGN)
    before = office.dev.advance_ceremony(begun.id, 2, Phase.SIGN, facts={"exchange": "ab"})

    office.daemon.kill()
    office.daemon.start()

    assert office.alice.get_ceremony(begun.id) == before
    with pytest.raises(ConflictError):
        office.alice.advance_ceremony(begun.id, 2, Phase.CHECK)
    assert office.alice.advance_ceremony(begun.id, 3, Phase.CHECK).draft == DRAFT
