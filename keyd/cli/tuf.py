"""keydctl tuf: TUF repositories whose keys keyd holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keyd.adapters.tufrepo import migration, rotation
from keyd.adapters.tufrepo import settings as tufsettings
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.repository import RoleKeys
from keyd.cli import output, tufceremony, tufreview, tufshapes, tuftargets
from keyd.cli import role as rolecommands
from keyd.cli.durations import duration
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings
from keyd.cli.tufkeys import (
    FOLDER,
    KEY_HELP,
    Session,
    expiry_days,
    role_keys,
    role_options,
    signer_uris,
)
from keyd.cli.tufshapes import answer
from keyd.errors import InvalidRequestError
from keyd.model import check_name


@click.group(cls=Group)
def tuf() -> None:
    """Make and keep TUF repositories.

    DIR holds metadata/ and targets/, to be served by any web server, and .keyd-tuf.json, which
    says which key signs for which role. A command that was interrupted is finished by running it
    again; at no moment do clients see a repository that does not verify.
    """


for _command in (
    tuftargets.add,
    tuftargets.remove,
    tufreview.sign,
    tufreview.verify,
    tufreview.show,
    tufreview.status,
    tufceremony.ceremony_group,
):
    tuf.add_command(_command)


def _repository_name(folder: Path, given: str) -> str:
    name = given or folder.absolute().name
    try:
        return check_name("repository", name)
    except InvalidRequestError as e:
        raise click.UsageError(f"{e.message}; give one with --repository") from e


@tuf.command()
@FOLDER
@click.option("--repository", default="", help="Its name, sent with each signature. [DIR's name]")
@role_options
@click.option("--expiry", multiple=True, metavar="ROLE=DAYS", help="How long a role lives.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def init(
    settings: Settings,
    /,
    folder: Path,
    repository: str,
    expiry: tuple[str, ...],
    yes: bool,
    **roles: Any,
) -> int:
    """Make a new repository in DIR, and bind its keys to their roles.

    Keys are named as a key of the daemon, a keyd: URI, or @FILE with a public key of somebody
    else, who then signs with `keydctl tuf sign`. By default REPOSITORY/root, REPOSITORY/targets
    and so on.
    """
    name = _repository_name(folder, repository)
    days = expiry_days(expiry)
    session = Session(settings)
    ask_about_root(session, roles["root_keys"] or (f"{name}/root",), yes)
    made = tufsettings.find(Folder(folder)) or tufsettings.Settings(name, expiry_days=days)
    opened = session.open(folder, f"tuf init {name}", made=made)
    opened.check_new()
    return answer(settings, opened.create(role_keys(session, name, roles)))


def ask_about_root(session: Session, keys: tuple[str, ...], yes: bool) -> None:
    """Warn, and ask, when all root keys are on one hardware token."""
    tokens = {session.hardware_alone(key) for key in keys}
    token = tokens.pop()
    if tokens or not token:
        return
    output.warn(
        f"root hangs on one hardware token ({token}): if it is lost, no client can follow any "
        "more. Give a second --root key on another token."
    )
    session.settings.confirm("Make a repository with all root keys on one token?", token, yes)


@tuf.command()
@click.argument("repository", default="")
@click.option("--within", default="14d", show_default=True, help="As in 14d or 36h.")
@click.pass_obj
def expiring(settings: Settings, repository: str, within: str) -> int:
    """Show what expires soon of all that this daemon signed or was shown. For cron.

    Of all repositories, or of REPOSITORY. Exit code 1 when something expires, or has.
    """
    return rolecommands.expiring(settings, repository, duration(within))


@tuf.command()
@FOLDER
@click.option("--role", "roles", multiple=True, help="Renew this role too: root, targets, ...")
@click.option("--if-due", is_flag=True, help="Only what has less than half of its time left.")
@click.pass_obj
def refresh(settings: Settings, folder: Path, roles: tuple[str, ...], if_due: bool) -> int:
    """Renew snapshot and timestamp, and publish what has got its signatures. For cron."""
    opened = Session(settings).open(folder, "tuf refresh")
    return answer(settings, opened.refresh(roles, if_due=if_due))


@tuf.command()
@FOLDER
@click.argument("role")
@click.option("--key", "keys", multiple=True, required=True, metavar="KEY", help=KEY_HELP)
@click.option("--threshold", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--paths", multiple=True, required=True, metavar="PATTERN", help="As in 'plugins/*'.")
@click.option("--from", "delegator", default="targets", show_default=True, help="Who delegates.")
@click.option("--terminating", is_flag=True, help="Clients look no further for these paths.")
@click.option("--expiry-days", type=click.IntRange(1, tufsettings.MAX_EXPIRY_DAYS), default=None)
@click.pass_obj
def delegate(
    settings: Settings,
    folder: Path,
    role: str,
    keys: tuple[str, ...],
    threshold: int,
    paths: tuple[str, ...],
    delegator: str,
    terminating: bool,
    expiry_days: int | None,
) -> int:
    """Let ROLE sign for some paths with keys of its own. Run again, it changes them."""
    session = Session(settings)
    opened = session.open(folder, f"tuf delegate {role}")
    found = tuple(session.find(text, opened.settings.repository, role) for text in keys)
    report = opened.delegate(
        role,
        RoleKeys(found, threshold),
        paths=paths,
        delegator=delegator,
        terminating=terminating,
        expiry_days=expiry_days or 0,
    )
    return answer(settings, report)


@tuf.command()
@FOLDER
@click.argument("role")
@click.option("--key", default="", help="Which key of the role, if it has several.")
@click.option("--to", default="", metavar="KEY", help="Replace it by another key of the daemon.")
@click.option("--without-old", is_flag=True, help="The old key is lost or stolen: do not ask it.")
@click.option("--disable-old", is_flag=True, help="Disable the old key version afterwards.")
@click.option("--drop", default="", metavar="KEYID", help="Take this lost or stolen key out.")
@click.pass_obj
def rotate(
    settings: Settings,
    folder: Path,
    role: str,
    key: str,
    to: str,
    without_old: bool,
    disable_old: bool,
    drop: str,
) -> int:
    """Rotate a key of ROLE: new version, new root, everything signed anew, published, activated.

    For root, old and new key both sign. With --drop a key goes and none comes: the rest signs, and
    somebody has to consent. Run again after an interruption or consent, it goes on.
    """
    if drop and (key or to or without_old or disable_old):
        raise click.UsageError("--drop takes a key out; it goes with no other option")
    session = Session(settings)
    opened = session.open(folder, f"tuf rotate {role}")
    if drop:
        rotated = rotation.drop(opened, session.client, role, drop)
    else:
        rotated = rotation.rotate(
            opened,
            session.client(),
            role,
            key=key,
            to=to,
            without_old=without_old,
            disable_old=disable_old,
        )
    tufshapes.say_notes(settings, rotated.report)
    settings.answer(tufshapes.rotated_json(rotated), lambda: tufshapes.rotated_text(rotated))
    return Exit.NEEDS_PEOPLE if rotated.report.waiting else Exit.DONE


@tuf.command()
@FOLDER
@click.option(
    "--signer",
    "signers",
    multiple=True,
    required=True,
    metavar="[KEYID=]URI",
    help="A signer of an old key, as in file2:/path/key.pem; any securesystemslib URI.",
)
@click.option("--repository", default="", help="Its name, sent with each signature. [DIR's name]")
@role_options
@click.option("--expiry", multiple=True, metavar="ROLE=DAYS", help="How long a role lives.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def migrate(
    settings: Settings,
    /,
    folder: Path,
    signers: tuple[str, ...],
    repository: str,
    expiry: tuple[str, ...],
    yes: bool,
    **roles: Any,
) -> int:
    """Take over a repository whose keys are elsewhere; its clients follow.

    The next root is signed by the old and the new root keys. Only the old root keys have to sign,
    the old online keys need not.
    """
    name = _repository_name(folder, repository)
    session = Session(settings)
    ask_about_root(session, roles["root_keys"] or (f"{name}/root",), yes)
    days = expiry_days(expiry)
    made = tufsettings.find(Folder(folder)) or tufsettings.Settings(name, expiry_days=days)
    opened = session.open(folder, f"tuf migrate {name}", extra=signer_uris(signers), made=made)
    return answer(settings, migration.migrate(opened, role_keys(session, name, roles)))
