"""`keyd-server doctor`: looks at everything that a daemon needs, and says what to do.

What `check` finds is a part of it. Beyond that it asks the running daemon, or, while it is
stopped, the modules themselves (in child processes), and reads the state. It gives no PIN and
writes nothing.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from keyd.cli.server_check import Findings, check_parts
from keyd.cli.server_doctor_backup import check_backup, find_backup
from keyd.cli.server_doctor_daemon import (
    Daemon,
    ask_daemon,
    check_daemon,
    check_disk,
    free_room,
    running_pid,
)
from keyd.cli.server_doctor_findings import Area, Finding
from keyd.cli.server_doctor_keys import (
    check_checkpoints,
    check_clock,
    check_pin_attempts,
    check_roots,
    check_unbound,
)
from keyd.cli.server_doctor_probe import probe_module, probe_readers
from keyd.cli.server_doctor_state import check_database
from keyd.cli.server_doctor_tokens import (
    check_probed_token,
    check_readers,
    check_shown_token,
    is_cut_off,
    needs_pcscd,
)
from keyd.config import Config, load_config
from keyd.errors import ConfigError
from keyd.policy.file import FilePolicy

_WHY = {
    Area.CONFIGURATION: "the daemon does not start with it",
    Area.POLICY: "the daemon does not start with it, or keeps the old one",
    Area.PERMISSIONS: "the daemon runs as a user of its own, and has to get at what it needs",
    Area.MODULE: "without its module a token is not there",
    Area.PIN: "whoever reads the PIN, and reaches the token, signs; without it nobody does",
    Area.TLS: "clients do not get in, or not for long",
}
_QUIET = {
    Area.PERMISSIONS: "the service's user and groups get at what they need",
    Area.MODULE: "each module is a library",
    Area.PIN: "each PIN file is its owner's alone",
}
"""Parts of `check` that say nothing when all is well."""
_WARNING = "warning: "


def diagnose(path: Path, now: datetime) -> list[Finding]:
    """Everything that there is to say of the daemon with this configuration; raises nothing."""
    try:
        config = load_config(path)
    except ConfigError as e:
        return [_from_error(Area.CONFIGURATION, e, path)]
    found = [Finding(Area.CONFIGURATION, f"{path} is valid")]
    parts = [(Area(area), part) for area, part in check_parts(config, now)]
    for area, part in parts:
        found += _from_check(area, part, path)
    wrong = {area for area, part in parts if part.errors}
    found += [Finding(a, _QUIET[a]) for a in dict(parts) if a in _QUIET and a not in wrong]
    pid = running_pid(config.server.state_dir)
    daemon = ask_daemon(config, pid) if pid else Daemon()
    found += check_daemon(daemon, config, _policy_hash(config))
    found += _look_at_tokens(config, daemon)
    found += _look_at_disks(config)
    found += _look_at_state(config, now, runs=bool(pid))
    return found


def _from_check(area: Area, part: Findings, path: Path) -> Iterator[Finding]:
    for error in part.errors:
        yield _from_error(area, error, path)
    for line in part.lines:
        if line.startswith(_WARNING):
            todo = {
                Area.TLS: "have a new one signed: keyd-server tls sign CSR --server --ca-dir DIR",
                Area.POLICY: "write a grant (docs/policy.md), then: systemctl reload keyd-server",
            }.get(area, f"correct {path}")
            yield Finding(area, line.removeprefix(_WARNING), _WHY[area], todo)
        else:
            yield Finding(area, line)


def _from_error(area: Area, error: ConfigError, path: Path) -> Finding:
    file = error.facts.get("file") or path
    again = "then: keyd-server check"
    todo = f"{error.hint}; {again}" if error.hint else f"correct {file}, {again}"
    return Finding(area, error.message, _WHY[area], todo)


def _policy_hash(config: Config) -> str:
    try:
        return FilePolicy(config.server.policy).hash
    except ConfigError:
        return ""  # said by the check of the policy


def _look_at_tokens(config: Config, daemon: Daemon) -> Iterator[Finding]:
    user = _service_user(config)
    silent: set[str] = set()
    if by_pcsc := [token for token in config.tokens if needs_pcscd(token)]:
        seen = probe_readers(user)
        yield from check_readers(by_pcsc, seen)
        if seen.problem:
            silent = {token.name for token in by_pcsc}  # one cause is said once
    for shown in daemon.tokens:
        if shown.name not in silent or not is_cut_off(shown):
            yield from check_shown_token(shown)
    if daemon.pid:
        return  # its hosts have the modules open: nobody comes between
    for token in config.tokens:
        if token.name in silent:
            continue
        yield from check_probed_token(token, probe_module(token.module, token.softhsm_conf, user))


def _service_user(config: Config) -> pwd.struct_passwd | None:
    """Whom the state folder belongs to, where root can ask in that user's name; else None."""
    try:
        owner = pwd.getpwuid(config.server.state_dir.stat().st_uid)
    except (OSError, KeyError):
        return None
    return owner if os.geteuid() == 0 and owner.pw_uid != 0 else None


def _look_at_disks(config: Config) -> Iterator[Finding]:
    reserve = config.log.refusal_reserve_bytes
    for folder in (config.server.state_dir, config.log.checkpoint_file.parent):
        try:
            free_bytes, free_files = free_room(folder)
        except OSError as e:
            yield Finding(
                Area.DISK,
                f"{folder}: {e.strerror}",
                "the daemon writes there",
                "systemd makes it at the daemon's start; by hand: "
                f"install -d -m 0700 {folder}, and give it to the service's user",
            )
            continue
        yield check_disk(folder, free_bytes, free_files, reserve)


def _look_at_state(config: Config, now: datetime, *, runs: bool) -> Iterator[Finding]:
    # Before the database: the file may grow meanwhile, and must not seem to be ahead of it.
    outside = _read(config.log.checkpoint_file)
    finding, state = check_database(config.server.state_dir, config.log.origin)
    yield finding
    if state is None:
        return
    yield check_clock(state, now, runs=runs)
    yield from check_pin_attempts(state.pin_attempts)
    last = find_backup(config.server.state_dir)
    yield check_backup(last, state.size, state.newest_key, now)
    interval_s = config.log.checkpoint_interval_s
    yield from check_checkpoints(state, outside, now, interval_s=interval_s)
    yield check_unbound(state)
    yield from check_roots(state)


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
