"""keydctl role: how far roles have come, and the ways out when a rule stands in the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyd.cli import output, roleshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings
from keyd.errors import PolicyDeniedError, RoleNotFoundError

if TYPE_CHECKING:
    from keyd.adapters.tufrepo.chain import Chain
    from keyd.client import Client, Role, ShownFiles

_REASON = click.option("--reason", required=True, help="Why, for the log.")
_YES = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(cls=Group)
def role() -> None:
    """See what was signed last for each role, and put that right where it is wrong.

    A key that is bound to a repository signs only what follows from what was signed before. These
    commands are the ways out for an honest repository; each change is an alert in the log.
    """


@role.command("list")
@click.argument("repository", default="")
@click.pass_obj
def list_(settings: Settings, repository: str) -> None:
    """List the roles of all repositories, or of REPOSITORY."""
    with settings.connect() as keyd:
        roles = list(keyd.list_roles(repository))
    _answer(settings, roles)


@role.command()
@click.argument("repository")
@click.argument("role")
@click.option("--content", is_flag=True, help="Print the bytes that were signed last instead.")
@click.pass_obj
def show(settings: Settings, repository: str, role: str, content: bool) -> None:
    """Show what was signed last as ROLE of REPOSITORY, by whom, and what was complete last."""
    with settings.connect() as keyd:
        found = keyd.get_role(repository, role)
    if content:
        output.write_bytes(found.content)
        return
    settings.answer(
        roleshapes.role_json(found), lambda: roleshapes.role_text(found, datetime.now(UTC))
    )


@role.command("import")
@click.argument("repository", default="")
@click.option(
    "--root",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The root metadata you trust: the one your clients ship with.",
)
@click.option(
    "--metadata",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the published metadata is. [the folder of --root]",
)
@click.option("--notary", metavar="GUN", default="", help="It is this collection of Notary.")
@click.option("--dry-run", is_flag=True, help="Verify, and ask the daemon what it would do.")
@_REASON
@_YES
@click.pass_obj
def import_(
    settings: Settings,
    repository: str,
    root: Path,
    metadata: Path | None,
    notary: str,
    dry_run: bool,
    reason: str,
    yes: bool,
) -> None:
    """Take over REPOSITORY as it is published, from a root that you trust.

    The chain from that root to everything below it is verified here, by python-tuf or by Notary's
    rules, shown, and verified again by the daemon.
    """
    from keyd.adapters.tufrepo import chain
    from keyd.client import RoleFile

    if notary and repository not in ("", notary):
        raise click.UsageError("in Notary the repository is the GUN: leave REPOSITORY out")
    name = repository or notary
    if not name:
        raise click.UsageError("name the REPOSITORY as its keys are bound to it")
    folder = metadata or root.parent
    if notary:
        found = chain.read_notary(notary, root, folder, datetime.now(UTC))
    else:
        found = chain.read_tuf(root, folder)
    click.echo(output.printable(_chain_text(found)), err=True)
    if not dry_run:
        settings.confirm(f"Take {name} over from this root?", name, yes)
    with settings.connect() as keyd:
        done = keyd.import_role(
            name,
            found.root,
            [RoleFile(*file) for file in found.files],
            reason=reason,
            dry_run=dry_run,
        )
    _tell(settings, done)


@role.command()
@click.argument("repository")
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--published", is_flag=True, help="The files are what clients get.")
@click.option("--reason", default="", help="Why, for the log.")
@click.pass_obj
def advance(
    settings: Settings, repository: str, files: tuple[str, ...], published: bool, reason: str
) -> None:
    """Show signed FILES of REPOSITORY: what others signed or published counts from then on.

    FILES are metadata files named as published, as 4.root.json, or ROLE=FILE, or a folder of them.
    Their signatures are the evidence; nobody has to consent.
    """
    from keyd.adapters.tufrepo import chain
    from keyd.client import RoleFile

    shown = [RoleFile(*file) for file in chain.read_files(files)]
    with settings.connect() as keyd:
        done = keyd.advance_role(repository, shown, published=published, reason=reason)
    _tell(settings, done)


@role.command()
@click.argument("repository")
@click.argument("role")
@_REASON
@_YES
@click.pass_obj
def supersede(settings: Settings, repository: str, role: str, reason: str, yes: bool) -> None:
    """Give up what was signed last as ROLE, and was never published: its version is free again.

    Find every signature of it that is about first: whoever has enough of them can publish it.
    """
    with settings.connect() as keyd:
        found = keyd.get_role(repository, role)
        _show_and_ask(settings, [found], f"Give up {role} {found.version}?", repository, yes)
        after = keyd.supersede_role(repository, role, found.digest, reason=reason)
    if after is not None:
        _answer(settings, [after])
        return
    said = f"nothing of {role} was signed before it: any first version may be signed"
    settings.answer([], f"{said}; if one is published: keydctl role import {repository}")


@role.command()
@click.argument("repository")
@click.argument("role", default="")
@_REASON
@_YES
@click.pass_obj
def reset(settings: Settings, repository: str, role: str, reason: str, yes: bool) -> None:
    """Forget what was signed as ROLE, or as any role, of REPOSITORY. For a server that was
    restored, or a repository that begins again.

    Nothing keeps the next signature from going back then: `role import` is the better way where
    the repository is published.
    """
    with settings.connect() as keyd:
        found = [keyd.get_role(repository, role)] if role else _all(keyd, repository)
        what = role or f"all {len(found)} roles"
        _show_and_ask(settings, found, f"Forget {what} of {repository}?", repository, yes)
        for each in found:
            keyd.reset_role(repository, each.role, each.digest, reason=reason)
    settings.answer(
        {"forgotten": [roleshapes.role_json(r) for r in found]},
        "\n".join(f"forgot {r.role} {r.version} of {repository}" for r in found),
    )


@role.command()
@_REASON
@_YES
@click.pass_obj
def accept(settings: Settings, reason: str, yes: bool) -> None:
    """Accept that entries of the log are lost, after a restored backup: bound keys sign again.

    The log goes on under a new origin, and its first entry names what is lost. Import or advance
    every repository afterwards: what was signed in between is not known here.
    """
    with settings.connect() as keyd:
        _show_problems(keyd)
        settings.confirm("Accept that entries of the log are lost?", "accept", yes)
        accepted = keyd.accept_loss(reason=reason)
    settings.answer(
        {
            "loss": accepted.loss,
            "origin": accepted.origin,
            "log_index": accepted.log_index,
        },
        output.fields(
            [
                ("lost", accepted.loss or "nothing; nothing was changed"),
                ("origin", accepted.origin),
                ("log index", accepted.log_index),
            ]
        ),
    )


def _show_problems(keyd: Client) -> None:
    """What is lost, for those who may see the daemon's state."""
    with contextlib.suppress(PolicyDeniedError):
        for problem in keyd.status().problems:
            output.note(problem)


def expiring(settings: Settings, repository: str, within_s: int) -> int:
    """What expires within so many seconds; exit code 1 when something does."""
    with settings.connect() as keyd:
        roles = list(keyd.list_roles(repository, expiring_within_s=within_s))
    now = datetime.now(UTC)
    settings.answer(
        [roleshapes.role_json(r) for r in roles],
        lambda: roleshapes.roles_text(roles, now) if roles else "nothing expires in that time",
    )
    return Exit.FAILED if roles else Exit.DONE


def _all(keyd: Client, repository: str) -> list[Role]:
    found = list(keyd.list_roles(repository))
    if not found:
        raise RoleNotFoundError(
            f"nothing of {repository} was signed or shown, or it is not yours to see",
            hint="keydctl role list",
        )
    return found


def _show_and_ask(
    settings: Settings, roles: Iterable[Role], question: str, name: str, yes: bool
) -> None:
    now = datetime.now(UTC)
    shown = "\n\n".join(roleshapes.role_text(r, now) for r in roles)
    click.echo(output.printable(shown), err=True)
    settings.confirm(question, name, yes)


def _chain_text(found: Chain) -> str:
    rows = [(f.role, f.version, output.when(f.expires), f.path) for f in found.found]
    lines = ["verified, from the root you named on:"]
    lines.append(output.table(("ROLE", "VERSION", "EXPIRES", "FILE"), rows))
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def _tell(settings: Settings, done: ShownFiles) -> None:
    """What files changed, and what a person should know of them."""
    now = datetime.now(UTC)
    settings.answer(
        {"roles": [roleshapes.role_json(r) for r in done.roles], "notes": list(done.notes)},
        lambda: roleshapes.shown_text(done, now),
    )


def _answer(settings: Settings, roles: list[Role]) -> None:
    settings.answer(
        [roleshapes.role_json(r) for r in roles],
        lambda: roleshapes.roles_text(roles, datetime.now(UTC)),
    )
