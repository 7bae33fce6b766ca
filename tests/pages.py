"""Pages of docs/ whose blocks are run: what a fence says, and what a command has to show.

A fence's first word is its language. After ``sh`` stands a name of the block, unique on the page,
and then, as it may be: who types it (``bob``; alice where nobody is named), ``&`` for a program
that goes on running in a terminal of its own, or ``fails`` where every single line has to fail.
``text`` is what the commands before it print; ``...`` stands for anything, on a line of its own for
any lines. Every other language is a file, and its path follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^```([^`\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PEOPLE = ("alice", "bob", "carol")


@dataclass(frozen=True)
class Block:
    """One fenced block. ``shows``: the output it promises, None where it promises nothing."""

    place: str
    language: str
    name: str
    text: str
    person: str = "alice"
    keeps_running: bool = False
    fails: bool = False
    shows: str | None = None

    @property
    def is_run(self) -> bool:
        """Commands, and no file."""
        return self.language == "sh"

    def shown_by(self, output: str) -> bool:
        """True when this output is the promised one."""
        return self.shows is None or bool(_pattern(self.shows).fullmatch(output.strip()))


@dataclass
class Page:
    """A page's blocks, in order."""

    file: Path
    blocks: list[Block] = field(init=False)

    def __post_init__(self) -> None:
        text = self.file.read_text()
        self.blocks = []
        for fence in _FENCE.finditer(text):
            place = f"{self.file.name}:{text.count(chr(10), 0, fence.start()) + 1}"
            words = fence[1].split()
            if words == ["text"]:
                self._promise(place, fence[2])
                continue
            assert len(words) > 1, f"{place}: the block has no name, so that nobody runs it"
            assert words[0] == "sh" or len(words) == 2, f"{place}: a file's fence has two words"
            self.blocks.append(_block(place, words, fence[2]))
        names = [block.name for block in self.blocks]
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, f"{self.file.name}: twice there: {', '.join(sorted(twice))}"

    def _promise(self, place: str, shows: str) -> None:
        last = self.blocks.pop()
        assert last.is_run and last.shows is None, f"{place}: no commands before this output"
        self.blocks.append(Block(**{**vars(last), "shows": shows}))

    def __getitem__(self, name: str) -> Block:
        (found,) = (block for block in self.blocks if block.name == name)
        return found


def _block(place: str, words: list[str], text: str) -> Block:
    language, name, *more = words
    person = next((word for word in more if word in _PEOPLE), "alice")
    unknown = set(more) - {person, "&", "fails"}
    assert not unknown, f"{place}: {', '.join(unknown)} says nothing to the tests"
    return Block(place, language, name, text, person, "&" in more, "fails" in more)


def _pattern(shows: str) -> re.Pattern[str]:
    """``...`` alone on a line is any lines, none as well; within a line it is any text of it."""
    lines = shows.strip().splitlines()
    parts = [
        r"(?:.*(?:\n|\Z))*?"
        if line.strip() == "..."
        # Columns are as wide as what stands in them.
        else r"[^\n]*".join(_words(part) for part in line.rstrip().split("..."))
        + r"[ \t]*(?:\n|\Z)"
        for line in lines
    ]
    return re.compile("".join(parts))


def _words(part: str) -> str:
    return r"[ \t]+".join(re.escape(word) for word in re.split(r"[ \t]+", part))
