"""docker's logins: its config.json and credential helpers (docker-credential-NAME)."""

from __future__ import annotations

import base64
import binascii
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from keyd.adapters.notary.names import DOCKER_HUB
from keyd.errors import ConfigError

_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_TIMEOUT_S = 30.0
_MAX_FILE_BYTES = 4 * 1024 * 1024
_IDENTITY_USER = "<token>"


@dataclass(frozen=True, slots=True)
class Login:
    """``identity_token``: an OAuth2 refresh token, which stands in place of a password."""

    user: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a Basic authorization header (RFC 7617)."""
        text = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(text).decode('ascii')}"


def from_basic(text: str) -> Login:
    """A login from base64 of USER:PASSWORD, as in docker's config.json and NOTARY_AUTH.

    Raises:
        ConfigError: something else; the text itself is not repeated.
    """
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as e:
        raise ConfigError("a login is base64 of USER:PASSWORD, and this is not") from e
    if not colon:
        raise ConfigError("a login is base64 of USER:PASSWORD, and this is not")
    return Login(user, password.rstrip("\0"))


def how_to_log_in(host: str) -> str:
    """The command that leaves a login for a registry where :func:`find_login` looks."""
    return "docker login" if host == DOCKER_HUB else f"docker login {host}"


def find_login(docker_dir: Path, host: str) -> Login | None:
    """docker's login for a registry, or None where there is none.

    Raises:
        ConfigError: config.json cannot be read, or its helper fails.
    """
    file = docker_dir / "config.json"
    try:
        content = json.loads(file.read_bytes()[:_MAX_FILE_BYTES])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise ConfigError(f"cannot read {file}: {e}", file=file) from e
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: it holds one JSON object", file=file)
    server = _HUB_KEY if host == DOCKER_HUB else host
    helpers = content.get("credHelpers")
    helper = helpers.get(server) or helpers.get(host) if isinstance(helpers, dict) else None
    helper = helper or content.get("credsStore")
    if isinstance(helper, str) and helper:
        found = _ask_helper(helper, server)
        if found is not None:
            return found
    auths = content.get("auths")
    for name in (server, host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/"):
        entry = auths.get(name) if isinstance(auths, dict) else None
        if isinstance(entry, dict) and (entry.get("auth") or entry.get("identitytoken")):
            return _of_entry(entry)
    return None


def _of_entry(entry: dict[str, object]) -> Login:
    login = from_basic(str(entry["auth"])) if entry.get("auth") else Login("")
    return Login(login.user, login.password, str(entry.get("identitytoken") or ""))


def _ask_helper(name: str, server: str) -> Login | None:
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as e:
        raise ConfigError(
            f"docker's config.json names the credential helper {name}, and there is no {program}",
            hint="install it, or take it out of credsStore and credHelpers",
        ) from e
    except subprocess.TimeoutExpired as e:
        raise ConfigError(f"{program} did not answer in {_HELPER_TIMEOUT_S:g} seconds") from e
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if "not found" in said:
            return None
        raise ConfigError(
            f"docker's credential helper {program} failed: {said[:200]}",
            hint=f"see whether it works without keydctl: {program} list",
        )
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{program} answered with something that is no login") from e
    if user == _IDENTITY_USER:
        return Login("", "", secret)
    return Login(user, secret)
