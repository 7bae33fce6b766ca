"""--wait of keydctl sign: with a time, alone, and beside a file."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from keyd.cli.signwait import WaitingCommand, wait_time


@click.command(cls=WaitingCommand)
@click.argument("file", nargs=-1)
@click.option("--wait", "wait_s", type=wait_time)
def echo(file: tuple[str, ...], wait_s: float | None) -> None:
    click.echo(f"{wait_s} {' '.join(file)}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["payload"], "None payload"),
        (["--wait", "payload"], "inf payload"),
        (["payload", "--wait"], "inf payload"),
        (["payload", "--wait=10m"], "600.0 payload"),
        (["--wait", "--", "--wait"], "inf --wait"),
    ],
)
def test_a_bare_wait_does_not_eat_the_file(words: list[str], said: str) -> None:
    assert CliRunner().invoke(echo, words).output.strip() == said


@pytest.mark.parametrize("time", ["600", "soon", "10 m", ""])
def test_a_time_without_a_unit_is_refused(time: str) -> None:
    done = CliRunner().invoke(echo, ["payload", f"--wait={time}"])

    assert done.exit_code == 2
    assert "is no duration; write 90d, 12h or 30m" in done.output
