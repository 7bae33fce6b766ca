"""What keydctl does with a PIN when the daemon is on another machine."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyd.cli.exits import Exit
from keyd.cli.keydctl import run
from tests.certificates import issue
from tests.scripted_daemon import ScriptedDaemon


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDaemon]:
    """A daemon behind TLS, which the profile `far` of whoever runs keydctl names."""
    ca = issue(ca=True, common_name="test ca", usage=None)
    theirs = issue(x509.DNSName("localhost"), by=ca, usage=ExtendedKeyUsageOID.SERVER_AUTH)
    ours = issue(x509.DNSName("ci.example"), by=ca)
    for name, data in {"ca": ca.pem, "cert": ours.pem, "key": ours.key_pem}.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    for name in [n for n in os.environ if n.startswith("KEYD_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    tls = grpc.ssl_server_credentials(
        [(theirs.key_pem, theirs.pem)], root_certificates=ca.pem, require_client_auth=True
    )
    with ScriptedDaemon(tmp_path, tls=tls) as daemon:
        profiles = tmp_path / "home/keyd/client.toml"
        profiles.parent.mkdir(parents=True)
        profiles.write_text(
            f'[profile.far]\nendpoint = "{daemon.endpoint}"\nca = "{tmp_path}/ca"\n'
            f'cert = "{tmp_path}/cert"\nkey = "{tmp_path}/key"\n'
        )
        yield daemon


def unlock(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"918273\n")))
    return int(run(["--profile", "far", "token", "unlock", "online", "--pin-stdin"]))


@pytest.mark.parametrize(
    "model", ["YubiKey YK5", ""], ids=["plugged in", "not seen since the daemon's start"]
)
def test_the_pin_of_a_yubikey_does_not_leave_the_machine(
    model: str,
    remote: ScriptedDaemon,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    remote.token_model = model

    code = unlock(monkeypatch)

    said = capfd.readouterr().err
    assert code == Exit.FAILED
    assert "PIN and PUK travel over unix sockets only" in said
    assert "run the command on the daemon's machine" in said
    assert remote.asked["Unlock"] == 0
    assert sys.stdin.readline() == "918273\n", "it was read for nothing"


def test_the_pin_of_another_token_goes_where_the_policy_lets_it(
    remote: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.token_model = "SoftHSM v2"

    assert unlock(monkeypatch) == Exit.DONE
    assert remote.requests["Unlock"].pin == "918273"


@pytest.mark.parametrize(
    "words",
    [("init", "online", "--factory", "--yes"), ("change-pin", "online"), ("unblock", "online")],
    ids=lambda words: words[0],
)
def test_the_secrets_of_a_yubikey_are_refused_before_anybody_is_asked_for_them(
    words: tuple[str, ...], remote: ScriptedDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run(["--profile", "far", "yubikey", *words])

    said = capfd.readouterr().err
    assert code == Exit.FAILED
    assert "PIN and PUK travel over unix sockets only" in said
    assert "run the command on the daemon's machine" in said
    assert "-fd" not in said, "that would be refused as well"
