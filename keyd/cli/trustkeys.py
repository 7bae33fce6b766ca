"""keydctl trust key, refresh."""

from __future__ import annotations

import fnmatch
from datetime import datetime, timedelta
from pathlib import Path

import click

from keyd import publickeys
from keyd.adapters.notary import delegations, rotation
from keyd.adapters.notary.lookup import RELEASES
from keyd.adapters.notary.names import is_gun, parse_gun
from keyd.cli import output
from keyd.cli.durations import duration
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings
from keyd.cli.trustsession import (
    GUN,
    TOKEN,
    Session,
    TrustCommand,
    TrustGroup,
    answer,
    now,
    split_roles,
)
from keyd.model import Binding, KeyAlgorithm

ROLE = click.argument("role")

_ALGORITHMS = [a.value for a in KeyAlgorithm if a is not KeyAlgorithm.ECDSA_P384]


_ON_TOKENS = "private keys are on tokens, and neither leave them nor come from files; "
_INSTEAD = {
    "import": _ON_TOKENS + "take a collection over with keydctl trust migrate, and hand out the "
    "public key or certificate of a key (keydctl trust certificate) to have it delegated to",
    "load": _ON_TOKENS + "make one with keydctl trust key generate",
    "export": _ON_TOKENS + "the public key: keydctl key show KEY --format pem",
    "passwd": _ON_TOKENS + "a token has a PIN: keydctl yubikey change-pin",
    "remove": _ON_TOKENS + "destroy one with keydctl key destroy KEY",
}
"""Words of notary and docker for key files, below ``key``: what to do instead."""


@click.group(cls=TrustGroup, instead=_INSTEAD)
def key() -> None:
    """List, make and rotate the keys of collections."""


@key.command("list")
@click.argument("gun", default="")
@click.pass_obj
def key_list(settings: Settings, gun: str) -> int:
    """List the keys that may sign for collections: all, or those of GUN."""
    name = parse_gun(gun) if gun else ""
    rows = []
    for held in Session(settings, "").client().list_keys():
        version = held.active
        if version is None or not version.public_key:
            continue
        for binding in sorted(held.bindings):
            is_shown = is_gun(binding.repository) or binding.role.startswith("targets/")
            if _fits(binding, name) if name else is_shown:
                keyid = publickeys.notary_keyid(version.public_key)
                rows.append((binding.role, binding.repository, keyid, held.token, version.name))
    names = ("role", "gun", "key_id", "location", "key_version")
    text = output.table(("ROLE", "GUN", "KEY ID", "LOCATION", "KEY"), rows)
    shown = [dict(zip(names, row, strict=True)) for row in rows]
    settings.answer(shown, text if rows else "no keys of collections")
    return Exit.DONE


def _fits(binding: Binding, gun: str) -> bool:
    return fnmatch.fnmatchcase(gun, binding.repository)


@key.command("generate")
@click.argument("name")
@click.option("--role", default="", help="Sign as this role only. [targets/NAME and releases]")
@click.option("--gun", default="*", show_default=True, help="Sign for these collections only.")
@click.option("--algorithm", type=click.Choice(_ALGORITHMS), default="ecdsa-p256", help="Its kind.")
@click.option("--token", default="", help="Where it is made.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    help="Where NAME.pub is written, here by default.",
)
@click.pass_obj
def key_generate(
    settings: Settings, name: str, role: str, gun: str, algorithm: str, token: str, folder: Path
) -> int:
    """Make the signing key NAME on a token, and write NAME.pub for `trust signer add`."""
    file = folder / f"{name.rpartition('/')[2]}.pub"
    if file.exists():
        raise click.UsageError(f"{file} is there already")
    repository = gun if gun == "*" else parse_gun(gun)
    own = name.rpartition("/")[2]
    roles = [role] if role else [delegations.signer_role(own), RELEASES]
    made = (
        Session(settings, "")
        .client()
        .create_key(
            name,
            KeyAlgorithm(algorithm),
            token=token,
            bindings=[Binding(repository, each) for each in roles],
            reason="trust key generate",
        )
    )
    version = made.active
    assert version is not None
    file.write_text(publickeys.pem(version.public_key))
    keyid = publickeys.notary_keyid(version.public_key)
    settings.answer(
        {"key_version": version.name, "key_id": keyid, "file": str(file), "token": made.token},
        f"made {version.name} on {made.token}, key id {keyid}\nits public key: {file}",
    )
    return Exit.DONE


@key.command("rotate")
@GUN
@ROLE
@click.option("-r", "--server-managed", is_flag=True, help="The server makes and keeps the key.")
@click.option("-k", "--key", "name", default="", metavar="KEY", help="Another key of the daemon.")
@TOKEN
@click.pass_obj
def key_rotate(
    settings: Settings, gun: str, role: str, server_managed: bool, name: str, token: str
) -> int:
    """Give ROLE (root, targets, snapshot, timestamp) of GUN a new key, and publish that.

    For root, old and new key both sign. Run again after an interruption or consent, it goes on.
    """
    if role not in ("root", "targets", "snapshot", "timestamp"):
        raise click.UsageError(
            f"{role} is none of root, targets, snapshot, timestamp; keys of delegations change "
            "with delegation add and remove"
        )
    if server_managed and name:
        raise click.UsageError("the server makes its keys itself: --key does not go with -r")
    full = parse_gun(gun)
    collection = Session(settings, f"trust key rotate {full} {role}", token).collection(full)
    done = (
        rotation.hand_to_server(collection, role)
        if server_managed
        else rotation.rotate(collection, role, key=name)
    )
    who = done.key_version or "a key of the server"
    output.note(f"{role}: {who} ({done.new[:12]}) signs from now on")
    return answer(
        settings,
        done.report,
        full,
        role=role,
        new_keyid=done.new,
        old_keyids=list(done.old),
        key_version=done.key_version,
    )


@click.command(cls=TrustCommand)
@GUN
@click.argument("roles", nargs=-1, metavar="[ROLE]...")
@click.option("--within", default="90d", show_default=True, help="What expires in this time.")
@click.pass_obj
def refresh(settings: Settings, gun: str, roles: tuple[str, ...], within: str) -> int:
    """Sign anew, as it is, what expires soon or has expired, or each ROLE. For cron."""
    name = parse_gun(gun)
    collection = Session(settings, f"trust refresh {name}").collection(name)
    chosen = split_roles(roles, "root", "snapshot", "timestamp") if roles else ()
    until = now() + timedelta(seconds=duration(within))

    def is_due(expires: datetime) -> bool:
        return expires <= until

    return answer(settings, rotation.refresh(collection, chosen, is_due), name)


COMMANDS = (key, refresh)
