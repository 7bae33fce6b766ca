"""`keyd-server check`: everything that can be known without starting or asking a token."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509

from keyd.config import Config, TcpListenerSection, load_config
from keyd.config.listeners import UnixListenerSection
from keyd.config.sections import TokenSection
from keyd.errors import ConfigError
from keyd.policy.file import FilePolicy
from keyd.server.tls import TlsMaterial

_EXPIRES_SOON = timedelta(days=30)
_ELF = b"\x7fELF"


@dataclass(slots=True)
class Findings:
    """``lines``: what was looked at, and warnings; ``errors``: what would stop the start."""

    lines: list[str] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)


def check_all(path: Path, now: datetime) -> Findings:
    """Check configuration, policy, PIN files and TLS files; raises nothing."""
    found = Findings()
    try:
        config = load_config(path)
    except ConfigError as e:
        found.errors.append(e)
        return found
    found.lines.append(
        f"{path}: {_count(len(config.tokens), 'token')}, "
        f"{_count(len(config.listeners), 'listener')}"
    )
    for _, part in check_parts(config, now):
        found.lines += part.lines
        found.errors += part.errors
    return found


def check_parts(config: Config, now: datetime) -> Iterator[tuple[str, Findings]]:
    """The findings of each part of a configuration: ``policy``, ``permissions`` (whom files and
    sockets are open to), ``module``, ``pin`` (PIN files) and ``tls``."""
    yield "policy", _found(partial(_check_policy, config))
    yield "permissions", _found(partial(_check_rights, config))
    for token in config.tokens:
        yield "module", _found(partial(_check_module, token))
        if token.pin.startswith("file:"):
            pin_file = Path(token.pin.removeprefix("file:"))
            yield "pin", _found(partial(_check_pin_file, pin_file))
    for listener in config.listeners:
        if isinstance(listener, TcpListenerSection):
            yield "tls", _found(partial(_check_tls, listener, now))
        else:
            yield "permissions", _found(partial(_check_group, listener))


def _found(look: Callable[[Findings], None]) -> Findings:
    found = Findings()
    look(found)
    return found


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _check_policy(config: Config, found: Findings) -> None:
    try:
        policy = FilePolicy(config.server.policy).current
    except ConfigError as e:
        found.errors.append(e)
        return
    found.lines.append(
        f"{config.server.policy}: {_count(len(policy.grants), 'grant')}, "
        f"{_count(policy.rule_count, 'rule')}"
    )
    if not policy.grants:
        found.lines.append(f"warning: {config.server.policy} grants nothing to anybody")


def _check_rights(config: Config, found: Findings) -> None:
    """Root can read everything; the user who owns the state folder has to read it too."""
    try:
        service = pwd.getpwuid(config.server.state_dir.stat().st_uid)
        group = grp.getgrgid(service.pw_gid).gr_name
    except (OSError, KeyError):
        return  # the daemon has not been here yet
    if os.geteuid() != 0 or service.pw_uid == 0:
        return
    files = [config.server.policy, *(token.module for token in config.tokens)]
    for listener in config.listeners:
        if isinstance(listener, TcpListenerSection):
            files += [listener.cert, listener.key, listener.client_ca]
    with _as_user(service):
        closed = [file for file in files if not os.access(file, os.R_OK, effective_ids=True)]
    found.errors += [
        ConfigError(
            f"{file}: the service's user {service.pw_name} cannot read it",
            hint=f"chgrp {group} {file} && chmod g+r {file}; its folders too",
            file=file,
        )
        for file in closed
    ]


@contextmanager
def _as_user(user: pwd.struct_passwd) -> Iterator[None]:
    """Root asks the kernel in another's name; only for a process with one thread."""
    groups, gid = os.getgroups(), os.getegid()
    os.initgroups(user.pw_name, user.pw_gid)
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def _check_pin_file(path: Path, found: Findings) -> None:
    """Only its rights: nobody's PIN is read here."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as e:
        found.errors.append(ConfigError(f"{path}: PIN file: {e.strerror}", file=path))
        return
    if mode & 0o077:
        found.errors.append(
            ConfigError(
                f"{path}: others can read the PIN (mode {mode:04o})",
                hint=f"chmod 600 {path}",
                file=path,
            )
        )


def _check_module(token: TokenSection, found: Findings) -> None:
    """That it is a library at all; loading it is the token host's business."""
    try:
        with token.module.open("rb") as file:
            is_library = file.read(len(_ELF)) == _ELF
    except OSError as e:
        found.errors.append(
            ConfigError(f"{token.module}: cannot be read: {e.strerror}", file=token.module)
        )
        return
    if not is_library:
        found.errors.append(
            ConfigError(
                f"{token.module}: not a PKCS#11 library (token {token.name})",
                hint="module names the vendor's shared library itself, a .so file",
                file=token.module,
            )
        )


def _check_group(listener: UnixListenerSection, found: Findings) -> None:
    """Only that it exists: which user the service runs as is not known here."""
    if listener.group is None:
        return
    try:
        grp.getgrnam(listener.group)
    except KeyError:
        found.errors.append(
            ConfigError(
                f"{listener.path}: there is no group {listener.group!r}",
                hint=f"make it: groupadd --system {listener.group}",
            )
        )


def _check_tls(listener: TcpListenerSection, now: datetime, found: Findings) -> None:
    try:
        TlsMaterial(listener.settings().files)
        certificate = x509.load_pem_x509_certificates(listener.cert.read_bytes())[0]
    except ConfigError as e:
        found.errors.append(e)
        return
    ends = certificate.not_valid_after_utc
    if ends <= now:
        found.errors.append(
            ConfigError(f"{listener.cert}: expired {ends:%F %H:%M} UTC", file=listener.cert)
        )
        return
    found.lines.append(f"{listener.address}: TLS files fit together, valid until {ends:%F}")
    if ends - now < _EXPIRES_SOON:
        found.lines.append(f"warning: {listener.cert} expires in {(ends - now).days} days")
