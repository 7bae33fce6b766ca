"""People and YubiKeys at terminals: the screen beside the keys, repositories and collections that
are signed by hand, PINs that are mistyped."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.notary_programs import a_port
from tests.yubikey.counter import PIN, PUK, Counter, a_counter
from tests.yubikey.touch import Person

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]

GUN = "localhost:5000/team/app"


@pytest.fixture(scope="module")
def opened(ykcs11: Path) -> Iterator[Counter]:
    with a_counter(ykcs11, a_port()) as counter:
        yield counter


@pytest.fixture
def counter(opened: Counter) -> Counter:
    opened.waits()
    return opened


class Empty(http.server.BaseHTTPRequestHandler):
    """A trust server that has nothing."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def an_empty_trust_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_the_screen_beside_the_keys_rings_and_says_which_one_to_touch_for_whom(
    counter: Counter,
) -> None:
    sign = f"exec keydctl sign {counter.file('rung')} --key acme/root --encoding der -o sig"
    watch = "exec keydctl token watch"
    with counter.begins(watch) as screen, counter.begins(f"{watch} yubi --json") as lines:
        screen.sees("yubi  READY, serial 1234567")
        screen.sees("spare  READY, serial 2345678")
        lines.sees('"name": "yubi"')
        with counter.begins(sign) as signing:
            screen.sees("yubi  TOUCH: touch token 1234567 (acme/root, asked by socket:dev), ")
            screen.sees("\a")
            screen.sees("yubi: touch token 1234567 (acme/root, asked by socket:dev), ")
            lines.sees('"left_s": ')
            counter.yubi.wait_for_blinking()
            assert counter.yubi.touch()
            assert signing.ends() == 0, signing.shown
        screen.sees("yubi  no touch is asked for any more")
        lines.sees('"touch": null')
        for each in (screen, lines):
            each.interrupts()
            assert each.ends() == 130, each.shown
            assert "Traceback" not in each.shown
    told = [json.loads(line) for line in lines.shown.splitlines() if line.startswith("{")]

    assert {line["name"] for line in told} == {"yubi"}
    touches = [line["touch"] for line in told if line["touch"]]
    assert (touches[0]["key"], touches[0]["asked_by"]) == ("acme/root", "socket:dev")
    assert told[-1]["touch"] is None


def test_who_may_see_no_token_is_told_so_and_not_left_before_an_empty_screen(
    counter: Counter,
) -> None:
    with counter.begins("exec keydctl token watch", counter.runner_env) as screen:
        screen.sees("keydctl: no tokens you may see; the grant is called tokens")
        screen.interrupts()
        assert screen.ends() == 130, screen.shown


def test_each_root_of_a_repository_is_counted_down_by_its_version(counter: Counter) -> None:
    for role in ("targets", "snapshot", "timestamp"):
        counter.ctl("key", "create", f"acme/{role}", "--token", "dev")
    init = "tuf init repo --repository acme --root acme/root --root acme/spare"
    with counter.begins(f"exec keydctl {init}") as terminal:
        for _ in range(2):
            terminal.sees("touch token ")
            _touch_whichever_blinks(counter)
        assert terminal.ends() == 0, terminal.shown
    assert "(acme/root, root 1, asked by socket:dev)" in terminal.shown
    assert "(acme/spare, root 1, asked by socket:dev)" in terminal.shown

    # The other key is enough; that this one was not touched is no secret.
    counter.yubi.person(Person.TOUCHES)
    counter.spare.person(Person.SLEEPS, window_s=1.0)
    with counter.begins("exec keydctl tuf refresh repo --role root") as terminal:
        assert terminal.ends() == 0, terminal.shown
    assert "root 2 is signed by 1 of 2 keys, which is enough; acme/spare/versions/1 did not sign: "
    assert "touch token 2345678: spare was not touched within 15 s" in terminal.shown
    assert "keydctl tuf refresh repo --role root" in terminal.shown.replace(
        str(counter.folder) + "/", ""
    )

    counter.waits()
    ceremony = "tuf ceremony start repo --threshold root=2 --yes"
    with counter.begins(f"exec keydctl {ceremony}") as terminal:
        for _ in range(2):
            terminal.sees("root 3, asked by socket:dev), ")
            _touch_whichever_blinks(counter)
        assert terminal.ends() == 0, terminal.shown
    assert "root 3" in terminal.shown


def _touch_whichever_blinks(counter: Counter) -> None:
    for _ in range(100):
        for key in (counter.yubi, counter.spare):
            if key.touch():
                return
        threading.Event().wait(0.05)
    raise AssertionError("no key blinks")


def test_a_collection_begins_with_a_touch_for_its_certificate(counter: Counter) -> None:
    with an_empty_trust_server() as url:
        script = f"exec keydctl trust -s {url} -d trust init {GUN} --rootkey acme/root --token dev"
        with counter.begins(script) as terminal:
            terminal.sees("touch token 1234567 (acme/root")
            counter.yubi.wait_for_blinking()
            assert counter.yubi.touch()
            assert terminal.ends() == 0, terminal.shown

    assert "staged, publish it with keydctl trust publish" in terminal.shown


def test_the_last_try_is_spent_on_purpose_alone_and_a_blocked_pin_says_how_to_go_on(
    counter: Counter,
) -> None:
    key = counter.spare
    counter.ctl("token", "lock", "spare")
    key.tries_left(pin=2)
    with counter.begins("exec keydctl token unlock spare") as terminal:
        terminal.answers(("PIN of spare: ", "999999"))
        assert terminal.ends() == 3, terminal.shown
    assert "1 try is left" in terminal.shown

    offered = key.state.pins_offered
    with counter.begins("exec keydctl token unlock spare") as terminal:
        terminal.answers(("PIN of spare: ", PIN))
        assert terminal.ends() == 3, terminal.shown
    assert "--spend-last-try" in terminal.shown
    assert key.state.pins_offered == offered

    with counter.begins("exec keydctl token unlock spare --spend-last-try") as terminal:
        terminal.answers(("PIN of spare: ", "999999"))
        assert terminal.ends() == 3, terminal.shown
    assert "keydctl yubikey unblock spare" in terminal.shown
    listed = counter.ctl.run("token", "list").stdout
    assert "PIN_LOCKED" in listed
    assert "keydctl yubikey unblock spare" in listed

    with counter.begins("keydctl yubikey unblock spare; exec keydctl token unlock spare") as again:
        again.answers(
            ("PUK of spare: ", PUK),
            ("New PIN of spare", PIN),
            ("once more", PIN),
            ("PIN of spare: ", PIN),
        )
        assert again.ends() == 0, again.shown
    assert "spare is READY" in again.shown
    everything = "".join(each.shown for each in (terminal, again)) + counter.daemon.tail(1_000_000)
    assert PIN not in everything
    assert PUK not in everything


def test_a_script_waits_for_a_token_also_over_a_restart_of_the_daemon(counter: Counter) -> None:
    late = counter.ctl.run("token", "watch", "yubi", "--until", "LOCKED", "--timeout", "1s")
    assert late.returncode == 4
    assert "yubi is READY, not LOCKED, after 1 s" in late.stderr
    stranger = counter.ctl.run("token", "watch", "nobody", "--until", "READY")
    assert stranger.returncode == 1

    with counter.begins("keydctl token watch yubi --until LOCKED; keydctl token watch") as screen:
        screen.sees("yubi  READY")
        counter.daemon.stop()
        screen.sees("keydctl: the daemon is gone (")
        counter.daemon.start()
        screen.sees("keydctl: the daemon is back")
        # Its PIN is known to people alone.
        screen.sees("yubi  LOCKED")
        screen.sees("spare  LOCKED")
        with counter.begins("exec keydctl token unlock yubi") as terminal:
            terminal.answers(("PIN of yubi: ", PIN))
            assert terminal.ends() == 0, terminal.shown
        screen.sees("yubi  READY")
        screen.interrupts()
        assert screen.ends() != 0
    assert "Traceback" not in screen.shown
