"""keydctl trust init, add, addhash, remove, witness, status, publish, reset, delete."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import click

from keyd.adapters.notary import changes
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.names import parse_gun
from keyd.cli import output, trustshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings
from keyd.cli.trustsession import (
    GUN,
    PUBLISH,
    RETRIES,
    RETRY,
    ROLES,
    TOKEN,
    Session,
    TrustCommand,
    answer,
    split_roles,
    stage_or_publish,
)
from keyd.content import canonical
from keyd.errors import InvalidRequestError

_FILE = click.Path(path_type=Path, dir_okay=False)
_CHUNK_BYTES = 1024 * 1024


@click.command(cls=TrustCommand)
@GUN
@click.option("--rootkey", "root_key", default="", metavar="KEY", help="A key that is there.")
@click.option("--rootcert", "root_cert", type=_FILE, help="Its certificate, in PEM.")
@TOKEN
@PUBLISH
@click.pass_obj
def init(
    settings: Settings, gun: str, root_key: str, root_cert: Path | None, token: str, publish: bool
) -> int:
    """Begin the collection GUN.

    One root key can serve many collections: --rootkey names it, and it is bound to this one too.
    Otherwise it gets a key of its own. Keys that are missing are made.
    """
    name = parse_gun(gun)
    collection = Session(settings, f"trust init {name}", token).collection(name)
    held = collection.ring.ensure("root", root_key)
    collection.init(held, root_cert.read_bytes() if root_cert else b"")
    collection.ring.ensure("targets")
    what = f"{name} with the root key {held.version.name}"
    return stage_or_publish(settings, collection, what, publish=publish)


@click.command(cls=TrustCommand)
@GUN
@click.argument("target")
@click.argument("file", type=_FILE)
@click.option("--custom", type=_FILE, help="JSON to sign along with it.")
@ROLES
@PUBLISH
@click.pass_obj
def add(
    settings: Settings,
    gun: str,
    target: str,
    file: Path,
    custom: Path | None,
    roles: tuple[str, ...],
    publish: bool,
) -> int:
    """Sign FILE under the name TARGET; its size and hashes are published, not the file."""
    length, digests = _hash(file)
    return _add(settings, gun, target, length, digests, _custom(custom), roles, publish)


@click.command(cls=TrustCommand)
@GUN
@click.argument("target")
@click.argument("size", type=click.IntRange(min=0))
@click.option("--sha256", default="", metavar="HEX", help="Always needed.")
@click.option("--sha512", default="", metavar="HEX", help="Signed as well.")
@click.option("--custom", type=_FILE, help="JSON to sign along with it.")
@ROLES
@PUBLISH
@click.pass_obj
def addhash(
    settings: Settings,
    gun: str,
    target: str,
    size: int,
    sha256: str,
    sha512: str,
    custom: Path | None,
    roles: tuple[str, ...],
    publish: bool,
) -> int:
    """Sign what has SIZE bytes and these hashes under the name TARGET."""
    given = {"sha256": (sha256, 32), "sha512": (sha512, 64)}
    digests = {}
    for name, (text, size_bytes) in given.items():
        if not text:
            continue
        try:
            digests[name] = bytes.fromhex(text)
        except ValueError as e:
            raise click.UsageError(f"--{name}: not hexadecimal") from e
        if len(digests[name]) != size_bytes:
            raise click.UsageError(f"--{name}: {size_bytes} bytes in hexadecimal")
    if "sha256" not in digests:
        raise click.UsageError("--sha256 is needed: Notary's clients rely on it")
    return _add(settings, gun, target, size, digests, _custom(custom), roles, publish)


def _add(
    settings: Settings,
    gun: str,
    target: str,
    length: int,
    digests: dict[str, bytes],
    custom: Any,
    roles: tuple[str, ...],
    publish: bool,
) -> int:
    name = parse_gun(gun)
    # What else is not printable, as U+2028, is escaped where it is shown.
    if not target or any(unicodedata.category(c) in ("Cc", "Cs") for c in target):
        raise InvalidRequestError("target", "a name without control characters is needed")
    collection = Session(settings, f"trust add {name} {target}").collection(name)
    for role in split_roles(roles):
        collection.stage(changes.add(role, target, length, digests, custom))
    what = f"{target} ({length} bytes, SHA-256 {digests['sha256'].hex()})"
    return stage_or_publish(settings, collection, what, publish=publish)


@click.command(cls=TrustCommand)
@GUN
@click.argument("target")
@ROLES
@PUBLISH
@click.pass_obj
def remove(settings: Settings, gun: str, target: str, roles: tuple[str, ...], publish: bool) -> int:
    """Take TARGET out of GUN: nobody trusts it any more."""
    name = parse_gun(gun)
    collection = Session(settings, f"trust remove {name} {target}").collection(name)
    for role in split_roles(roles):
        collection.stage(Change("remove", role, target))
    return stage_or_publish(settings, collection, f"removal of {target}", publish=publish)


@click.command(cls=TrustCommand)
@GUN
@click.argument("roles", nargs=-1, required=True, metavar="ROLE...")
@PUBLISH
@click.pass_obj
def witness(settings: Settings, gun: str, roles: tuple[str, ...], publish: bool) -> int:
    """Have each ROLE (targets, or a delegated one) signed anew as it is, by its keys of today.

    For a delegated role whose signatures no longer count, because its keys were taken away.
    """
    name = parse_gun(gun)
    collection = Session(settings, f"trust witness {name} {' '.join(roles)}").collection(name)
    chosen = split_roles(roles)
    collection.stage(*(Change("witness", role) for role in chosen))
    what = f"{', '.join(chosen)} to be signed anew"
    return stage_or_publish(settings, collection, what, publish=publish)


@click.command(cls=TrustCommand)
@GUN
@click.pass_obj
def status(settings: Settings, gun: str) -> int:
    """Show what is staged for GUN and not published."""
    name = parse_gun(gun)
    staged = Session(settings, "").collection(name).staged()
    rows = [trustshapes.change_row(n, change) for n, change in enumerate(staged)]
    text = output.table(("#", "ACTION", "ROLE", "NAME", "WHAT"), rows)
    empty = f"nothing is staged for {name}"
    shown = [trustshapes.change_json(n, change) for n, change in enumerate(staged)]
    settings.answer(shown, text if rows else empty)
    return Exit.DONE


@click.command(cls=TrustCommand)
@GUN
@RETRY
@click.pass_obj
def publish(settings: Settings, gun: str, retry: bool) -> int:
    """Sign and publish what is staged for GUN; what is served then is checked byte for byte."""
    name = parse_gun(gun)
    collection = Session(settings, f"trust publish {name}").collection(name)
    return answer(settings, collection.publish(retries=RETRIES if retry else 0), name)


@click.command(cls=TrustCommand)
@GUN
@click.option("-n", "--number", multiple=True, type=click.IntRange(min=0), help="As in status.")
@click.option("--all", "everything", is_flag=True, help="All that is staged.")
@click.pass_obj
def reset(settings: Settings, gun: str, number: tuple[int, ...], everything: bool) -> int:
    """Drop what is staged for GUN, some of it or --all."""
    if bool(number) == everything:
        raise click.UsageError("say which: --number N, or --all")
    name = parse_gun(gun)
    collection = Session(settings, "").collection(name)
    dropped = collection.unstage(None if everything else number)
    shown = [trustshapes.change_json(n, change) for n, change in enumerate(dropped)]
    settings.answer(shown, f"dropped {len(dropped)} staged change(s) of {name}")
    return Exit.DONE


@click.command(cls=TrustCommand)
@GUN
@click.option("--remote", is_flag=True, help="Delete it on the server too, for everybody.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(settings: Settings, gun: str, remote: bool, yes: bool) -> int:
    """Forget all that is known of GUN here: what was seen, and what is staged."""
    name = parse_gun(gun)
    collection = Session(settings, f"trust delete {name}").collection(name)
    if remote:
        settings.confirm(f"Delete {name} on the server, for everybody?", name, yes)
    collection.delete(remote=remote)
    text = f"forgot {name}"
    if remote:
        text += (
            "; the server deleted it. Its keys stay; before it begins again under the same keys: "
            f"keydctl role reset {name}"
        )
    settings.answer({"gun": name, "remote": remote}, text)
    return Exit.DONE


def _custom(file: Path | None) -> Any:
    return canonical.load(file.read_bytes()) if file else None


def _hash(file: Path) -> tuple[int, dict[str, bytes]]:
    digests = {name: hashlib.new(name) for name in ("sha256", "sha512")}
    length = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            length += len(chunk)
            for digest in digests.values():
                digest.update(chunk)
    return length, {name: digest.digest() for name, digest in digests.items()}


COMMANDS = (init, add, addhash, remove, witness, status, publish, reset, delete)
