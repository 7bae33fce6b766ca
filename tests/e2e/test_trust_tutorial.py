"""Every command of docs/docker-content-trust-tutorial.md and docs/docker-content-trust.md, run as
it stands on the page, with the real programs, on machines that begin empty.

The machine has ports, /etc and homes of its own, so that nothing on the pages is replaced. What a
page cannot say is here: what people type when they are asked for a PIN, by what one sees that a
program listens, and what the reference page takes for granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import docker_programs, notary_programs, softhsm
from tests.clean_machine import Machine, a_machine
from tests.pages import Block, Page
from tests.private_keys import private_keys

pytestmark = [pytest.mark.softhsm, pytest.mark.root, pytest.mark.timeout(300)]

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIAL = Page(DOCS / "docker-content-trust-tutorial.md")
REFERENCE = Page(DOCS / "docker-content-trust.md")
SO_PIN, PIN = "27182818", "73910462"
DIALOGUES = {
    "token": (
        ("enter SO PIN", SO_PIN),
        ("reenter SO PIN", SO_PIN),
        ("enter user PIN", PIN),
        ("reenter user PIN", PIN),
    ),
    "unlock": (("PIN of release", PIN),),
    "role-reset": (
        ("to go on", "localhost:5000/files"),
        ("to go on", "localhost:5000/files@2"),
    ),
}
LISTENS: dict[str, int | str] = {
    "keyd": 7899,
    "notary-server": 4443,
    "registry": 5000,
    "engine": "/var/run/docker.sock",
}
LAST_OF_THE_PLACE = "believe"
"""With this block of the tutorial the servers run, and are believed."""

FILES_LEFT = (
    r"/etc/docker/key\.json",  # dockerd's own identity, which signs nothing of trust
    r"bob/\.docker/trust/private/[0-9a-f]{64}\.key",  # bob's own, of docker trust key generate
    r"carol/\.notary/private/[0-9a-f]{64}\.key",  # carol's own, of openssl and notary key import
    r"carol/ca\.key",  # of the CA that carol plays
    r"dct/ca/ca\.key",  # and those of TLS
    r"dct/tls/notary-server\.key",
    r"dct/tls/server\.key",
)

PRELUDES = {
    "certificate": "mkdir ~/requested; cd ~/requested",
    "files": "cd ~/dct; echo 'a release' > release.tar.gz; echo 'a tool' > tool",
    "keys": "",
    "delegations": """
        keydctl trust key generate dev --role targets/dev
        keydctl trust certificate dev --role targets/dev -o dev.crt
    """,
    "role-reset": "",
    "sign": """
        printf 'FROM scratch\\nCOPY hello /\\n' > app/Dockerfile; echo hello > app/hello
        for tag in 1.0 unsigned; do docker build --tag localhost:5000/team/app:$tag app; done
        docker push localhost:5000/team/app:unsigned
    """,
    "pull": "keydctl trust sign localhost:5000/team/app:1.0",
    "signers": "",
    "certificates": "",
    "from-notary-signer": """
        for role in ROOT TARGETS SNAPSHOT; do export NOTARY_${role}_PASSPHRASE='of key files'; done
        sed --in-place "s|/.notary\\"|/.docker/trust\\"|" ~/.notary/config.json
        notary init localhost:5000/legacy
        notary add localhost:5000/legacy v1 tool --publish
    """,
    "migrate": "",
    "drop": "",
    "gc": "",
}
"""The reference page's blocks, in the order in which they are run, and the commands that make what
each takes for granted."""


@contextmanager
def an_empty_machine() -> Iterator[Machine]:
    """A machine with all the programs of the pages; skips, or fails in CI, where they are not."""
    softhsm.require()
    notary_programs.require()
    docker_programs.require_engine()
    docker_programs.require("docker-registry", "skopeo", "openssl", "gcc", "nsenter", "ip")
    with a_machine() as machine:
        yield machine


def walk(machine: Machine, block: Block) -> str:
    """Do what the page says; what was shown."""
    if not block.is_run:
        (machine.home / "dct" / block.name).write_text(block.text)
        return ""
    if block.keeps_running:
        machine.begins(block, LISTENS[block.name])
        return ""
    return machine.does(block, DIALOGUES.get(block.name, ()))


def test_what_a_page_promises_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("```sh ask\nask\n```\n\n```text\none ... 3\n...\nlast\n```\n")

    (block,) = Page(file).blocks

    assert block.shown_by("one 2 3\nlast\n")
    assert block.shown_by("one  2  3\nmore\nand more\nlast")
    for other in ("one 2 4\nlast", "one 2 3\nlast\nmore", "zero\none 2 3\nlast", ""):
        assert not block.shown_by(other)


@pytest.mark.parametrize("fence", ["sh", "toml", "sh ask whom"])
def test_a_block_that_no_test_would_run_is_an_error(tmp_path: Path, fence: str) -> None:
    file = tmp_path / "page.md"
    file.write_text(f"```{fence}\nask\n```\n")

    with pytest.raises(AssertionError, match=r"page\.md:1"):
        Page(file)


def test_the_tutorial_works_from_its_first_command_to_its_last() -> None:
    with an_empty_machine() as machine:
        shown = {block.name: walk(machine, block) for block in TUTORIAL.blocks}

        digest = re.findall(r"sha256:[0-9a-f]{64}", shown["resolve"])[0]
        assert f"localhost:5000/team/app:1.0@{digest}" in shown["pull"]
        assert digest in shown["sign"]
        rows = shown["on-the-token"]
        for role in ("root", "targets", "snapshot", "timestamp"):
            assert f"notary/localhost0x3a5000/bob/tool/{role}" in rows
        tokens = machine.home / "dct" / "tokens"
        found = private_keys(*machine.state(), apart_from=[tokens])
        left = sorted({machine.name_of(each.file) for each in found})
        assert len(left) == len(FILES_LEFT), left
        for file, allowed in zip(left, FILES_LEFT, strict=True):
            assert re.fullmatch(allowed, file), left
        assert list(tokens.rglob("*.object"))


def test_every_command_of_the_reference_page_works() -> None:
    commands = [block.name for block in REFERENCE.blocks if block.is_run]
    assert sorted(commands) == sorted(PRELUDES), "PRELUDES has the blocks that are run"
    with an_empty_machine() as machine:
        for block in TUTORIAL.blocks:
            walk(machine, block)
            if block.name == "policy.toml":  # one person does everything here
                file = machine.home / "dct" / block.name
                file.write_text(block.text.replace('"notary/*", "alice"]', '"*"]'))
            if block.name == LAST_OF_THE_PLACE:
                break
        for name, prelude in PRELUDES.items():
            machine.does(Block("before it", "sh", name, prelude))
            walk(machine, REFERENCE[name])
