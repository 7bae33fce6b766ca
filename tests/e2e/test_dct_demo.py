"""make dct-demo and dct-clean, as a person runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.docker_programs import require as require_docker
from tests.notary_programs import require as require_notary
from tests.private_keys import private_keys

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60


def run_demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "docs/demo/dct.py", "--dir", folder, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def findings(folder: Path, area: str) -> list[dict[str, object]]:
    """What the doctor finds wrong with the sandbox's daemon."""
    command = ["-m", "keyd.cli.server", "doctor", "--json", "--config", f"{folder}/keyd.toml"]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    found = json.loads(done.stdout)["findings"]
    assert any(each["area"] == area for each in found), done.stdout
    return [each for each in found if each["area"] == area and not each["ok"]]


def still_running(folder: Path) -> list[bytes]:
    """Programs that were started with something of the folder."""
    lines = (file for file in Path("/proc").glob("[0-9]*/cmdline"))
    found = []
    for file in lines:
        try:
            line = file.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if f"{folder}/".encode() in line:
            found.append(line)
    return found


def test_the_sandbox_signs_an_image_ends_and_is_taken_away(tmp_path: Path) -> None:
    require_notary()
    require_docker("docker-registry", "skopeo")
    folder = tmp_path / "dct"

    done = run_demo(folder, "--once")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "still resolves to what was signed" in done.stdout
    assert still_running(folder) == []
    assert {found.file.parent.name for found in private_keys(folder)} == {"tls"}  # servers' own
    assert findings(folder, "tls") == [], "its own certificate is no concern"
    again = run_demo(folder, "--once")
    assert (again.returncode, "dct-clean" in again.stderr) == (1, True)
    cleaned = run_demo(folder, "--clean")
    assert (cleaned.returncode, cleaned.stdout) == (0, f"dct-demo: removed {folder}\n")
    assert not folder.exists()
    nothing = run_demo(folder, "--clean")
    said = f"dct-demo: there is no {folder}; nothing was removed\n"
    assert (nothing.returncode, nothing.stdout) == (0, said)


def test_what_a_killed_sandbox_left_running_is_ended_by_the_cleaning(tmp_path: Path) -> None:
    require_notary()
    require_docker("docker-registry", "skopeo")
    folder = tmp_path / "dct"
    demo = subprocess.Popen(
        [sys.executable, ROOT / "docs/demo/dct.py", "--dir", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        assert any("Ctrl-C" in line for line in demo.stdout)
        demo.send_signal(signal.SIGKILL)
        demo.wait(TIMEOUT_S)
        assert still_running(folder)
    finally:
        demo.kill()
        demo.wait(TIMEOUT_S)
        if demo.stdout is not None:
            demo.stdout.close()
        cleaned = run_demo(folder, "--clean")

    assert (cleaned.returncode, folder.exists()) == (0, False)
    assert still_running(folder) == []


def test_a_folder_of_somebody_elses_is_not_taken_away(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")

    done = run_demo(tmp_path, "--clean")

    assert done.returncode == 1
    assert (tmp_path / "thesis").exists()
