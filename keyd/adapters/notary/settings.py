"""Where collections are published and what is trusted: the files of notary and docker.

notary's config.json (``-c``, else ~/.notary/config.json where there is one) has ``trust_dir``,
``remote_server`` (url, root_ca, tls_client_cert, tls_client_key) and ``trust_pinning``; paths in it
are taken from its own folder. docker's folder (DOCKER_CONFIG, else ~/.docker) has ``trust/``,
``tls/HOST/*.crt`` and its own config.json with logins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from keyd.adapters.notary.names import DOCKER_HUB
from keyd.adapters.notary.pinning import Pinning
from keyd.errors import ConfigError

DOCKER_HUB_SERVER = "https://notary.docker.io"
SERVER_VARIABLE = "DOCKER_CONTENT_TRUST_SERVER"
FOLDER_VARIABLE = "DOCKER_CONFIG"

_MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. ``ca``: believed instead of the system's CAs, as one that a person named, or
    besides them where ``is_system_believed``, as docker does with those of its folder.
    ``certificate`` and ``key``: what to show to a server that asks who we are. ``folder``: docker's
    for this server, whether or not it is there; None where its CAs are not believed."""

    ca: tuple[Path, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    is_system_believed: bool = False
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """``server_url``: empty where it follows from the collection. ``trust_dir``: with the folders
    of all collections. ``docker_dir``: docker's own folder."""

    trust_dir: Path
    docker_dir: Path
    server_url: str = ""
    tls: TlsFiles = field(default_factory=TlsFiles)
    pinning: Pinning = field(default_factory=Pinning)

    def server_of(self, gun: str) -> str:
        """The base URL of the server for a collection, as docker finds it."""
        if self.server_url:
            return self.server_url
        host = gun.partition("/")[0]
        return DOCKER_HUB_SERVER if host == DOCKER_HUB else f"https://{host}"

    def is_server_named(self, url: str) -> bool:
        """True for a server that a person named, or docker's own; False for one that was only found
        by the name of a collection."""
        return url in (self.server_url, DOCKER_HUB_SERVER)

    def tls_for(self, url: str) -> TlsFiles:
        """The files for one server: those that were named, and docker's for its host."""
        named = self.tls
        folder = self.docker_dir / "tls" / urlsplit(url).netloc.rpartition("@")[2]
        is_believed = not named.ca
        looked_in = folder if is_believed else None
        if not folder.is_dir():
            return replace(named, folder=looked_in)
        certificate = next(iter(sorted(folder.glob("*.cert"))), None)
        key = certificate.with_suffix(".key") if certificate else None
        return TlsFiles(
            named.ca or tuple(sorted(folder.glob("*.crt"))),
            named.certificate or certificate,
            named.key or key,
            is_system_believed=is_believed,
            folder=looked_in,
        )


def load(
    environment: Mapping[str, str],
    *,
    home: Path,
    config_file: Path | None = None,
    server: str = "",
    trust_dir: Path | None = None,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Settings:
    """Put together what options, environment and files say; options win, files come last.

    Raises:
        ConfigError: a file that was named is missing, or one is not what notary writes.
    """
    docker_dir = Path(environment.get(FOLDER_VARIABLE) or home / ".docker")
    default = home / ".notary" / "config.json"
    file = config_file or (default if default.is_file() else None)
    content = _read(file) if file else {}
    folder = file.absolute().parent if file else home
    remote = _table(file, content, "remote_server")

    def path(given: Path | None, table: Mapping[str, object], name: str) -> Path | None:
        if given is not None:
            return given
        text = _text(file, table, name)
        return folder / Path(text).expanduser() if text else None

    root_ca = path(ca, remote, "root_ca")
    found_trust = path(trust_dir, content, "trust_dir")
    url = server or environment.get(SERVER_VARIABLE, "") or _text(file, remote, "url")
    return Settings(
        trust_dir=found_trust or docker_dir / "trust",
        docker_dir=docker_dir,
        server_url=url.rstrip("/"),
        tls=TlsFiles(
            (root_ca,) if root_ca else (),
            path(certificate, remote, "tls_client_cert"),
            path(key, remote, "tls_client_key"),
        ),
        pinning=_pinning(file, _table(file, content, "trust_pinning"), folder),
    )


def _pinning(file: Path | None, table: Mapping[str, object], folder: Path) -> Pinning:
    certs = {}
    for gun, ids in _table(file, table, "certs").items():
        if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
            raise _wrong(file, f"trust_pinning.certs.{gun} is a list of key ids")
        certs[gun] = frozenset(cast("list[str]", ids))
    cas = {gun: folder / str(ca) for gun, ca in _table(file, table, "ca").items()}
    disable = table.get("disable_tofu", False)
    if not isinstance(disable, bool):
        raise _wrong(file, "trust_pinning.disable_tofu is true or false")
    return Pinning(certs=certs, cas=cas, is_first_use_trusted=not disable)


def _read(file: Path) -> Mapping[str, object]:
    try:
        content = json.loads(file.read_bytes()[:_MAX_FILE_BYTES])
    except OSError as e:
        raise ConfigError(f"cannot read {file}: {e.strerror}", file=file) from e
    except ValueError as e:
        raise ConfigError(f"{file} is not JSON: {e}", file=file) from e
    if not isinstance(content, dict):
        raise _wrong(file, "it holds one JSON object")
    return content


def _table(file: Path | None, content: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise _wrong(file, f"{name} is an object")
    return found


def _text(file: Path | None, content: Mapping[str, object], name: str) -> str:
    found = content.get(name, "")
    if not isinstance(found, str):
        raise _wrong(file, f"{name} is a text")
    return found


def _wrong(file: Path | None, why: str) -> ConfigError:
    return ConfigError(f"{file}: {why}", file=file or "")
