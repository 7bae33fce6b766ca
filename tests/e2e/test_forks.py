"""What tests/forks.py runs is what the commands run: the same commands both ways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forks, keydctl_forks, server_forks
from tests.e2e.commands import run_to_end
from tests.forks import Warm
from tests.keydctl_forks import Fork

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KEYD_ENDPOINT": f"unix:{tmp_path}/nobody.sock",
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
    }


POLICY = """
[[grant]]
name = "admins"
principals = ["socket:admin"]
actions = ["admin"]
keys = ["*"]
"""


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (("--version",), b""),
        (("trust", "--help"), b""),
        (("no", "such", "command"), b""),
        (("status",), b""),
        (("status", "--json"), b""),
        (("sign", "--key", "a/b", "missing"), b""),
        (("token", "unlock", "yubi", "--pin-stdin"), b"123456\n"),
        (("token", "unlock", "yubi"), b""),
        (("policy", "check", "policy.toml", "--json"), b""),
        (("completion", "bash"), b""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_fork_answers_as_the_command_does(
    env: dict[str, str], tmp_path: Path, words: tuple[str, ...], stdin: bytes
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)

    command = subprocess.run(
        [sys.executable, "-m", "keyd.cli.keydctl", *words],
        env=env,
        cwd=tmp_path,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    fork = keydctl_forks.run(words, env, stdin=stdin, folder=tmp_path)

    assert (fork.returncode, fork.stdout, fork.stderr) == (
        command.returncode,
        command.stdout,
        command.stderr,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("dev", "--help"),
        ("check", "--config", "missing.toml"),
        ("doctor", "--config", "missing.toml", "--json"),
    ],
    ids="-".join,
)
def test_a_fork_of_keyd_server_answers_as_the_command_does(
    env: dict[str, str], words: tuple[str, ...]
) -> None:
    command = run_to_end(sys.executable, "-m", "keyd.cli.server", *words, env=env)

    fork = server_forks.run_to_end(*words, env=env)

    assert (fork.returncode, fork.stdout) == (command.returncode, command.stdout)
    assert fork.stdout


def test_forks_are_processes_of_their_own_and_know_nothing_of_each_other(
    env: dict[str, str], tmp_path: Path
) -> None:
    forks = [
        Fork(("whoami", "--json"), {**env, "KEYD_ENDPOINT": f"unix:{tmp_path}/{name}.sock"})
        for name in ("one", "two")
    ]

    ended = [fork.wait() for fork in forks]

    assert len({fork.pid for fork in forks} | {os.getpid()}) == 3
    for name, (code, out, err) in zip(("one", "two"), ended, strict=True):
        assert (code, out) == (4, "")
        assert f"/{name}.sock" in json.loads(err)["error"]["message"]


def test_a_fork_dies_of_a_signal_and_says_so(env: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "message")
    fork = Fork(("sign", "--key", "a/b", "message"), env, folder=tmp_path)

    fork.kill()

    assert fork.wait() == (-signal.SIGKILL, "", "")


def test_a_fork_that_does_not_end_is_killed_in_time(env: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "message")

    with pytest.raises(subprocess.TimeoutExpired):
        keydctl_forks.run(("sign", "--key", "a/b", "message"), env, folder=tmp_path, timeout_s=0.05)


def test_nothing_outlives_what_it_was_forked_from(env: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "message")
    warm = Warm("keydctl")
    with Path(os.devnull).open("r+b") as nothing:
        streams = (nothing.fileno(), nothing.fileno(), nothing.fileno())
        fork = forks.Fork(warm, ("sign", "--key", "a/b", "message"), env, streams, folder=tmp_path)
    parent = int(Path(f"/proc/{fork.pid}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(parent, signal.SIGKILL)

    assert fork.ended(30) == -signal.SIGKILL
    fork.close()
