"""Waiting for a touch at a real terminal: the countdown of every command, the queue, Ctrl-C."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notary_programs import a_port
from tests.yubikey.counter import PIN, RUNNER, Counter, a_counter
from tests.yubikey.touch import Person

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]

SIGN = "exec keydctl sign {} --key {} --encoding der -o sig"


@pytest.fixture(scope="module")
def opened(ykcs11: Path) -> Iterator[Counter]:
    with a_counter(ykcs11, a_port()) as counter:
        yield counter


@pytest.fixture
def counter(opened: Counter) -> Counter:
    opened.waits()
    return opened


def seconds(shown: str) -> list[int]:
    """The seconds that were counted down."""
    return [int(text) for text in re.findall(r"(\d+) s left", shown)]


def test_sign_counts_down_in_one_line_and_leaves_it_clean(counter: Counter) -> None:
    script = SIGN.format(counter.file("one"), "acme/root")
    with counter.begins(script) as terminal:
        terminal.sees("keydctl: touch token 1234567 (acme/root, asked by socket:dev), ")
        terminal.sees("13 s left")
        assert counter.yubi.touch()
        assert terminal.ends() == 0, terminal.shown

    counted = seconds(terminal.shown)
    assert counted == sorted(counted, reverse=True)
    assert len(counted) > 1
    lines = terminal.shown.split("\n")
    assert len([line for line in lines if "s left" in line]) == 1
    # What stood on the line is written over before the answer comes.
    assert re.search(r"s left *\r +\rsigned with", terminal.shown)


def test_what_a_script_reads_holds_no_countdown(counter: Counter) -> None:
    script = f"keydctl sign {counter.file('two')} --key acme/root --encoding raw --json >answer"
    with counter.begins(script) as terminal:
        terminal.sees("touch token 1234567 (acme/root")
        assert counter.yubi.touch()
        assert terminal.ends() == 0, terminal.shown

    answer = (counter.folder / "answer").read_text()
    assert answer.startswith("{") and "touch" not in answer


def test_without_a_terminal_the_touch_is_one_line_of_standard_error(counter: Counter) -> None:
    script = SIGN.format(counter.file("three"), "acme/root") + " 2>said"
    with counter.begins(script) as terminal:
        counter.yubi.wait_for_blinking()
        until = time.monotonic() + 10
        while "s left" not in (said := (counter.folder / "said").read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert counter.yubi.touch()
        assert terminal.ends() == 0

    assert said.startswith("keydctl: touch token 1234567 (acme/root, asked by socket:dev), ")
    assert "\r" not in said
    assert said.count("\n") == 1


def test_over_tcp_a_caller_who_may_see_no_token_is_told_of_its_own_touch(counter: Counter) -> None:
    script = SIGN.format(counter.file("four"), "acme/root")
    refused = "keydctl token list; "
    with counter.begins(refused + script, counter.runner_env) as terminal:
        terminal.sees("no tokens you may see")
        terminal.sees(f"touch token 1234567 (acme/root, asked by {RUNNER}), ")
        assert counter.yubi.touch()
        assert terminal.ends() == 0, terminal.shown


def test_key_create_says_for_which_key_and_version_the_touch_is(counter: Counter) -> None:
    script = "exec keydctl key create acme/new --token yubi --slot 9a --touch always"
    with counter.begins(script) as terminal:
        terminal.sees(
            "touch token 1234567 (acme/new, to prove that version 1 signs, asked by socket:dev), "
        )
        counter.yubi.wait_for_blinking()
        assert counter.yubi.touch()
        assert terminal.ends() == 0, terminal.shown

    assert len(seconds(terminal.shown)) >= 1
    assert "created acme/new on yubi" in terminal.shown


def test_key_rotate_counts_down_also_on_a_narrow_terminal(counter: Counter) -> None:
    with counter.begins("stty cols 60; exec keydctl key rotate acme/spare") as terminal:
        terminal.sees("keydctl: touch token 2345678 (acme/spare, to...")
        terminal.sees("s left")
        counter.spare.wait_for_blinking()
        assert counter.spare.touch()
        assert terminal.ends() == 0, terminal.shown

    shown = [line for line in re.split(r"[\r\n]", terminal.shown) if "s left" in line]
    # A line that wraps is never written over.
    assert max(map(len, shown)) < 60


def test_who_queues_sees_how_many_come_first_and_what_for(counter: Counter) -> None:
    first = SIGN.format(counter.file("first"), "acme/root")
    second = SIGN.format(counter.file("second"), "acme/root")
    with counter.begins(first) as one:
        # Not both at once: who starts second may well be there first.
        one.sees("touch token 1234567 (acme/root")
        with counter.begins(second) as two:
            two.sees("1 before you; it blinks for acme/root, asked by socket:dev, ")
            listed = counter.ctl.run("token", "list").stdout
            assert counter.yubi.touch()
            assert one.ends() == 0, one.shown
            two.sees("keydctl: touch token 1234567 (acme/root, asked by socket:dev)")
            counter.yubi.wait_for_blinking()
            assert counter.yubi.touch()
            assert two.ends() == 0, two.shown

    assert "yubi: touch token 1234567 (acme/root, asked by socket:dev), " in listed
    assert "yubi: waits, 1 before it: acme/root, asked by socket:dev" in listed


def test_ctrl_c_in_the_queue_ends_the_command_and_nobody_is_asked_for_it(counter: Counter) -> None:
    before = counter.yubi.state.touch_requests
    first = SIGN.format(counter.file("stays"), "acme/root")
    second = SIGN.format(counter.file("leaves"), "acme/root")
    with counter.begins(first) as one:
        one.sees("touch token 1234567")
        with counter.begins(second) as two:
            two.sees("1 before you")
            two.interrupts()
            assert two.ends() == 130, two.shown
        assert counter.yubi.touch()
        assert one.ends() == 0, one.shown
    status = {t["name"]: t for t in counter.ctl("token", "list")}["yubi"]

    assert (status["queued"], status["touch"], status["waiting"]) == (0, None, [])
    assert counter.yubi.state.touch_requests == before + 1
    assert "Traceback" not in two.shown


def test_ctrl_c_in_the_countdown_ends_the_command_at_once_and_the_key_is_free_again(
    counter: Counter,
) -> None:
    script = SIGN.format(counter.file("given up"), "acme/root")
    before = counter.yubi.state.touch_requests
    with counter.begins(script.replace("file-given up", "'file-given up'")) as terminal:
        terminal.sees("s left")
        pressed = time.monotonic()
        terminal.interrupts()
        assert terminal.ends() == 130, terminal.shown
    assert "Traceback" not in terminal.shown
    assert time.monotonic() - pressed < 10  # the window of the touch is 15
    # The card cannot be called back; what was asked ends with the touch, and nothing follows.
    counter.yubi.touch()
    counter.yubi.person(Person.TOUCHES)
    counter.ctl(
        "sign", counter.folder / counter.file("next"), "--key", "acme/root", "--encoding", "der"
    )

    assert counter.yubi.state.touch_requests == before + 2


def test_a_key_pulled_while_it_blinks_and_back_in_time_signs_for_the_same_command(
    counter: Counter,
) -> None:
    before = counter.yubi.state.touch_requests
    with counter.begins(SIGN.format(counter.file("pulled"), "acme/root")) as terminal:
        terminal.sees("s left")
        counter.yubi.remove()
        counter.yubi.insert(0)
        counter.yubi.wait_for_blinking()
        assert counter.yubi.touch()
        assert terminal.ends() == 0, terminal.shown

    assert counter.yubi.state.touch_requests == before + 2


def test_a_touch_that_never_comes_is_said_in_words_with_what_it_was_for(counter: Counter) -> None:
    counter.yubi.person(Person.SLEEPS, window_s=2.0)
    script = SIGN.format(counter.file("never"), "acme/root")
    with counter.begins(script) as terminal:
        terminal.sees("s left")
        assert terminal.ends() == 4, terminal.shown

    assert "error: touch token 1234567: yubi was not touched within 15 s" in terminal.shown
    assert "it was for acme/root, asked by socket:dev" in terminal.shown


def test_a_signature_that_was_released_is_given_again_without_a_touch(counter: Counter) -> None:
    name = counter.file("again")
    script = SIGN.format(name, "acme/root").removeprefix("exec ")
    with counter.begins(f"{script} && {script}") as terminal:
        terminal.sees("s left")
        assert counter.yubi.touch()
        assert terminal.ends() == 0, terminal.shown

    assert "the stored signature, given again" in terminal.shown
    assert terminal.shown.split("written to")[1].count("s left") == 0


def test_a_key_whose_touch_never_came_is_finished_at_the_next_unlock_which_says_so(
    counter: Counter,
) -> None:
    counter.yubi.person(Person.SLEEPS, window_s=1.5)
    create = "keydctl key create acme/late --token yubi --slot 9d --touch always"
    with counter.begins(f"exec {create}") as terminal:
        assert terminal.ends() == 4, terminal.shown
    assert "was not touched in time: the key lies in slot 9d" in terminal.shown
    counter.yubi.person(Person.WAITS)

    with counter.begins("keydctl token lock yubi; exec keydctl token unlock yubi") as terminal:
        terminal.answers(("PIN of yubi: ", PIN))
        terminal.sees("acme/late/versions/1: generated earlier, and not finished")
        terminal.sees("touch token 1234567 (acme/late, to prove that version 1 signs")
        counter.yubi.wait_for_blinking()
        assert counter.yubi.touch()
        assert terminal.ends() == 0, terminal.shown

    assert "it is finished" in terminal.shown
    assert counter.ctl("key", "show", "acme/late")["versions"][0]["state"] == "ENABLED"
