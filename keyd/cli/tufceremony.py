"""keydctl tuf ceremony: a change of the root, in phases that survive a crash."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click

from keyd.adapters.tufrepo import bundletext, ceremony, ceremony_end, ceremony_exchange
from keyd.adapters.tufrepo import published as reading
from keyd.adapters.tufrepo.ceremony import ORDER, Work
from keyd.adapters.tufrepo.repository import Repository
from keyd.audit.note import VerifierKey
from keyd.cli import ceremonyshapes as shapes
from keyd.cli import output
from keyd.cli.ceremonyplan import Holders, Wishes, make_plan
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings
from keyd.cli.tufkeys import FOLDER, Session
from keyd.errors import ConflictError, RepositoryError
from keyd.model import Ceremony, Phase

_DEFAULT_DAYS = 14
_PHASES = [phase.value for phase in ORDER if phase.is_open]
_UNTIL = click.option(
    "--until",
    type=click.Choice(_PHASES, case_sensitive=False),
    help="Stop when this phase is the next one.",
)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("ceremony", cls=Group)
def ceremony_group() -> None:
    """Change the root of a repository: rotate keys, add or drop a holder, set a threshold.

    A ceremony goes through the phases PLAN, GENERATE, STAGE, CONSENT, SIGN, CHECK, PUBLISH and
    RETIRE. The daemon remembers where it stands; `resume` goes on after a crash, or when people
    have done their part. See docs/ceremonies.md.
    """


def _open(session: Session, folder: Path, reason: str = "") -> Repository:
    return session.open(folder, reason or "tuf ceremony")


def _work(session: Session, folder: Path, reason: str = "") -> Work:
    repository = _open(session, folder, reason)
    client = session.client()
    return Work(repository, client, ceremony.get_open(client, repository.settings.repository))


@ceremony_group.command()
@FOLDER
@click.option(
    "--rotate", multiple=True, metavar="ROLE[=KEY]", help="A new version of a role's key."
)
@click.option("--add-key", "add", multiple=True, metavar="[ROLE=]KEY", help="A key joins a role.")
@click.option("--drop", multiple=True, metavar="[ROLE=]KEYID|KEY", help="A key leaves a role.")
@click.option("--threshold", multiple=True, metavar="ROLE=N", help="How many have to sign a role.")
@click.option("--keep-old", is_flag=True, help="Leave old key versions enabled.")
@click.option("--reason", default="", help="Why, for the log and for those who are asked.")
@_UNTIL
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def start(
    settings: Settings,
    folder: Path,
    rotate: tuple[str, ...],
    add: tuple[str, ...],
    drop: tuple[str, ...],
    threshold: tuple[str, ...],
    keep_old: bool,
    reason: str,
    until: str | None,
    yes: bool,
) -> int:
    """Begin a change of DIR's root, and go on until people are needed.

    Without ROLE= a key is one of root's. KEY is a key of the daemon, a keyd: URI or @FILE with a
    public key of somebody else.
    """
    session = Session(settings)
    repository = _open(session, folder, reason)
    root = reading.read_root(repository.folder)
    if root is None:
        raise RepositoryError("nothing is published yet", hint="finish `keydctl tuf init` first")
    client = session.client()
    name = repository.settings.repository
    holders = Holders(root.signed, client)
    wishes = Wishes(rotate, add, drop, threshold, keep_old)
    plan = make_plan(wishes, name, root.signed, holders, session)
    standing = ceremony.find_open(client, name)
    if standing is not None and standing.plan != plan.to_json():
        raise ConflictError(
            f"ceremony {standing.id} of {name} is open, in phase {standing.phase}",
            hint=f"go on with it (keydctl tuf ceremony resume {folder}) or end it "
            f"(keydctl tuf ceremony abort {folder})",
            ceremony=standing.id,
        )
    if standing is None:
        for line in plan.lines(holders.who):
            output.note(line)
        settings.confirm(f"Change root {root.signed.version} of {name} so?", name, yes)
        standing = client.start_ceremony(name, plan.to_json(), reason=reason)
    return _go_on(settings, Work(repository, client, standing), until)


@ceremony_group.command()
@FOLDER
@_UNTIL
@click.pass_obj
def resume(settings: Settings, folder: Path, until: str | None) -> int:
    """Go on with DIR's ceremony, until it is done or people are needed."""
    session = Session(settings)
    repository = _open(session, folder)
    client = session.client()
    name = repository.settings.repository
    ended = client.list_ceremonies(name)
    if ended and ended[0].phase is Phase.DONE:  # Perhaps by a run that was killed right then.
        return _say_none(settings, ended, name, folder)
    return _go_on(settings, Work(repository, client, ceremony.get_open(client, name)), until)


def _go_on(settings: Settings, work: Work, until: str | None) -> int:
    outcome = work.resume(Phase(until.upper()) if until else None)
    settings.answer(shapes.outcome_json(outcome, work), lambda: shapes.outcome_text(outcome, work))
    return Exit.NEEDS_PEOPLE if outcome.halt else Exit.DONE


@ceremony_group.command()
@FOLDER
@click.pass_obj
def status(settings: Settings, folder: Path) -> int:
    """Show where DIR's ceremony stands, who is missing, and what to do next.

    Exit code 3 while people have something to do.
    """
    session = Session(settings)
    repository = _open(session, folder)
    client = session.client()
    name = repository.settings.repository
    found = ceremony.find_open(client, name)
    if found is None:
        return _say_none(settings, client.list_ceremonies(name), name, folder)
    standing = shapes.look(Work(repository, client, found))
    settings.answer(shapes.standing_json(standing), lambda: shapes.standing_text(standing))
    return Exit.NEEDS_PEOPLE if standing.waits else Exit.DONE


def _say_none(settings: Settings, ended: Sequence[Ceremony], name: str, folder: Path) -> int:
    settings.answer(shapes.none_json(ended), lambda: shapes.none_text(name, ended, str(folder)))
    return Exit.DONE


@ceremony_group.command()
@FOLDER
@click.option("-o", "--output", "target", type=_FILE, help="[REPOSITORY-root-N.bundle]")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True, max=366),
    default=_DEFAULT_DAYS,
    show_default=True,
    help="How long it may be signed and taken back.",
)
@click.option("--since", type=click.IntRange(min=0), default=0, help="The oldest root to include.")
@click.option("--reason", default="", help="Why, shown to those who are asked, as your claim.")
@click.pass_obj
def export(
    settings: Settings, folder: Path, target: Path | None, days: float, since: int, reason: str
) -> int:
    """Write a bundle that the other root holders sign, on any machine and without a network.

    They sign it with `keydctl tuf sign FILE --key KEY`; their responses are taken back with
    `keydctl tuf ceremony import`.
    """
    work = _work(Session(settings), folder, reason)
    request = ceremony_exchange.export(
        work,
        lives=timedelta(days=days),
        since=since,
        reason=reason,
        new_id=lambda: secrets.token_hex(16),
    )
    name = request.repository.replace("/", "_")
    path = target or Path(f"{name}-root-{request.version}.bundle")
    path.write_bytes(bundletext.write(request))
    settings.answer(
        shapes.request_json(request, path), lambda: shapes.request_text(request, path, str(folder))
    )
    return Exit.DONE


@ceremony_group.command("import")
@FOLDER
@click.argument("responses", nargs=-1, required=True, type=_FILE, metavar="RESPONSE...")
@click.option("--log-key", type=_FILE, multiple=True, help="Log keys of the other daemons.")
@click.pass_obj
def import_(
    settings: Settings, folder: Path, responses: tuple[Path, ...], log_key: tuple[Path, ...]
) -> int:
    """Add the signatures of other root holders to the draft: all of them, or none.

    Each RESPONSE is what `keydctl tuf sign BUNDLE` wrote.
    """
    work = _work(Session(settings), folder)
    trusted = [VerifierKey.parse(line) for path in log_key for line in _lines(path)]
    read = [bundletext.read_response(path.read_bytes()) for path in responses]
    imported = ceremony_exchange.import_(work, read, trusted)
    settings.answer(
        shapes.imported_json(imported, work), lambda: shapes.imported_text(imported, work)
    )
    if not settings.json:
        verb = "export" if imported.needs else "resume"
        output.note(f"hint: keydctl tuf ceremony {verb} {folder}")
    return Exit.NEEDS_PEOPLE if imported.needs else Exit.DONE


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@ceremony_group.command()
@FOLDER
@click.option("--reason", default="", help="Why, for the log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def abort(settings: Settings, folder: Path, reason: str, yes: bool) -> int:
    """Give DIR's ceremony up; what is published stays as it is, and what is left is named."""
    work = _work(Session(settings), folder, reason)
    name = work.ceremony.repository
    settings.confirm(f"Give up the change of root {work.plan.base} of {name}?", name, yes)
    aborted = ceremony_end.abort(work, reason=reason)
    settings.answer(shapes.aborted_json(aborted), lambda: shapes.aborted_text(aborted))
    return Exit.DONE
