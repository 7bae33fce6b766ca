"""keyd in the place of notary-signer, with the real programs of Notary v1 on both sides."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from keyd import publickeys
from keyd.cli import keydctl
from keyd.client import KeyFilter
from keyd.model import Scheme, VersionState
from keyd.notary.v0 import signer_pb2 as pb
from keyd.notary.v0.signer_pb2_grpc import KeyManagementStub, SignerStub
from tests import notary_programs as notary
from tests.notary_programs import POLICY, PRINCIPAL, TABLES, Sandbox, a_port, openssl, running
from tests.postgres import Postgres

pytestmark = pytest.mark.softhsm

GUN = "docker.io/acme/app"
HEALTH = ("grpc.health.v1.Health.KeyManagement", "grpc.health.v1.Health.Signer")
_RECONNECT_S = 30.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """keyd and notary-server for tests that keep to a collection of their own."""
    with running(Sandbox(tmp_path_factory.mktemp("shared"))) as sandbox:
        yield sandbox


def until(holds: Callable[[], bool], what: str, timeout_s: float = _RECONNECT_S) -> float:
    """Wait, bounded; the seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < timeout_s, f"never: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


_SHA256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def document(role: str, version: int, length: int = 100) -> bytes:
    """What notary-server has signed, in canonical JSON. ``length``: of what it speaks of."""
    below = {"timestamp": ["snapshot"], "snapshot": ["root", "targets"]}.get(role, [])
    content: dict[str, object] = {
        "_type": role.capitalize(),
        "expires": (datetime.now(UTC) + timedelta(days=10)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "meta": {name: {"hashes": {"sha256": _SHA256}, "length": length} for name in below},
        "version": version,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


class Wire:
    """notary-server's calls, made here."""

    def __init__(self, sandbox: Sandbox, who: str = "client") -> None:
        tls = sandbox.certificates.folder
        credentials = grpc.ssl_channel_credentials(
            (tls / "ca.crt").read_bytes(),
            (tls / f"{who}.key").read_bytes(),
            (tls / f"{who}.crt").read_bytes(),
        )
        self._channel = grpc.secure_channel(f"localhost:{sandbox.signer_port}", credentials)
        self._keys, self._signer = KeyManagementStub(self._channel), SignerStub(self._channel)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def health(self) -> dict[str, int]:
        check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        asked = {name: health_pb2.HealthCheckRequest(service=name) for name in HEALTH}
        return {name: check(each, timeout=20).status for name, each in asked.items()}

    def create(self, gun: str, role: str = "timestamp", algorithm: str = "ecdsa") -> pb.PublicKey:
        request = pb.CreateKeyRequest(algorithm=algorithm, gun=gun, role=role)
        return self._keys.CreateKey(request, timeout=20)

    def info(self, keyid: str) -> pb.GetKeyInfoResponse:
        return self._keys.GetKeyInfo(pb.KeyID(ID=keyid), timeout=20)

    def delete(self, keyid: str) -> pb.Void:
        return self._keys.DeleteKey(pb.KeyID(ID=keyid), timeout=20)

    def sign(self, keyid: str, content: bytes) -> pb.Signature:
        request = pb.SignatureRequest(keyID=pb.KeyID(ID=keyid), content=content)
        return self._signer.Sign(request, timeout=20)


@pytest.fixture
def wire(shared: Sandbox) -> Iterator[Wire]:
    with Wire(shared) as calls:
        yield calls


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """What a refused call says."""
    with pytest.raises(grpc.RpcError) as e:
        call()
    return e.value.code(), e.value.details() or ""


# ------------------------------------------------------------------------------- all their steps


def test_notary_and_notary_server_go_all_their_steps_with_keyd_as_signer(shared: Sandbox) -> None:
    assert shared.get("/_notary_server/health") == (200, b"{}")
    alice = shared.client("alice")
    file = alice.file("app", "hello")
    alice("init", GUN)
    alice("add", GUN, "v1", file)
    custom = alice.file("custom.json", '{"note":"x"}')
    alice("add", GUN, "v1c", file, "--custom", custom)
    alice("addhash", GUN, "v1h", "5", "--sha256", "2c" * 32)
    assert "v1h" in alice("status", GUN)
    alice("publish", GUN)
    assert alice.targets(GUN) == dict.fromkeys(("v1", "v1c", "v1h"), "targets")
    assert "v1" in alice("lookup", GUN, "v1")
    alice("verify", GUN, "v1", "-i", file)
    alice.fails("verify", GUN, "v1", "-i", alice.file("bad", "other"))
    assert "root" in alice("key", "list")
    for rotation in (
        ["targets"],
        ["snapshot", "-r"],
        ["timestamp", "-r"],
        ["snapshot"],
        ["snapshot", "-r"],
    ):
        alice("key", "rotate", GUN, *rotation)
        alice("add", GUN, f"after-{'-'.join(rotation)}", file, "-p")
    alice.fails("key", "rotate", GUN, "timestamp")
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    openssl(
        *(*request, "-nodes", "-keyout", "bob.key", "-out", "bob.crt", "-subj", "/CN=bob"),
        folder=alice.folder,
    )
    bob = str(alice.folder / "bob.crt")
    for role in ("targets/releases", "targets/qa"):
        alice("delegation", "add", GUN, role, bob, "--all-paths", "-p")
    assert "targets/qa" in alice("delegation", "list", GUN)
    alice("key", "import", str(alice.folder / "bob.key"), "--role", "bob")
    alice("add", GUN, "v2", file, "--roles", "targets/releases", "-p")
    assert alice.targets(GUN, "--roles", "targets/releases") == {"v2": "targets/releases"}
    alice("witness", GUN, "targets/releases", "targets", "-p")
    alice("remove", GUN, "v2", "--roles", "targets/releases", "-p")
    keyid = next(word for word in alice("delegation", "list", GUN).split() if len(word) == 64)
    alice("delegation", "remove", GUN, "targets/qa", keyid, "-p")
    alice("delegation", "remove", GUN, "targets/releases", "-y", "-p")
    alice("key", "generate", "ecdsa", "--role", "targets")
    alice("key", "rotate", GUN, "root", stdin="yes\n")
    alice("add", GUN, "v3", file)
    alice("reset", GUN, "--all")
    fresh = shared.client("fresh")
    assert "v1" in fresh.targets(GUN)
    assert "v3" not in fresh.targets(GUN)

    with shared.admin() as keyd:
        keys = {key.name: key for key in keyd.list_keys(KeyFilter(name=f"notary/{GUN}/*"))}
    assert set(keys) == {
        f"notary/{GUN}/{name}" for name in ("timestamp", "timestamp.2", "snapshot", "snapshot.2")
    }
    assert all(key.labels["gun"] == GUN and len(key.bindings) == 1 for key in keys.values())
    signed = [e for e in shared.entries() if str(e.get("key", "")).startswith(f"notary/{GUN}/")]
    assert {e["outcome"] for e in signed} == {"allowed"}
    assert {json.dumps(e["caller"] if "caller" in e else e["principal"]) for e in signed}
    assert all(PRINCIPAL in json.dumps(e) and "alice" not in json.dumps(e) for e in signed)


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

    found = notary.private_key_files(shared.folder)

    people, tls = shared.folder / "people", shared.certificates.folder
    assert [f for f in found if not (f.is_relative_to(people) or f.is_relative_to(tls))] == []


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
    assert {e["outcome"] for e in entries} == {"allowed"}


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
        listening_s = sandbox.keyd.start()
        with Wire(sandbox) as calls:
            made = calls.create("acme/other")
            calls.sign(made.keyInfo.keyID.ID, document("timestamp", 1))

        until(lambda: alice.run("publish", GUN)[0] == 0, "published after the restart")

        assert set(sandbox.client("fresh").targets(GUN)) == {"v1", "v2"}
        assert sandbox.get("/_notary_server/health")[0] == 200
        print(f"stopped in {stopped_s:.2f} s, listening after {listening_s:.2f} s")
        assert listening_s < 5  # about one second where nobody else uses the machine
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


def test_a_token_that_hangs_does_not_hold_up_a_server_that_waits_for_ever(tmp_path: Path) -> None:
    with running(Sandbox(tmp_path, settings="deadline_s = 1.0")) as sandbox, Wire(sandbox) as calls:
        keyid = calls.create(GUN).keyInfo.keyID.ID
        calls.sign(keyid, document("timestamp", 1))
        (host,) = sandbox.keyd.hosts()
        os.kill(host, signal.SIGSTOP)
        try:
            began = time.monotonic()
            code, text = refusal(partial(calls.sign, keyid, document("timestamp", 2)))
            took_s = time.monotonic() - began
            assert calls.info(keyid).role == "timestamp"
        finally:
            os.kill(host, signal.SIGCONT)

        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "not done after 1 s" in text
        assert took_s < 5
        calls.sign(keyid, document("timestamp", 3))


# ------------------------------------------------------------------------------- the wire


def test_signatures_are_raw_and_verify(wire: Wire) -> None:
    content = document("timestamp", 1)
    for algorithm, scheme, size in (
        ("ecdsa", Scheme.ECDSA_P256_SHA256, 64),
        ("ed25519", Scheme.ED25519, 64),
        ("rsa", Scheme.RSA_PSS_SHA256, 384),
    ):
        made = wire.create(f"acme/raw-{algorithm}", algorithm=algorithm)
        keyid = made.keyInfo.keyID.ID
        info, signature = wire.info(keyid), wire.sign(keyid, content)

        assert info.publicKey == made.publicKey
        assert info.keyInfo.algorithm.algorithm == algorithm
        assert info.role == "timestamp"
        assert (
            signature.algorithm.algorithm
            == {
                "ecdsa": "ecdsa",
                "ed25519": "eddsa",
                "rsa": "rsapss",
            }[algorithm]
        )
        public = made.publicKey
        if algorithm == "ed25519":
            assert len(public) == 32
            public = bytes.fromhex("302a300506032b6570032100") + public
        publickeys.verify(public, scheme, signature.content, content)
        assert len(signature.content) == size


def test_a_key_that_signed_nothing_is_handed_out_again(wire: Wire) -> None:
    first = wire.create("acme/pending")
    assert wire.create("acme/pending") == first
    assert wire.create("acme/pending", "snapshot") != first
    assert wire.create("acme/pending", algorithm="ed25519") != first

    wire.sign(first.keyInfo.keyID.ID, document("timestamp", 1))

    assert wire.create("acme/pending") != first


def test_a_timestamp_key_signs_no_snapshot_and_nothing_else(wire: Wire) -> None:
    keyid = wire.create("acme/kinds").keyInfo.keyID.ID

    for content in (document("snapshot", 1), document("root", 1), b"anything", b"{}"):
        code, text = refusal(partial(wire.sign, keyid, content))
        assert code is not grpc.StatusCode.OK
        assert text.startswith("keyd: ")


def test_a_lower_version_is_refused_with_the_way_out(shared: Sandbox, wire: Wire) -> None:
    keyid = wire.create("acme/lower").keyInfo.keyID.ID
    wire.sign(keyid, document("timestamp", 5))
    wire.sign(keyid, document("timestamp", 5, length=101))

    code, text = refusal(lambda: wire.sign(keyid, document("timestamp", 4)))

    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "version 4 is below version 5" in text
    assert "keydctl role reset acme/lower timestamp" in text

    def told() -> list[dict[str, object]]:
        return [e for e in shared.entries() if e.get("key") == "notary/acme/lower/timestamp"]

    # Refusals are gathered for a moment, so that repeated ones become one entry.
    until(lambda: len(told()) == 3, "the refusal is in the log")
    assert [e["outcome"] for e in told()] == ["allowed", "allowed", "refused"]
    assert "reissued" in json.dumps(told()[1])


def test_a_second_key_of_a_collection_names_its_own_history_in_the_way_out(
    shared: Sandbox, wire: Wire
) -> None:
    old = wire.create("acme/second").keyInfo.keyID.ID
    wire.sign(old, document("timestamp", 7))
    new = wire.create("acme/second").keyInfo.keyID.ID
    wire.sign(new, document("timestamp", 2))

    assert "below version 7" in refusal(lambda: wire.sign(old, document("timestamp", 6)))[1]
    text = refusal(lambda: wire.sign(new, document("timestamp", 1)))[1]
    assert "keydctl role reset acme/second@2 timestamp" in text
    with shared.admin() as keyd:
        role = keyd.get_role("acme/second@2", "timestamp")
        keyd.reset_role("acme/second@2", "timestamp", role.digest, reason="restored")
    wire.sign(new, document("timestamp", 1))


def test_nobody_else_is_told_anything(shared: Sandbox, wire: Wire) -> None:
    keyid = wire.create("acme/secret").keyInfo.keyID.ID
    unknown = "0" * 64
    with Wire(shared, "stranger") as stranger:
        for call in (stranger.info, stranger.delete, partial(stranger.sign, content=b"{}")):
            told = refusal(partial(call, keyid))
            assert told[0] is grpc.StatusCode.PERMISSION_DENIED
            assert told[1].replace(keyid, unknown) == refusal(partial(call, unknown))[1]
        assert refusal(lambda: stranger.create("acme/mine"))[0] is grpc.StatusCode.PERMISSION_DENIED


def test_keys_are_not_deleted_by_request(shared: Sandbox, wire: Wire) -> None:
    keyid = wire.create("acme/kept").keyInfo.keyID.ID

    code, text = refusal(lambda: wire.delete(keyid))

    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "keydctl notary gc" in text
    assert wire.info(keyid).role == "timestamp"

    def told() -> list[object]:
        name = "notary/acme/kept/timestamp"
        return [e["outcome"] for e in shared.entries("destroy") if e.get("key") == name]

    until(lambda: told() == ["refused"], "the refusal is in the log")


@pytest.mark.parametrize(
    ("gun", "role", "algorithm", "said"),
    [
        ("a*b", "timestamp", "ecdsa", "stand for other names"),
        ("", "timestamp", "ecdsa", "0 characters"),
        ("a" * 150, "timestamp", "ecdsa", "too long"),
        ("acme/app", "root", "ecdsa", "signed by people"),
        ("acme/app", "Root!", "ecdsa", "no role"),
        ("acme/app", "timestamp", "dsa", "none of ecdsa, ed25519, rsa"),
    ],
)
def test_what_no_key_can_be_made_for_is_refused_in_words(
    wire: Wire, gun: str, role: str, algorithm: str, said: str
) -> None:
    code, text = refusal(lambda: wire.create(gun, role, algorithm))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said in text


def test_whoever_asks_for_key_after_key_is_told_to_wait(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, keys_at_once=4)
    config = tmp_path / "keyd.toml"
    config.write_text(config.read_text().replace("keys_per_hour = 10000", "keys_per_hour = 60"))
    with running(sandbox), Wire(sandbox) as calls:
        for number in range(4):
            calls.create(f"acme/{number}")

        code, text = refusal(lambda: calls.create("acme/5"))

        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "keys_per_hour" in text
        assert calls.create("acme/3") == calls.create("acme/3")


def test_a_policy_without_a_grant_for_notary_server_makes_no_key(tmp_path: Path) -> None:
    without = POLICY.replace(PRINCIPAL, "dns:somebody-else")
    with running(Sandbox(tmp_path, policy=without)) as sandbox:
        alice = sandbox.client()
        told = alice.fails("init", GUN, "-p")
        assert "unable to reach trust server" in told or "500" in told
        assert "denied" in sandbox.server.tail(6000)
        with sandbox.admin() as keyd:
            assert list(keyd.list_keys(KeyFilter(name="notary/*"))) == []


# ------------------------------------------------------------------------------- unused keys


def gc(sandbox: Sandbox, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """keydctl notary gc: key -> why."""
    endpoint = f"unix:{sandbox.folder}/run/keyd.sock"
    capsys.readouterr()
    code = keydctl.run(["--json", "--endpoint", endpoint, "notary", "gc", *arguments])
    assert code == 0
    return {key["key"]: key["why"] for key in json.loads(capsys.readouterr().out)}


def test_keys_that_a_server_left_behind_are_listed_and_go_only_on_request(
    shared: Sandbox, wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    old = wire.create("acme/left").keyInfo.keyID.ID
    wire.sign(old, document("timestamp", 1))
    new = wire.create("acme/left").keyInfo.keyID.ID
    wire.sign(new, document("timestamp", 1, length=101))
    never = wire.create("acme/left", "snapshot").keyInfo.keyID.ID
    name = "notary/acme/left"
    expected = {
        f"{name}/snapshot": "never signed",
        f"{name}/timestamp": f"replaced by {name}/timestamp.2",
    }

    assert gc(shared, capsys, "acme/left") == {}
    assert gc(shared, capsys, "acme/left", "--older-than", "0s") == expected
    assert gc(shared, capsys, "acme/left", "--older-than", "0s", "--confirm", "--yes") == {}
    scheduled = gc(
        shared, capsys, "acme/left", "--older-than", "0s", "--schedule", "--yes", "--reason", "tidy"
    )
    assert scheduled == expected

    for keyid, content in ((old, "timestamp"), (never, "snapshot")):
        text = refusal(partial(wire.sign, keyid, document(content, 2)))[1]
        assert "keydctl key cancel-destroy" in text
    wire.sign(new, document("timestamp", 2))
    assert gc(shared, capsys, "acme/left", "--older-than", "0s", "--confirm", "--yes") == {}
    with shared.admin() as keyd:
        state = keyd.get_key(f"{name}/snapshot").versions[0].state
        assert state is VersionState.DESTROY_SCHEDULED
        keyd.cancel_destroy(f"{name}/snapshot", 1)
    again = wire.create("acme/left", "snapshot").keyInfo.keyID.ID
    assert again != never
