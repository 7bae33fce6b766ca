"""Every command of keydctl against a real grpc server, in this process."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keyd import publickeys
from keyd.cli.keydctl import run
from keyd.cli.signedfiles import canonical
from keyd.errors import (
    AlgorithmMismatchError,
    ApprovalNeededError,
    AuditUnavailableError,
    ContentError,
    DeviceGoneError,
    FrozenError,
    KeydError,
    PolicyDeniedError,
    RuleRefusedError,
    TokenLockedError,
    TokenNotFoundError,
    VersionTakenError,
)
from keyd.model import KeyAlgorithm, Scheme
from keyd.v1 import audit_pb2, signing_pb2
from tests.scripted_daemon import ScriptedDaemon, a_daemon_with_keys
from tests.tuf_documents import ALICE, a_root, write

REPOSITORY_ROOT = Path(__file__).parents[2]


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ctl = Callable[..., Said]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with a_daemon_with_keys(tmp_path) as started:
        yield started


@pytest.fixture
def ctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ctl:
    for name in [n for n in os.environ if n.startswith("KEYD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("KEYD_ENDPOINT", f"unix:{tmp_path}/keyd.sock")

    def command(*args: object, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run([str(a) for a in args])
        captured = capfd.readouterr()
        return Said(int(code), captured.out, captured.err)

    return command


# ---------------------------------------------------------------------------- status and speech


def test_status_and_whoami_say_which_daemon_and_why(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    status, me = ctl("status"), ctl("whoami")

    assert (status.code, me.code) == (0, 0)
    assert f"{daemon.endpoint} (KEYD_ENDPOINT)" in status.out
    assert "socket:tester" in me.out
    assert "everything: sign on keys *" in me.out


def test_status_of_a_daemon_that_does_not_sign_fails(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    daemon.health = "NOT_SIGNING"

    said = ctl("status", "--json")

    assert said.code == 1
    assert said.json["problems"] == ["token online is LOCKED"]


def test_json_may_stand_before_or_after_the_command(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    before, after = ctl("--json", "key", "list"), ctl("key", "list", "--json")

    assert before.json == after.json
    assert [k["name"] for k in after.json] == ["acme/ed", "acme/root"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyDeniedError("sign acme/root: denied, or no such name", hint="see your grants"), 1),
        (TokenLockedError("online is locked", hint="keydctl token unlock online"), 3),
        (FrozenError("all keys are frozen"), 3),
    ],
)
def test_errors_are_said_with_hint_and_request_id_and_never_a_traceback(
    daemon: ScriptedDaemon, ctl: Ctl, error: KeydError, code: int
) -> None:
    error.request_id = "req-5"
    daemon.errors["GetKey"] = [error]

    said = ctl("key", "show", "acme/root")

    hint = f"keydctl: hint: {error.hint}\n" if error.hint else ""
    assert said.code == code
    assert said.out == ""
    assert said.err == (f"keydctl: error: {error.message}\n{hint}keydctl: request id: req-5\n")


def test_no_daemon_is_try_again_and_names_the_endpoint(ctl: Ctl, tmp_path: Path) -> None:
    said = ctl("status")

    assert said.code == 4
    assert f"unix:{tmp_path}/keyd.sock (KEYD_ENDPOINT)" in said.err
    assert "Traceback" not in said.err


def test_of_two_daemons_the_named_one_answers(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    with ScriptedDaemon(tmp_path / "two", principal="socket:second") as second:
        config = tmp_path / "config" / "keyd" / "client.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'[profile.two]\nendpoint = "{second.endpoint}"\n')
        by_option = ctl("whoami", "--json", "--endpoint", second.endpoint)
        by_profile = ctl("--profile", "two", "whoami", "--json")
        by_environment = ctl("whoami", "--json")

    assert by_option.json["principal"] == by_profile.json["principal"] == "socket:second"
    assert by_profile.json["endpoint_source"] == "profile two"
    assert by_environment.json["principal"] == "socket:tester"


def test_a_bad_profile_file_is_a_usage_error_with_its_line(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    config = tmp_path / "config" / "keyd" / "client.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[profile.a]\nendpoint = "unix:/x"\ncrt = "a"\n')

    said = ctl("--profile", "a", "status")

    assert said.code == 2
    assert f"{config}:3: unknown setting 'crt'; did you mean 'cert'?" in said.err


@pytest.mark.parametrize(
    "args",
    [
        ["statsu"],
        ["key"],
        ["key", "show"],
        ["key", "disable", "acme/root"],
        ["key", "disable", "acme/root/versions/1", "2"],
        ["key", "create", "a", "--algorithm", "dsa"],
        ["key", "create", "a", "--bind", "acme"],
        ["key", "create", "a", "--rotate-every", "90"],
        ["key", "create", "a", "--scheme", "rot13"],
        ["key", "adopt", "--token", "t"],
        ["key", "adopt", "n", "--token", "t", "--object-id", "zz"],
        ["key", "update", "acme/root"],
        ["key", "update", "acme/root", "--unbind", "other:root"],
        ["key", "destroy", "acme/root", "1"],
        ["sign", "--key", "k"],
        ["sign", "/no/such/file", "--key", "k"],
        ["sign", "--digest", "sha256:00", "--key", "k"],
        ["sign", "--digest", "md5:00", "--key", "k"],
        ["sign", "-", "--key", "k", "--context", "acme"],
        ["verify", "a", "b"],
        ["token", "unlock", "online"],
        ["token", "unlock", "online", "--pin-stdin"],
        ["freeze", "all"],
        ["policy", "test", "socket:a", "sing", "k"],
        ["policy", "test", "alice", "sign", "k", "--policy", "/dev/null"],
        ["tls", "request"],
        ["audit", "verify", "/no/such/file", "--log-key", "/no/such/file"],
        ["status", "--deadline", "0"],
        ["status", "--endpoint", "http://x"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_usage_and_asks_for_nothing(
    daemon: ScriptedDaemon, ctl: Ctl, args: list[str]
) -> None:
    said = ctl(*args)

    assert said.code == 2, said
    assert said.err.startswith(("keydctl: error: ", "Usage: "))
    changes = set(daemon.asked) - {"GetKey", "ListTokens", "ShowCheckpoint"}
    assert changes == set()


# ---------------------------------------------------------------------------------------- keys


def test_a_key_is_created_bound_and_shown(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    made = ctl(
        "key", "create", "acme/targets", "--token", "online", "--algorithm", "ed25519",
        "--bind", "acme:targets", "--label", "team=release", "--rotate-every", "90d", "--json",
    )  # fmt: skip

    assert made.code == 0
    assert made.err == ""
    assert made.json["bindings"] == [{"repository": "acme", "role": "targets"}]
    assert made.json["labels"] == {"team": "release"}
    assert made.json["rotation_period_s"] == 7_776_000
    assert made.json["versions"][0]["state"] == "ENABLED"


def test_a_key_bound_to_nothing_is_called_what_it_is(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    said = ctl("key", "create", "free")
    listed = ctl("key", "list")

    assert "keydctl: warning: free is bound to nothing: it signs anything" in said.err
    assert "anything (bound to nothing)" in listed.out


@pytest.mark.parametrize("form", ["pem", "tuf", "notary", "ssh"])
def test_public_keys_come_in_the_forms_of_other_tools(
    daemon: ScriptedDaemon, ctl: Ctl, form: str
) -> None:
    staged = daemon.add_version("acme/root")

    said = ctl("key", "show", "acme/root", "--format", form, "--version", "2")

    expected = {
        "pem": publickeys.pem(staged.public_key),
        "ssh": publickeys.ssh_line(staged.public_key, "acme/root/versions/2") + "\n",
        "notary": publickeys.notary_key(staged.public_key) + "\n",
    }
    if form == "tuf":
        assert said.json["keyid"] == staged.keyids["tuf"]
        assert said.json["scheme"] == Scheme.ECDSA_P256_SHA256
    else:
        assert said.out == expected[form]


def test_a_rotation_is_staged_then_activated_then_the_old_version_destroyed(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    rotated = ctl("key", "rotate", "acme/root")
    shown = ctl("key", "show", "acme/root")
    activated = ctl("key", "activate", "acme/root", "2")
    scheduled = ctl("key", "destroy", "acme/root/versions/1", "--yes", "--wait", "2d", "--json")
    confirmed = ctl("key", "destroy", "acme/root", "1", "--confirm", "--yes", "--json")

    assert "version 2 is staged" in rotated.out
    assert "ENABLED, staged" in shown.out
    assert activated.code == 0
    assert scheduled.json["versions"][0]["destroy_after"] == "2026-03-03T12:00:00Z"
    assert confirmed.json["versions"][0]["state"] == "DESTROYED"


def test_bindings_are_added_and_removed_and_labels_kept(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    ctl("key", "update", "acme/root", "--label", "a=1", "--label", "b=2")
    said = ctl(
        "key", "update", "acme/root", "--bind", "acme:targets", "--label", "a=", "--json",
    )  # fmt: skip
    unbound = ctl("key", "update", "acme/root", "--unbind", "acme:targets", "--unbind", "acme:root")

    assert [b["role"] for b in said.json["bindings"]] == ["root", "targets"]
    assert said.json["labels"] == {"b": "2"}
    assert "it signs anything" in unbound.err


def test_the_rest_of_a_keys_life(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    codes = [
        ctl("key", "disable", "acme/root", "1").code,
        ctl("key", "enable", "acme/root", "1").code,
        ctl("key", "destroy", "acme/root", "1", "--yes").code,
        ctl("key", "cancel-destroy", "acme/root", "1").code,
        ctl("key", "adopt", "--token", "online", "--all").code,
        ctl("key", "adopt", "acme/old", "--token", "online", "--object-id", "0a").code,
    ]

    assert codes == [0] * 6
    assert daemon.requests["AdoptKey"].object_id == b"\x0a"


def test_freeze_all_means_all_keys(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    said = ctl("freeze", "all", "--reason", "stolen laptop")
    thawed = ctl("unfreeze", "all", "--json")

    assert daemon.requests["Freeze"].key == ""
    assert "all keys are frozen" in said.out
    assert "stolen laptop" in said.out
    assert thawed.json == {"freezes": []}


# -------------------------------------------------------------------------------------- tokens


def test_the_pin_comes_from_standard_input_and_is_never_said(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    said = ctl("token", "unlock", "online", "--pin-stdin", stdin="918273\n")

    assert said.code == 0
    assert daemon.requests["Unlock"].pin == "918273"
    assert "918273" not in said.out + said.err


def test_a_pin_for_a_token_that_is_ready_already_is_said_not_to_be_tried(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    said = ctl("token", "unlock", "online", "--pin-stdin", "--json", stdin="999999\n")

    assert (said.code, said.json["state"]) == (0, "READY")
    assert "online was READY already; the PIN was not tried" in said.err

    daemon.token_state = "LOCKED"
    said = ctl("token", "unlock", "online", "--pin-stdin", stdin="918273\n")
    assert (said.code, said.out, said.err) == (0, "online is READY\n", "")


@pytest.mark.parametrize(
    "args",
    [
        ["token", "unlock", "nosuch", "--pin-stdin"],
        ["yubikey", "unblock", "nosuch", "--puk-fd", "0", "--new-pin-fd", "0"],
        ["yubikey", "change-pin", "nosuch", "--old-pin-fd", "0", "--new-pin-fd", "0"],
        ["yubikey", "init", "nosuch", "--factory", "--yes", "--pin-fd", "0", "--puk-fd", "0"],
    ],
    ids=" ".join,
)
def test_a_token_that_is_not_there_is_said_before_its_secrets_are_asked_for(
    daemon: ScriptedDaemon, ctl: Ctl, args: list[str]
) -> None:
    missing = TokenNotFoundError("no token nosuch is configured", hint="keydctl token list")
    daemon.errors["ListObjects"].append(missing)

    said = ctl(*args, stdin="918273\n918273\n")

    assert said.code == 1
    assert "no token nosuch is configured" in said.err
    assert set(daemon.asked) - {"ShowCheckpoint"} == {"ListTokens", "ListObjects"}


def test_secrets_of_a_yubikey_are_not_asked_for_where_the_token_is_something_else(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    daemon.token_model = "SoftHSM v2"

    for words in (("init", "online", "--factory"), ("change-pin", "online"), ("unblock", "online")):
        said = ctl("yubikey", *words)
        assert said.code == 2
        assert "online is no YubiKey: it says SoftHSM v2" in said.err
        assert "-fd" not in said.err


def test_who_may_unlock_a_token_and_not_see_it_is_asked_for_the_pin(
    daemon: ScriptedDaemon, ctl: Ctl
) -> None:
    daemon.errors["ListObjects"].append(PolicyDeniedError("no grant for tokens"))

    said = ctl("token", "unlock", "unseen", "--pin-stdin", stdin="918273\n")

    assert said.code == 0
    assert daemon.requests["Unlock"].token == "unseen"


def test_unlock_without_a_terminal_says_how(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    said = ctl("token", "unlock", "online", stdin="918273\n")

    assert "--pin-stdin" in said.err
    assert daemon.asked["Unlock"] == 0


def test_tokens_and_their_objects_are_listed(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    listed, objects = ctl("token", "list", "--json"), ctl("token", "objects", "online")
    loose, locked = ctl("token", "objects", "loose"), ctl("token", "lock", "online")

    assert listed.json[0]["state"] == "READY"
    assert objects.code == 0
    assert "acme/root/versions/1" in objects.out
    assert loose.code == 1
    assert "old: the private key can leave the token" in loose.err
    assert "LOCKED" in locked.out


# ------------------------------------------------------------------------------------- signing


def test_a_file_is_signed_and_verified_with_and_without_the_daemon(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file, sig, pem = tmp_path / "f", tmp_path / "f.sig", tmp_path / "key.pem"
    file.write_bytes(b"release")
    pem.write_text(publickeys.pem(daemon.keys["acme/root"].versions[0].public_key))

    for encoding in ("der", "raw"):
        signed = ctl(
            "sign", file, "--key", "acme/root", "--encoding", encoding, "-o", sig,
            "--context", "acme:root", "--reason", "1.0", "--json",
        )  # fmt: skip
        online = ctl("verify", file, sig, "--key", "acme/root", "--json")
        offline = ctl("verify", file, sig, "--public-key", pem)

        assert signed.json["signature"] == base64.b64encode(sig.read_bytes()).decode()
        assert online.json["key"] == "acme/root/versions/1"
        assert (offline.code, offline.err) == (0, "")
    file.write_bytes(b"tampered")
    tampered = ctl("verify", file, sig, "--public-key", pem)

    assert tampered.code == 1
    assert "is not a signature" in tampered.err


def test_standard_input_is_signed_to_standard_output(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    done = _subprocess(
        tmp_path, "sign", "-", "--key", "acme/ed", "-o", "-",
        endpoint=daemon.endpoint, stdin=b"message",
    )  # fmt: skip

    public = daemon.keys["acme/ed"].versions[0].public_key
    publickeys.verify(public, Scheme.ED25519, done.stdout, b"message")
    assert done.returncode == 0


def test_a_digest_is_signed_as_given(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    value = hashlib.sha256(b"x").hexdigest()

    said = ctl(
        "sign", "--digest", f"sha256:{value}", "--key", "acme/root", "--encoding", "der", "--json"
    )

    assert said.json["digest"] == f"sha256:{value}"


def test_a_dry_run_writes_no_signature(daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path) -> None:
    file, sig = tmp_path / "f", tmp_path / "f.sig"
    file.write_bytes(b"x")

    said = ctl("sign", file, "--key", "acme/ed", "--dry-run", "-o", sig)

    assert said.code == 0
    assert "would sign with" in said.out
    assert not sig.exists()
    assert daemon.bodies == []


def test_a_lying_daemon_leaves_no_signature_file(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file, sig = tmp_path / "f", tmp_path / "f.sig"
    file.write_bytes(b"x")

    def lie(answer: signing_pb2.SignResponse) -> None:
        answer.digest.value = bytes(32)

    daemon.lie = lie
    said = ctl("sign", file, "--key", "acme/ed", "-o", sig)

    assert said.code == 1
    assert "do not use this signature" in said.err
    assert not sig.exists()


def test_a_token_that_is_away_is_try_again(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    daemon.errors["Sign"] = [DeviceGoneError("online is away", retry_after_s=60.0)]

    said = ctl("sign", file, "--key", "acme/ed", "--deadline", "5")

    assert said.code == 4


@pytest.mark.parametrize(
    "refused",
    [
        ContentError("not canonical JSON", problem="not-canonical"),
        RuleRefusedError("this is neither", hint="take another key", rule="opaque"),
        AlgorithmMismatchError("encoding: ECDSA needs a choice, der or raw"),
    ],
)
def test_a_metadata_file_that_cannot_be_signed_as_it_lies_is_led_to_its_command(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path, refused: KeydError
) -> None:
    file = write(tmp_path / "1.root.json", a_root(1, ALICE.public_key))
    daemon.errors["Sign"] = [refused]

    said = ctl("sign", file, "--key", "acme/ed")

    assert said.code in (1, 2)
    assert f"keydctl explain {file} --key KEY" in said.err
    assert f"keydctl tuf sign {file}" in said.err
    error, hint = said.err.splitlines()[:2]
    assert "encoding" not in error
    assert ("--encoding" in hint) == isinstance(refused, AlgorithmMismatchError)


def test_other_refusals_of_a_metadata_file_keep_their_own_advice(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file = write(tmp_path / "1.root.json", a_root(1, ALICE.public_key))
    plain = tmp_path / "plain"
    plain.write_bytes(b'{"signed": {}}')
    daemon.errors["Sign"] = [
        RuleRefusedError("too far", hint="ask for less", rule="expiry-too-far"),
        AlgorithmMismatchError("encoding: RSA has one form only"),
        AlgorithmMismatchError("encoding: ECDSA needs a choice, der or raw"),
        ContentError("not canonical JSON", problem="not-canonical"),
    ]

    far = ctl("sign", file, "--key", "acme/ed")
    given = ctl("sign", file, "--key", "acme/ed", "--encoding", "der")
    missing = ctl("sign", plain, "--key", "acme/ed")
    unread = ctl("sign", plain, "--key", "acme/ed")

    assert "hint: ask for less" in far.err
    assert "RSA has one form only" in given.err
    assert "hint: say --encoding der or --encoding raw" in missing.err
    assert f"hint: see what it is: keydctl explain {plain} --key KEY" in unread.err


# --------------------------------------------------------------------------------------- audit


def _metadata(
    daemon: ScriptedDaemon, ctl: Ctl, file: Path, version: int, keys: object = None
) -> dict[str, Any]:
    """A timestamp file signed by acme/root, as python-tuf writes it."""
    signed = {
        "_type": "timestamp",
        "spec_version": "1.0.31",
        "version": version,
        "expires": "2030-01-01T00:00:00Z",
        "meta": {"snapshot.json": {"version": 1}},
    }
    if keys:
        signed["keys"] = keys
    raw = file.with_suffix(".raw")
    raw.write_bytes(canonical(signed))
    done = ctl("sign", raw, "--key", "acme/root", "--encoding", "der", "--json")
    sig = base64.b64decode(done.json["signature"]).hex()
    document = {"signed": signed, "signatures": [{"keyid": done.json["keyid"], "sig": sig}]}
    file.write_text(json.dumps(document))
    return document


def test_find_names_entry_key_and_principal_of_each_signature(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    _metadata(daemon, ctl, folder / "1.timestamp.json", 1)
    _metadata(daemon, ctl, folder / "timestamp.json", 2)

    said = ctl("audit", "find", folder)
    as_json = ctl("audit", "find", folder / "timestamp.json", "--json")

    assert said.code == 0
    assert "2 of 2 signatures are accounted for by an entry" in said.out
    (found,) = as_json.json["signatures"]
    assert found["standing"] == "logged"
    assert found["entry"] == 1
    assert found["key_version"] == "acme/root/versions/1"
    assert found["principal"] == "socket:tester"


def test_find_fails_when_our_key_signed_without_an_entry(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    """A stolen key signs the very content keyd signed, or other content; the log knows of
    neither."""
    file = tmp_path / "timestamp.json"
    document = _metadata(daemon, ctl, file, 1)
    stolen = daemon._make(
        "acme/root/versions/1",
        Scheme.ECDSA_P256_SHA256,
        b"",
        hashlib.sha256(canonical(document["signed"])).digest(),
    )
    document["signatures"][0]["sig"] = stolen.hex()
    file.write_text(json.dumps(document))

    said = ctl("audit", "find", file)

    assert said.code == 1
    assert "MISSING" in said.out
    assert "the log has no entry for it" in said.err


def test_find_sees_our_key_under_a_keyid_of_the_repositorys_own(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file = tmp_path / "root.json"
    public = daemon.keys["acme/root"].versions[0].public_key
    key = publickeys.tuf_key(public, Scheme.ECDSA_P256_SHA256)
    document = _metadata(daemon, ctl, file, 1, keys={"own-id": key})
    document["signatures"][0] = {"keyid": "own-id", "sig": "00" * 70}
    file.write_text(json.dumps(document))

    assert ctl("audit", "find", file).code == 1


def test_find_fails_when_a_logged_signature_stands_over_other_content(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file = tmp_path / "timestamp.json"
    document = _metadata(daemon, ctl, file, 1)
    document["signed"]["version"] = 99
    file.write_text(json.dumps(document))

    said = ctl("audit", "find", file)

    assert said.code == 1
    assert "OTHER-CONTENT" in said.out


def test_find_accepts_other_encodings_and_leaves_foreign_keys_alone(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file = tmp_path / "timestamp.json"
    document = _metadata(daemon, ctl, file, 1)
    der = bytes.fromhex(document["signatures"][0]["sig"])
    document["signatures"][0]["sig"] = publickeys.to_raw(der, KeyAlgorithm.ECDSA_P256).hex()
    document["signatures"].append({"keyid": "f" * 64, "sig": "00"})
    file.write_text(json.dumps(document))

    said = ctl("audit", "find", file, "--json")

    assert said.code == 0
    assert [s["standing"] for s in said.json["signatures"]] == ["logged", "foreign"]


def test_the_log_is_listed_in_its_order_and_shown(daemon: ScriptedDaemon, ctl: Ctl) -> None:
    for n in range(5):
        daemon.record("sign" if n % 2 else "create", key="acme/root", version=1)

    newest = ctl("audit", "list", "--limit", "2", "--json")
    creates = ctl("audit", "list", "--action", "create", "--limit", "0", "--json")
    shown = ctl("audit", "show", "3")
    tailed = ctl("audit", "tail", "--from", "3", "--json")
    none = ctl("audit", "show", "9")

    assert [e["index"] for e in newest.json] == [3, 4]
    assert [e["index"] for e in creates.json] == [0, 2, 4]
    assert '"action": "sign"' in shown.out
    assert [json.loads(line)["index"] for line in tailed.out.splitlines()] == [3, 4]
    assert none.code == 2


def test_an_export_verifies_offline_and_every_cut_and_change_is_found(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    export, key, kept = tmp_path / "log.jsonl", tmp_path / "log.key", tmp_path / "kept"
    for _ in range(5):
        daemon.record("create", key="acme/root")
    ctl("audit", "log-key", "-o", key)
    exported = ctl("audit", "export", "-o", export)
    whole = export.read_bytes()
    ctl("audit", "checkpoint", "--fresh", "-o", kept)

    good = ctl("audit", "verify", export, "--log-key", key, "--checkpoint", kept, "--json")
    export.write_bytes(whole.replace(b"acme/root", b"acme/rooT", 1))
    changed = ctl("audit", "verify", export, "--log-key", key)
    export.write_bytes(b"".join(whole.splitlines(keepends=True)[:-2]))
    cut = ctl("audit", "verify", export, "--log-key", key)

    assert "wrote 5 entries of log.example" in exported.out
    assert good.json["entries"] == 5
    assert good.json["against_kept_checkpoint"] is True
    assert (changed.code, cut.code) == (1, 1)


def test_a_kept_checkpoint_finds_an_older_export(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    export, key, kept = tmp_path / "log.jsonl", tmp_path / "log.key", tmp_path / "kept"
    daemon.record("create", key="acme/root")
    ctl("audit", "log-key", "-o", key)
    ctl("audit", "export", "-o", export)
    daemon.record("destroy", key="acme/root")
    ctl("audit", "checkpoint", "--fresh", "-o", kept)

    assert ctl("audit", "verify", export, "--log-key", key).code == 0
    assert ctl("audit", "verify", export, "--log-key", key, "--checkpoint", kept).code == 1


def test_a_daemon_that_changes_an_entry_cannot_export_or_prove_it(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    daemon.record("create", key="acme/root")
    export = tmp_path / "log.jsonl"

    def lie(entry: audit_pb2.Entry) -> None:
        entry.body = entry.body.replace(b"acme/root", b"acme/rooT")

    daemon.lie_about_entries = lie
    exported, proved = ctl("audit", "export", "-o", export), ctl("audit", "prove", "0")

    assert (exported.code, proved.code) == (1, 1)
    assert "do not fit its own checkpoint" in exported.err
    assert "entry 0 is not in the tree" in proved.err
    assert not list(tmp_path.glob("*log.jsonl*"))


def test_a_proof_is_written_as_c2sp_says(daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path) -> None:
    proof, key = tmp_path / "3.tlog-proof", tmp_path / "log.key"
    for _ in range(6):
        daemon.record("create", key="acme/root")
    ctl("audit", "log-key", "-o", key)

    said = ctl("audit", "prove", "3", "-o", proof, "--log-key", key)

    lines = proof.read_text().split("\n")
    blank = lines.index("")
    assert said.code == 0
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 3"]
    assert [len(base64.b64decode(h)) for h in lines[2:blank]] == [32, 32, 32]
    assert "\n".join(lines[blank + 1 :]) == daemon.note()


def test_a_checkpoint_is_compared_with_the_kept_one(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    for _ in range(3):
        daemon.record("create", key="acme/root")
    ctl("audit", "checkpoint")
    daemon.record("create", key="acme/root")

    grown = ctl("audit", "checkpoint")
    daemon.bodies[0] = daemon.bodies[0].replace(b"acme/root", b"acme/rooT")
    daemon.record("create", key="acme/root")
    rewritten = ctl("audit", "checkpoint")
    forgotten = ctl("audit", "checkpoint", "--forget")

    assert "the log only grew since the 3 entries" in grown.err
    assert rewritten.code == 1
    assert "the kept checkpoint is dropped" in forgotten.out


# ------------------------------------------------------------------------------ without daemon


POLICY = """
[[grant]]
name = "ci"
principals = ["dns:ci.example"]
actions = ["sign"]
keys = ["acme/*"]
kinds = ["timestamp"]
"""


# ------------------------------------------------------------------------------------- explain


def test_explain_asks_by_a_dry_run_about_the_signed_part_alone(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    metadata = a_root(2, ALICE.public_key)
    file = write(tmp_path / "root.json", metadata)

    said = ctl("explain", file, "--key", "acme/root", "--context", "acme:root", "--json")

    asked = daemon.requests["Sign"]
    assert said.code == 0, said.err
    assert asked.dry_run
    assert asked.message == metadata.signed_bytes
    assert (asked.context.repository, asked.context.role) == ("acme", "root")
    assert daemon.bodies == []
    assert said.json["decision"]["key_version"] == "acme/root/versions/1"
    assert said.json["decision"]["encoding"] == "der"
    assert said.json["decision"]["rule"] == "grant everything"


def test_explain_needs_no_encoding_for_what_it_can_read_and_one_for_what_it_cannot(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file, opaque = write(tmp_path / "root.json", a_root(2, ALICE.public_key)), tmp_path / "opaque"
    opaque.write_bytes(b"release 1.0")

    by_other_key = ctl("explain", file, "--key", "acme/ed", "--json")
    undecided = ctl("explain", opaque, "--key", "acme/root")
    decided = ctl("explain", opaque, "--key", "acme/root", "--encoding", "raw", "--json")

    assert by_other_key.json["decision"]["encoding"] == "raw"
    assert undecided.code == 2
    assert "say --encoding der or --encoding raw" in undecided.out
    assert (decided.code, decided.json["decision"]["encoding"]) == (0, "raw")


@pytest.mark.parametrize(
    ("error", "code", "word", "change"),
    [
        (PolicyDeniedError("sign acme/root: denied", rule="no grant"), 1, "refused", "a grant"),
        (
            VersionTakenError("root 2 is signed", role="root", version=2, next_version=5),
            1,
            "refused",
            "the version number in the document; 5 is free",
        ),
        (ContentError("expires: too far", problem="field"), 1, "refused", "the document itself"),
        (FrozenError("frozen by alice"), 3, "needs people", "a person has to end the freeze"),
        (
            ApprovalNeededError("needs 2 approvals", approval="ap-1", hint="keydctl approve ap-1"),
            3,
            "needs people",
            "people have to approve exactly these bytes",
        ),
        (AuditUnavailableError("no log"), 4, "try again", "by whoever runs it"),
    ],
)
def test_explain_answers_a_refusal_with_what_must_change(
    daemon: ScriptedDaemon,
    ctl: Ctl,
    tmp_path: Path,
    error: KeydError,
    code: int,
    word: str,
    change: str,
) -> None:
    file = write(tmp_path / "root.json", a_root(2, ALICE.public_key))
    error.request_id = "req-7"
    daemon.errors["Sign"] = [error, error]

    said = ctl("explain", file, "--key", "acme/root")
    machine = ctl("explain", file, "--key", "acme/root", "--json")

    told = dict(line.split(": ", 1) for line in said.out.splitlines() if ": " in line)
    decision = machine.json["decision"]
    assert (said.code, machine.code, said.err, machine.err) == (code, code, "", "")
    assert told["content"].startswith("root v2 (tuf)")
    assert told["verdict"].strip() == f"{word} ({error.reason})"
    assert told["why"].strip() == error.message
    assert change in told["must change"]
    assert told.get("hint", "").strip() == error.hint
    assert told["request id"].strip() == "req-7"
    assert decision["allowed"] is False
    assert decision["exit_code"] == code
    assert decision["refusal"]["facts"] == error.facts


def test_explain_shows_the_file_though_no_daemon_answers(ctl: Ctl, tmp_path: Path) -> None:
    file = write(tmp_path / "root.json", a_root(2, ALICE.public_key))

    said = ctl("explain", file, "--key", "acme/root")

    assert said.code == 4
    assert "content: root v2 (tuf)" in said.out
    assert "try again (SERVER_GONE)" in said.out


def test_explain_asks_no_daemon_offline_nor_about_a_file_that_means_nothing(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file, doubled = write(tmp_path / "root.json", a_root(2, ALICE.public_key)), tmp_path / "d.json"
    doubled.write_text('{"signed": {}, "signed": {"a": 1}, "signatures": []}')

    offline = ctl("explain", file, "--key", "acme/root", "--offline", "--json")
    unusable = ctl("explain", doubled, "--key", "acme/root", "--json")

    assert (offline.code, offline.json["decision"]) == (0, None)
    assert unusable.code == 1
    assert unusable.json["form"] == "unusable"
    assert unusable.json["decision"]["refusal"]["facts"]["problem"] == "duplicate-key"
    assert daemon.asked["Sign"] == 0


def test_explain_warns_of_a_yes_to_what_nobody_can_read(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    opaque = tmp_path / "opaque"
    opaque.write_bytes(b"release 1.0")

    said = ctl("explain", opaque, "--key", "acme/ed")

    assert said.code == 0
    assert "content: opaque" in said.out
    assert "would be signed though nobody can say for certain what it says: not JSON" in said.err
    assert "acme/ed/versions/1 belongs to a key bound to nothing" in said.err


def test_explain_believes_no_daemon_that_answers_about_other_bytes(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    file = write(tmp_path / "root.json", a_root(2, ALICE.public_key))

    def lie(answer: signing_pb2.SignResponse) -> None:
        answer.digest.value = bytes(32)

    daemon.lie = lie
    said = ctl("explain", file, "--key", "acme/root")

    assert said.code == 1
    assert "refused (BAD_SIGNATURE)" in said.out


def test_policy_test_explains_a_decision_offline(ctl: Ctl, tmp_path: Path) -> None:
    policy, content = tmp_path / "policy.toml", tmp_path / "timestamp"
    policy.write_text(POLICY)
    signed = {"_type": "timestamp", "version": 1, "expires": "2030-01-01T00:00:00Z"}
    content.write_bytes(canonical({**signed, "spec_version": "1.0.31", "meta": {}}))
    ask = ("policy", "test", "dns:ci.example", "sign", "acme/x")

    allowed = ctl(*ask, content, "--policy", policy, "--json")
    blind = ctl(*ask, "--policy", policy)
    stranger = ctl("policy", "test", "dns:b.example", "sign", "acme/x", "--policy", policy)

    assert (allowed.code, blind.code, stranger.code) == (0, 1, 1)
    assert allowed.json["rule"] == "grant ci"
    assert "only timestamp, not opaque" in blind.out
    assert "no grant" in stranger.out


def test_policy_test_says_whose_consent_is_needed_and_what_metadata_may_say(
    ctl: Ctl, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        POLICY + '[[rule]]\nname = "two"\nkeys = ["acme/*"]\nactions = ["sign"]\napprovals = 2\n'
        'approvers = ["email:*@acme.example"]\nown = true\nroles = ["root"]\n'
        '[[limit]]\nname = "short"\nroles = ["root"]\nmax_expiry_days = 30\n'
    )
    ask = ("policy", "test", "dns:ci.example", "sign", "acme/x", "--policy", policy)

    root = ctl(*ask, "--context", "acme:root", "--json").json
    other = ctl(*ask, "--context", "acme:snapshot", "--json").json

    assert [(r["rule"], r["needed"], r["own"]) for r in root["approvals"]] == [("two", 2, True)]
    assert root["limits"] == {"max_expiry_days": 30, "max_step": 100, "paths": [], "rule": "short"}
    assert (other["approvals"], other["limits"]["max_expiry_days"]) == ([], 400)


def test_tls_request_writes_a_private_key_and_never_over_another(ctl: Ctl, tmp_path: Path) -> None:
    said = ctl("tls", "request", "dns:ci.example", "-o", tmp_path / "ci")
    again = ctl("tls", "request", "dns:ci.example", "-o", tmp_path / "ci")

    assert said.code == 0
    assert (tmp_path / "ci.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ci.csr").read_text().startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert again.code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(ctl: Ctl, shell: str) -> None:
    said = ctl("completion", shell)

    assert said.code == 0
    assert "_KEYDCTL_COMPLETE" in said.out


def test_json_has_the_keys_the_page_promises(
    daemon: ScriptedDaemon, ctl: Ctl, tmp_path: Path
) -> None:
    page = (REPOSITORY_ROOT / "docs" / "keydctl.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    rows += [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| each of")]
    # Those of trust need a notary-server: tests/e2e/test_trust_commands.py.
    rows = [row for row in rows if not row[0].strip().startswith("`trust ")]
    promised = {what.strip(): set(keys.strip().split(", ")) for what, keys in rows}
    metadata, sig, policy = tmp_path / "timestamp.json", tmp_path / "s", tmp_path / "policy.toml"
    _metadata(daemon, ctl, metadata, 1)
    policy.write_text(POLICY)
    ctl("audit", "log-key", "-o", tmp_path / "log.key")
    signed = ctl("sign", metadata, "--key", "acme/ed", "-o", sig, "--json").json
    key = ctl("key", "show", "acme/root", "--json").json
    found = ctl("audit", "find", metadata, "--json").json
    export = tmp_path / "export"
    roots = [
        write(tmp_path / f"{n}.root.json", a_root(n, ALICE.public_key, signed_by=[ALICE]))
        for n in (1, 2)
    ]
    explained = ctl("explain", roots[1], "--against", roots[0], "--key", "acme/root", "--json").json
    approval = ctl("approvals", "show", daemon.ask(b"x"), "--json").json
    daemon.vote("ap-1", "email:carol@example.org")
    listed = ctl("approvals", "--json").json[0]
    said = {
        "`approve`": listed,
        "`approvals show`": set(approval) - set(listed),
        "each of its `requirements`": listed["requirements"][0],
        "each of its `votes`": listed["votes"][0],
        "`status`": ctl("status", "--json").json,
        "`whoami`": ctl("whoami", "--json").json,
        "`key show`": key,
        "each of `versions`": key["versions"][0],
        "`key adopt`": ctl("key", "adopt", "--token", "online", "--all", "--json").json,
        "`token unlock`": ctl("token", "list", "--json").json[0],
        "`token objects`": ctl("token", "objects", "online", "--json").json[0],
        "`sign`": signed,
        "`explain`": explained,
        "`decision` of it": explained["decision"],
        "each of its `changes`": explained["changes"][0],
        "each of its `signatures`": explained["signatures"][0],
        "each of its `counts`": explained["counts"][0],
        "`verify`": ctl("verify", metadata, sig, "--key", "acme/ed", "--json").json,
        "`audit find`": found,
        "each of `signatures`": found["signatures"][0],
        "`audit prove`": ctl("audit", "prove", "0", "--json").json,
        "`audit export`": ctl("audit", "export", "-o", export, "--json").json,
        "`audit verify`": ctl(
            "audit", "verify", export, "--log-key", tmp_path / "log.key", "--json"
        ).json,
        "`audit checkpoint`": ctl("audit", "checkpoint", "--json").json,
        "`audit log-key`": ctl("audit", "log-key", "--json").json,
        "`freeze`": ctl("freeze", "acme/ed", "--reason", "x", "--json").json,
        "`policy test`": ctl(
            "policy", "test", "dns:ci.example", "sign", "acme/x", "--policy", policy, "--json"
        ).json,
        "`tls request`": ctl(
            "tls", "request", "dns:a.example", "-o", tmp_path / "a", "--json"
        ).json,
    }

    for what, value in said.items():
        (keys,) = (keys for row, keys in promised.items() if row.startswith(what))
        assert set(value) == keys, what
    assert len(promised) == len(said) + 1  # the entries, which audit.md describes


# ------------------------------------------------------------------------------------- process


def _environment(folder: Path, endpoint: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("KEYD_", "XDG_"))}
    return {**clean, "HOME": str(folder), "KEYD_ENDPOINT": endpoint}


def _subprocess(
    folder: Path, *args: str, endpoint: str = "", stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "keyd.cli.keydctl", *args],
        env=_environment(folder, endpoint),
        cwd=REPOSITORY_ROOT,
        input=stdin,
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    "args",
    [["--help"], ["key", "--help"], ["audit", "find", "--help"], ["explain", "--help"]],
)
def test_help_does_not_wait_for_grpc_or_cryptography(args: list[str]) -> None:
    code = (
        "import sys\nfrom keyd.cli.keydctl import run\n"
        f"code = run({args!r})\n"
        "heavy = {'grpc', 'cryptography', 'tuf', 'sqlalchemy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} {code}' if heavy or code else 0)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY_ROOT, capture_output=True, timeout=30
    )

    assert done.returncode == 0, done.stderr
    assert b"--help" in done.stdout


def _without(packages: list[str], *args: str, endpoint: str, folder: Path) -> Said:
    """keydctl where these packages are not installed."""
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({packages!r}))\n"
        "from keyd.cli.keydctl import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=REPOSITORY_ROOT,
        env=_environment(folder, endpoint),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_the_base_install_is_enough(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    extras = ["sqlalchemy", "pydantic", "pkcs11", "prometheus_client", "uvloop"]
    extras += ["grpc_health", "grpc_reflection", "tuf", "securesystemslib"]
    daemon.record("create", key="acme/root")
    export, key = str(tmp_path / "log.jsonl"), str(tmp_path / "log.key")
    root = str(write(tmp_path / "root.json", a_root(1, ALICE.public_key, signed_by=[ALICE])))

    for args in (
        ["whoami"],
        ["key", "show", "acme/root", "--format", "tuf"],
        ["token", "list"],
        ["audit", "log-key", "-o", key],
        ["audit", "export", "-o", export],
        ["audit", "verify", export, "--log-key", key],
        ["tls", "request", "dns:a.example", "-o", str(tmp_path / "a")],
        ["explain", root, "--against", root, "--key", "acme/root"],
    ):
        said = _without(extras, *args, endpoint=daemon.endpoint, folder=tmp_path)
        assert said.code == 0, (args, said)


def test_tuf_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    said = _without(["tuf"], "tuf", "init", "--help", endpoint="", folder=tmp_path)

    assert said.code == 2
    assert "keydctl: hint: install keyd with its tuf extra: pip install 'keyd[tuf]'" in said.err
    assert "Traceback" not in said.err


def test_completion_of_a_name_needs_no_extra_and_no_daemon(tmp_path: Path) -> None:
    environment = _environment(tmp_path, "") | {
        "_KEYDCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "keydctl t",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.modules['tuf'] = None; from keyd.cli.keydctl import main; main()"

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.stdout.split() == ["plain,token", "plain,tuf", "plain,trust", "plain,tls"]


def test_help_comes_at_once() -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        _subprocess(REPOSITORY_ROOT, "--help")
        took.append(time.monotonic() - began)

    # 55 ms on a quiet machine; importing grpc, cryptography and protobuf would add 300 ms.
    assert min(took) < 0.25


@contextmanager
def _process(folder: Path, endpoint: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """keydctl as a process that is ended with the block; its errors go to FOLDER/err."""
    with (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "keyd.cli.keydctl", *args],
            env=_environment(folder, endpoint),
            cwd=REPOSITORY_ROOT,
            stdout=subprocess.PIPE,
            stderr=err,
        )
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def _wait_until_asked(daemon: ScriptedDaemon, method: str) -> None:
    deadline = time.monotonic() + 20
    while daemon.asked[method] == 0:
        assert time.monotonic() < deadline, f"nobody asked for {method}"
        time.sleep(0.02)


def test_a_reader_who_has_enough_gets_no_traceback(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    closed = threading.Event()
    daemon.delay = lambda _: closed.wait(30)

    with _process(tmp_path, daemon.endpoint, "whoami") as process:
        _wait_until_asked(daemon, "WhoAmI")
        assert process.stdout is not None
        process.stdout.close()
        closed.set()
        code = process.wait(30)

    assert code == 141
    assert (tmp_path / "err").read_bytes() == b""


def test_control_c_ends_with_130_and_no_traceback(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    release = threading.Event()
    daemon.delay = lambda _: release.wait(30)

    with _process(tmp_path, daemon.endpoint, "whoami") as process:
        _wait_until_asked(daemon, "WhoAmI")
        process.send_signal(signal.SIGINT)
        code = process.wait(20)
        release.set()

    assert code == 130
    assert b"Traceback" not in (tmp_path / "err").read_bytes()
