"""client.toml: named daemons, so that nobody has to type endpoints and certificate files.

    default = "office"

    [profile.office]
    endpoint = "dns:keyd.example.org:7443"
    ca = "/etc/keyd-server/tls/ca.pem"
    cert = "~/.config/keyd/me.pem"
    key = "~/.config/keyd/me.key"
    deadline_s = 30

Paths are taken from the file's own folder; ``~`` is the home folder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from keyd.errors import ConfigError
from keyd.toml_source import Source, nearest, parse

log = logging.getLogger(__name__)

_SETTINGS = ("endpoint", "ca", "cert", "key", "deadline_s")
_TOP = ("default", "profile")
_MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a TLS client: whom to believe, who we are, and the key that proves it."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Profile:
    """One named daemon. ``deadline_s`` 0: the usual one."""

    endpoint: str
    tls: Tls | None = None
    deadline_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles that were found. ``files``: where was looked, for errors."""

    by_name: Mapping[str, Profile]
    default: str = ""
    files: str = ""


def load_profiles(files: Sequence[Path]) -> Profiles:
    """Read those of the files that exist; the last one is the user's own, and wins.

    Another one that this user may not read is left out, with a warning.

    Raises:
        ConfigError: with file and line, and the nearest valid name for an unknown setting.
    """
    by_name: dict[str, Profile] = {}
    default = ""
    looked = []
    *shared, own = files
    for file in (*shared, own):
        looked.append(str(file))
        try:
            text = file.read_bytes()[:_MAX_FILE_BYTES].decode()
        except FileNotFoundError:
            continue
        except PermissionError as e:
            if file is own:
                raise ConfigError(f"cannot read {file}: {e.strerror}", file=str(file)) from e
            log.warning("going on without %s, which this user may not read", file)
            looked[-1] += " (not readable)"
            continue
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"cannot read {file}: {e}", file=str(file)) from e
        source = parse(text, str(file))
        _refuse_unknown(source, (), source.data, _TOP)
        default = _text(source, ("default",), source.data) or default
        tables = _table(source, ("profile",), source.data.get("profile", {}))
        for name, table in tables.items():
            path = ("profile", name)
            by_name[name] = _profile(source, path, _table(source, path, table), file.parent)
    return Profiles(by_name, default, " or ".join(looked))


def _profile(
    source: Source, path: tuple[str, ...], table: Mapping[str, object], folder: Path
) -> Profile:
    _refuse_unknown(source, path, table, _SETTINGS)
    endpoint = _text(source, (*path, "endpoint"), table)
    if not endpoint:
        raise source.error(path, f"profile {path[1]!r} has no endpoint")
    files = {name: _text(source, (*path, name), table) for name in ("ca", "cert", "key")}
    tls = None
    if any(files.values()):
        missing = [name for name, file in files.items() if not file]
        if missing:
            raise source.error(
                path, f"ca, cert and key belong together: {', '.join(missing)} is missing"
            )
        tls = Tls(**{name: folder / Path(file).expanduser() for name, file in files.items()})
    deadline_s = table.get("deadline_s", 0)
    if isinstance(deadline_s, bool) or not isinstance(deadline_s, int | float) or deadline_s < 0:
        raise source.error((*path, "deadline_s"), "deadline_s is a number of seconds")
    return Profile(endpoint, tls, float(deadline_s))


def _refuse_unknown(
    source: Source, path: tuple[str, ...], table: Mapping[str, object], valid: tuple[str, ...]
) -> None:
    for name in table:
        if name not in valid:
            raise source.error(
                (*path, name),
                f"unknown setting {name!r}{nearest(name, valid)}",
                hint=f"settings here are: {', '.join(valid)}",
            )


def _table(source: Source, path: tuple[str, ...], value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise source.error(path, f"{'.'.join(path)} is a table")
    return cast("Mapping[str, object]", value)


def _text(source: Source, path: tuple[str, ...], table: Mapping[str, object]) -> str:
    value = table.get(path[-1], "")
    if not isinstance(value, str):
        raise source.error(path, f"{path[-1]} is a text in quotes")
    return value
