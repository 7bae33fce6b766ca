"""keydctl tuf show, status, verify and sign: look at metadata, and put your name to it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from keyd.adapters.tufrepo import bundle, cosign, inspection, verification
from keyd.adapters.tufrepo import settings as tufsettings
from keyd.adapters.tufrepo.folder import Folder
from keyd.adapters.tufrepo.keyring import KeyRing
from keyd.cli import output, tufbundle, tufshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Command, Settings
from keyd.cli.touches import accompanied
from keyd.cli.tufkeys import FOLDER, Session, signer_uris
from keyd.errors import RepositoryError


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Sign with this key. [all]")
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="[KEYID=]URI",
    help="Another securesystemslib signer to try.",
)
@click.option(
    "--trust-root",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Bundle only: a root of the repository you vouch for, if the daemon knows none.",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Bundle only: where the response goes. [FILE's name with .response]",
)
@click.option("--reason", default="", help="Bundle only: why, for the log and the response.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def sign(
    settings: Settings,
    file: Path,
    keys: tuple[str, ...],
    signers: tuple[str, ...],
    trust_root: Path | None,
    target: Path | None,
    reason: str,
    yes: bool,
) -> int:
    """Add your signature to metadata FILE that somebody else prepared, or sign a bundle.

    Shows what it says, and asks. Without --key every key the role lists signs that this daemon
    holds.

    A bundle is what `keydctl tuf ceremony export` wrote; the signatures go into a response file.
    """
    if bundle.is_bundle(file):
        return tufbundle.sign_bundle(
            settings, file, keys, trust_root=trust_root, target=target, reason=reason, yes=yes
        )
    if trust_root or target or reason:
        raise click.UsageError("--trust-root, --output and --reason are for bundles")
    session = Session(settings)
    folder = cosign.folder_of(file)
    ring = _ring(session, folder, signer_uris(signers), f"tuf sign {file.name}")
    shown = inspection.show(file, ring, folder)
    click.echo(output.printable(tufshapes.shown_text(shown)), err=True)
    settings.confirm(f"Sign {shown.role} {shown.version}?", shown.role, yes)
    cosigned = cosign.sign_file(file, ring, folder, [session.find(text) for text in keys])
    settings.answer(tufshapes.cosigned_json(cosigned), lambda: tufshapes.cosigned_text(cosigned))
    if cosigned.needs == 0 and folder is not None and not settings.json:
        output.note(f"hint: publish it with: keydctl tuf refresh {folder.path}")
    if not cosigned.added and cosigned.needs != 0:
        consent = any(missing.approval for missing in cosigned.missing)
        return Exit.NEEDS_PEOPLE if consent else Exit.FAILED
    return Exit.NEEDS_PEOPLE if cosigned.needs > 0 else Exit.DONE


@click.command(cls=Command)
@FOLDER
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


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def show(settings: Settings, file: Path) -> int:
    """Show what metadata FILE says and who signed it."""
    folder = cosign.folder_of(file)
    shown = inspection.show(file, _ring(Session(settings), folder, {}, ""), folder)
    settings.answer(tufshapes.shown_json(shown), lambda: tufshapes.shown_text(shown))
    return Exit.DONE


@click.command(cls=Command)
@FOLDER
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


def _ring(
    session: Session, folder: Folder | None, extra: dict[str, list[str]], reason: str
) -> KeyRing:
    found = tufsettings.find(folder) if folder else None
    return KeyRing(
        found or tufsettings.Settings(""),
        session.client,
        extra,
        reason=reason,
        accompanied=accompanied,
    )
