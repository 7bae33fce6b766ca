"""The keyd.toml that `keyd-server init` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from keyd.config.load import parse_config


@dataclass(frozen=True, slots=True)
class Starter:
    """What the starter says. ``principal``: ``socket:NAME``, who is admin in the starter policy;
    ``pin``: a PIN source, as in [[token]]."""

    state_dir: Path
    run_dir: Path
    policy: Path
    checkpoint_file: Path
    socket: Path
    principal: str
    origin: str
    token: str
    module: Path
    label: str = ""
    serial: str = ""
    pin: str = "prompt"
    softhsm_conf: Path | None = None
    group: str = ""


_STARTER = """\
# keyd's configuration. docs/configuration.md explains every setting; `keyd-server check` reads
# this file without starting anything. A setting that keyd does not know stops the start.
# Relative paths start at the folder of this file.

[server]
state_dir = {state_dir}
run_dir = {run_dir}
policy = {policy}
# drain_timeout_s = 30.0
# destroy_wait_days = 7

[log]
# The log's name in its checkpoints: unique, and for ever the same.
origin = {origin}
# The log key is made on this token. It should sign without a touch and without a person.
token = {token}
# Outside state_dir; better still on another machine's disk.
checkpoint_file = {checkpoint_file}

# Whoever can open this socket is its principal. policy.toml says what that one may do.
[[listener]]
kind = "unix"
path = {socket}
principal = {principal}
{group}
# Over the network: mutual TLS. `keydctl tls request` and `keyd-server tls sign` make certificates
# for those without a PKI; all four files are read again when they change.
# [[listener]]
# kind = "tcp"
# address = "0.0.0.0:7443"
# cert = "tls/server.pem"
# key = "tls/server.key"
# client_ca = "tls/clients-ca.pem"
# deny_list = "tls/deny.txt"

[[token]]
name = {token}
module = {module}
{identity}
# The PIN itself never stands here. credential:NAME (systemd's LoadCredential), file:PATH (readable
# by its owner only) or prompt (a person runs `keydctl token unlock`).
pin = {pin}
# hosts = 1  # processes that are logged in at once

# Prometheus, on loopback only:
# [metrics]
# address = "127.0.0.1:9464"

# Rotations of keys with a period are told ahead; with prepare the new version is made, and a
# ceremony waits for the holders of root.
# [rotation]
# ahead_days = 14.0
# prepare = false
"""


_TEXTS = (
    "state_dir",
    "run_dir",
    "policy",
    "checkpoint_file",
    "socket",
    "principal",
    "origin",
    "token",
    "module",
    "pin",
)


def starter_config(starter: Starter) -> str:
    """A commented keyd.toml that parses.

    Raises:
        ConfigError: a value that keyd.toml would refuse, such as a PIN instead of its source.
    """
    quoted = {name: _quoted(getattr(starter, name)) for name in _TEXTS}
    group = f'group = {_quoted(starter.group)}\nmode = "0660"\n' if starter.group else ""
    identity = [
        f"{name} = {_quoted(value)}"
        for name, value in (
            ("label", starter.label),
            ("serial", starter.serial),
            ("softhsm_conf", starter.softhsm_conf),
        )
        if value
    ]
    text = _STARTER.format(**quoted, group=group, identity="\n".join(identity))
    parse_config(text)
    return text


def _quoted(value: object) -> str:
    # A JSON string is a TOML basic string, except that TOML wants DEL escaped as well.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
