"""keydctl trust migrate: from key files to tokens."""

from __future__ import annotations

import os
import sys

import click

from keyd.adapters.notary import migration, oldkeys
from keyd.adapters.notary.migration import Plan
from keyd.adapters.notary.names import parse_gun
from keyd.adapters.notary.oldkeys import KeyFile, PrivateKey
from keyd.adapters.notary.oldplaces import OldKey
from keyd.cli import output, trustshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings
from keyd.cli.trustsession import GUN, TOKEN, Session, TrustCommand, answer
from keyd.errors import RepositoryError

_VARIABLES = ("NOTARY_ROOT_PASSPHRASE", "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE")


@click.command(cls=TrustCommand)
@GUN
@click.option("--dry-run", is_flag=True, help="Only show which keys there are, and what is done.")
@click.option("--rootkey", "root_key", default="", metavar="KEY", help="A key that is there.")
@click.option(
    "--accept-imported",
    is_flag=True,
    help="Keep a root key that was adopted from a YubiKey of notary: there are copies of it.",
)
@TOKEN
@click.pass_obj
def migrate(
    settings: Settings,
    gun: str,
    dry_run: bool,
    root_key: str,
    accept_imported: bool,
    token: str,
) -> int:
    """Give GUN keys on tokens in place of the key files in --trust-dir; its clients follow.

    The next root is signed by the old root key, which is decrypted here and never sent, and by the
    new one. Targets are signed anew, a snapshot key in a file gives way to the server's, and
    delegations stay. At the end the files that can be destroyed are named.
    """
    name = parse_gun(gun)
    session = Session(settings, f"trust migrate {name}", token)
    collection = session.collection(name)
    trust_dir = session.trust.trust_dir
    found = migration.plan(collection, trust_dir, keep_root=accept_imported)
    if dry_run:
        shown = {
            "gun": name,
            "moves": found.moves,
            "keys": [_key_json(k, name) for k in found.keys],
            "leftovers": [str(f.path) for f in found.leftovers],
        }
        settings.answer(shown, lambda: _plan_text(found))
        migration.check_signable(found)
        return Exit.DONE
    output.note(f"moving {', '.join(found.moves) or 'nothing'} of {name}")
    trustshapes.warn(found.trusted)
    marked = migration.mark_imported(collection, found, root_key) if accept_imported else []
    done = migration.migrate(
        collection,
        found,
        trust_dir,
        _unlock,
        root_key=root_key,
        is_imported_kept=accept_imported,
    )
    for path in done.destroy:
        output.note(f"destroy, with all its copies: {path}")
    for path, names in done.keep.items():
        output.note(f"keep for now, it is the root key of {', '.join(names)} too: {path}")
    for key in marked:
        output.warn(f"{key} was made in software by notary: copies of it may be anywhere")
    return answer(
        settings,
        done.report,
        name,
        destroy=[str(path) for path in done.destroy],
        keep={str(path): names for path, names in done.keep.items()},
        imported=marked,
    )


def _unlock(file: KeyFile) -> PrivateKey:
    if not file.is_encrypted:
        return oldkeys.unlock(file, "")
    given = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "")
    if not given:
        if not sys.stdin.isatty():
            raise click.UsageError(
                f"{file.path} needs its passphrase: run it on a terminal, or set {_VARIABLES[0]}"
            )
        given = click.prompt(f"Passphrase for the root key {file.key_id[:12]}", hide_input=True)
    return oldkeys.unlock(file, given)


def _key_json(key: OldKey, gun: str) -> dict[str, object]:
    return {
        "role": key.role,
        "gun": gun,
        "key_id": key.key_id,
        "where": key.where,
        "token": key.token,
        "key_version": key.key_version,
        "file": str(key.file.path) if key.file else None,
    }


def _plan_text(found: Plan) -> str:
    rows = [
        (k.role, found.gun, k.key_id, _where(k), k.file.path if k.file else "") for k in found.keys
    ]
    rows += [(f.role, found.gun, f.key_id, "file, not used", f.path) for f in found.leftovers]
    told = ", ".join(found.moves) or "nothing: all is on tokens"
    headers = ("ROLE", "GUN", "KEY ID", "WHERE", "FILE")
    try:
        migration.check_signable(found)
    except RepositoryError:
        told = f"nothing yet of {told}: the root key cannot sign here"
    return output.table(headers, rows) + f"\nwould move {told}"


def _where(key: OldKey) -> str:
    name = {"yubikey": "YubiKey"}.get(key.where, key.where)
    told = [key.token or "", key.key_version or ("not registered" if key.object_id else "")]
    facts = ", ".join(t for t in told if t)
    return f"{name} ({facts})" if facts else name


COMMANDS = (migrate,)
