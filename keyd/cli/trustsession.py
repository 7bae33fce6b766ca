"""What the commands of keydctl trust share: where the server is, who signs, what is trusted."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from keyd.adapters.notary import credentials, registry
from keyd.adapters.notary import settings as trustsettings
from keyd.adapters.notary.cache import Cache
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.credentials import Login
from keyd.adapters.notary.keyring import KeyRing
from keyd.adapters.notary.names import Image
from keyd.adapters.notary.publication import Report
from keyd.adapters.notary.registry import Manifest
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.web import Web, check_url, is_loopback
from keyd.cli import output
from keyd.cli.exits import Exit
from keyd.cli.settings import Command, Group, Settings
from keyd.errors import ServerGoneError

if TYPE_CHECKING:
    from keyd.client import Client

LOGIN_VARIABLE = "NOTARY_AUTH"
_OPTIONS = "keyd.cli.trust.options"

GUN = click.argument("gun", metavar="GUN")
PUBLISH = click.option("-p", "--publish", is_flag=True, help="Publish at once all that is staged.")
RETRY = click.option(
    "--retry", is_flag=True, help="Where others have published meanwhile, publish on top of it."
)
ROLES = click.option(
    "-r", "--roles", multiple=True, metavar="ROLE", help="A delegated role, as targets/releases."
)
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
TOKEN = click.option("--token", default="", help="Where missing keys are made.")

RETRIES = 5


@dataclass(slots=True)
class Session:
    """One command. Connects to the daemon when it first has to, and at most once."""

    settings: Settings
    reason: str
    token: str = ""
    _client: list[Client] = field(default_factory=list)
    _trust: list[trustsettings.Settings] = field(default_factory=list)

    def client(self) -> Client:
        """The daemon of the shared options; closed when the command ends."""
        if not self._client:
            client = click.get_current_context().with_resource(self.settings.connect())
            self._client.append(client)
        return self._client[0]

    @property
    def trust(self) -> trustsettings.Settings:
        """What options, environment and files say."""
        if not self._trust:
            given = click.get_current_context().meta.get(_OPTIONS, {})
            self._trust.append(trustsettings.load(os.environ, home=Path.home(), **given))
        return self._trust[0]

    def collection(self, gun: str, trust_dir: Path | None = None) -> Collection:
        """A collection; ``trust_dir``: another one than the user's."""
        url = self.trust.server_of(gun)
        advice = credentials.how_to_log_in(gun.partition("/")[0])
        if self.trust.is_server_named(url):
            advice += f", or set {LOGIN_VARIABLE} to base64 of USER:PASSWORD"
        web = self._web(url, functools.partial(self._login, gun, url), advice)
        ring = KeyRing(gun, self.client, self.token, self.reason)
        cache = Cache(trust_dir or self.trust.trust_dir, gun)
        return Collection(NotaryServer(web, gun), cache, ring, self.trust.pinning, now)

    def _login(self, gun: str, url: str) -> Login | None:
        """As docker: the login for the registry; notary's variable comes first, but it is not for
        any server that a name of an image leads to."""
        given = os.environ.get(LOGIN_VARIABLE, "")
        if given and self.trust.is_server_named(url):
            return credentials.from_basic(given)
        hosts = (gun.partition("/")[0], urlsplit(url).netloc)
        found = (credentials.find_login(self.trust.docker_dir, host) for host in hosts)
        return next((login for login in found if login is not None), None)

    def _web(self, url: str, login: Callable[[], Login | None], advice: str) -> Web:
        check_url(url)
        return Web(url, self.trust.tls_for(url), login, advice)

    def manifest(self, image: Image) -> Manifest:
        """What the registry holds under a tag."""
        url = registry.url_of(image.host)
        login = functools.partial(credentials.find_login, self.trust.docker_dir, image.host)
        advice = credentials.how_to_log_in(image.host)
        try:
            return registry.find_manifest(self._web(url, login, advice), image)
        except ServerGoneError as e:
            # docker takes plain http from a registry on this very machine. One that speaks TLS
            # does not get it: the way out is its CA.
            is_other = e.facts.get("server") != image.host  # who gives its tokens
            if not is_loopback(url) or is_other or "certificate" in e.facts:
                raise
            plain = f"http://{image.host}"
            tls = trustsettings.TlsFiles()
            return registry.find_manifest(Web(plain, tls, login, advice), image)


def now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


def report_json(report: Report) -> dict[str, object]:
    """What was published."""
    return {"published": dict(report.published), "notes": report.notes}


def answer(settings: Settings, report: Report, gun: str, **facts: object) -> int:
    """Say what was published."""
    for text in report.notes:
        output.note(text)
    told = ", ".join(f"{role} {version}" for role, version in report.published.items())
    text = f"published {told} of {gun}" if told else "nothing to publish"
    settings.answer({**report_json(report), "gun": gun, **facts}, text)
    return Exit.DONE


def stage_or_publish(
    settings: Settings, collection: Collection, what: str, *, publish: bool, retry: bool = False
) -> int:
    """Say that something is staged, or publish everything that is."""
    if publish:
        return answer(settings, collection.publish(retries=RETRIES if retry else 0), collection.gun)
    count = len(collection.staged())
    settings.answer(
        {"gun": collection.gun, "staged": count, "published": {}, "notes": []},
        f"{what}: staged, publish it with keydctl trust publish {collection.gun}",
    )
    return Exit.DONE


def split_roles(given: tuple[str, ...], *besides: str) -> tuple[str, ...]:
    """The roles that a person named, with commas or one by one; targets where none is.
    ``besides``: roles that sign no targets and do all the same.

    Raises:
        click.UsageError: another one that signs no targets.
    """
    roles = tuple(dict.fromkeys(r for each in given for r in each.split(",") if r))
    for role in roles:
        if role not in ("targets", *besides) and not role.startswith("targets/"):
            others = ", ".join(("targets", *besides))
            raise click.UsageError(f"{role!r} is none of {others} and targets/NAME")
    return roles or ("targets",)


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            ctx.meta.setdefault(_OPTIONS, {})[name] = value

    return callback


_FILE = click.Path(path_type=Path, dir_okay=False)


def trust_options() -> list[click.Option]:
    """The options of notary that every command takes, before or after its name."""

    def option(name: str, *words: str, type_: Any = None, **more: Any) -> click.Option:
        return click.Option(
            [*words, f"trust_{name}"],
            type=type_,
            expose_value=False,
            callback=_store(name),
            **more,
        )

    return [
        option("server", "-s", "--server", metavar="URL", help="The trust server."),
        option(
            "trust_dir",
            "-d",
            "--trustDir",
            "--trust-dir",
            type_=click.Path(path_type=Path, file_okay=False),
            help="Where trust data is kept, ~/.docker/trust by default.",
        ),
        option(
            "config_file", "-c", "--configFile", type_=_FILE, help="notary's configuration file."
        ),
        option("ca", "--tlscacert", "--ca", type_=_FILE, help="Believe this CA of servers only."),
        option("certificate", "--tlscert", type_=_FILE, help="A certificate to show to servers."),
        option("key", "--tlskey", type_=_FILE, help="Its key."),
    ]


class TrustCommand(Command):
    """A command that takes the options of notary."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(trust_options())


_SHORT = {"ls": "list", "rm": "remove"}


class TrustGroup(Group):
    """A group whose commands take the options of notary, and which takes them itself. ``instead``:
    words of notary and docker that cannot be, with what there is in their place."""

    command_class = TrustCommand

    def __init__(self, *args: Any, instead: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(trust_options())
        self._instead = dict(instead or {})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name, or by docker's short one.

        Raises:
            click.UsageError: a word of notary or docker that cannot be.
        """
        if cmd_name in self._instead:
            raise click.UsageError(f"no {cmd_name} here: {self._instead[cmd_name]}", ctx)
        return super().get_command(ctx, cmd_name) or super().get_command(
            ctx, _SHORT.get(cmd_name, cmd_name)
        )
