"""keydctl trust list, lookup, verify: what a collection signs, verified."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keyd.adapters.notary import lookup, served
from keyd.adapters.notary.names import parse_gun
from keyd.cli import output, trustshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings
from keyd.cli.trustsession import GUN, ROLES, Session, TrustCommand, split_roles
from keyd.errors import RepositoryError

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("list", cls=TrustCommand)
@GUN
@ROLES
@click.pass_obj
def list_(settings: Settings, gun: str, roles: tuple[str, ...]) -> int:
    """List what GUN signs, verified; a name that several roles sign is shown once."""
    name = parse_gun(gun)
    trusted = Session(settings, "").collection(name).get()
    trustshapes.warn(trusted)
    found = lookup.listed(trusted, split_roles(roles))
    rows = [(s.name, s.digest.hex(), s.target.length, s.role) for s in found]
    text = output.table(("NAME", "DIGEST", "SIZE (BYTES)", "ROLE"), rows)
    shown = [trustshapes.signed_json(each) for each in found]
    settings.answer(shown, text if rows else f"no targets present in {name}")
    return Exit.DONE


@click.command("lookup", cls=TrustCommand)
@GUN
@click.argument("target")
@click.pass_obj
def lookup_(settings: Settings, gun: str, target: str) -> int:
    """Show hash and size that GUN signs for TARGET; exit code 1 where it signs no such name."""
    name = parse_gun(gun)
    trusted = Session(settings, "").collection(name).get()
    trustshapes.warn(trusted)
    found = lookup.get(trusted, target)
    text = f"{found.name} sha256:{found.digest.hex()} {found.target.length}"
    settings.answer(trustshapes.signed_json(found), text)
    return Exit.DONE


@click.command(cls=TrustCommand)
@GUN
@click.argument("target")
@click.option("-i", "--input", "source", type=_FILE, help="Read from this file.")
@click.option("-o", "--output", "sink", type=_FILE, help="Write what was verified here.")
@click.option("-q", "--quiet", is_flag=True, help="Write nothing.")
@click.pass_obj
def verify(
    settings: Settings,
    gun: str,
    target: str,
    source: Path | None,
    sink: Path | None,
    quiet: bool,
) -> int:
    """Verify that standard input is TARGET of GUN, and pass it on; otherwise exit with 1."""
    name = parse_gun(gun)
    trusted = Session(settings, "").collection(name).get()
    signed = lookup.get(trusted, target)
    limit = signed.target.length
    data = _read(source, limit)
    if not served.matches(data, signed.target):
        raise RepositoryError(
            f"this is not {target} of {name}: size or hash differ",
            hint=f"signed are {limit} bytes with SHA-256 {signed.digest.hex()}",
            gun=name,
        )
    if settings.json:
        settings.answer({**trustshapes.signed_json(signed), "gun": name, "verified": True}, "")
    elif sink is not None:
        sink.write_bytes(data)
    elif not quiet:
        output.write_bytes(data)
    return Exit.DONE


def _read(source: Path | None, limit: int) -> bytes:
    """One byte more than was signed is enough to know that it is something else."""
    if source is None:
        return sys.stdin.buffer.read(limit + 1)
    with source.open("rb") as stream:
        return stream.read(limit + 1)


COMMANDS = (list_, lookup_, verify)
