"""What `keyd-server doctor` learns from a running daemon, and of the disk under it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keyd.cli.server_doctor_findings import Area, Finding
from keyd.client import Client
from keyd.client.types import Status
from keyd.config import Config
from keyd.config.listeners import UnixListenerSection
from keyd.errors import KeydError
from keyd.model import TokenStatus
from keyd.store.state_folder import LOCK

_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """``pid``: of the process that holds the state folder, empty while none does. ``status``: None
    where it could not be asked, and ``problem`` says why."""

    pid: str = ""
    endpoint: str = ""
    status: Status | None = None
    tokens: tuple[TokenStatus, ...] = ()
    problem: str = ""


def running_pid(state_dir: Path, locks: Path = Path("/proc/locks")) -> str:
    """Who holds the state folder; empty where nobody does. Takes no lock, not for a moment: a
    daemon that starts just then would give up. ``locks``: as proc(5) describes it."""
    try:
        inode = (state_dir / LOCK).stat().st_ino
        held = locks.read_text().splitlines()
    except OSError:
        return ""
    for line in held:
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return words[4]
    return ""


def ask_daemon(config: Config, pid: str) -> Daemon:
    """Ask the daemon through its sockets, in their order, until one answers."""
    problem = "none of its sockets is there for this user to open"
    for listener in config.listeners:
        if not isinstance(listener, UnixListenerSection):
            continue
        if not os.access(listener.path, os.R_OK | os.W_OK):
            continue
        endpoint = f"unix:{listener.path}"
        try:
            with Client(endpoint, deadline_s=_DEADLINE_S, keep_checkpoints=False) as client:
                status = client.status()
                return Daemon(pid, endpoint, status, tuple(client.list_tokens()))
        except KeydError as e:
            problem = f"{endpoint}: {e.message}"
    return Daemon(pid, problem=problem)


def check_daemon(daemon: Daemon, config: Config, policy_sha256: str) -> Iterator[Finding]:
    """Does it run, and what does it say? ``policy_sha256``: of the file, empty where that does not
    parse."""
    if not daemon.pid:
        yield Finding(Area.DAEMON, "it is stopped; its tokens were asked directly")
        return
    status = daemon.status
    if status is None:
        yield Finding(
            Area.DAEMON,
            f"it runs (pid {daemon.pid}) and could not be asked: {daemon.problem}",
            "what it thinks of its tokens is not known here",
            "run this as root or as somebody who may open the socket; if it answers nobody: "
            "journalctl -u keyd-server, systemctl restart keyd-server",
        )
        return
    # What ails a token that it shows is said of the token.
    said = tuple(f"token {token.name} is {token.state}" for token in daemon.tokens)
    problems = [problem for problem in status.problems if not problem.startswith(said)]
    if problems:
        for problem in problems:
            yield Finding(
                Area.DAEMON,
                f"{status.health}: {problem}",
                "it does not sign everything that it should",
                "journalctl -u keyd-server; what else is found here may be the cause",
            )
    else:
        seen = "; its tokens are looked at below" if status.problems else ""
        yield Finding(Area.DAEMON, f"pid {daemon.pid}, {daemon.endpoint}: {status.health}{seen}")
    for freeze in status.freezes:
        yield Finding(
            Area.DAEMON,
            f"frozen: {freeze}",
            "what is frozen signs nothing",
            "when the reason is gone: keydctl unfreeze",
        )
    if status.policy_sha256 and policy_sha256 and status.policy_sha256 != policy_sha256:
        yield Finding(
            Area.POLICY,
            f"the daemon goes by another text than {config.server.policy} has now",
            "who reads the file believes what is not in force",
            "systemctl reload keyd-server",
        )
    missing = {token.name for token in config.tokens} - {token.name for token in daemon.tokens}
    if missing:
        yield Finding(
            Area.DAEMON,
            f"tokens it does not show to {daemon.endpoint}: {', '.join(sorted(missing))}",
            "it has not read keyd.toml since they were added, or the policy hides them here",
            "systemctl restart keyd-server, or grant `list` to this socket in policy.toml",
        )


def check_disk(folder: Path, free_bytes: int, free_files: int, reserve_bytes: int) -> Finding:
    """Is there room? ``reserve_bytes``: below that refusals are not written any more.
    ``free_files``: inodes, -1 where the filesystem does not count them."""
    mib = free_bytes // (1024 * 1024)
    if free_bytes >= 2 * reserve_bytes and free_files != 0:
        return Finding(Area.DISK, f"{folder}: {mib} MiB free")
    what = f"{mib} MiB free" if free_files else "no file can be made (inodes)"
    return Finding(
        Area.DISK,
        f"{folder}: {what}",
        f"below {reserve_bytes // (1024 * 1024)} MiB refusals go unwritten; "
        "on a full disk nothing is signed",
        f"make room, or move it to a larger disk: df -h {folder}; df -i {folder}",
    )


def free_room(folder: Path) -> tuple[int, int]:
    """Free bytes and inodes of a folder's filesystem, for users other than root.

    Raises:
        OSError: it is not there.
    """
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else -1
