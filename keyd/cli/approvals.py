"""keydctl approvals and watch: which operations wait for people."""

from __future__ import annotations

from pathlib import Path

import click

from keyd.cli import output
from keyd.cli.settings import Command, Group, Settings, shared_options


@click.group(cls=Group, invoke_without_command=True, params=list(shared_options()))
@click.option("--mine", is_flag=True, help="Only those you asked for.")
@click.option("--waiting", is_flag=True, help="Only those that wait for your consent.")
@click.option("--all", "ended", is_flag=True, help="Those that ended, too.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most.")
@click.pass_context
def approvals(ctx: click.Context, mine: bool, waiting: bool, ended: bool, limit: int) -> None:
    """List the approvals you asked for or may give, and look after them."""
    if ctx.invoked_subcommand is not None:
        if mine or waiting or ended:
            raise click.UsageError(
                f"{ctx.invoked_subcommand} takes none of --mine, --waiting, --all"
            )
        return
    settings = ctx.find_object(Settings)
    assert settings is not None
    from keyd.cli import approvalshapes

    with settings.connect() as keyd:
        found = keyd.list_approvals(open=not ended, waits_for_me=waiting, limit=limit)
        if mine:
            you = keyd.whoami().principal
            found = [a for a in found if a.requester == you]
    rows = [approvalshapes.row(a) for a in found]
    settings.answer(
        [approvalshapes.approval_json(a) for a in found],
        lambda: output.table(approvalshapes.HEADERS, rows) if rows else "no such approvals",
    )


@approvals.command()
@click.argument("approval_id", metavar="ID")
@click.option("--against", metavar="OLD", help="Compare with your own copy of the last version.")
@click.option(
    "--content", "target", type=click.Path(path_type=Path), help="Write the content to a file."
)
@click.pass_obj
def show(settings: Settings, approval_id: str, against: str | None, target: Path | None) -> None:
    """Show what approval ID is about, read here, and who has consented.

    Exit code 1 when the content contradicts what the daemon says about it.
    """
    from keyd.cli.approvalshapes import review_json, review_text
    from keyd.cli.approve import check_lies, look

    with settings.connect() as keyd:
        seen = look(keyd, approval_id, against)
    if target:
        try:
            target.write_bytes(seen.approval.content)
        except OSError as e:
            raise click.UsageError(f"cannot write {target}: {e.strerror}") from e
    settings.answer(review_json(seen), lambda: review_text(seen))
    check_lies(seen)


@approvals.command()
@click.argument("approval_id", metavar="ID")
@click.option("--reason", default="", help="Why, for the log.")
@click.pass_obj
def revoke(settings: Settings, approval_id: str, reason: str) -> None:
    """Take your consent to ID back, or withdraw what you asked for; while it is unused."""
    from keyd.cli import approvalshapes

    with settings.connect() as keyd:
        now = keyd.revoke(approval_id, reason=reason)
    settings.answer(
        approvalshapes.approval_json(now),
        f"approval {now.id} is {now.state.value}: {approvalshapes.told(now)}",
    )


@click.command(cls=Command)
@click.pass_obj
def watch(settings: Settings) -> None:
    """Show approvals that wait for your consent, as they come, until you stop it.

    One line each, with the command that shows it and asks. With --json one document in a line.
    """
    from keyd.cli import approvalshapes

    told: set[str] = set()
    with settings.connect() as keyd:
        for a in keyd.watch_approvals():
            if not a.waits_for_me:
                told.discard(a.id)
            elif a.id not in told:
                told.add(a.id)
                if settings.json:
                    output.write_json_line(approvalshapes.approval_json(a))
                else:
                    output.write(approvalshapes.waiting_line(a).replace("\n", " "))
