"""How keydctl tuf is told about keys, and how it opens a repository."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from securesystemslib.signer import Key as TufKey
from securesystemslib.signer import SSlibKey

from keyd import publickeys
from keyd.adapters.tufrepo import rotation
from keyd.adapters.tufrepo import settings as tufsettings
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing, SigningKey
from keyd.adapters.tufrepo.repository import Repository, RoleKeys
from keyd.adapters.uri import SCHEME, KeydUri
from keyd.cli.settings import Settings
from keyd.cli.touches import accompanied
from keyd.errors import InvalidRequestError, KeydError, RepositoryError
from keyd.model import Key

if TYPE_CHECKING:
    from keyd.client import Client

ROLES = ("root", "targets", "snapshot", "timestamp")
KEY_HELP = "a key of the daemon, a keyd: URI, or @FILE with a public key of somebody else"
FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
"""The argument DIR of a command about a repository."""

_SOFTWARE_TOKENS = ("softhsm",)


@dataclass(slots=True)
class Session:
    """One command: connects when it first has to, and at most once."""

    settings: Settings
    _client: list[Client] = field(default_factory=list)

    def client(self) -> Client:
        """The daemon of the shared options; closed when the command ends."""
        if not self._client:
            client = click.get_current_context().with_resource(self.settings.connect())
            self._client.append(client)
        return self._client[0]

    def open(
        self,
        path: Path,
        reason: str,
        *,
        extra: Mapping[str, Sequence[str]] | None = None,
        made: tufsettings.Settings | None = None,
    ) -> Repository:
        """The repository in a folder; ``made``: settings of one that is about to be made."""
        folder = Folder(path)
        found = made or tufsettings.read(folder)
        ring = KeyRing(found, self.client, extra or {}, reason=reason, accompanied=accompanied)
        return Repository(folder, found, ring, functools.partial(datetime.now, UTC))

    def find(self, text: str, repository: str = "", role: str = "") -> SigningKey:
        """The key a person named (see KEY_HELP); keyd's own are bound to the role, if given.

        Raises:
            KeydError: no such key, or not allowed.
            click.UsageError: a URI or file that cannot be read.
        """
        if text.startswith("@"):
            return SigningKey(read_public_key(Path(text[1:])))
        uri, client = self._where(text)
        held = client.get_key(uri.key)
        if role:
            rotation.bind(client, held, repository, role)
        version = held.find_version(uri.version) if uri.version else held.active
        if version is None or not version.public_key:
            raise RepositoryError(
                f"{text} has no version that signs", hint=f"keydctl key show {uri.key}"
            )
        return rotation.signing_key(held, version, uri)

    def _where(self, text: str) -> tuple[KeydUri, Client]:
        if not text.startswith(f"{SCHEME}:"):
            return KeydUri(text), self.client()
        try:
            uri = KeydUri.parse(text)
        except ValueError as e:
            raise click.UsageError(str(e)) from e
        if not (uri.endpoint or uri.profile):
            return uri, self.client()
        from keyd.client import Client

        client = Client(uri.endpoint, profile=uri.profile)
        return uri, click.get_current_context().with_resource(client)

    def hardware_alone(self, text: str) -> str:
        """The name of the hardware token a key hangs on, or empty for a software token.

        A token the caller may not see counts as hardware.
        """
        if text.startswith("@"):
            return ""
        uri, client = self._where(text)
        held: Key = client.get_key(uri.key)
        try:
            tokens = {t.name: t for t in client.list_tokens()}
        except KeydError:
            return held.token
        found = tokens.get(held.token)
        model = f"{found.model} {found.manufacturer}".lower() if found else ""
        return "" if any(name in model for name in _SOFTWARE_TOKENS) else held.token


def read_public_key(path: Path) -> TufKey:
    """A public key file: PEM, or a TUF key object as `keydctl key show --format tuf` prints.

    Raises:
        click.UsageError: neither.
    """
    try:
        data = path.read_bytes()
        if data.lstrip().startswith(b"{"):
            content: dict[str, Any] = json.loads(data)
            keyid = content.pop("keyid")
            return TufKey.from_dict(keyid, content)
        return SSlibKey.from_crypto(publickeys.load(publickeys.load_pem(data)))
    except OSError as e:
        raise click.UsageError(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, InvalidRequestError) as e:
        raise click.UsageError(f"{path} is no public key: give PEM or a TUF key object") from e


def role_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--root, --root-threshold, ... of init and migrate."""
    for role in reversed(ROLES):
        command = click.option(
            f"--{role}-threshold",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help=f"How many keys have to sign {role}.",
        )(command)
        command = click.option(
            f"--{role}",
            f"{role}_keys",
            multiple=True,
            metavar="KEY",
            help=f"A key for {role}; may be repeated. By default REPOSITORY/{role}.",
        )(command)
    return command


def role_keys(session: Session, repository: str, given: Mapping[str, Any]) -> dict[str, RoleKeys]:
    """What role_options were given, each key found and bound to its role."""
    return {
        role: RoleKeys(
            tuple(
                session.find(text, repository, role)
                for text in given[f"{role}_keys"] or (f"{repository}/{role}",)
            ),
            given[f"{role}_threshold"],
        )
        for role in ROLES
    }


def expiry_days(given: Sequence[str]) -> dict[str, int]:
    """ROLE=DAYS texts over the defaults.

    Raises:
        click.UsageError: no such role, or not 1 to 3 650 days.
    """
    days = dict(tufsettings.DEFAULT_EXPIRY_DAYS)
    for text in given:
        role, _, number = text.partition("=")
        valid = number.isascii() and number.isdigit() and len(number) < 6
        if role not in days or not valid or not 1 <= int(number) <= tufsettings.MAX_EXPIRY_DAYS:
            raise click.UsageError(
                f"--expiry: {text!r} is not ROLE=DAYS with one of {', '.join(ROLES)} and "
                f"1 to {tufsettings.MAX_EXPIRY_DAYS} days"
            )
        days[role] = int(number)
    return days


def signer_uris(given: tuple[str, ...]) -> dict[str, list[str]]:
    """[KEYID=]URI texts: keyid, or "" for any key, -> URIs."""
    found: dict[str, list[str]] = {}
    for text in given:
        keyid, equals, uri = text.partition("=")
        if not equals or ":" in keyid:
            keyid, uri = "", text
        if ":" not in uri:
            raise click.UsageError(f"--signer: {text!r} is no URI, as file2:/path/key.pem is")
        found.setdefault(keyid, []).append(uri)
    return found
