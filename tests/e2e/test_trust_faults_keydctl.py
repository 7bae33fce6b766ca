"""keydctl trust, killed (kill -9) before and after each call that changes something.

The same command is typed again, and killed again, at each further moment.

| killed                             | what the user sees          | what is true afterwards       |
|------------------------------------|-----------------------------|-------------------------------|
| before or after a signature        | nothing; then the same      | the same bytes go on, no      |
|                                    | command goes on             | version is signed twice       |
| before or in the middle of the     | the same                    | nothing was published before  |
| upload                             |                             | the second run                |
| while the server stores it, or     | "nothing to publish", or    | it is published once, nothing |
| after that                         | "an earlier run had         | is staged any more            |
|                                    | published it"               |                               |
| init, after it was staged          | the same command goes on    | the root that was certified   |
|                                    |                             | first is the one              |
| key rotate, after it was published | the same command goes on    | rotated once, the new key is  |
|                                    |                             | the active one                |
| not at all, but the disk is full   | which file, make room       | all is published, or nothing  |
| migrate, after it was published    | the files to destroy        | nothing signs with key files  |
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keyd.gunnames import is_made_for_server
from keyd.model import Binding, KeyAlgorithm
from tests.keydctl_forks import Fork
from tests.trust_gate import Gate, Moment
from tests.trust_ledger import Ledger
from tests.trust_stage import Person, Stage, a_stage

pytestmark = pytest.mark.softhsm
_MOST_RUNS = 60


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with a_stage(tmp_path_factory.mktemp("k")) as running:
        yield running


@pytest.fixture(scope="module")
def gate(stage: Stage) -> Iterator[Gate]:
    with Gate(stage.sandbox, stage.sandbox.folder / "gate.sock") as opened:
        yield opened


@pytest.fixture
def alice(stage: Stage, gate: Gate) -> Person:
    return stage.person(gate.url, gate.endpoint)


def begun(stage: Stage, person: Person) -> str:
    """A collection that signs v1."""
    gun = stage.gun()
    person("init", gun)
    person("add", gun, "v1", person.file("v1", "one"), "-p")
    return gun


CHANGES = ("POST", "DELETE", "Create", "Sign", "Update", "Rotate", "Activate", "Advance", "Import")
"""How calls begin that change something somewhere."""

Label = tuple[str, str, int]
"""When, what, and the how manyeth of its kind."""


@dataclass
class Deaths:
    """Runs commands and kills them on the way, never twice at the same moment."""

    gate: Gate
    died: list[Label] = field(default_factory=list)

    def once(self, person: Person, *words: str | Path) -> tuple[bool, str]:
        """Run a command, and kill it at its first moment that killed none yet. False where there
        is none: it ended by itself, and what it printed."""
        process: Future[Fork] = Future()
        count: Counter[tuple[str, str]] = Counter()
        dead: list[Label] = []

        def act(moment: Moment) -> bool:
            kind = moment.when, moment.what.partition(".")[0]
            count[kind] += 1
            label = (*kind, count[kind])
            if not dead and moment.what.startswith(CHANGES) and label not in self.died:
                dead.append(label)
                process.result(60).kill()
            return bool(dead)

        with self.gate.watch(act):
            fork = person.fork(*words)
            process.set_result(fork)
            code, out, err = fork.wait()
        self.died += dead
        assert code == (-9 if dead else 0), (code, out, err, self.died)
        return bool(dead), out + err

    def until_done(self, person: Person, *words: str | Path) -> str:
        """The same command again and again until it ends by itself, and what it printed then."""
        for _ in range(_MOST_RUNS):
            has_died, told = self.once(person, *words)
            if not has_died:
                return told
        raise AssertionError(f"never done: {words}")

    def at(self, what: str) -> set[str]:
        """When runs died at the first call of that name."""
        return {when for when, name, number in self.died if (name, number) == (what, 1)}


BOTH = {"before", "after"}
UPLOAD = {"before", "sending", "storing", "after"}


def test_what_was_staged_is_published_by_the_next_run_wherever_the_first_was_killed(
    stage: Stage, gate: Gate, alice: Person
) -> None:
    gun = begun(stage, alice)
    deaths, names = Deaths(gate), ["v1"]
    for number in range(_MOST_RUNS):
        names.append(f"at{number}")
        has_died, _ = deaths.once(alice, "add", gun, names[-1], alice.folder / "v1", "-p")
        if not has_died:
            break
        code, out, err = alice.fork("publish", gun).wait()
        assert code == 0, err
        assert "published targets" in out or "nothing to publish" in out
        assert alice("status", gun) == []
    assert deaths.at("Sign") == BOTH
    assert deaths.at("POST ") == UPLOAD
    Ledger(stage, gun).check(*names)


def test_the_beginning_of_a_collection_goes_on_wherever_it_was_killed(
    stage: Stage, gate: Gate, alice: Person
) -> None:
    gun, deaths = stage.gun(), Deaths(gate)

    deaths.until_done(alice, "init", gun, "-p")

    assert deaths.at("CreateKey") == deaths.at("Sign") == BOTH
    assert deaths.at("POST ") >= UPLOAD - {"after"}, deaths.died
    Ledger(stage, gun).check()
    assert alice("status", gun) == []
    assert "exists on the server already" in alice("init", gun, code=1)["error"]["message"]


def made_for(stage: Stage, gun: str, role: str, *, by_server: bool) -> int:
    """How many key pairs were made for a role of a collection, by people or for its server."""
    with stage.sandbox.admin() as keyd:
        keys = [key for key in keyd.list_keys() if Binding(gun, role) in key.bindings]
    return sum(len(k.versions) for k in keys if is_made_for_server(k) is by_server)


@pytest.mark.parametrize(
    "words",
    [("root",), ("targets",), ("snapshot", "-r"), ("snapshot",), ("timestamp", "-r")],
    ids="-".join,
)
def test_a_rotation_goes_on_wherever_it_was_killed_and_rotates_once(
    stage: Stage, gate: Gate, alice: Person, words: tuple[str, ...]
) -> None:
    gun, deaths = begun(stage, alice), Deaths(gate)
    reader = stage.sandbox.client(f"reads-{'-'.join(words)}")
    reader("list", gun)

    deaths.until_done(alice, "key", "rotate", gun, *words)

    assert deaths.at("Sign") == BOTH
    assert deaths.at("POST ") >= UPLOAD - {"after"}
    assert stage.sandbox.version(gun, "root") == 2
    Ledger(stage, gun).check("v1")
    by_server = words[-1] == "-r"
    is_first = words == ("snapshot",)  # of the publishers: the server's was the one before
    made = made_for(stage, gun, words[0], by_server=by_server)
    assert made == (1 if is_first else 2), "a key was left that nothing uses"
    alice("add", gun, "v2", alice.folder / "v1", "-p")
    Ledger(stage, gun).check("v1", "v2")
    assert set(reader.targets(gun)) == {"v1", "v2"}


def test_a_delegation_is_added_once_wherever_that_was_killed(
    stage: Stage, gate: Gate, alice: Person
) -> None:
    gun, deaths = begun(stage, alice), Deaths(gate)
    key = f"dev/{gun.rpartition('/')[2]}"
    with stage.sandbox.admin() as keyd:
        keyd.create_key(key, KeyAlgorithm.ECDSA_P256)

    deaths.until_done(alice, "delegation", "add", gun, "targets/dev", key, "--all-paths", "-p")

    assert deaths.at("UpdateKey") == deaths.at("Sign") == BOTH
    alice("add", gun, "v2", alice.folder / "v1", "-r", "targets/dev", "-p")
    Ledger(stage, gun).check("v1", "v2")
    newcomer = stage.sandbox.client(f"newcomer-{key.rpartition('/')[2]}")
    assert newcomer.targets(gun, "--roles", "targets/dev") == {"v2": "targets/dev"}
    assert len(alice("delegation", "list", gun)) == 1


def test_signing_a_new_repository_goes_on_wherever_it_was_killed(
    stage: Stage, gate: Gate, alice: Person
) -> None:
    gun, deaths = stage.gun(), Deaths(gate)
    digest = stage.registry.push(gun.partition("/")[2], "1.0", {"x": 1}).hex()

    deaths.until_done(alice, "sign", f"{gun}:1.0", "--signer", "alice")

    assert deaths.at("CreateKey") == deaths.at("Sign") == BOTH
    Ledger(stage, gun).check("1.0")
    shown = stage.person()("inspect", gun)[0]
    assert shown["SignedTags"] == [{"SignedTag": "1.0", "Digest": digest, "Signers": ["alice"]}]


def test_a_full_disk_is_named_and_publishes_all_or_nothing(
    stage: Stage, gate: Gate, alice: Person
) -> None:
    gun = begun(stage, alice)
    add = ("add", gun, "v2", alice.folder / "v1", "-p")
    large = alice.file("large", json.dumps({"note": "x" * 3000}))

    with gate.watch() as seen:
        code, _, err = alice.fork(*add, "--custom", large, LARGEST_FILE_BYTES="2000").wait()
    assert code == 1
    assert "the trust directory cannot be written" in err and str(alice.trust_dir) in err
    assert "make room" in err and "same command again" in err
    assert not any(moment.what.startswith(CHANGES) for moment in seen)
    assert alice("status", gun) == []

    # Enough for what is staged, and not for all that is kept afterwards.
    with gate.watch() as seen:
        code, _, err = alice.fork(*add, LARGEST_FILE_BYTES="600").wait()
    assert code == 1
    assert "the trust directory cannot be written" in err
    is_sent = any(moment.what == "POST " for moment in seen)
    Ledger(stage, gun).check("v1", *(["v2"] if is_sent else []))
    assert alice.fork(*add).wait()[0] == 0
    Ledger(stage, gun).check("v1", "v2")


def test_a_trust_directory_that_cannot_be_written_is_named(stage: Stage, alice: Person) -> None:
    gun = begun(stage, alice)
    blocked = alice.file("blocked", "this is no folder")

    code, _, err = alice.fork("add", gun, "v2", alice.folder / "v1", "-p", "-d", blocked).wait()

    assert code != 0
    assert str(blocked) in err
    Ledger(stage, gun).check("v1")


def test_a_migration_goes_on_wherever_it_was_killed(
    stage: Stage, gate: Gate, alice: Person
) -> None:
    gun, deaths = stage.gun(), Deaths(gate)
    old = stage.sandbox.client(f"old-{gun.rpartition('/')[2]}")
    old("init", gun)
    old("add", gun, "v1", old.file("v1", "one"), "-p")
    folder = old.folder / "trust"

    told = deaths.until_done(alice, "migrate", gun, "--trust-dir", folder)

    assert {line.rpartition(": ")[2] for line in told.splitlines() if "destroy, with" in line} == {
        str(file) for file in (folder / "private").rglob("*.key")
    }
    assert deaths.at("CreateKey") == deaths.at("Sign") == BOTH
    assert stage.sandbox.version(gun, "root") == 2
    ledger = Ledger(stage, gun, older=stage.sandbox.version(gun, "snapshot"))
    ledger.check("v1")
    shutil.rmtree(folder / "private")
    alice("add", gun, "v2", alice.file("v2", "two"), "-p")
    ledger.check("v1", "v2")
