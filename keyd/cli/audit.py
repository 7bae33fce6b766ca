"""keydctl audit."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyd.cli import auditproof, output
from keyd.cli.durations import duration
from keyd.cli.exits import Exit
from keyd.cli.settings import Group, Settings

if TYPE_CHECKING:
    from keyd.cli.auditfind import Finding
    from keyd.model import Entry

_PATH = click.Path(path_type=Path)
_DECISIONS = ("allowed", "refused", "failed")


@click.group(cls=Group)
def audit() -> None:
    """Read, prove and verify the audit log."""


for _command in (
    auditproof.prove,
    auditproof.export,
    auditproof.verify,
    auditproof.checkpoint,
    auditproof.log_key,
):
    audit.add_command(_command)


def _moment(text: str) -> datetime:
    """A time (RFC 3339, UTC where it names no zone), or a duration before now, as in 2h."""
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        return datetime.now(UTC) - timedelta(seconds=duration(text))


@audit.command("list")
@click.option("--key", default="", help="Only entries about this key.")
@click.option("--who", default="", metavar="PRINCIPAL", help="Only what this principal asked.")
@click.option("--action", default="", help="Only this action, as sign.")
@click.option("--decision", type=click.Choice(_DECISIONS), help="Only entries that ended so.")
@click.option("--digest", default="", metavar="HEX", help="Only signatures over this digest.")
@click.option("--keyid", default="", help="Only entries about the version with this keyid.")
@click.option("--request-id", default="", help="Only this request.")
@click.option("--since", type=_moment, metavar="TIME", help="From a time on, or 2h for two hours.")
@click.option("--until", type=_moment, metavar="TIME", help="Before a time.")
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="0: all.")
@click.pass_obj
def list_(
    settings: Settings,
    key: str,
    who: str,
    action: str,
    decision: str | None,
    digest: str,
    keyid: str,
    request_id: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> None:
    """List the newest entries that match, in the log's order."""
    from itertools import islice

    from keyd.client import EntryFilter

    wanted = EntryFilter(
        key=key,
        principal=who,
        action=action,
        decision=decision or "",
        digest=digest.rpartition(":")[2],
        keyid=keyid,
        request_id=request_id,
        since=since,
        until=until,
    )
    with settings.connect() as keyd:
        if limit:
            newest = keyd.list_entries(wanted, descending=True, page_size=min(limit, 1000))
            entries = list(islice(newest, limit))[::-1]
        else:
            entries = list(keyd.list_entries(wanted))
    rows = [_row(e) for e in entries]
    headers = ("INDEX", "TIME", "OUTCOME", "ACTION", "KEY", "PRINCIPAL", "WHAT")
    settings.answer(
        [dict(e.fields) for e in entries],
        lambda: output.table(headers, rows) if rows else "no such entries",
    )


@audit.command()
@click.option("--from", "start", type=click.IntRange(min=0), help="First index; default: new ones.")
@click.pass_obj
def tail(settings: Settings, start: int | None) -> None:
    """Show entries as they become durable, until you stop it. With --json one in a line."""
    with settings.connect() as keyd:
        for entry in keyd.tail(-1 if start is None else start):
            if settings.json:
                output.write_json_line(dict(entry.fields))
            else:
                output.write("  ".join(str(cell) for cell in _row(entry)))


@audit.command()
@click.argument("index", type=click.IntRange(min=0))
@click.pass_obj
def show(settings: Settings, index: int) -> None:
    """Show one entry with all its fields."""
    entry = _entry(settings, index)
    text = json.dumps(entry.fields, indent=2, ensure_ascii=False)
    settings.answer(dict(entry.fields), text)


@audit.command()
@click.argument("file", type=_PATH)
@click.pass_obj
def find(settings: Settings, file: Path) -> int:
    """Name the entry behind each signature of a TUF or Notary metadata file, or of a folder.

    Exit code 1 when one of our keys signed something the log has no entry for.
    """
    from keyd.cli.auditfind import Finder, Standing
    from keyd.cli.signedfiles import find_files

    files = find_files(file)
    with settings.connect() as keyd:
        finder = Finder(keyd, keyd.list_keys(), files)
        with output.progress(files, "looking up signatures") as shown:
            findings = [finding for one in shown for finding in finder.find(one)]
    bad = [f for f in findings if f.is_bad]
    logged = sum(f.standing is Standing.LOGGED for f in findings)
    value = {
        "accounted": not bad,
        "signatures": [_finding_json(f) for f in findings],
    }
    headers = ("FILE", "KEYID", "LOG", "KEY", "PRINCIPAL", "TIME")
    settings.answer(
        value,
        lambda: (
            output.table(headers, [_finding_row(f, file) for f in findings])
            + f"\n{logged} of {len(findings)} signatures are accounted for by an entry"
        ),
    )
    for f in bad:
        output.note(f"error: {f.path}: {_complaint(f)}")
    if bad:
        output.note("hint: a key of keyd may be in use elsewhere: freeze it and look into it")
    return Exit.FAILED if bad else Exit.DONE


def _entry(settings: Settings, index: int) -> Entry:
    from keyd.client import EntryFilter
    from keyd.errors import InvalidRequestError

    with settings.connect() as keyd:
        entry = next(keyd.list_entries(EntryFilter(start_index=index), page_size=1), None)
    if entry is None or entry.index != index:
        raise InvalidRequestError("index", f"the log has no entry {index}")
    return entry


def _row(entry: Entry) -> tuple[object, ...]:
    fields = entry.fields
    statement = fields.get("statement")
    summary = statement.get("summary", "") if isinstance(statement, dict) else ""
    count = fields.get("count", 1)
    key = str(fields.get("key", "") or fields.get("token", ""))
    what = [
        "ALERT" if fields.get("alert") else "",
        str(fields.get("reason_code", "")),
        str(fields.get("message", "") or summary),
        str(fields.get("said", "")),
        f"({count} times)" if count != 1 else "",
    ]
    return (
        entry.index,
        str(fields.get("time", ""))[:19] + "Z",
        fields.get("outcome", ""),
        fields.get("action", ""),
        f"{key}/{fields['version']}" if fields.get("version") else key,
        fields.get("principal", ""),
        " ".join(word for word in what if word),
    )


def _finding_json(f: Finding) -> dict[str, object]:
    return {
        "file": str(f.path),
        "keyid": f.keyid,
        "signature_sha256": f.signature_sha256,
        "standing": f.standing.value,
        "entry": f.entry.index if f.entry else None,
        "key_version": f.signer,
        "principal": f.field("principal"),
        "time": f.field("time"),
    }


def _finding_row(f: Finding, base: Path) -> tuple[object, ...]:
    name = f.path.relative_to(base) if base.is_dir() else f.path.name
    log = f"entry {f.entry.index}" if f.entry else ""
    if f.standing.value != "logged":
        log = f"{log} {f.standing.value.upper()}".strip()
    return name, f.keyid[:16], log, f.signer, f.field("principal"), f.field("time")[:19]


def _complaint(f: Finding) -> str:
    if f.entry is not None:
        return f"its signature of {f.signer} is that of entry {f.entry.index} over other content"
    return f"signed by our key {f.signer} ({f.keyid[:16]}), and the log has no entry for it"
