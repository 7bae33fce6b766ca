"""The command `keyd-server doctor`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from keyd.cli.exits import Exit
from keyd.cli.server_configfile import config_option
from keyd.cli.server_speech import say


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.option(
    "--except",
    "known",
    multiple=True,
    metavar="AREA",
    help="What is known and meant so, like unbound-keys: shown, but no failure; repeatable.",
)
def doctor(config: Path, as_json: bool, known: tuple[str, ...]) -> None:
    """Look at everything the daemon needs; say what to do.

    Also while it runs. Asks for no PIN and changes nothing. Exit code 1 when something has to be
    done.
    """
    from keyd.cli import server_doctor_findings as findings
    from keyd.cli.server_doctor import diagnose

    areas = [str(area) for area in findings.Area]
    for name in known:
        if name not in areas:
            raise click.UsageError(f"--except {name}: name one of {', '.join(areas)}")
    found = diagnose(config, datetime.now(UTC))
    if as_json:
        say(json.dumps(findings.as_json(found, known), indent=2))
    else:
        for line in findings.as_lines(found, known):
            say(line)
    if findings.must_act(found, known):
        raise click.exceptions.Exit(int(Exit.FAILED))
