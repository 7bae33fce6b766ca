"""What the doctor says: for each thing that can be wrong, that it is found and what to do."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from keyd.cli.server_doctor import diagnose
from keyd.cli.server_doctor_daemon import (
    Daemon,
    check_daemon,
    running_pid,
)
from keyd.cli.server_doctor_findings import Area, Finding, as_json, as_lines, must_act
from keyd.cli.server_doctor_keys import (
    check_pin_attempts,
)
from keyd.cli.server_doctor_probe import (
    ProbedModule,
    ProbedToken,
    Readers,
    probe_module,
    probe_readers,
)
from keyd.cli.server_doctor_tokens import (
    check_probed_token,
    check_readers,
    check_shown_token,
    needs_pcscd,
)
from keyd.client.types import Status
from keyd.config import Config, Starter, load_config, starter_config
from keyd.config.sections import TokenSection
from keyd.model import (
    TokenState,
    TokenStatus,
)
from keyd.policy.starter import starter_policy
from tests.certificates import an_authority, write_tls

NOW = datetime(2030, 1, 10, tzinfo=UTC)
ORIGIN = "keyd.example.org/prod"


def only(findings: Sequence[Finding]) -> Finding:
    (found,) = findings
    return found


def place(folder: Path, **fields: object) -> Path:
    """A configuration whose module is no library."""
    module = folder / "module.so"
    module.write_text("not a library")
    (folder / "policy.toml").write_text(starter_policy("socket:admin"))
    starter = Starter(
        state_dir=folder / "state",
        run_dir=folder / "run",
        policy=folder / "policy.toml",
        checkpoint_file=folder / "checkpoint",
        socket=folder / "run" / "keyd.sock",
        principal="socket:admin",
        origin=ORIGIN,
        token="main",
        module=module,
        label="release",
    )
    config = folder / "keyd.toml"
    config.write_text(starter_config(replace(starter, **fields)))  # type: ignore[arg-type]
    return config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(place(tmp_path))


# ------------------------------------------------------------------------- what check knows too


def found_in(area: Area, findings: Sequence[Finding]) -> list[Finding]:
    return [f for f in must_act(findings) if f.area is area]


def test_a_configuration_that_is_not_there_is_the_one_finding(tmp_path: Path) -> None:
    found = only(diagnose(tmp_path / "keyd.toml", NOW))

    assert found.area is Area.CONFIGURATION
    assert "keyd-server check" in found.todo


def test_a_module_that_is_no_library_and_does_not_load_is_found(tmp_path: Path) -> None:
    found = found_in(Area.MODULE, diagnose(place(tmp_path), NOW))

    assert "not a PKCS#11 library" in found[0].what
    assert "does not load" in found[1].what


def test_a_policy_that_does_not_parse_is_found(tmp_path: Path) -> None:
    path = place(tmp_path)
    (tmp_path / "policy.toml").write_text("[[grant]]\n")

    assert "policy.toml" in found_in(Area.POLICY, diagnose(path, NOW))[0].what


def test_a_policy_that_grants_nothing_is_found(tmp_path: Path) -> None:
    path = place(tmp_path)
    (tmp_path / "policy.toml").write_text("")

    assert "grants nothing" in only(found_in(Area.POLICY, diagnose(path, NOW))).what


def test_a_pin_file_that_others_can_read_is_found_and_never_shown(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text("secret-pin")
    pin.chmod(0o644)

    findings = diagnose(place(tmp_path, pin=f"file:{pin}"), NOW)

    assert f"chmod 600 {pin}" in only(found_in(Area.PIN, findings)).todo
    assert "secret-pin" not in str(findings)


@pytest.mark.parametrize(
    ("days", "what", "todo"),
    [(1, "expires in", "keyd-server tls sign"), (-1, "expired", "keyd-server check")],
)
def test_a_server_certificate_that_ends_soon_or_has_ended_is_found(
    tmp_path: Path, days: int, what: str, todo: str
) -> None:
    files = write_tls(tmp_path, an_authority())
    config = place(tmp_path)
    listener = f"""
[[listener]]
kind = "tcp"
address = "127.0.0.1:7443"
cert = "{files.certificate}"
key = "{files.key}"
client_ca = "{files.client_ca}"
"""
    config.write_text(config.read_text() + listener)
    ends = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc

    found = only(found_in(Area.TLS, diagnose(config, ends - timedelta(days=days))))

    assert (what in found.what, todo in found.todo) == (True, True), found


def test_a_socket_group_that_does_not_exist_is_found(tmp_path: Path) -> None:
    findings = diagnose(place(tmp_path, group="no-such-group"), NOW)

    assert "groupadd --system no-such-group" in only(found_in(Area.PERMISSIONS, findings)).todo


# ------------------------------------------------------------------------- daemon


def status(**fields: object) -> Status:
    made = Status("1", NOW, "SERVING", (), 0, 5, 0, (), "aa", 0)
    return replace(made, **fields)  # type: ignore[arg-type]


def daemon(**fields: object) -> Daemon:
    shown = (TokenStatus("main", TokenState.READY),)
    return Daemon("7", "unix:/run/x", status(**fields), shown)


def test_a_daemon_that_is_well_or_stopped_asks_for_nothing(config: Config) -> None:
    assert only(list(check_daemon(daemon(), config, "aa"))).is_well
    assert only(list(check_daemon(Daemon(), config, "aa"))).is_well


@pytest.mark.parametrize(
    ("seen", "what", "todo"),
    [
        (Daemon("7", problem="no socket"), "pid 7", "as root"),
        (daemon(health="DEGRADED", problems=("no log key",)), "no log key", "journalctl"),
        (daemon(freezes=("all",)), "frozen: all", "keydctl unfreeze"),
        (daemon(policy_sha256="bb"), "another text", "systemctl reload"),
        (replace(daemon(), tokens=()), "main", "restart"),
    ],
)
def test_what_is_wrong_with_a_running_daemon_is_found(
    config: Config, seen: Daemon, what: str, todo: str
) -> None:
    found = only(must_act(list(check_daemon(seen, config, "aa"))))

    assert what in found.what
    assert todo in found.todo


def test_what_ails_a_token_is_said_once_and_of_the_token(config: Config) -> None:
    seen = daemon(health="DEGRADED", problems=("token main is ABSENT: it is not there",))
    seen = replace(seen, tokens=(TokenStatus("main", TokenState.ABSENT),))

    assert must_act(list(check_daemon(seen, config, "aa"))) == []
    (token,) = must_act(list(check_shown_token(seen.tokens[0])))
    assert "main is ABSENT" in token.what


def test_what_is_well_is_said_once_for_all_listeners(tmp_path: Path) -> None:
    config = place(tmp_path)
    second = f'\n[[listener]]\nkind = "unix"\npath = "{tmp_path}/b.sock"\nprincipal = "socket:b"\n'
    config.write_text(config.read_text() + second)

    lines = as_lines(diagnose(config, NOW), ())

    assert len(lines) - len(set(lines) - {""}) == lines.count("")
    assert any(line.startswith("ok     permissions: ") for line in lines)


def test_who_holds_the_state_folder_is_seen_without_taking_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        assert running_pid(tmp_path) == ""
        fcntl.flock(held, fcntl.LOCK_EX)
        assert running_pid(tmp_path) == str(os.getpid())
    assert running_pid(tmp_path) == ""


# ------------------------------------------------------------------------- readers, tokens, PINs


def a_token(module: str = "/usr/lib/libykcs11.so", **fields: str) -> TokenSection:
    return TokenSection(name="yk", module=Path(module), serial="1234567", **fields)  # type: ignore[arg-type]


def test_pcscd_is_asked_for_where_a_module_needs_it() -> None:
    assert needs_pcscd(a_token())
    assert not needs_pcscd(a_token("/usr/lib/libsofthsm2.so"))


def test_pcscd_that_does_not_answer_is_found() -> None:
    found = only(list(check_readers([a_token()], Readers("Service not available."))))

    assert (found.area, "pcscd.socket" in found.todo) == (Area.PCSCD, True)
    assert "/usr/share/polkit-1/rules.d" in found.todo
    assert found.why == "without it the token yk cannot be reached"


def test_yubikit_that_is_not_installed_is_found_and_is_not_taken_for_a_dead_pcscd() -> None:
    seen = Readers(missing="smartcard and yubikit")
    found = only(must_act(list(check_readers([a_token()], seen))))

    assert (found.area, "keyd[server,yubikey]" in found.todo) == (Area.MODULE, True)
    dead = replace(seen, problem="Service not available.")
    both = must_act(list(check_readers([a_token()], dead)))
    assert [each.area for each in both] == [Area.MODULE, Area.PCSCD], "nor hides one"


@pytest.mark.parametrize("names", [(), ("Yubico 00",)])
def test_a_reader_without_a_card_is_found(names: tuple[str, ...]) -> None:
    seen = Readers("", names)

    assert only(must_act(list(check_readers([a_token()], seen)))).area is Area.READER


def test_readers_with_a_card_for_each_token_are_well() -> None:
    seen = Readers("", ("Yubico 00",), ("Yubico 00",))

    assert must_act(list(check_readers([a_token()], seen))) == []


@pytest.mark.parametrize(
    ("state", "pin_state", "area", "todo"),
    [
        (TokenState.LOCKED, "ok", Area.TOKEN, "keydctl token unlock yk"),
        (TokenState.ABSENT, "", Area.TOKEN, "plug it in"),
        (TokenState.FAULTED, "", Area.TOKEN, "keydctl token list"),
        (TokenState.PIN_LOCKED, "", Area.PIN, "keydctl yubikey unblock yk"),
        (TokenState.READY, "final-try", Area.PIN, "--spend-last-try"),
        (TokenState.READY, "count-low", Area.PIN, "be sure of the PIN"),
    ],
)
def test_a_token_of_a_running_daemon_that_needs_a_person_is_found(
    state: TokenState, pin_state: str, area: Area, todo: str
) -> None:
    shown = TokenStatus("yk", state, pin_state=pin_state)

    found = only(must_act(list(check_shown_token(shown))))

    assert (found.area, todo in found.todo) == (area, True)


@pytest.mark.parametrize(
    ("seen", "area", "what"),
    [
        (ProbedModule("it crashed (signal 11)"), Area.MODULE, "crashed"),
        (ProbedModule("", ()), Area.TOKEN, "none"),
        (ProbedModule("", (ProbedToken("x", "7654321", 0x400),)), Area.TOKEN, "7654321"),
        (ProbedModule("", (ProbedToken("x", "1234567", 0),)), Area.TOKEN, "0 tokens fit"),
        (ProbedModule("", (ProbedToken("x", "1234567", 0x400),) * 2), Area.TOKEN, "2 tokens fit"),
        (ProbedModule("", (ProbedToken("x", "1234567", 0x40400),)), Area.PIN, "blocked"),
        (ProbedModule("", (ProbedToken("x", "1234567", 0x20400),)), Area.PIN, "one try"),
        (ProbedModule("", (ProbedToken("x", "1234567", 0x10400),)), Area.PIN, "wrong PINs"),
    ],
)
def test_a_token_of_a_stopped_daemon_that_needs_a_person_is_found(
    seen: ProbedModule, area: Area, what: str
) -> None:
    found = only(must_act(list(check_probed_token(a_token(), seen))))

    assert (found.area, what in found.what) == (area, True)


def test_a_token_of_a_stopped_daemon_that_is_there_is_well() -> None:
    seen = ProbedModule("", (ProbedToken("x", "1234567", 0x400),))

    assert must_act(list(check_probed_token(a_token(), seen))) == []


def test_a_module_that_does_not_answer_is_given_up() -> None:
    seen = probe_module(Path("/dev/null"), None, None, timeout_s=0.001)

    assert "no answer" in seen.problem


def test_pcsc_without_a_service_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PCSCLITE_CSOCK_NAME", str(tmp_path / "nobody"))

    assert "Service not available" in probe_readers(None).problem


def test_a_pin_that_was_tried_once_in_vain_is_found() -> None:
    found = only(list(check_pin_attempts({"1234567": "file:/etc/pin"})))

    assert "1234567" in found.what
    assert "--configured" in found.todo


# ------------------------------------------------------------------------- how it is said


def test_what_is_known_is_shown_and_does_not_count() -> None:
    findings = [Finding(Area.DISK, "room"), Finding(Area.UNBOUND_KEYS, "free", "why", "bind it")]

    assert as_lines(findings, ())[-4:-1] == ["  why: why", "  do:  bind it", ""]
    assert as_lines(findings, ())[-1] == "1 thing to do"
    assert as_lines(findings, {"unbound-keys"})[-1] == "nothing has to be done"
    assert (as_json(findings, ())["ok"], as_json(findings, {"unbound-keys"})["ok"]) == (False, True)
