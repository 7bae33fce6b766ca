"""Where the daemon is, and why we think so.

Asked in this order: an endpoint that was given, KEYD_ENDPOINT, a named profile (given,
KEYD_PROFILE, or the ``default`` of client.toml), the user's socket, the system's socket.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from keyd.client.profiles import Profile, Tls, load_profiles
from keyd.errors import ConfigError, ServerGoneError
from keyd.toml_source import nearest

SYSTEM_SOCKET = Path("/run/keyd-server/keyd.sock")
DEFAULT_DEADLINE_S = 60.0
_MAX_SOCKET_PATH_BYTES = 107
"""sun_path of unix(7), less its NUL."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One daemon. ``target``: ``unix:/PATH`` or ``dns:HOST:PORT``, as grpc takes it.

    ``tls`` is set for dns. ``source``: how it was chosen, in words, for errors.
    """

    target: str
    source: str
    tls: Tls | None = None
    deadline_s: float = DEFAULT_DEADLINE_S


def parse_target(text: str, source: str) -> str:
    """Check ``unix:PATH`` or ``dns:HOST:PORT``; a relative path becomes absolute.

    Raises:
        ConfigError: neither of the two.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        path = str(Path(rest.removeprefix("//")).absolute())
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"endpoint {text!r} ({source}): a socket path has at most "
                f"{_MAX_SOCKET_PATH_BYTES} bytes (unix(7)), this one has "
                f"{len(os.fsencode(path))}"
            )
        return f"unix:{path}"
    if kind == "dns":
        host, colon, port = rest.removeprefix("///").rpartition(":")
        if host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return f"dns:{host}:{int(port)}"
    hint = f"did you mean unix:{text}?" if text.startswith(("/", "./", "../")) else ""
    if not hint and re.fullmatch(r"[^/\s]+:[0-9]{1,5}", text):
        hint = f"did you mean dns:{text}?"
    raise ConfigError(
        f"endpoint {text!r} ({source}) is neither unix:PATH nor dns:HOST:PORT", hint=hint
    )


def find_endpoint(
    endpoint: str = "",
    profile: str = "",
    *,
    tls: Tls | None = None,
    deadline_s: float | None = None,
    environ: Mapping[str, str] = os.environ,
    system_socket: Path = SYSTEM_SOCKET,
    system_profiles: Path = Path("/etc/keyd-server/client.toml"),
) -> Endpoint:
    """Find the daemon; opens nothing.

    ``tls``: files for a ``dns:`` endpoint; without them KEYD_CA, KEYD_CERT and KEYD_KEY, or the
    profile that has the same endpoint.

    Raises:
        ConfigError: a bad endpoint, client.toml or profile name, or ``dns:`` without TLS files.
        ServerGoneError: nothing was named and there is no socket at the usual places.
    """
    found = _choose(endpoint, profile, tls, environ, system_socket, system_profiles)
    if found.target.startswith("dns:"):
        if found.tls is None:
            raise ConfigError(
                f"endpoint {found.target} ({found.source}) needs TLS: a CA, a client certificate "
                "and its key",
                hint="write them into a profile of client.toml, or set KEYD_CA, KEYD_CERT and "
                "KEYD_KEY; keydctl tls request makes a key and a request",
            )
    elif found.tls is not None:
        found = replace(found, tls=None)
    return found if deadline_s is None else replace(found, deadline_s=deadline_s)


def _choose(
    endpoint: str,
    profile: str,
    tls: Tls | None,
    environ: Mapping[str, str],
    system_socket: Path,
    system_profiles: Path,
) -> Endpoint:
    tls = tls or _tls_from(environ)
    profiles = load_profiles([system_profiles, user_profiles(environ)])
    for text, source in ((endpoint, "--endpoint"), (environ.get("KEYD_ENDPOINT"), "KEYD_ENDPOINT")):
        if text and not (profile and source == "KEYD_ENDPOINT"):
            target = parse_target(text, source)
            same = (p.tls for p in profiles.by_name.values() if p.endpoint == text)
            return Endpoint(target, source, tls or next(same, None))
    for name, why in (
        (profile, "--profile"),
        (environ.get("KEYD_PROFILE"), "KEYD_PROFILE"),
        (profiles.default, "default"),
    ):
        if name:
            return _from_profile(profiles.by_name, name, why, tls, profiles.files)
    return _from_sockets(environ, system_socket)


def user_profiles(environ: Mapping[str, str]) -> Path:
    """The user's own client.toml, which wins over the system's."""
    config = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '~')}/.config"
    return Path(config).expanduser() / "keyd" / "client.toml"


def user_socket(environ: Mapping[str, str]) -> Path | None:
    """The socket of a daemon that runs as this user, if there can be one."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "keyd-server" / "keyd.sock" if runtime else None


def _tls_from(environ: Mapping[str, str]) -> Tls | None:
    names = ("KEYD_CA", "KEYD_CERT", "KEYD_KEY")
    files = [environ.get(name, "") for name in names]
    if not any(files):
        return None
    if not all(files):
        missing = ", ".join(n for n, file in zip(names, files, strict=True) if not file)
        raise ConfigError(f"KEYD_CA, KEYD_CERT and KEYD_KEY belong together: {missing} is not set")
    return Tls(*(Path(file) for file in files))


def _from_profile(
    profiles: Mapping[str, Profile], name: str, why: str, tls: Tls | None, files: str
) -> Endpoint:
    found = profiles.get(name)
    if found is None:
        known = ", ".join(sorted(profiles)) or "none"
        raise ConfigError(
            f"no profile {name!r} ({why}) in {files}{nearest(name, profiles)}",
            hint=f"known profiles: {known}",
        )
    source = f"profile {name}" if why != "default" else f"default profile {name}"
    return Endpoint(
        parse_target(found.endpoint, source),
        source,
        tls or found.tls,
        found.deadline_s or DEFAULT_DEADLINE_S,
    )


def _from_sockets(environ: Mapping[str, str], system_socket: Path) -> Endpoint:
    looked = []
    for path, source in ((user_socket(environ), "user socket"), (system_socket, "system socket")):
        if path is None:
            continue
        if _may_be_there(path):
            return Endpoint(parse_target(f"unix:{path}", source), source)
        looked.append(str(path))
    raise ServerGoneError(
        f"no daemon found: there is no socket at {' or '.join(looked)}",
        hint="start keyd-server, or name a daemon with --endpoint, KEYD_ENDPOINT or a profile",
    )


def _may_be_there(path: Path) -> bool:
    try:
        return path.is_socket()
    except PermissionError:
        return True  # the folder is closed to this user: the error should name this socket
