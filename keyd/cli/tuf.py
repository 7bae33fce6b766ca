"""keydctl tuf: TUF repositories whose keys keyd holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keyd.adapters.tufrepo import cosign, inspection, migration, rotation, verification
from keyd.adapters.tufrepo import settings as tufsettings
from keyd.adapters.tufrepo.change import Report
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.adapters.tufrepo.repository import RoleKeys
from keyd.cli import output, tufshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings
from keyd.cli.tufkeys import KEY_HELP, Session, expiry_days, role_keys, role_options
from keyd.errors import InvalidRequestError, RepositoryError
from keyd.model import check_name

_DIR = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))


@click.group(cls=Group)
def tuf() -> None:
    """Make and keep TUF repositories.

    DIR holds metadata/ and targets/, to be served by any web server, and .keyd-tuf.json, which
    says which key signs for which role. A command that was interrupted is finished by running it
    again; at no moment do clients see a repository that does not verify.
    """


def _answer(settings: Settings, report: Report) -> int:
    settings.answer(tufshapes.report_json(report), lambda: tufshapes.report_text(report))
    return Exit.NEEDS_PEOPLE if report.waiting else Exit.DONE


def _repository_name(folder: Path, given: str) -> str:
    name = given or folder.absolute().name
    try:
        return check_name("repository", name)
    except InvalidRequestError as e:
        raise click.UsageError(f"{e.message}; give one with --repository") from e


@tuf.command()
@_DIR
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
    return _answer(settings, opened.create(role_keys(session, name, roles)))


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
@_DIR
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--as", "as_path", default="", metavar="PATH", help="The target path of one file.")
@click.option("--prefix", default="", metavar="PATH", help="A folder to put them under.")
@click.option("--role", default="targets", show_default=True, help="The role that lists them.")
@click.option("--custom", default="", metavar="JSON", help="An object to keep with each target.")
@click.pass_obj
def add(
    settings: Settings,
    folder: Path,
    files: tuple[Path, ...],
    as_path: str,
    prefix: str,
    role: str,
    custom: str,
) -> int:
    """Add FILES to the targets, or replace them. A folder adds all files below it."""
    targets = _target_paths(files, as_path, prefix)
    extra = _custom(custom)
    opened = Session(settings).open(folder, f"tuf add {len(targets)} target(s)")
    return _answer(settings, opened.add(targets, role=role, custom=extra))


def _target_paths(files: tuple[Path, ...], as_path: str, prefix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        below = sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]
        for path in below:
            name = path.relative_to(file).as_posix() if file.is_dir() else path.name
            target = f"{prefix.rstrip('/')}/{name}" if prefix else name
            if target in found:
                raise click.UsageError(f"{found[target]} and {path} are both {target}")
            found[target] = path
    if as_path:
        if len(found) != 1:
            raise click.UsageError("--as names one file; use --prefix for several")
        return {as_path: next(iter(found.values()))}
    return found


def _custom(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        content = json.loads(text)
    except ValueError as e:
        raise click.UsageError(f"--custom is no JSON: {e}") from e
    if not isinstance(content, dict):
        raise click.UsageError("--custom has to be a JSON object")
    return content


@tuf.command()
@_DIR
@click.argument("paths", nargs=-1, required=True)
@click.option("--role", default="targets", show_default=True, help="The role that lists them.")
@click.pass_obj
def remove(settings: Settings, folder: Path, paths: tuple[str, ...], role: str) -> int:
    """Take target PATHS out of the metadata. The files stay, for clients under way."""
    opened = Session(settings).open(folder, f"tuf remove {len(paths)} target(s)")
    return _answer(settings, opened.remove(paths, role=role))


@tuf.command()
@_DIR
@click.option("--role", "roles", multiple=True, help="Renew this role too: root, targets, ...")
@click.option("--if-due", is_flag=True, help="Only what has less than half of its time left.")
@click.pass_obj
def refresh(settings: Settings, folder: Path, roles: tuple[str, ...], if_due: bool) -> int:
    """Renew snapshot and timestamp, and publish what has got its signatures. For cron."""
    opened = Session(settings).open(folder, "tuf refresh")
    return _answer(settings, opened.refresh(roles, if_due=if_due))


@tuf.command()
@_DIR
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
    return _answer(settings, report)


@tuf.command()
@_DIR
@click.argument("role")
@click.option("--key", default="", help="Which key of the role, if it has several.")
@click.option("--to", default="", metavar="KEY", help="Replace it by another key of the daemon.")
@click.option("--without-old", is_flag=True, help="The old key is lost or stolen: do not ask it.")
@click.option("--disable-old", is_flag=True, help="Disable the old key version afterwards.")
@click.pass_obj
def rotate(
    settings: Settings,
    folder: Path,
    role: str,
    key: str,
    to: str,
    without_old: bool,
    disable_old: bool,
) -> int:
    """Rotate a key of ROLE: new version, new root, everything signed anew, published, activated.

    For root, old and new key both sign. Run again after an interruption, it goes on.
    """
    session = Session(settings)
    opened = session.open(folder, f"tuf rotate {role}")
    rotated = rotation.rotate(
        opened,
        session.client(),
        role,
        key=key,
        to=to,
        without_old=without_old,
        disable_old=disable_old,
    )
    settings.answer(tufshapes.rotated_json(rotated), lambda: tufshapes.rotated_text(rotated))
    return Exit.NEEDS_PEOPLE if rotated.report.waiting else Exit.DONE


@tuf.command()
@_DIR
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
    opened = session.open(folder, f"tuf migrate {name}", extra=_signers(signers), made=made)
    return _answer(settings, migration.migrate(opened, role_keys(session, name, roles)))


def _signers(given: tuple[str, ...]) -> dict[str, list[str]]:
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


@tuf.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Sign with this key. [all]")
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="[KEYID=]URI",
    help="Another securesystemslib signer to try.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def sign(
    settings: Settings, file: Path, keys: tuple[str, ...], signers: tuple[str, ...], yes: bool
) -> int:
    """Add your signature to metadata FILE that somebody else prepared.

    Shows what it says, and asks. Without --key every key the role lists signs that this daemon
    holds.
    """
    session = Session(settings)
    folder = cosign.folder_of(file)
    ring = _ring(session, folder, _signers(signers), f"tuf sign {file.name}")
    shown = inspection.show(file, ring, folder)
    click.echo(output.printable(tufshapes.shown_text(shown)), err=True)
    settings.confirm(f"Sign {shown.role} {shown.version}?", shown.role, yes)
    cosigned = cosign.sign_file(file, ring, folder, [session.find(text) for text in keys])
    settings.answer(tufshapes.cosigned_json(cosigned), lambda: tufshapes.cosigned_text(cosigned))
    if cosigned.needs == 0 and folder is not None and not settings.json:
        output.note(f"hint: publish it with: keydctl tuf refresh {folder.path}")
    if not cosigned.added and cosigned.needs != 0:
        return Exit.FAILED
    return Exit.NEEDS_PEOPLE if cosigned.needs > 0 else Exit.DONE


def _ring(
    session: Session, folder: Folder | None, extra: dict[str, list[str]], reason: str
) -> KeyRing:
    found = tufsettings.find(folder) if folder else None
    return KeyRing(found or tufsettings.Settings(""), session.client, extra, reason=reason)


@tuf.command()
@_DIR
@click.option(
    "--trusted-root",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The root metadata your clients ship with. [the oldest in DIR]",
)
@click.pass_obj
def verify(settings: Settings, folder: Path, trusted_root: Path | None) -> int:
    """Verify DIR by python-tuf's own client: metadata, expiry, and every target file."""
    verified = verification.verify(
        Folder(folder), trusted_root.read_bytes() if trusted_root else None
    )
    text = (
        f"verified: root {verified.trusted} to {verified.root}, timestamp {verified.timestamp}, "
        f"{len(verified.targets)} target file(s)"
    )
    settings.answer(tufshapes.verified_json(verified), text)
    return Exit.DONE


@tuf.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def show(settings: Settings, file: Path) -> int:
    """Show what metadata FILE says and who signed it."""
    folder = cosign.folder_of(file)
    shown = inspection.show(file, _ring(Session(settings), folder, {}, ""), folder)
    settings.answer(tufshapes.shown_json(shown), lambda: tufshapes.shown_text(shown))
    return Exit.DONE


@tuf.command()
@_DIR
@click.option(
    "--warn-days",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Fail when something expires within so many days.",
)
@click.pass_obj
def status(settings: Settings, folder: Path, warn_days: float) -> int:
    """Show what expires when, what waits for signatures, and whose.

    Exit code 1 when something has expired (see --warn-days), 3 when signatures are missing.
    """
    opened = Folder(folder)
    tufsettings.read(opened)
    ring = _ring(Session(settings), opened, {}, "")
    found = inspection.status(opened, ring)
    if not found:
        raise RepositoryError(f"{folder} has no metadata yet", hint="run keydctl tuf init again")
    now = datetime.now(UTC)
    settings.answer(tufshapes.status_json(found, now), lambda: tufshapes.status_text(found, now))
    if any(s.where == "published" and s.days_left(now) < warn_days for s in found):
        return Exit.FAILED
    return Exit.DONE if all(s.is_complete for s in found) else Exit.NEEDS_PEOPLE
