"""What a notary-server is answered on its listener, call by call."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

from keyd import publickeys
from keyd.cli import keydctl
from keyd.model import Scheme, VersionState
from tests.notary_programs import Sandbox, running
from tests.notary_wire import Wire, document, refusal
from tests.waiting import until

pytestmark = pytest.mark.softhsm

GUN = "docker.io/acme/app"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """keyd and notary-server for tests that keep to a collection of their own."""
    with running(Sandbox(tmp_path_factory.mktemp("shared"))) as sandbox:
        yield sandbox


@pytest.fixture
def wire(shared: Sandbox) -> Iterator[Wire]:
    with Wire(shared) as calls:
        yield calls


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
