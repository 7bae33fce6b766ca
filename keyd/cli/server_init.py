"""`keyd-server init`: the first configuration, and the next three commands."""

from __future__ import annotations

import getpass
import grp
import os
import re
import secrets
import shutil
import socket
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keyd
from keyd.audit.checkpoint import parse_checkpoint
from keyd.config import Starter, starter_config
from keyd.errors import ConfigError, LogProofError
from keyd.policy.starter import starter_policy

SERVICE_GROUP = "keyd-server"
SERVICE_USER = "keyd-server"
ADMIN_GROUP = "keyd-admin"
PRINCIPAL = "socket:admin"
_UNIT = "keyd-server-user.service"
_SOFTHSM_TOKENS = Path("/var/lib/softhsm/tokens")
"""Where Debian's SoftHSM keeps tokens, for members of one group."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class NewToken:
    """The token the configuration names. ``name`` empty: made from the label."""

    module: Path
    label: str
    name: str = ""
    pin: str = "prompt"

    @property
    def known_as(self) -> str:
        """What keyd calls it."""
        return self.name or _NOT_IN_NAMES.sub("-", self.label.lower()).strip("-._") or "token"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a daemon's files go. ``group``: who may open the socket, empty for the user alone."""

    config_dir: Path
    state_dir: Path
    run_dir: Path
    checkpoint_file: Path
    group: str = ""


SYSTEM = Places(
    Path("/etc/keyd-server"),
    Path("/var/lib/keyd-server"),
    Path("/run/keyd-server"),
    Path("/var/log/keyd-server/checkpoint"),
    ADMIN_GROUP,
)


def user_places(environ: Mapping[str, str]) -> Places:
    """The places of a user's own daemon (XDG base directories).

    Raises:
        ConfigError: there is no XDG_RUNTIME_DIR to put the socket into.
    """
    runtime = environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise ConfigError(
            "XDG_RUNTIME_DIR is not set, so there is no place for the socket",
            hint="log in through a session that systemd knows, not with su",
        )
    home = Path(environ.get("HOME") or Path.home())
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share") / "keyd-server"
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "keyd-server"
    return Places(config, data / "state", Path(runtime) / "keyd-server", data / "checkpoint")


def initialise(
    *, user: bool, token: NewToken, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Write keyd.toml and policy.toml (for a user also the unit); return what to tell the person.

    Nothing that exists is overwritten.

    Raises:
        ConfigError: already initialised, not root, or the service's group is missing.
    """
    if not token.module.is_file():
        raise ConfigError(f"{token.module}: no such PKCS#11 module", file=token.module)
    places = user_places(environ) if user else _system_places()
    config, policy = places.config_dir / "keyd.toml", places.config_dir / "policy.toml"
    for file in (config, policy):
        if file.exists():
            raise ConfigError(
                f"{file} exists and is not overwritten",
                hint=f"edit it, then: keyd-server check --config {config}",
                file=file,
            )
    starter = Starter(
        state_dir=places.state_dir,
        run_dir=places.run_dir,
        policy=policy,
        checkpoint_file=places.checkpoint_file,
        socket=places.run_dir / "keyd.sock",
        principal=PRINCIPAL,
        origin=_origin(places.checkpoint_file, getpass.getuser() if user else ""),
        token=token.known_as,
        module=token.module.absolute(),
        label=token.label,
        pin=token.pin,
        group=places.group,
    )
    text = starter_config(starter)  # refuses what cannot be, before anything is written
    places.config_dir.mkdir(mode=0o700 if user else 0o755, parents=True, exist_ok=True)
    # The policy first: with it missing the configuration would not load.
    _write(policy, starter_policy(PRINCIPAL), user=user)
    _write(config, text, user=user)
    lines = [f"{config}: configuration", f"{policy}: you, through the socket, are admin and signer"]
    if user:
        places.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines.append(f"{_write_unit(environ)}: systemd user unit")
    return [*lines, "", "next:", *(f"  {line}" for line in _next(user, starter, environ))]


def _next(user: bool, starter: Starter, environ: Mapping[str, str]) -> list[str]:
    scope = " --user" if user else ""
    lines = [f"systemctl{scope} enable --now keyd-server"]
    if not user and (group := _softhsm_group(starter.module)):
        lines.insert(0, f"usermod --append --groups {group} {SERVICE_USER}   # SoftHSM's folder")
    if not user and (name := environ.get("SUDO_USER")):
        lines.insert(0, f"usermod --append --groups {ADMIN_GROUP} {name}   # then log in again")
    if starter.pin == "prompt":
        lines.append(f"keydctl token unlock {starter.token}   # the log key is made on it now")
    else:
        lines.append(f"keydctl token list   # {starter.token} is READY, the log key is made on it")
    lines.append(f"keydctl key create acme/release --token {starter.token} --algorithm ecdsa-p256")
    return lines


def _system_places() -> Places:
    if os.geteuid() != 0:
        raise ConfigError(
            f"only root writes {SYSTEM.config_dir}",
            hint="sudo keyd-server init, or keyd-server init --user for a daemon of your own",
        )
    for group in (SERVICE_GROUP, ADMIN_GROUP):
        try:
            grp.getgrnam(group)
        except KeyError:
            raise ConfigError(
                f"the group {group} is missing", hint="make install makes service user and groups"
            ) from None
    return SYSTEM


def _origin(checkpoint_file: Path, user: str) -> str:
    """The log's name: of the log that is here already, or a new one. Host names repeat, and so do
    daemons set up anew on one machine; what clients keep of one log must never be held against
    another."""
    try:
        return parse_checkpoint(checkpoint_file.read_text(encoding="utf-8")).origin
    except (OSError, UnicodeDecodeError, LogProofError):
        pass
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.getfqdn()) or "localhost"
    whose = re.sub(r"[^a-z0-9._-]", "-", user)
    return "-".join(filter(None, (f"{host}/keyd", whose, secrets.token_hex(4))))


def _softhsm_group(module: Path) -> str:
    """The group that the service user still has to join to open SoftHSM's tokens, or empty."""
    if "softhsm" not in module.name:
        return ""
    try:
        group = grp.getgrgid(_SOFTHSM_TOKENS.stat().st_gid)
    except (OSError, KeyError):
        return ""
    return "" if group.gr_gid == 0 or SERVICE_USER in group.gr_mem else group.gr_name


def _write(path: Path, text: str, *, user: bool) -> None:
    """A new file; for the system daemon root's to write and the service's to read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if not user:
        os.chown(path, 0, grp.getgrnam(SERVICE_GROUP).gr_gid)
        path.chmod(0o640)


def _write_unit(environ: Mapping[str, str]) -> Path:
    """The user unit with the path of this installation's command."""
    home = Path(environ.get("HOME") or Path.home())
    folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "systemd" / "user"
    folder.mkdir(parents=True, exist_ok=True)
    unit = folder / "keyd-server.service"
    text = _find_unit().read_text(encoding="utf-8")
    unit.write_text(text.replace("/usr/local/bin/keyd-server", _own_command()), encoding="utf-8")
    return unit


def _find_unit() -> Path:
    """Where the wheel put the unit, or this source tree has it."""
    places = (
        Path(sysconfig.get_path("data")) / "share/keyd-server/systemd" / _UNIT,
        Path(keyd.__file__).parents[1] / "systemd" / _UNIT,
    )
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"{_UNIT} is missing from this installation", hint="install keyd again")


def _own_command() -> str:
    """The absolute path of keyd-server."""
    beside = Path(sys.executable).with_name("keyd-server")
    return str(beside) if beside.exists() else shutil.which("keyd-server") or str(beside)
