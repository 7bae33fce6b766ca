"""keydctl notary: what notary-server leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from keyd.cli import output
from keyd.cli.durations import duration
from keyd.cli.keyarguments import REASON
from keyd.cli.settings import Group, Settings
from keyd.gunnames import PREFIX, find_gun_name, is_made_for_server

if TYPE_CHECKING:
    from keyd.cli.notarykeys import ServerKey, Unused
    from keyd.client import Client


@click.group(cls=Group)
def notary() -> None:
    """Look after the keys that a notary-server has made here."""


@notary.command()
@click.argument("gun", default="*")
@click.option(
    "--older-than",
    type=duration,
    default="1d",
    show_default=True,
    help="Leave alone what was made or has signed more recently.",
)
@click.option(
    "--idle", type=duration, help="Also keys of collections in which none signed for so long."
)
@click.option("--schedule", is_flag=True, help="Stop those keys; they can be destroyed later.")
@click.option("--confirm", is_flag=True, help="Destroy those whose waiting time is over.")
@click.option("--wait", type=duration, default="0s", help="Waiting time, 7d by default.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@REASON
@click.pass_obj
def gc(
    settings: Settings,
    gun: str,
    older_than: int,
    idle: int | None,
    schedule: bool,
    confirm: bool,
    wait: int,
    yes: bool,
    reason: str,
) -> None:
    """List the keys made for notary-server that nobody uses: those of GUN, a pattern, or all.

    notary-server asks for keys and never says when it is done with them. A key is listed when it
    never signed, or when a later key signs for the same role in its place. Nothing is destroyed by
    itself: --schedule stops them and starts the waiting time, in which keydctl key cancel-destroy
    calls one back; --confirm destroys those whose time is over.
    """
    from keyd.cli.notarykeys import ENDING, find_unused
    from keyd.model import VersionState

    if schedule and confirm:
        raise click.UsageError("give --schedule or --confirm, not both")
    now = datetime.now(UTC)
    with settings.connect() as keyd:
        keys = list(_server_keys(keyd, gun))
        unused = find_unused(
            keys,
            now,
            older_than=timedelta(seconds=older_than),
            idle=timedelta(seconds=idle) if idle else None,
        )
        if schedule:
            chosen = [u for u in unused if u.of.version.state not in ENDING]
            _ask(settings, f"{len(chosen)} keys stop signing now.", len(chosen), yes)
            for each in chosen:
                version = each.of.version
                keyd.schedule_destroy(version.key, version.number, wait_s=wait, reason=reason)
            _answer(
                settings,
                chosen,
                "scheduled: after the waiting time, keydctl notary gc --confirm destroys",
            )
            return
        if confirm:
            over = [u for u in unused if u.of.version.shown_state(now) is VersionState.DESTROYABLE]
            _ask(settings, f"Destroying {len(over)} keys cannot be undone.", len(over), yes)
            for each in over:
                version = each.of.version
                keyd.destroy(version.key, version.number, reason=reason)
            _answer(settings, over, "destroyed")
            return
    _answer(settings, unused, "unused")


def _server_keys(keyd: Client, gun: str) -> Iterator[ServerKey]:
    """The keys made for notary-server that are not destroyed, with their last signature."""
    import fnmatch

    from keyd.cli.notarykeys import ServerKey
    from keyd.client import EntryFilter, KeyFilter
    from keyd.model import VersionState

    for key in keyd.list_keys(KeyFilter(name=f"{PREFIX}*")):
        name = find_gun_name(key.name)
        if name is None or not is_made_for_server(key):
            continue
        if not fnmatch.fnmatchcase(name.gun, gun):
            continue
        for version in key.versions:
            if version.state in (VersionState.PENDING, VersionState.DESTROYED):
                continue
            wanted = EntryFilter(key=key.name, action="sign", decision="allowed")
            last = next(iter(keyd.list_entries(wanted, descending=True, page_size=1)), None)
            signed_at = datetime.fromisoformat(str(last.fields["time"])) if last else None
            yield ServerKey(key, version, name, signed_at)


def _ask(settings: Settings, question: str, count: int, yes: bool) -> None:
    if count:
        settings.confirm(question, str(count), yes)


def _answer(settings: Settings, keys: list[Unused], done: str) -> None:
    def text() -> str:
        if not keys:
            return "no such keys, or none you may see"
        rows = [
            (
                u.of.key.name,
                u.of.version.shown_state(datetime.now(UTC)),
                output.when(u.of.version.created_at),
                output.when(u.of.signed_at),
                u.why,
            )
            for u in keys
        ]
        table = output.table(("KEY", "STATE", "MADE", "SIGNED LAST", "WHY"), rows)
        return f"{table}\n\n{len(keys)} {done}"

    shown = [
        {
            "key": u.of.key.name,
            "gun": u.of.name.gun,
            "role": u.of.name.role,
            "state": u.of.version.state.value,
            "created_at": output.iso(u.of.version.created_at),
            "signed_at": output.iso(u.of.signed_at),
            "destroy_after": output.iso(u.of.version.destroy_after),
            "why": u.why,
        }
        for u in keys
    ]
    settings.answer(shown, text)
