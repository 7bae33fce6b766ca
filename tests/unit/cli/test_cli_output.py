"""How keydctl writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from keyd.cli import output
from keyd.cli.durations import duration, readable
from keyd.errors import FrozenError


def test_columns_are_aligned_and_lines_have_no_tail() -> None:
    text = output.table(("NAME", "STATE"), [("a", ""), ("longer/name", "ENABLED")])

    assert text == "NAME         STATE\na            -\nlonger/name  ENABLED"


def test_fields_without_a_value_are_left_out() -> None:
    assert output.fields([("a", 1), ("none", None), ("long", "x"), ("e", "")]) == "a:    1\nlong: x"


def test_a_name_cannot_steer_the_terminal_or_break_a_row() -> None:
    text = output.table(("NAME",), [("a\x1b[2Jb\nc\u202ed",)])

    assert text == "NAME\na\\x1b[2Jb c\\x202ed"


def test_an_error_is_said_in_lines_with_hint_and_request_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = FrozenError("signing is\x1b[0m stopped", hint="ask alice")
    error.request_id = "req-1"

    code = output.complain(error)

    said = capsys.readouterr()
    assert code == 3
    assert said.out == ""
    assert said.err == (
        "keydctl: error: signing is\\x1b[0m stopped\n"
        "keydctl: hint: ask alice\n"
        "keydctl: request id: req-1\n"
    )


def test_an_error_in_json_is_one_line_with_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    error = FrozenError("stopped", hint="ask", key="acme/root")

    output.complain(error, as_json=True)

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert json.loads(said.err) == {
        "error": {
            "reason": "FROZEN",
            "message": "stopped",
            "hint": "ask",
            "request_id": "",
            "retry_after_s": None,
            "facts": {"key": "acme/root"},
            "exit_code": 3,
        }
    }


def test_times_are_shown_in_utc() -> None:
    time = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))

    assert output.when(time) == "2026-02-28 23:30:00Z"
    assert output.iso(time) == "2026-02-28T23:30:00Z"
    assert (output.when(None), output.iso(None)) == ("", None)
    assert output.iso(datetime(2026, 3, 1, tzinfo=UTC)) == "2026-03-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("0s", 0), ("2w", 1_209_600)],
)
def test_durations_have_a_unit(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["90", "d", "-1d", "1.5h", "1y", "٣d", "1d ", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(text)


def test_durations_are_shown_in_their_largest_unit() -> None:
    assert [readable(n) for n in (7_776_000, 5400, 61, 0)] == ["90d", "90m", "61s", "0s"]
