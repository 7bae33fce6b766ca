"""keydctl token watch: what it says of states, touches and queues."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from keyd.cli.tokenshapes import tokens_table, waiting_lines
from keyd.cli.tokenwatch import JsonLines, Screen
from keyd.model import Purpose, TokenState, TokenStatus, TouchRequest, Waiting

ROOT = Purpose("acme/root", "root 7", "ci@acme")
TARGETS = Purpose("acme/targets", "targets 3", "alice@acme")


def a_token(
    left_s: float = 0.0,
    purpose: Purpose = ROOT,
    *,
    waiting: tuple[Waiting, ...] = (),
    state: TokenState = TokenState.READY,
    detail: str = "",
) -> TokenStatus:
    touch = TouchRequest("1234567", purpose, left_s, 15.0) if left_s else None
    return TokenStatus("yubi", state, serial="1234567", detail=detail, touch=touch, waiting=waiting)


def lines(capsys: pytest.CaptureFixture[str], *statuses: TokenStatus) -> list[str]:
    """What stood on a screen that is no terminal, without the times."""
    screen = Screen()
    for status in statuses:
        screen.show(status)
    screen.end()
    said = capsys.readouterr().out.splitlines()
    for line in said:
        datetime.strptime(line[:9], "%H:%M:%SZ").replace(tzinfo=UTC)
    return [line[9:] for line in said]


def test_a_touch_is_one_line_with_token_serial_key_version_asker_and_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert lines(capsys, a_token(), a_token(15), a_token(14), a_token(13), a_token()) == [
        "  yubi  READY, serial 1234567",
        "  yubi  TOUCH: touch token 1234567 (acme/root, root 7, asked by ci@acme), 15 s left",
        "  yubi  no touch is asked for any more",
    ]


def test_a_second_touch_for_the_same_and_one_for_another_are_lines_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = lines(capsys, a_token(14), a_token(2), a_token(15), a_token(14, TARGETS))

    assert [line for line in said if "TOUCH" in line] == [
        "  yubi  TOUCH: touch token 1234567 (acme/root, root 7, asked by ci@acme), 14 s left",
        "  yubi  TOUCH: touch token 1234567 (acme/root, root 7, asked by ci@acme), 15 s left",
        "  yubi  TOUCH: touch token 1234567 (acme/targets, targets 3, asked by alice@acme), "
        "14 s left",
    ]


def test_a_change_of_state_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    gone = a_token(state=TokenState.ABSENT, detail="token yubi is not there")

    assert lines(capsys, a_token(), gone, gone)[1:] == [
        "  yubi  ABSENT, serial 1234567: token yubi is not there"
    ]


def test_who_waits_stands_with_a_position(capsys: pytest.CaptureFixture[str]) -> None:
    queued = a_token(9, waiting=(Waiting(TARGETS, 2), Waiting(Purpose(), 1)))

    assert lines(capsys, queued)[2:] == [
        "  yubi  waits, 1 before it: acme/targets, targets 3, asked by alice@acme, 2 signatures",
        "  yubi  waits, 3 before it: a key you may not see",
    ]
    assert waiting_lines(queued)[0] in tokens_table([queued])


def test_what_others_named_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = Purpose("acme/root", "root 7\x1b[2J", "ci@acme")

    assert "\\x1b[2J" in lines(capsys, a_token(9, evil))[1]


def test_json_is_one_object_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = JsonLines()
    shown.show(a_token(12, waiting=(Waiting(TARGETS, 2),)))
    shown.show(a_token())

    first, second = map(json.loads, capsys.readouterr().out.splitlines())

    assert first["touch"] == {
        "key": "acme/root",
        "what": "root 7",
        "asked_by": "ci@acme",
        "left_s": 12,
        "window_s": 15,
    }
    assert first["waiting"] == [
        {"key": "acme/targets", "what": "targets 3", "asked_by": "alice@acme", "signatures": 2}
    ]
    assert (second["name"], second["state"], second["touch"]) == ("yubi", "READY", None)
    assert first["time"].endswith("Z")
