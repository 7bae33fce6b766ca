"""keyd in the place of notary-signer, with the real programs of Notary v1 on both sides."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from keyd.client import KeyFilter
from tests.notary_client import openssl
from tests.notary_programs import POLICY, PRINCIPAL, TABLES, Sandbox, a_port, running
from tests.notary_wire import HEALTH, Wire, document
from tests.postgres import Postgres
from tests.private_keys import private_keys
from tests.waiting import until

pytestmark = pytest.mark.softhsm

GUN = "docker.io/acme/app"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """keyd and notary-server for tests that keep to a collection of their own."""
    with running(Sandbox(tmp_path_factory.mktemp("shared"))) as sandbox:
        yield sandbox


# ------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("algorithm", ["ed25519", "rsa"])
def test_real_clients_verify_what_other_kinds_of_keys_sign(tmp_path: Path, algorithm: str) -> None:
    with running(Sandbox(tmp_path, algorithm=algorithm)) as sandbox:
        alice = sandbox.client()
        file = alice.file("app", "hello")
        alice("init", GUN)
        alice("add", GUN, "v1", file, "-p")
        alice("key", "rotate", GUN, "snapshot", "-r")
        alice("add", GUN, "v2", file, "-p")

        assert set(sandbox.client("fresh").targets(GUN)) == {"v1", "v2"}
        with sandbox.admin() as keyd:
            kinds = {key.algorithm for key in keyd.list_keys(KeyFilter(name="notary/*"))}
    assert {kind.split("-")[0] for kind in kinds} == {algorithm}


def test_no_key_that_the_server_signs_with_is_in_any_file(shared: Sandbox) -> None:
    alice = shared.client("keyless")
    alice("init", "acme/keyless", "-p")
    alice("key", "rotate", "acme/keyless", "snapshot", "-r")

    found = private_keys(shared.folder)

    people, tls = shared.folder / "people", shared.certificates.folder
    assert any(each.file.is_relative_to(people) for each in found)  # alice's own, of targets
    servers = [each.file for each in found if not each.file.is_relative_to(people)]
    assert {file.parent for file in servers} == {tls}


# ------------------------------------------------------------------------------- begun again


def test_a_collection_that_was_deleted_begins_again_at_version_one(shared: Sandbox) -> None:
    gun = "acme/again"
    alice = shared.client("again")
    file = alice.file("app", "hello")
    alice("init", gun)
    alice("key", "rotate", gun, "snapshot", "-r")
    alice("add", gun, "v1", file, "-p")
    assert shared.version(gun, "timestamp") > 1
    alice("delete", "--remote", gun)

    carol = shared.client("again-carol")
    carol("init", gun)
    carol("add", gun, "v9", carol.file("app", "new"), "-p")

    assert shared.client("again-fresh").targets(gun) == {"v9": "targets"}
    assert shared.version(gun, "timestamp") == 1
    with shared.admin() as keyd:
        roles = {(r.repository, r.role): r.version for r in keyd.list_roles()}
    assert roles[gun, "timestamp"] > 1
    assert roles[f"{gun}@2", "timestamp"] == 1


def test_a_server_whose_memory_is_lost_begins_again(tmp_path: Path) -> None:
    with running(Sandbox(tmp_path)) as sandbox:
        alice = sandbox.client()
        file = alice.file("app", "hello")
        alice("init", GUN)
        alice("add", GUN, "v1", file, "-p")
        alice("add", GUN, "v2", file, "-p")
        sandbox.server.kill()
        sandbox.server.start()
        assert sandbox.get(f"/v2/{GUN}/_trust/tuf/root.json")[0] == 404

        alice("delete", GUN)
        alice("init", GUN)
        alice("add", GUN, "v3", file, "-p")

        assert sandbox.client("fresh").targets(GUN) == {"v3": "targets"}


def test_a_restored_server_is_refused_until_somebody_resets_the_role(tmp_path: Path) -> None:
    with Postgres(a_port()) as postgres:
        postgres.query("CREATE DATABASE notary")
        postgres.query(TABLES, "notary")
        storage = {"backend": "postgres", "db_url": postgres.url("notary")}
        with running(Sandbox(tmp_path, storage=storage)) as sandbox:
            alice = sandbox.client()
            file = alice.file("app", "hello")
            alice("init", GUN)
            alice("add", GUN, "v1", file, "-p")
            sandbox.server.kill()
            postgres.query("CREATE DATABASE backup TEMPLATE notary")
            sandbox.server.start()
            alice("add", GUN, "v2", file, "-p")
            alice("add", GUN, "v3", file, "-p")
            sandbox.server.kill()
            postgres.query("DROP DATABASE notary")
            postgres.query("CREATE DATABASE notary TEMPLATE backup")
            sandbox.server.start()

            carol = sandbox.client("carol", keys_of=alice)
            told = carol.fails("add", GUN, "v4", carol.file("app", "hello"), "-p")
            assert "below version" in told
            assert f"keydctl role reset {GUN} timestamp" in told

            with sandbox.admin() as keyd:
                role = keyd.get_role(GUN, "timestamp")
                keyd.reset_role(GUN, "timestamp", role.digest, reason="database restored")
            carol("publish", GUN)
            assert set(sandbox.client("fresh").targets(GUN)) == {"v1", "v4"}


# ------------------------------------------------------------------------------- faults


def test_a_server_killed_at_any_moment_of_a_publish_publishes_again(tmp_path: Path) -> None:
    chance = random.Random(4)
    with Postgres(a_port()) as postgres:
        postgres.query("CREATE DATABASE notary")
        postgres.query(TABLES, "notary")
        storage = {"backend": "postgres", "db_url": postgres.url("notary")}
        with running(Sandbox(tmp_path, storage=storage)) as sandbox:
            alice = sandbox.client()
            file = alice.file("app", "hello")
            alice("init", GUN)
            alice("add", GUN, "v0", file, "-p")
            alice("key", "rotate", GUN, "snapshot", "-r")
            published = {"v0"}
            for number in range(1, 16):
                alice("add", GUN, f"v{number}", file)
                publishing = alice.start("publish", GUN)
                time.sleep(chance.uniform(0.01, 0.07))
                sandbox.server.kill()
                publishing.communicate(timeout=40)
                sandbox.server.start()
                alice("publish", GUN)
                published.add(f"v{number}")
            assert set(sandbox.client("fresh").targets(GUN)) == published
            entries = sandbox.entries()
    # Where the server died before the token had the work, nothing was signed.
    outcomes = {(e["outcome"], e.get("reason_code")) for e in entries}
    assert "refused" not in {outcome for outcome, _ in outcomes}, outcomes
    assert {reason for outcome, reason in outcomes if outcome == "failed"} <= {"DEADLINE"}


def test_eight_publishers_at_once_all_publish_and_the_log_tells_of_reissues(
    shared: Sandbox,
) -> None:
    gun = "acme/crowd"
    first = shared.client("crowd")
    first("init", gun)
    first("key", "rotate", gun, "snapshot", "-r")
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    people = []
    for number in range(8):
        person = shared.client(f"crowd-{number}")
        files = ("-nodes", "-keyout", "me.key", "-out", "me.crt", "-subj", f"/CN=p{number}")
        openssl(*request, *files, folder=person.folder)
        certificate = str(person.folder / "me.crt")
        first("delegation", "add", gun, f"targets/p{number}", certificate, "--all-paths")
        person("key", "import", f"{person.folder}/me.key", "--role", "p")
        people.append(person)
    first("publish", gun)
    for number, person in enumerate(people):
        file = person.file("app", f"hello {number}")
        person("add", gun, f"v{number}", file, "--roles", f"targets/p{number}")
    left = dict(enumerate(people))
    for _ in range(12):
        running_now = {number: person.start("publish", gun) for number, person in left.items()}
        ended = {n: (p.communicate(timeout=40)[0], p.returncode) for n, p in running_now.items()}
        left = {n: left[n] for n, (_, code) in ended.items() if code != 0}
        if not left:
            break
    assert not left

    fresh = shared.client("crowd-fresh")
    roles = ["--roles", ",".join(f"targets/p{number}" for number in range(8))]
    assert set(fresh.targets(gun, *roles)) == {f"v{number}" for number in range(8)}
    signed = [e for e in shared.entries() if str(e.get("key", "")).startswith(f"notary/{gun}/")]
    # A publisher that fell behind asks for a version that is taken by then: the store of
    # notary-server would not take it either.
    refused = [e for e in signed if e["outcome"] != "allowed"]
    assert [e for e in refused if "is below" not in str(e.get("message"))] == []
    told = [e.get("details", {}) for e in signed]
    assert any(isinstance(d, dict) and d.get("mark") == "reissued" for d in told)


def test_keyd_stops_and_starts_while_notary_server_runs(tmp_path: Path) -> None:
    with running(Sandbox(tmp_path)) as sandbox:
        alice = sandbox.client()
        file = alice.file("app", "hello")
        alice("init", GUN)
        alice("add", GUN, "v1", file, "-p")
        began = time.monotonic()
        sandbox.keyd.stop()
        stopped_s = time.monotonic() - began
        down = alice.fails("add", GUN, "v2", file, "-p")
        assert "Unavailable" in down
        assert alice.targets(GUN) == {"v1": "targets"}
        # Not what it waited for a processor: others use the machine.
        listening_s = sandbox.keyd.start() - sandbox.keyd.waited_s()
        with Wire(sandbox) as calls:
            made = calls.create("acme/other")
            calls.sign(made.keyInfo.keyID.ID, document("timestamp", 1))

        until(lambda: alice.run("publish", GUN)[0] == 0, "published after the restart")

        assert set(sandbox.client("fresh").targets(GUN)) == {"v1", "v2"}
        # Asked for every ten seconds.
        until(lambda: sandbox.get("/_notary_server/health")[0] == 200, "healthy again")
        print(f"stopped in {stopped_s:.2f} s, listening after {listening_s:.2f} s")
        assert listening_s < 5  # about one second where nothing else runs
        with sandbox.admin() as keyd:
            keys = [key.name for key in keyd.list_keys(KeyFilter(name=f"notary/{GUN}/*"))]
        assert f"notary/{GUN}/timestamp.2" not in keys


def test_a_token_that_is_gone_shows_in_the_health_and_in_the_text(tmp_path: Path) -> None:
    with running(Sandbox(tmp_path)) as sandbox:
        alice = sandbox.client()
        file = alice.file("app", "hello")
        alice("init", GUN)
        alice("add", GUN, "v1", file, "-p")
        sandbox.hsm.take_away()
        sandbox.keyd.stop()
        sandbox.keyd.start()

        def refused() -> bool:
            return "token online" in alice.run("add", GUN, "v2", file, "-p")[1]

        until(refused, "the text names the token")
        # Asked for every ten seconds.
        until(lambda: sandbox.get("/_notary_server/health")[0] == 503, "unhealthy")
        with Wire(sandbox) as calls:
            assert calls.health() == dict.fromkeys(
                HEALTH, health_pb2.HealthCheckResponse.NOT_SERVING
            )
            sandbox.hsm.bring_back()
            until(lambda: alice.run("publish", GUN)[0] == 0, "published with the token back", 60)
            assert calls.health() == dict.fromkeys(HEALTH, health_pb2.HealthCheckResponse.SERVING)


def test_a_policy_without_a_grant_for_notary_server_makes_no_key(tmp_path: Path) -> None:
    without = POLICY.replace(PRINCIPAL, "dns:somebody-else")
    with running(Sandbox(tmp_path, policy=without)) as sandbox:
        alice = sandbox.client()
        told = alice.fails("init", GUN, "-p")
        assert "unable to reach trust server" in told or "500" in told
        assert "denied" in sandbox.server.tail(6000)
        with sandbox.admin() as keyd:
            assert list(keyd.list_keys(KeyFilter(name="notary/*"))) == []
