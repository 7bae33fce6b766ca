"""The daemon's own log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.journal import is_journal, set_up_logging
from keyd.model import Pin

log = logging.getLogger("keyd.test")


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=[True, False], ids=["json", "terminal"])
def stream(request: pytest.FixtureRequest, restored: None) -> io.StringIO:
    out = io.StringIO()
    set_up_logging(stream=out, as_json=request.param)
    return out


def test_a_pin_in_a_message_or_a_fact_never_reaches_the_log(stream: io.StringIO) -> None:
    pin = Pin("s3cret")
    log.warning("unlock with %s", pin, extra={"pin": pin, "given": {"pin": [pin]}, "token": "t"})

    text = stream.getvalue()
    assert "s3cret" not in text
    assert "Pin" not in text
    assert "unlock with (hidden)" in text


def test_content_given_as_bytes_becomes_its_length(stream: io.StringIO) -> None:
    log.warning("signing %s", b"top secret", extra={"content": bytearray(b"top secret")})

    text = stream.getvalue()
    assert "secret" not in text
    assert text.count("(10 bytes)") == 2


def test_a_record_is_one_line_whatever_somebody_put_into_it(stream: io.StringIO) -> None:
    log.warning("key %s", "a\nERROR forged\x1b[2J\u2028\u202e\x9b", extra={"why": "x\r\ny"})

    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.isascii()
    assert "\r" not in text
    assert "\x1b" not in text


def test_json_lines_carry_priority_facts_and_traceback(restored: None) -> None:
    out = io.StringIO()
    set_up_logging(stream=out, as_json=True)
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed", extra={"request_id": "r-1", "ms": 1.5})

    priority, text = out.getvalue()[:3], out.getvalue()[3:]
    line = json.loads(text)
    assert priority == "<3>"
    assert (line["message"], line["level"], line["logger"]) == ("failed", "error", "keyd.test")
    assert (line["request_id"], line["ms"]) == ("r-1", 1.5)
    assert line["traceback"].endswith("ValueError: no")


def test_a_terminal_line_reads_at_a_glance(restored: None) -> None:
    out = io.StringIO()
    set_up_logging(stream=out, as_json=False)
    log.info("token is gone", extra={"token": "online", "why": "not there", "empty": ""})

    assert out.getvalue()[9:] == (
        'info    keyd.test: token is gone token=online why="not there" empty=""\n'
    )


def test_setting_up_twice_does_not_write_twice(restored: None) -> None:
    out = io.StringIO()
    set_up_logging(stream=out, as_json=False)
    set_up_logging(stream=out, as_json=True, level=logging.WARNING)
    log.info("below")
    log.warning("once")

    assert out.getvalue().count("\n") == 1


def test_only_the_journals_own_stream_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as stream, (tmp_path / "other").open("w") as other:
        found = (tmp_path / "err").stat()
        named = f"{found.st_dev}:{found.st_ino}"

        assert is_journal(stream, named)
        assert not is_journal(other, named)
        assert not is_journal(stream, "")
        assert not is_journal(io.StringIO(), named)
