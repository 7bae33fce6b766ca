"""Many publishers of one collection at once, and callers that ask for too much.

Each has a trust directory of their own and is somebody else for keyd.

| fault                         | what the user sees               | what is true afterwards      |
|-------------------------------|----------------------------------|------------------------------|
| four begin it at once         | one begins it; "somebody else",  | one root, one targets key    |
|                               | the same command again           |                              |
| four publish at once          | exit 4, whose changes were       | theirs are published; what   |
|                               | first, --retry                   | was staged is kept           |
| four publish with --retry     | published on top of it           | all targets are there        |
| four sign their own roles     | all published                    | the log tells of the same    |
| in the same moment            |                                  | version signed twice         |
| consent is demanded           | exit 3, what to approve          | the same bytes go on         |
| a flood of new online keys    | refused: how many an hour        | others publish meanwhile     |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from keyd.client import Client
from keyd.model import KeyAlgorithm
from tests.notary_programs import PRINCIPAL
from tests.notary_wire import Wire
from tests.trust_ledger import Ledger
from tests.trust_stage import TRUST_POLICY, Person, Stage, a_stage

pytestmark = pytest.mark.softhsm

_MOST_ROUNDS = 10
PEOPLE = ("alice", "bob", "carol", "mallory")
KEYS_PER_HOUR = 20
LIMITED = f"""
[[notary]]
guns = ["flood/*"]
token = "online"
keys_per_hour = {KEYS_PER_HOUR}
keys_at_once = {KEYS_PER_HOUR}
"""
SETTINGS = LIMITED + "".join(
    f'[[listener]]\nkind = "unix"\npath = "run/{name}.sock"\nprincipal = "socket:{name}"\n'
    for name in PEOPLE
)
POLICY = (
    TRUST_POLICY
    + """
[[grant]]
name = "publishers"
principals = ["socket:alice", "socket:bob", "socket:carol", "socket:mallory"]
actions = ["sign", "certify", "advance", "list", "create", "bind", "rotate", "activate", "approve"]
keys = ["notary/*"]

[[rule]]
name = "snapshots of people"
actions = ["sign"]
keys = ["notary/*careful*/targets", "notary/*careful*/snapshot.?"]
approvals = 1
approvers = ["socket:bob"]
"""
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("c")
    with a_stage(folder, policy=POLICY, settings=SETTINGS) as running:
        yield running


def person(stage: Stage, name: str) -> Person:
    """Somebody with a socket, and a trust directory, of their own."""
    return stage.person(endpoint=f"unix:{stage.sandbox.folder}/run/{name}.sock")


def test_four_publishers_at_once_lose_nothing(stage: Stage) -> None:
    people = {name: person(stage, name) for name in PEOPLE}
    gun, ledger = stage.gun(), Ledger(stage, "")
    ledger.gun = gun

    begun = [each.fork("init", gun, "-p") for each in people.values()]
    told = [each.wait() for each in begun]
    assert [code for code, _, _ in told].count(0) >= 1
    for code, out, err in told:
        assert code == 0 or "exists on the server" in err or "somebody else" in err, (out, err)

    for name, each in people.items():
        each("add", gun, name, each.file("file", name))
    for retry in ((), ("--retry",)):
        publishing = [each.fork("publish", gun, *retry) for each in people.values()]
        told = [each.wait() for each in publishing]
        for code, out, err in told:
            is_clear = "somebody else" in err and "--retry" in err
            assert code == 0 or (not retry and code == 4 and is_clear), (out, err)
    ledger.check(*PEOPLE)
    assert all(each("status", gun) == [] for each in people.values())
    refused = [e for e in stage.sandbox.entries() if e["outcome"] != "allowed"]
    assert {e["reason_code"] for e in refused} <= {"VERSION_TAKEN", "RULE_REFUSED"}


def test_versions_that_parallel_publishers_have_signed_twice_are_told_in_the_log(
    stage: Stage,
) -> None:
    """Everybody has a role of their own, so that nobody is in the way of another one, and
    notary-server asks for one version of its own roles for several of them."""
    people = {name: person(stage, name) for name in PEOPLE}
    gun, alice = stage.gun(), people["alice"]
    alice("init", gun)
    for name in PEOPLE:
        key = f"notary/{gun.replace(':', '0x3a')}/{name}"
        with stage.sandbox.admin() as keyd:
            keyd.create_key(key, KeyAlgorithm.ECDSA_P256)
        alice("delegation", "add", gun, f"targets/{name}", key, "--all-paths")
    alice("publish", gun)
    ledger, names = Ledger(stage, gun), set[str]()

    for number in range(_MOST_ROUNDS):
        for name, each in people.items():
            target = f"{name}{number}"
            names.add(target)
            each("add", gun, target, each.file("file", name), "-r", f"targets/{name}")
        publishing = [each.fork("publish", gun, "--retry") for each in people.values()]
        for fork in publishing:
            code, out, err = fork.wait()
            assert code == 0, (out, err)
        reissued = [e for e in ledger.signatures() if e["details"].get("mark") == "reissued"]
        if reissued:
            break
    else:
        raise AssertionError("notary-server never asked for a version twice")

    assert {e["principal"] for e in reissued} == {PRINCIPAL}
    assert {e["context"]["role"] for e in reissued} <= {"snapshot", "timestamp"}
    ledger.check(*names)


def test_the_same_command_goes_on_once_people_have_consented(stage: Stage) -> None:
    """To targets, and to the snapshot where its key is the publishers'."""
    alice, gun = person(stage, "alice"), f"{stage.registry.host}/careful/app"
    bob = Client(f"unix:{stage.sandbox.folder}/run/bob.sock", keep_checkpoints=False)
    asked: list[str] = []

    def go(*words: str | Path) -> None:
        """Run it, and have bob consent, until it needs nobody any more."""
        while True:
            code, _, err = alice.fork(*words, "--json").wait()
            if code == 0:
                return
            assert code == 3, err
            error = json.loads(err.splitlines()[-1])["error"]
            assert "same command" in error["hint"]
            facts = error["facts"]
            for each in facts.get("approvals", facts["approval"]).split():
                waits = bob.get_approval(each)
                assert each not in asked, "consented to already"
                asked.append(each)
                bob.approve(each, waits.digest)

    with bob:
        go("init", gun, "-p")
        go("key", "rotate", gun, "snapshot")
        go("add", gun, "v1", alice.file("v1", "one"), "-p")
        go("add", gun, "v2", alice.file("v2", "two"), "-p")
        go("remove", gun, "v1", "-p")
    assert len(asked) >= 4
    Ledger(stage, gun).check("v2")
    assert alice("status", gun) == []
    signed = {e["context"]["role"]: e["principal"] for e in Ledger(stage, gun).signatures()}
    assert (signed["targets"], signed["snapshot"]) == ("socket:alice", "socket:alice")


def test_a_flood_of_new_keys_of_the_server_does_not_stop_others(stage: Stage) -> None:
    gun, alice = stage.gun(), person(stage, "alice")
    told: list[str] = []

    def flood(number: int) -> None:
        with Wire(stage.sandbox) as calls:
            for each in range(KEYS_PER_HOUR // 2):
                try:
                    calls.create(f"flood/{number}-{each}")
                except grpc.RpcError as e:
                    told.append(str(e.details()))

    alice("init", gun, "-p")
    with ThreadPoolExecutor(4) as pool:
        floods = [pool.submit(flood, number) for number in range(4)]
        for number in range(3):
            alice("add", gun, f"v{number}", alice.file("v", "one"), "-p")
        for each in floods:
            each.result(120)
    assert told, "nobody was refused"
    assert all("keys" in text and "hour" in text for text in told), told[0]
    alice("add", gun, "v3", alice.file("v", "one"), "-p")
    Ledger(stage, gun).check("v0", "v1", "v2", "v3")
