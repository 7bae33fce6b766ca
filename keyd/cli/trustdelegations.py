"""keydctl trust delegation, signer."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.adapters.notary import delegations, images, keyobjects, signers
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.keyobjects import KeyObject
from keyd.adapters.notary.keyring import name_of
from keyd.adapters.notary.lookup import RELEASES
from keyd.adapters.notary.names import parse_gun
from keyd.adapters.notary.trusted import Trusted
from keyd.cli import output, trustshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings
from keyd.cli.trustsession import (
    GUN,
    PUBLISH,
    TOKEN,
    YES,
    Session,
    TrustGroup,
    answer,
    stage_or_publish,
)
from keyd.errors import InvalidRequestError, KeydError, RepositoryError

ROLE = click.argument("role")
PATHS = click.option("--paths", multiple=True, metavar="PREFIX", help="Names that begin so.")
ALL_PATHS = click.option("--all-paths", is_flag=True, help="All names.")
KEYS_HELP = "a key of the daemon, or a file with a public key or certificates in PEM"


@click.group(cls=TrustGroup)
def delegation() -> None:
    """Let others sign for a collection, for all names or for some."""


@delegation.command("add")
@GUN
@ROLE
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@PATHS
@ALL_PATHS
@PUBLISH
@click.pass_obj
def delegation_add(
    settings: Settings,
    gun: str,
    role: str,
    keys: tuple[str, ...],
    paths: tuple[str, ...],
    all_paths: bool,
    publish: bool,
) -> int:
    """Let each KEY sign as ROLE of GUN.

    KEY is a key of the daemon, or a file in PEM with a public key, or with a certificate and the
    CAs that issued it.
    """
    name = parse_gun(gun)
    delegations.check_role(role)
    collection = Session(settings, f"trust delegation add {name} {role}").collection(name)
    found = [_find_key(collection, text, role) for text in keys]
    wanted = [delegations.ALL_PATHS] if all_paths else _split(paths)
    collection.stage(delegations.add(role, found, wanted))
    if role != RELEASES:
        output.warn(f"docker pulls from targets/releases and targets only, not from {role}")
    return stage_or_publish(settings, collection, f"delegation to {role}", publish=publish)


@delegation.command("list")
@GUN
@click.pass_obj
def delegation_list(settings: Settings, gun: str) -> int:
    """List the delegations of GUN: whose key may sign as which role, for which names."""
    name = parse_gun(gun)
    collection = Session(settings, "").collection(name)
    trusted = collection.get()
    trustshapes.warn(trusted)
    every = delegations.found(trusted)
    shown = [trustshapes.delegation_json(d, _names(collection)) for d in every]
    text = trustshapes.delegations_text(shown)
    settings.answer(shown, text if shown else f"no delegations present in {name}")
    return Exit.DONE


@delegation.command("remove")
@GUN
@ROLE
@click.argument("key_ids", nargs=-1, metavar="[KEYID]...")
@PATHS
@ALL_PATHS
@YES
@PUBLISH
@click.pass_obj
def delegation_remove(
    settings: Settings,
    gun: str,
    role: str,
    key_ids: tuple[str, ...],
    paths: tuple[str, ...],
    all_paths: bool,
    yes: bool,
    publish: bool,
) -> int:
    """Take keys or paths from ROLE of GUN, or the whole role where none is named."""
    name = parse_gun(gun)
    collection = Session(settings, f"trust delegation remove {name} {role}").collection(name)
    trusted = collection.find(is_expired_taken=True)
    names = delegations.keyids_of(trusted, collection.staged(), role)
    if not names:
        delegations.check_known(trusted, name, role)
    keyids = delegations.select(names, key_ids, role)
    cut = _cut_paths(trusted, role, _split(paths), all_paths)
    is_last = bool(keyids) and set(keyids) == set(names.values())
    if is_last or not (keyids or cut is not None):
        _confirm_vanishing(settings, trusted, role, yes)
    collection.stage(delegations.remove(role, keyids, cut))
    return stage_or_publish(settings, collection, f"removal from {role}", publish=publish)


@delegation.command("purge")
@GUN
@click.option("--key", "key_ids", multiple=True, required=True, metavar="KEYID", help="Repeatable.")
@YES
@PUBLISH
@click.pass_obj
def delegation_purge(
    settings: Settings, gun: str, key_ids: tuple[str, ...], yes: bool, publish: bool
) -> int:
    """Take keys from every delegated role of GUN, as when somebody leaves or lost a key."""
    name = parse_gun(gun)
    collection = Session(settings, f"trust delegation purge {name}").collection(name)
    trusted = collection.find(is_expired_taken=True)
    cut = delegations.purged(trusted, collection.staged(), key_ids)
    for role, keyids in cut.items():
        if set(keyids) == set(delegations.keyids_of(trusted, collection.staged(), role).values()):
            _confirm_vanishing(settings, trusted, role, yes)
    collection.stage(*(delegations.remove(role, keyids) for role, keyids in cut.items()))
    return stage_or_publish(settings, collection, f"removal from {', '.join(cut)}", publish=publish)


def _cut_paths(
    trusted: Trusted | None, role: str, paths: list[str], everything: bool
) -> list[str] | None:
    if not everything:
        return paths or None
    known = [
        d.role.paths or ()
        for d in (delegations.found(trusted) if trusted else ())
        if d.role.name == role
    ]
    return [path for each in known for path in each]


def _confirm_vanishing(
    settings: Settings, trusted: Trusted | None, role: str, yes: bool, *others: str
) -> None:
    """``others``: roles that go with it, unasked."""
    gone = delegations.vanishing(trusted, role, *others) if trusted else []
    if gone:
        output.warn(f"without {role} nobody signs {', '.join(gone)} any more")
    settings.confirm(f"Take {role} away?", role, yes)


# ------------------------------------------------------------------ signers


@click.group(cls=TrustGroup)
def signer() -> None:
    """Let people sign image tags, as docker trust signer does."""


@signer.command("add")
@click.argument("name")
@click.argument("repositories", nargs=-1, required=True, metavar="REPOSITORY...")
@click.option("--key", "keys", multiple=True, required=True, metavar="KEY", help=KEYS_HELP)
@click.option("--rootkey", "root_key", default="", metavar="KEY", help="For new collections.")
@TOKEN
@click.pass_obj
def signer_add(
    settings: Settings,
    name: str,
    repositories: tuple[str, ...],
    keys: tuple[str, ...],
    root_key: str,
    token: str,
) -> int:
    """Let NAME sign the tags of each REPOSITORY; one that has no collection gets it."""
    role = delegations.signer_role(name)
    done: dict[str, object] = {}

    def add_to(repository: str) -> None:
        gun = parse_gun(repository)
        session = Session(settings, f"trust signer add {name} {gun}", token)
        collection = session.collection(gun)
        begin(collection, root_key)
        found = []
        for text in keys:
            found.append(_find_key(collection, text, role))
            _find_key(collection, text, RELEASES)
        collection.stage(*delegations.signer(name, found))
        report = collection.publish()
        done[gun] = dict(report.published)
        if not settings.json:
            answer(settings, report, gun)

    return _for_each(settings, repositories, add_to, done)


@signer.command("remove")
@click.argument("name")
@click.argument("repositories", nargs=-1, required=True, metavar="REPOSITORY...")
@click.option(
    "-f", "--force", "-y", "--yes", "force", is_flag=True, help="Do not ask about the last signer."
)
@click.pass_obj
def signer_remove(settings: Settings, name: str, repositories: tuple[str, ...], force: bool) -> int:
    """Take the signer NAME away from each REPOSITORY.

    Tags stay: where NAME was the last to sign targets/releases, another signer's key signs it anew
    as it is.
    """
    role = delegations.signer_role(name)
    done: dict[str, object] = {}

    def remove_from(repository: str) -> None:
        gun = parse_gun(repository)
        collection = Session(settings, f"trust signer remove {name} {gun}").collection(gun)
        trusted = collection.get()
        names = delegations.keyids_of(trusted, (), role)
        if role not in {d.role.name for d in delegations.found(trusted)}:
            raise RepositoryError(
                f"{name} is no signer of {gun}",
                hint=f"keydctl trust inspect --pretty {gun} lists them",
            )
        released = set(delegations.keyids_of(trusted, (), RELEASES).values())
        shared = released & set(names.values())
        if shared and shared == released:
            _confirm_vanishing(settings, trusted, RELEASES, force, role)
        cut = [delegations.remove(RELEASES, sorted(shared))] if shared else []
        if shared < released and delegations.left_unsigned(trusted, RELEASES, shared):
            cut += _released_anew(settings, collection, trusted, name, shared, force)
        collection.stage(delegations.remove(role), *cut)
        report = collection.publish()
        done[gun] = dict(report.published)
        if not settings.json:
            answer(settings, report, gun)

    return _for_each(settings, repositories, remove_from, done)


def _released_anew(
    settings: Settings,
    collection: Collection,
    trusted: Trusted,
    name: str,
    gone: set[str],
    force: bool,
) -> list[Change]:
    """What keeps tags signed whose last signature is by keys that go."""
    rows = images.signed_tags(trusted)
    if not signers.may_go_on(trusted, collection, RELEASES, gone):
        output.warn(
            f"{name} signed {RELEASES} last, and you may sign with no other key of it: until "
            f"another signer signs, docker refuses {', '.join(row.tag for row in rows)}"
        )
        settings.confirm(f"Take {name} away?", name, force)
        return []
    alone = [row.tag for row in rows if row.signers == (name,)]
    if alone:
        output.warn(
            f"signed by {name} alone, and still pulled: {', '.join(alone)}; take one back: "
            f"keydctl trust revoke {trusted.gun}:{alone[0]}"
        )
    return [Change("witness", RELEASES)]


def begin(collection: Collection, root_key: str) -> None:
    """Stage the beginning of a collection where the server has none."""
    is_staged = any(change.action == "init" for change in collection.staged())
    if is_staged or collection.find(is_expired_taken=True) is not None:
        return
    output.note(f"{collection.gun} has no collection yet: beginning it")
    collection.init(collection.ring.ensure("root", root_key))
    collection.ring.ensure("targets")


# ------------------------------------------------------------------ what they share


def _find_key(collection: Collection, text: str, role: str) -> KeyObject:
    """A key that a person named: see KEYS_HELP. The daemon's own are bound to the role."""
    if Path(text).is_file():
        return keyobjects.read_file(Path(text))
    try:
        held = collection.ring.connect().get_key(text)
    except InvalidRequestError as e:
        raise click.UsageError(f"{text}: neither a file nor a key of the daemon") from e
    except KeydError as e:
        e.message = f"there is no file {text}; taken as a key of the daemon: {e.message}"
        e.hint = f"write the path of the file; or {e.hint}".removesuffix("; or ")
        raise
    return collection.ring.bound(held, role).object


def _names(collection: Collection) -> trustshapes.NameOf:
    def name(spki: bytes) -> str:
        try:
            return name_of(spki, collection.ring) if spki else ""
        except KeydError:
            return ""  # the list is the server's; without a daemon the ids have to do

    return name


def _split(texts: tuple[str, ...]) -> list[str]:
    return [part for text in texts for part in text.split(",")]


def _for_each(
    settings: Settings,
    repositories: tuple[str, ...],
    do: trustshapes.Do,
    done: dict[str, object],
) -> int:
    """Go through all repositories; the first error is raised when all were tried."""
    errors: list[KeydError] = []
    for repository in repositories:
        try:
            do(repository)
        except KeydError as e:
            errors.append(e)
            if len(repositories) > 1:
                output.warn(f"{repository}: {e.message}")
    if settings.json and done:
        settings.answer({"published": done}, "")
    if errors:
        raise errors[0]
    return Exit.DONE


COMMANDS = (delegation, signer)
