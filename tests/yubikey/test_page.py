"""The commands of docs/yubikey.md outside its walk-through, and that none is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyd.model import Pin
from tests.yubikey import by_ykman
from tests.yubikey.bench import Bench
from tests.yubikey.model import Model
from tests.yubikey.test_whole_flow import PAGE, PIN, PUK, a_walk, sets_up
from tests.yubikey.touch import Person
from tests.yubikey.worker import Worker

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
OTHER = "40961738"


def test_every_block_of_commands_is_marked_and_run() -> None:
    blocks = re.findall(r"^```(sh|toml)(?: ([a-z-]+))?$", PAGE, re.MULTILINE)
    assert ("sh", "") not in blocks, "mark it, and run it"
    marked = {mark for _, mark in blocks if mark}
    here = Path(__file__)
    sources = [here.read_text(), (here.parent / "test_whole_flow.py").read_text()]
    run = {
        m for source in sources for m in re.findall(r'\.(?:does|begins)\(\s*"([a-z-]+)"', source)
    }

    assert marked == run | {"tokens", "rule"}


def test_the_other_commands_of_the_page_do_what_it_says(
    bench: Bench, worker: Worker, ykcs11: Path
) -> None:
    yubi = bench.add(Model(1234567))
    yubi.person(Person.TOUCHES, after_s=0.1)
    with a_walk(bench, ykcs11) as walk:
        for name, content in (("secrets", f"{PIN}\n{PUK}\n"), ("old", PIN), ("new", OTHER)):
            (walk.folder / name).write_text(content)
        walk.does("descriptors")
        with walk.client() as keyd:
            keyd.unlock("yubi", Pin(OTHER))
            keyd.lock("yubi")

        yubi.factory_reset()
        walk.does("set-up", *sets_up("yubi"))
        changed = walk.does(
            "pins",
            ("PIN of yubi as it is", PIN),
            ("New PIN of yubi", OTHER),
            ("once more", OTHER),
            ("PUK of yubi", PUK),
            ("New PIN of yubi", PIN),
            ("once more", PIN),
        )
        assert "yubi has a new PIN and is READY" in changed
        with walk.client() as keyd:
            keyd.unlock("yubi", Pin(PIN))
        walk.does("make")
        assert "slot 9c of YubiKey 1234567" in walk.does("prove")

        worker.call(by_ykman.generate, yubi.serial, PIN, 0x9A)
        walk.loses_registry()
        with walk.client() as keyd:
            keyd.unlock("yubi", Pin(PIN))
        walk.does("adopt")
        with walk.client() as keyd:
            origins = {key.name: key.versions[0].origin for key in keyd.list_keys()}
        assert origins["acme/root"] == origins["acme/old"] == "attested"
    assert yubi.state.pin_tries == yubi.state.puk_tries == 3
