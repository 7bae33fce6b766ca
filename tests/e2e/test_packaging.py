"""What `make install` puts onto a machine: units, users, folders, commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import run_to_end

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "systemd"
MAX_EXPOSURE = 1.5
INSTALLED = (
    "usr/local/bin/keydctl",
    "usr/local/bin/keyd-server",
    "usr/lib/systemd/system/keyd-server.service",
    "usr/lib/systemd/user/keyd-server.service",
    "usr/lib/sysusers.d/keyd-server.conf",
    "usr/lib/tmpfiles.d/keyd-server.conf",
    "usr/share/polkit-1/rules.d/50-keyd-server.rules",
)


def run(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command, bounded; stdout and stderr together."""
    return run_to_end(*command, timeout_s=300, env={**os.environ, **env}, cwd=ROOT)


def with_this_python(unit: Path, folder: Path, name: str) -> Path:
    """A copy of the unit whose commands exist on this machine, as verify wants it."""
    copy = folder / name
    copy.write_text(unit.read_text().replace("/usr/local/bin/keyd-server", sys.executable))
    return copy


def settings(unit: Path) -> dict[str, str]:
    """The last assignment of each setting."""
    lines = [line for line in unit.read_text().splitlines() if line and line[0] not in "#["]
    return dict(line.split("=", 1) for line in lines)


def make_users(root: Path) -> None:
    """What systemd-sysusers would do to a machine whose files are under ``root``."""
    (root / "etc").mkdir()
    made = run("systemd-sysusers", f"--root={root}", SYSTEMD / "keyd-server.sysusers.conf")
    assert made.returncode == 0, made.stdout


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    unit = with_this_python(SYSTEMD / "keyd-server.service", tmp_path, "keyd-server.service")

    verified = run("systemd-analyze", "verify", "--man=no", unit)

    assert (verified.returncode, verified.stdout) == (0, "")


def test_systemd_finds_no_fault_with_the_user_unit(tmp_path: Path) -> None:
    unit = with_this_python(SYSTEMD / "keyd-server-user.service", tmp_path, "keyd-server.service")

    verified = run(
        "systemd-analyze", "verify", "--user", "--man=no", unit, XDG_RUNTIME_DIR=str(tmp_path)
    )

    assert (verified.returncode, verified.stdout) == (0, "")


def test_a_misspelt_setting_would_be_found(tmp_path: Path) -> None:
    unit = with_this_python(SYSTEMD / "keyd-server.service", tmp_path, "keyd-server.service")
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))

    verified = run("systemd-analyze", "verify", "--man=no", unit)

    assert "ProtectHouse" in verified.stdout


def test_the_sandbox_leaves_little_exposed() -> None:
    report = run(
        "systemd-analyze", "security", "--offline=yes", SYSTEMD / "keyd-server.service"
    ).stdout

    found = re.search(r"Overall exposure level for keyd-server\.service: ([0-9.]+)", report)

    assert found is not None, report
    assert float(found[1]) <= MAX_EXPOSURE, report


def test_the_unit_is_supervised_reloads_and_leaves_no_core() -> None:
    unit = settings(SYSTEMD / "keyd-server.service")

    assert unit["Type"] == "notify"
    assert int(unit["WatchdogSec"]) > 0
    assert unit["ExecReload"] == "/bin/sh -c 'kill -HUP $$MAINPID'"
    assert unit["LimitCORE"] == "0"
    assert unit["LoadCredential"] == "pin:/etc/keyd-server/pins"
    assert unit["User"] == "keyd-server"


def test_nothing_takes_a_name_of_the_keyboard_remapper() -> None:
    """`keyd` is taken on Linux: /usr/bin/keyd, /etc/keyd, keyd.service."""
    texts = [path.read_text() for path in SYSTEMD.iterdir()]

    assert not [t for t in texts if re.search(r"/etc/keyd[/\s]|/bin/keyd\s|keyd\.service", t)]


def test_the_service_user_and_the_admin_group_are_declared(tmp_path: Path) -> None:
    make_users(tmp_path)
    passwd = (tmp_path / "etc/passwd").read_text()
    group = (tmp_path / "etc/group").read_text()

    assert re.search(r"^keyd-server:x:\d+:\d+:[^:]*:/var/lib/keyd-server:\S*nologin$", passwd, re.M)
    assert re.search(r"^keyd-admin:x:\d+:keyd-server$", group, re.M)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_folders_are_made_with_the_rights_they_need(tmp_path: Path) -> None:
    make_users(tmp_path)
    conf = SYSTEMD / "keyd-server.tmpfiles.conf"

    made = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", conf)

    assert made.returncode == 0, made.stdout
    modes = {
        path: f"{(tmp_path / path).stat().st_mode & 0o7777:o}"
        for path in ("etc/keyd-server", "etc/keyd-server/pins", "var/lib/keyd-server")
    }
    assert modes == {
        "etc/keyd-server": "755",
        "etc/keyd-server/pins": "700",
        "var/lib/keyd-server": "700",
    }
    assert (tmp_path / "etc/keyd-server/pins").stat().st_uid == 0
    assert (tmp_path / "etc/keyd-server").stat().st_uid == 0
    assert (tmp_path / "var/lib/keyd-server").stat().st_uid != 0


@pytest.mark.timeout(600)
def test_install_upgrades_in_place_and_uninstall_keeps_the_state(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.fail("make is missing")
    state = tmp_path / "var/lib/keyd-server/keyd.db"
    config = tmp_path / "etc/keyd-server/keyd.toml"
    for file in (state, config):
        file.parent.mkdir(parents=True)
        file.write_text("kept")

    first = run("make", "install", f"DESTDIR={tmp_path}")
    assert first.returncode == 0, first.stdout
    assert [path for path in INSTALLED if not (tmp_path / path).is_symlink()] == list(INSTALLED[2:])
    assert all((tmp_path / path).exists() for path in INSTALLED[2:])
    assert (tmp_path / INSTALLED[0]).readlink() == Path("/opt/keyd-server/bin/keydctl")
    installed = tmp_path / "opt/keyd-server"
    script = (installed / "bin/keydctl").read_text()
    assert script.startswith("#!/opt/keyd-server/bin/python")
    assert str(tmp_path) not in script
    python = installed / "bin/python"
    for command in ("keydctl", "keyd-server"):
        shown = run(python, installed / "bin" / command, "--version")
        assert (shown.returncode, "0.1.0" in shown.stdout) == (0, True), shown.stdout

    # What an older version left behind goes, what was changed by hand comes back.
    (installed / "bin/keydctl").unlink()
    (tmp_path / INSTALLED[2]).write_text("old")
    again = run("make", "install", f"DESTDIR={tmp_path}")
    assert again.returncode == 0, again.stdout
    assert (installed / "bin/keydctl").exists()
    assert "Type=notify" in (tmp_path / INSTALLED[2]).read_text()

    removed = run("make", "uninstall", f"DESTDIR={tmp_path}")
    assert removed.returncode == 0, removed.stdout
    assert not [path for path in INSTALLED if os.path.lexists(tmp_path / path)]
    assert not installed.exists()
    assert (state.read_text(), config.read_text()) == ("kept", "kept")


def test_make_alone_lists_every_target() -> None:
    shown = run("make").stdout

    for target in ("demo", "test", "lint", "protos", "bench", "soak", "run", "install"):
        assert f"make {target} " in shown
