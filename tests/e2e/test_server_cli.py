"""keyd-server as people use it: real processes, real SoftHSM, real files."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp

import pytest

from keyd.audit.checkpoint import verify_checkpoint
from keyd.audit.note import VerifierKey
from keyd.cli.server_dev import make_folder
from keyd.cli.softhsm_token import find_softhsm
from keyd.client import Binding, Client, Encoding, EntryFilter, KeyAlgorithm
from keyd.config import load_config
from keyd.errors import CheckpointBehindError, KeydError
from tests import server_forks
from tests.bound_keys import targets
from tests.e2e.commands import run_to_end
from tests.e2e.daemon_process import DaemonProcess

pytestmark = pytest.mark.softhsm

FREE = "acme/free"
BOUND = "acme/targets"


def keyd_server(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run keyd-server to its end; stdout and stderr together."""
    return server_forks.run_to_end(*arguments, env={**os.environ, **env})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: sun_path has room for 107 bytes."""
    path = Path(mkdtemp(prefix="keyd-cli-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(folder: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(folder / "dev")
    try:
        process.start()
        yield process
        process.stop()
    finally:
        process.kill()


def connect(daemon: DaemonProcess) -> Client:
    return Client(daemon.endpoint, keep_checkpoints=False)


def create(client: Client, name: str, *bindings: Binding) -> None:
    """Create a key once the token is ready."""
    deadline = time.monotonic() + 20
    while True:
        try:
            client.create_key(name, KeyAlgorithm.ECDSA_P256, bindings=bindings)
            return
        except KeydError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def sign(client: Client, key: str) -> int:
    """Sign something new; the entry's index."""
    return client.sign(key, os.urandom(16), encoding=Encoding.DER).log_index


def sign_targets(client: Client, key: str) -> None:
    """Sign what a key that is bound to targets signs."""
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    client.sign(key, targets(1, expires=expires), encoding=Encoding.DER)


# -------------------------------------------------------------------------------- dev


def test_dev_needs_nothing_but_a_folder_and_uses_it_again(daemon: DaemonProcess) -> None:
    with connect(daemon) as client:
        create(client, FREE)
        first = sign(client, FREE)
        assert client.whoami().principal == "socket:dev"

    assert daemon.stop() == 0
    daemon.start()

    with connect(daemon) as client:
        create(client, "acme/second")
        assert sign(client, FREE) > first


def test_the_pin_of_dev_is_private_and_in_no_other_file(daemon: DaemonProcess) -> None:
    with connect(daemon) as client:
        create(client, FREE)
        sign(client, FREE)
    pin_file = daemon.folder / "pin"
    pin = pin_file.read_bytes().strip()
    processes = [daemon.pid, *daemon.hosts()]
    memory = [Path(f"/proc/{pid}/{name}") for pid in processes for name in ("cmdline", "environ")]

    daemon_files = [p for p in daemon.folder.rglob("*") if p.is_file() and p != pin_file]

    assert len(processes) == 2
    assert pin_file.stat().st_mode & 0o777 == 0o600
    assert daemon.folder.stat().st_mode & 0o077 == 0
    assert [p for p in [*daemon_files, *memory, daemon.output] if pin in p.read_bytes()] == []


def test_a_second_daemon_on_the_same_folder_is_refused_and_the_first_lives_on(
    daemon: DaemonProcess,
) -> None:
    second = keyd_server("dev", "--dir", daemon.folder)

    assert second.returncode == 2
    assert f"pid {daemon.pid}" in second.stdout
    with connect(daemon) as client:
        assert client.status().health


def test_dev_listens_on_tcp_with_a_certificate_of_its_own(folder: Path) -> None:
    process = DaemonProcess(folder / "dev", "--tcp", "127.0.0.1:0")
    try:
        process.start()
        serving = next(line for line in process.tail().splitlines() if "keyd: serving" in line)
        assert f"unix:{process.socket}, 127.0.0.1:" in serving
        assert (process.folder / "tls/server.key").stat().st_mode & 0o777 == 0o600
        assert process.stop() == 0
    finally:
        process.kill()


def test_the_daemon_leaves_no_core_file(daemon: DaemonProcess) -> None:
    for pid in (daemon.pid, *daemon.hosts()):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        core = next(line for line in limits if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


def test_the_log_of_each_dev_folder_has_a_name_of_its_own_and_keeps_it(folder: Path) -> None:
    """Else a fresh folder on a used socket path looks like a log that lost its entries."""
    origins = []
    for name in ("one", "two", "one"):
        made = make_folder(folder / name, tcp=None, hosts=1, now=datetime.now(UTC))
        origins.append(load_config(made.config).log.origin)

    assert origins[0] == origins[2] != origins[1]
    assert all(origin.startswith("keyd.invalid/dev-") for origin in origins)


def test_a_dev_folder_keeps_a_keyd_toml_that_was_changed_by_hand_and_says_what_is_lost(
    folder: Path,
) -> None:
    made = make_folder(folder / "dev", tcp=None, hosts=1, now=datetime.now(UTC))
    again = make_folder(folder / "dev", tcp=None, hosts=2, now=datetime.now(UTC), persons=["bob"])
    added = f'\n[[token]]\nname = "yubi"\nmodule = "{find_softhsm()}"\nserial = "1234567"\n'
    edited = again.config.read_text().replace("[log]", "[log]\ncheckpoint_interval_s = 7") + added
    again.config.write_text(edited)

    third = make_folder(folder / "dev", tcp=None, hosts=1, now=datetime.now(UTC))
    kept = folder / "dev/keyd.toml.edited"

    assert (made.warning, again.warning) == ("", ""), "nobody changed them"
    assert "without [[token]] yubi" in third.warning
    assert "the changes in log" in third.warning
    assert f"keyd-server run --config {kept}" in third.warning
    assert kept.read_text() == edited
    assert [token.name for token in load_config(kept).tokens] == ["dev", "yubi"]
    third.config.write_text("broken = ")
    assert make_folder(folder / "dev", tcp=None, hosts=1, now=datetime.now(UTC)).warning
    assert (folder / "dev/keyd.toml.edited-2").read_text() == "broken = "


# -------------------------------------------------------------------------------- run, check


def test_a_broken_policy_is_refused_at_reload_and_the_old_one_stays(daemon: DaemonProcess) -> None:
    policy = daemon.folder / "policy.toml"
    with connect(daemon) as client:
        create(client, FREE)
        policy.write_text(policy.read_text() + '\n[[grant]]\nnmae = "oops"\n')
        daemon.signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while "the old policy stays" not in daemon.tail():
            assert time.monotonic() < deadline, daemon.tail()
            time.sleep(0.05)

        sign(client, FREE)

    assert "policy.toml:" in daemon.tail()


HARDWARE_RULE = """
[[rule]]
name = "hardware"
keys = ["acme/root"]
actions = ["sign"]
origin = "attested"
"""


def test_check_finds_every_mistake_with_its_line(daemon: DaemonProcess) -> None:
    config = daemon.folder / "keyd.toml"
    good = keyd_server("check", "--config", config)
    assert (good.returncode, "everything is in order" in good.stdout) == (0, True), good.stdout
    policy = daemon.folder / "policy.toml"
    with policy.open("a") as file:
        file.write(HARDWARE_RULE)
    counted = keyd_server("check", "--config", config)
    assert ", 1 rule\n" in counted.stdout, counted.stdout
    config.write_text(config.read_text().replace("[server]", "[server]\nstate_dri = 1"))
    policy.write_text("[[grant]]\n")

    bad = keyd_server("check", "--config", config)
    assert bad.returncode == 2
    line = config.read_text().splitlines().index("state_dri = 1") + 1
    assert f"keyd.toml:{line}: unknown setting 'state_dri'" in bad.stdout
    assert "state_dir" in bad.stdout.partition("unknown setting")[2]


def test_check_names_the_line_of_a_bad_policy_and_a_pin_file_others_can_read(
    daemon: DaemonProcess,
) -> None:
    (daemon.folder / "policy.toml").write_text("\n\n[[grant]]\nname = 3\n")
    (daemon.folder / "pin").chmod(0o644)

    bad = keyd_server("check", "--config", daemon.folder / "keyd.toml")

    assert bad.returncode == 2
    assert "policy.toml:4" in bad.stdout
    assert f"chmod 600 {daemon.folder / 'pin'}" in bad.stdout


def test_run_says_what_is_wrong_and_what_to_do(folder: Path) -> None:
    missing = keyd_server("run", "--config", folder / "keyd.toml")

    assert missing.returncode == 2
    assert "keyd-server: error:" in missing.stdout
    assert "keyd-server: hint: keyd-server init" in missing.stdout
    assert "Traceback" not in missing.stdout


def test_check_finds_a_group_that_is_not_there_and_a_module_that_is_no_library(
    folder: Path,
) -> None:
    made = make_folder(folder / "dev", tcp=None, hosts=1, now=datetime.now(UTC))
    text = made.config.read_text()
    module = folder / "opensc.module"
    module.write_text("module: opensc-pkcs11.so\n")
    text = text.replace(str(find_softhsm()), str(module))
    made.config.write_text(
        text.replace(
            'principal = "socket:dev"', 'principal = "socket:dev"\ngroup = "nosuch"\nmode = "0660"'
        )
    )

    bad = keyd_server("check", "--config", made.config)

    assert bad.returncode == 2
    assert f"{module}: not a PKCS#11 library (token dev)" in bad.stdout
    assert "there is no group 'nosuch'" in bad.stdout


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_check_as_root_finds_what_the_service_could_not_read(folder: Path) -> None:
    made = make_folder(folder / "dev", tcp="127.0.0.1:0", hosts=1, now=datetime.now(UTC))
    state = folder / "dev/state"
    state.mkdir()
    key = folder / "dev/tls/server.key"
    fine = keyd_server("check", "--config", made.config)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.chown(key, 0, 0)

    bad = keyd_server("check", "--config", made.config)

    assert fine.returncode == 0, fine.stdout
    assert bad.returncode == 2, bad.stdout
    assert f"error: {key}: the service's user nobody cannot read it" in bad.stdout
    assert f"hint: chgrp {grp.getgrgid(pwd.getpwnam('nobody').pw_gid).gr_name} {key}" in bad.stdout
    assert bad.stdout.count("cannot read it") == 1


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_makes_no_files_that_the_service_could_not_open(folder: Path) -> None:
    made = make_folder(folder / "dev", tcp=None, hosts=1, now=datetime.now(UTC))
    state = folder / "dev/state"
    state.mkdir()
    os.chown(state, 65534, 65534)

    refused = keyd_server("run", "--config", made.config)

    assert refused.returncode == 2
    assert f"the state folder {state} belongs to nobody, and this is root" in refused.stdout
    assert "hint: systemctl start keyd-server" in refused.stdout
    assert list(state.iterdir()) == []


# -------------------------------------------------------------------------------- state


def test_a_backup_of_the_running_daemon_brings_back_a_lost_disk(
    daemon: DaemonProcess, folder: Path
) -> None:
    config = daemon.folder / "keyd.toml"
    with connect(daemon) as client:
        create(client, FREE)
        create(client, BOUND, Binding("acme", "targets"))
        sign(client, FREE)
        saved = keyd_server("backup", folder / "keyd.backup", "--config", config)
        sign(client, FREE)
        client.checkpoint(fresh=True)
    assert saved.returncode == 0, saved.stdout
    daemon.stop()
    shutil.rmtree(daemon.folder / "state")

    restored = keyd_server("restore", folder / "keyd.backup", "--config", config)

    assert restored.returncode == 0, restored.stdout
    daemon.start()
    with connect(daemon) as client:
        assert sign(client, FREE) >= 0
        with pytest.raises(CheckpointBehindError, match=r"restored|covers"):
            sign_targets(client, BOUND)
        assert client.status().problems
    daemon.stop()

    accepted = keyd_server("checkpoint", "accept", "--config", config)

    assert accepted.returncode == 0, accepted.stdout
    daemon.start()
    with connect(daemon) as client:
        sign_targets(client, BOUND)
        (entry,) = client.list_entries(EntryFilter(action="checkpoint-accept"))
        assert entry.fields["alert"] is True
        assert str(entry.fields["principal"]).startswith("system:uid-")


def test_a_running_daemon_goes_on_under_a_new_origin_once_its_loss_is_accepted(
    daemon: DaemonProcess, folder: Path
) -> None:
    config = daemon.folder / "keyd.toml"
    with connect(daemon) as client:
        create(client, BOUND, Binding("acme", "targets"))
        assert keyd_server("backup", folder / "b", "--config", config).returncode == 0
        create(client, FREE)
        lost = client.checkpoint(fresh=True)
    daemon.stop()
    shutil.rmtree(daemon.folder / "state")
    assert keyd_server("restore", folder / "b", "--config", config).returncode == 0
    daemon.start()

    with connect(daemon) as client:
        accepted = client.accept_loss(reason="the disk died")
        sign_targets(client, BOUND)
        newest = client.checkpoint(fresh=True)

    assert "the checkpoint file outside the state folder covers" in accepted.loss
    assert newest.origin == accepted.origin
    assert newest.origin.startswith(f"{lost.origin}/2-")
    printed = keyd_server("log-key", "--config", config).stdout.splitlines()
    assert [line.partition("+")[0] for line in printed] == [lost.origin, newest.origin]


def test_restore_overwrites_nothing_and_backup_neither(daemon: DaemonProcess, folder: Path) -> None:
    config = daemon.folder / "keyd.toml"
    file = folder / "keyd.backup"
    assert keyd_server("backup", file, "--config", config).returncode == 0
    before = file.read_bytes()

    again = keyd_server("backup", file, "--config", config)
    running = keyd_server("restore", file, "--config", config)
    daemon.stop()
    stopped = keyd_server("restore", file, "--config", config)

    assert (again.returncode, file.read_bytes() == before) == (2, True)
    assert (running.returncode, "pid" in running.stdout) == (2, True)
    assert (stopped.returncode, "not empty" in stopped.stdout) == (2, True)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_damaged_backup_is_refused(daemon: DaemonProcess, folder: Path) -> None:
    config = daemon.folder / "keyd.toml"
    file = folder / "keyd.backup"
    assert keyd_server("backup", file, "--config", config).returncode == 0
    daemon.stop()
    shutil.rmtree(daemon.folder / "state")
    file.write_bytes(file.read_bytes()[:-8192])

    refused = keyd_server("restore", file, "--config", config)

    assert refused.returncode == 2
    assert not (daemon.folder / "state/keyd.db").exists()


def test_state_is_changed_only_while_the_daemon_is_stopped(daemon: DaemonProcess) -> None:
    config = daemon.folder / "keyd.toml"

    for command in (["migrate"], ["clock", "accept"], ["checkpoint", "accept"]):
        refused = keyd_server(*command, "--config", config)
        assert (refused.returncode, f"pid {daemon.pid}" in refused.stdout) == (2, True)

    daemon.stop()
    migrated = keyd_server("migrate", "--config", config)
    assert (migrated.returncode, "schema" in migrated.stdout) == (0, True), migrated.stdout


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_writes_into_the_state_folder_belongs_to_the_service(
    daemon: DaemonProcess, folder: Path
) -> None:
    config = daemon.folder / "keyd.toml"
    assert keyd_server("backup", folder / "b", "--config", config).returncode == 0
    daemon.stop()
    state = daemon.folder / "state"
    shutil.rmtree(state)
    state.mkdir(mode=0o700)
    os.chown(state, 65534, 65534)

    assert keyd_server("restore", folder / "b", "--config", config).returncode == 0
    assert keyd_server("checkpoint", "accept", "--config", config).returncode == 0

    assert {path.name for path in state.iterdir()} >= {"keyd.db", "lock"}
    assert {path.stat().st_uid for path in state.iterdir()} == {65534}
    os.chown(state, 0, 0)
    for path in state.iterdir():
        os.chown(path, 0, 0)


def test_a_person_accepts_the_clock_and_the_log_says_so(daemon: DaemonProcess) -> None:
    config = daemon.folder / "keyd.toml"
    daemon.stop()
    nothing = keyd_server("clock", "accept", "--config", config)
    assert (nothing.returncode, "nothing to accept" in nothing.stdout) == (0, True)
    with closing(sqlite3.connect(daemon.folder / "state/keyd.db")) as database, database:
        database.execute("INSERT INTO flags VALUES ('clock-suspect', 'it jumped')")
    daemon.start()
    with connect(daemon) as client:
        assert any("clock accept" in problem for problem in client.status().problems)
    daemon.stop()

    accepted = keyd_server("clock", "accept", "--config", config)

    assert (accepted.returncode, "it jumped" in accepted.stdout) == (0, True), accepted.stdout
    daemon.start()
    with connect(daemon) as client:
        assert not any("clock" in problem for problem in client.status().problems)
        (entry,) = client.list_entries(EntryFilter(action="clock-accept"))
        assert entry.fields["message"] == "it jumped"


def test_log_key_prints_what_verifies_the_checkpoints(daemon: DaemonProcess) -> None:
    with connect(daemon) as client:
        create(client, FREE)
        known = client.checkpoint(fresh=True).verifier_keys

    printed = keyd_server("log-key", "--config", daemon.folder / "keyd.toml")

    assert printed.returncode == 0, printed.stdout
    assert tuple(printed.stdout.split()) == known


def test_a_replaced_log_key_signs_the_next_checkpoint_and_the_old_one_still_verifies(
    daemon: DaemonProcess,
) -> None:
    config = daemon.folder / "keyd.toml"
    with connect(daemon) as client:
        old = client.checkpoint(fresh=True).verifier_keys
    running = keyd_server("log-key", "replace", "--config", config)
    assert running.returncode != 0, "a running daemon holds the log"
    daemon.stop()

    asked = keyd_server("log-key", "replace", "--reason", "token lost", "--config", config)
    assert asked.returncode == 0, asked.stdout

    daemon.start()
    with connect(daemon) as client:
        checkpoint = client.checkpoint(fresh=True)
        entries = client.list_entries(EntryFilter(action="log-key-replace"))
        assert [e.fields["said"] for e in entries] == ["token lost"]
    assert len(checkpoint.verifier_keys) == 2
    assert set(old) < set(checkpoint.verifier_keys)
    new = next(k for k in checkpoint.verifier_keys if k not in old)
    verify_checkpoint(checkpoint.note, [VerifierKey.parse(new)])


# -------------------------------------------------------------------------------- init, tls


def test_init_for_a_user_writes_a_configuration_that_checks(folder: Path) -> None:
    env = {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_CONFIG_HOME": "",
        "XDG_DATA_HOME": "",
    }
    module = find_softhsm()
    token = ("--token-module", module, "--token-label", "My Token")

    made = keyd_server("init", "--user", *token, **env)
    again = keyd_server("init", "--user", *token, **env)

    assert made.returncode == 0, made.stdout
    config = folder / ".config/keyd-server/keyd.toml"
    assert config.stat().st_mode & 0o077 == 0
    checked = keyd_server("check", "--config", config)
    assert checked.returncode == 0, checked.stdout
    steps = made.stdout.partition("next:")[2].strip().splitlines()
    assert [step.split()[0] for step in steps] == ["systemctl", "keydctl", "keydctl"]
    assert "keydctl token unlock my-token" in made.stdout
    unit = (folder / ".config/systemd/user/keyd-server.service").read_text()
    assert "/usr/local/bin/keyd-server" not in unit
    assert (again.returncode, "not overwritten" in again.stdout) == (2, True)


def test_init_names_a_log_for_ever_and_no_two_logs_alike(folder: Path) -> None:
    env = {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_CONFIG_HOME": "",
        "XDG_DATA_HOME": "",
    }
    token = ("--token-module", find_softhsm(), "--token-label", "x")
    config = folder / ".config/keyd-server"
    checkpoint = folder / ".local/share/keyd-server/checkpoint"

    def init() -> str:
        shutil.rmtree(config, ignore_errors=True)
        made = keyd_server("init", "--user", *token, **env)
        assert made.returncode == 0, made.stdout
        return load_config(config / "keyd.toml").log.origin

    first, second = init(), init()
    root_hash = b64encode(bytes(32)).decode()
    checkpoint.write_text(f"{first}\n7\n{root_hash}\n\n\u2014 {first} AAAAAAAA\n")

    assert first != second
    assert init() == first


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_an_ordinary_user_gets_the_own_configuration_and_is_told_when_one_is_closed(
    folder: Path,
) -> None:
    # Imported as root: nobody else may need to enter the folder that this source tree is in.
    program = (
        "import os, sys; from keyd.cli import server, server_check\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(server.run(sys.argv[1:]))"
    )
    folder.chmod(0o755)
    home = folder / "home"
    own = make_folder(home / ".config/keyd-server", tcp=None, hosts=1, now=datetime.now(UTC)).config
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534)
    closed = folder / "keyd.toml"
    closed.touch(mode=0o600)

    def as_nobody(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": ""}
        return run_to_end(sys.executable, "-c", program, *arguments, env=env)

    refused = as_nobody("check", "--config", closed)
    checked = as_nobody("check")

    assert refused.returncode == 2
    assert f"{closed}: this user may not read it" in refused.stdout
    assert (checked.returncode, f"{own}: 1 token" in checked.stdout) == (0, True), checked.stdout


def test_init_never_takes_a_pin(folder: Path) -> None:
    env = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "XDG_CONFIG_HOME": ""}

    refused = keyd_server(
        "init", "--user", "--token-module", find_softhsm(), "--token-label", "x", "--pin", "123456",
        **env,
    )  # fmt: skip

    assert refused.returncode == 2
    assert "123456" not in refused.stdout
    assert not list((folder / ".config").rglob("*.toml"))


def test_init_without_a_token_asks_for_one(folder: Path) -> None:
    refused = keyd_server("init", "--user", HOME=str(folder), XDG_RUNTIME_DIR=str(folder))

    assert refused.returncode == 2
    assert "--token-module" in refused.stdout


def test_tls_sign_refuses_what_is_no_request_and_overwrites_nothing(folder: Path) -> None:
    (folder / "not.csr").write_text("hello")
    (folder / "taken.pem").write_text("mine")

    refused = keyd_server("tls", "sign", folder / "not.csr", "--ca-dir", folder / "ca")

    assert refused.returncode == 2
    assert "not a readable PEM certificate request" in refused.stdout
    made = subprocess.run(
        [sys.executable, "-m", "keyd.cli.keydctl", "tls", "request", "dns:runner.example.org"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=60,
        check=True,
        capture_output=True,
    )
    assert made.returncode == 0
    kept = keyd_server(
        "tls", "sign", folder / "keyd-client.csr", "--ca-dir", folder / "ca",
        "--output", folder / "taken.pem",
    )  # fmt: skip
    assert (kept.returncode, (folder / "taken.pem").read_text()) == (2, "mine")
