"""`keyd-server dev`: everything a daemon needs, made under one folder.

DIR/keyd.toml     written anew at each start, from the options; one that was changed by hand is kept
                  as DIR/keyd.toml.edited
DIR/policy.toml   written once: the socket's principal is admin and signer, each person an approver
DIR/origin        the log's name, random, so that no client takes the log of a new folder for a
                  continuation of another's
DIR/pin           the token's PIN, random, 0600
DIR/tokens        SoftHSM's store; DIR/softhsm2.conf leads there
DIR/state         registry and log; DIR/checkpoint is the newest checkpoint
DIR/run/keyd.sock the socket; DIR/run/NAME.sock with --person NAME, for a second person's consent
DIR/tls           with --tcp: a CA of its own and the daemon's certificate
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from keyd.cli.softhsm_token import create_token, find_softhsm
from keyd.config import Starter, starter_config
from keyd.errors import ConfigError
from keyd.model import Pin
from keyd.pki.authority import Authority
from keyd.pki.files import write_new_file
from keyd.pki.request import new_request
from keyd.policy.starter import starter_policy

PRINCIPAL = "socket:dev"
TOKEN = "dev"  # noqa: S105
_HEAD = "# Written at each start of `keyd-server dev`; SHA-256 of the lines below: "


@dataclass(frozen=True, slots=True)
class DevFolder:
    """Where things are. ``socket`` appears when the daemon is ready. ``warning``: what somebody had
    changed in keyd.toml and is not there any more, and the way out; empty where nobody had."""

    config: Path
    socket: Path
    warning: str = ""


def make_folder(
    folder: Path, *, tcp: str | None, hosts: int, now: datetime, persons: Sequence[str] = ()
) -> DevFolder:
    """Make what is missing in the folder, and its keyd.toml.

    ``tcp``: HOST:PORT of a second listener, or None. ``hosts``: token host processes. ``persons``:
    names of people with sockets of their own.

    Raises:
        ConfigError: SoftHSM is missing, or the folder cannot be used.
    """
    for person in persons:
        if not re.fullmatch(r"[a-z0-9-]{1,32}", person) or person in ("dev", "keyd"):
            raise ConfigError(
                f"{person!r} cannot be the name of a person here",
                hint="use up to 32 of a-z, 0-9 and '-', and neither dev nor keyd",
            )
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be made: {e.strerror}", file=folder) from e
    module = find_softhsm()
    conf = _make_token(folder, module)
    policy = folder / "policy.toml"
    if not policy.exists():
        text = starter_policy(PRINCIPAL) + "".join(map(_approver_grant, persons))
        write_new_file(policy, text.encode(), mode=0o600)
    made = DevFolder(folder / "keyd.toml", folder / "run" / "keyd.sock")
    text = starter_config(
        Starter(
            state_dir=folder / "state",
            run_dir=folder / "run",
            policy=policy,
            checkpoint_file=folder / "checkpoint",
            socket=made.socket,
            principal=PRINCIPAL,
            origin=_origin(folder),
            token=TOKEN,
            module=module,
            label=TOKEN,
            pin=f"file:{folder / 'pin'}",
            softhsm_conf=conf,
        )
    )
    # The starter ends inside its [[token]] table.
    text += f"hosts = {hosts}\n"
    text += "".join(_person_listener(folder / "run", person) for person in persons)
    if tcp:
        text += _tcp_listener(folder / "tls", tcp, now)
    warning = _keep_edited(made.config, text)
    made.config.write_text(f"{_HEAD}{_digest(text)}\n{text}")
    return replace(made, warning=warning)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _keep_edited(config: Path, new: str) -> str:
    """Put a keyd.toml aside that was changed since it was written; what to say of that."""
    if not config.exists():
        return ""
    head, _, old = config.read_text(encoding="utf-8", errors="replace").partition("\n")
    if head == _HEAD + _digest(old) or old == new:
        return ""
    kept = config.with_name(f"{config.name}.edited")
    number = 2
    while kept.exists():
        kept = config.with_name(f"{config.name}.edited-{number}")
        number += 1
    config.replace(kept)
    return (
        f"{config} was changed by hand and is written anew, without {_lost(old, new)}; it is kept "
        f"as {kept}. To go on with that, end this daemon, then: keyd-server run --config {kept}"
    )


def _lost(old: str, new: str) -> str:
    """The tables that differ, in words."""
    try:
        before, after = tomllib.loads(old), tomllib.loads(new)
    except tomllib.TOMLDecodeError:
        return "the changes (it is no TOML)"
    known = {token["name"] for token in after["token"]}
    tables = [table for table in before if table != "token" and before[table] != after.get(table)]
    lost = [f"[[token]] {token.get('name', '')}" for token in _tables(before, "token")]
    lost = [name for name in lost if name.removeprefix("[[token]] ") not in known]
    return ", ".join([*lost, *(f"the changes in {table}" for table in tables)]) or "the changes"


def _tables(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name)
    return [t for t in found if isinstance(t, dict)] if isinstance(found, list) else []


def _origin(folder: Path) -> str:
    """The name of the folder's log, chosen once."""
    file = folder / "origin"
    if not file.exists():
        # A log keeps the name it was begun with, which once was the same for all.
        begun = (folder / "state").exists()
        name = "keyd.invalid/dev" if begun else f"keyd.invalid/dev-{secrets.token_hex(4)}"
        write_new_file(file, f"{name}\n".encode(), mode=0o600)
    return file.read_text(encoding="utf-8").strip()


def _make_token(folder: Path, module: Path) -> Path:
    """SoftHSM's configuration; the token is made on first use."""
    tokens, conf, done = folder / "tokens", folder / "softhsm2.conf", folder / "tokens.made"
    conf.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        "slots.removable = false\n"
    )
    if done.exists():
        return conf
    if tokens.exists() and any(tokens.iterdir()):
        raise ConfigError(
            f"{tokens} holds a token that was not finished",
            hint=f"nothing was signed with it: remove {tokens} and start again",
            file=tokens,
        )
    tokens.mkdir(mode=0o700, exist_ok=True)
    pin_file = folder / "pin"
    if not pin_file.exists():
        write_new_file(pin_file, secrets.token_urlsafe(12).encode() + b"\n", mode=0o600)
    so_pin = Pin(secrets.token_urlsafe(12))  # nobody needs it again: the token is thrown away
    create_token(module, conf, TOKEN, so_pin, Pin(pin_file.read_text().strip()))
    done.touch(mode=0o600)
    return conf


def _person_listener(folder: Path, person: str) -> str:
    """A [[listener]] whose principal is socket:PERSON."""
    return f"""
[[listener]]
kind = "unix"
path = "{folder / f"{person}.sock"}"
principal = "socket:{person}"
"""


def _approver_grant(person: str) -> str:
    return f"""
[[grant]]
name = "{person}"
principals = ["socket:{person}"]
actions = ["approver"]
keys = ["*"]
"""


def _tcp_listener(folder: Path, address: str, now: datetime) -> str:
    """A [[listener]] with a certificate for this machine, made on first use."""
    authority = Authority.open(folder / "ca", now)
    certificate, key = folder / "server.pem", folder / "server.key"
    if not certificate.exists():
        request = new_request(["dns:localhost", "ip:127.0.0.1", "ip:::1"])
        key.unlink(missing_ok=True)
        write_new_file(key, request.key_pem, mode=0o600)
        write_new_file(certificate, authority.sign_server(request.csr_pem, now), mode=0o644)
    return f"""
[[listener]]
kind = "tcp"
address = "{address}"
cert = "{certificate}"
key = "{key}"
client_ca = "{folder / "ca" / "ca.pem"}"
"""
