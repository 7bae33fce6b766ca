"""keydctl approve and reject: a person's word on an approval."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.settings import Command, Settings

if TYPE_CHECKING:
    from keyd.cli.approvalreview import Review
    from keyd.client import Approval, Client

_FILE = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("approval_id", metavar="ID")
@click.option("--digest", metavar="HEX", default="", help="Consent to this SHA-256 and no other.")
@click.option("--yes", is_flag=True, help="Do not ask; only with --digest.")
@click.option("--ssh-key", "--key", "key_file", type=_FILE, help="Sign the consent with this key.")
@click.option("--against", metavar="OLD", help="Compare with your own copy of the last version.")
@click.option("--reason", default="", help="What you want to say about it, for the log.")
@click.pass_obj
def approve(
    settings: Settings,
    approval_id: str,
    digest: str,
    yes: bool,
    key_file: Path | None,
    against: str | None,
    reason: str,
) -> None:
    """Look at what approval ID is about, and consent to it.

    Digest, summary and changes are worked out here from the content itself: what the daemon says
    about it is believed to nobody, and where the two differ nothing is sent. A script has to name
    what it consents to, with --digest HEX --yes. With --ssh-key FILE the consent is signed with
    your own OpenSSH key (or, for a .pub file, by your agent) and kept in the log.
    """
    if yes and not digest:
        raise click.UsageError("--yes needs --digest HEX: say what you consent to")
    wanted = _digest(digest) if digest else b""
    with settings.connect() as keyd:
        seen = look(keyd, approval_id, against)
        you = keyd.whoami().principal
        _show(seen, you)
        check(seen, wanted)
        _ask("Consent to exactly this?", yes)
        signature = _signed(seen.approval, you, key_file) if key_file else ""
        now = keyd.approve(approval_id, seen.digest, signature=signature, reason=reason)
    _check_answer(seen, now)
    _tell(settings, now, f"you consented to {now.id}")


@click.command(cls=Command)
@click.argument("approval_id", metavar="ID")
@click.option("--reason", default="", help="Why, for the log and whoever asked.")
@click.pass_obj
def reject(settings: Settings, approval_id: str, reason: str) -> None:
    """Say no to approval ID, which ends it; asks for the reason."""
    with settings.connect() as keyd:
        if not reason:
            if not sys.stdin.isatty():
                raise click.UsageError("say why, with --reason")
            _show(look(keyd, approval_id, None), keyd.whoami().principal)
            reason = click.prompt("Why do you say no?", err=True).strip()
        now = keyd.reject(approval_id, reason=reason)
    _tell(settings, now, f"you rejected {now.id}")


def look(keyd: Client, approval_id: str, against: str | None) -> Review:
    """Fetch an approval and read it here.

    Raises:
        ContentError: the daemon answered with another approval.
        click.UsageError: what ``against`` names is no metadata.
    """
    from keyd.cli.approvalreview import review
    from keyd.cli.explain import read_old

    approval = keyd.get_approval(approval_id)
    if approval.id != approval_id:
        raise _lie(f"the daemon answered with approval {approval.id}, not {approval_id}")
    if against is None:
        return review(approval)
    return review(approval, read_old(against), against)


def check(seen: Review, wanted: bytes = b"") -> None:
    """Stop before anything is sent, where there is nothing to consent to.

    ``wanted``: the digest somebody named; empty for none.

    Raises:
        ContentError: the daemon lies about it, or it is about something else than was named.
        ApprovalStateError: it is not open.
    """
    from keyd.errors import ApprovalStateError, ContentError

    check_lies(seen)
    approval = seen.approval
    if wanted and wanted != seen.digest:
        raise ContentError(
            f"approval {approval.id} is about sha256 {seen.digest.hex()}, not {wanted.hex()}",
            hint=f"nothing was sent; look at it: keydctl approvals show {approval.id}",
            problem="another-digest",
            approval=approval.id,
        )
    if not approval.state.is_open:
        raise ApprovalStateError(
            f"approval {approval.id} is {approval.state.value}",
            hint="nothing was sent; open ones are listed by: keydctl approvals",
            approval=approval.id,
            state=approval.state,
        )


def check_lies(seen: Review) -> None:
    """Raises:
    ContentError: the content contradicts what the daemon says about it.
    """
    if seen.lies:
        raise _lie(f"the daemon lies about approval {seen.approval.id}: {'; '.join(seen.lies)}")


def _check_answer(seen: Review, now: Approval) -> None:
    """What was consented to is what was looked at, also as the daemon tells it now."""
    before = seen.approval
    if (now.id, now.digest) != (before.id, seen.digest) or now.action != before.action:
        raise _lie(
            f"after your consent to {before.id} the daemon shows another operation under that id"
        )


def _lie(what: str) -> Exception:
    from keyd.errors import ContentError

    return ContentError(
        what,
        hint="do not consent, tell whoever runs the daemon, and keep this output",
        problem="contradiction",
    )


def _show(seen: Review, you: str) -> None:
    from keyd.cli.approvalshapes import review_text

    click.echo(output.printable(review_text(seen, you)), err=True)


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("without a terminal this needs --digest HEX and --yes")
    typed = click.prompt(f"{question} Type yes to go on", err=True, default="", show_default=False)
    if typed.strip() != "yes":
        output.note("not confirmed; nothing was sent")
        raise click.Abort


def _signed(approval: Approval, you: str, key_file: Path) -> str:
    from keyd import sshsig

    # From the fields that were shown, so that nothing else can have been signed.
    return sshsig.sign(approval.consent_text(you), key_file)


def _tell(settings: Settings, now: Approval, done: str) -> None:
    from keyd.cli import approvalshapes
    from keyd.model import ApprovalState

    text = f"{done}; it is {now.state.value}: {approvalshapes.told(now)}"
    if now.state is ApprovalState.APPROVED:
        text += f"\nnext: {now.requester} repeats the command that asked for it"
    elif now.state is ApprovalState.PENDING and (left := approvalshapes.missing(now)):
        text += f"\nmissing: {left}"
    settings.answer(approvalshapes.approval_json(now), text)


def _digest(text: str) -> bytes:
    try:
        found = bytes.fromhex(text.removeprefix("sha256:"))
        if len(found) not in (32, 48, 64):
            raise ValueError
    except ValueError as e:
        raise click.UsageError(f"--digest: {text!r} is no digest in hex") from e
    return found
