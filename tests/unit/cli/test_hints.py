"""What keyd says to do next can be done: every command that a text names is one that there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from keyd.cli.keydctl import keydctl
from keyd.cli.server import keyd_server

PACKAGE = Path(__file__).parents[3] / "keyd"
PROGRAMS: dict[str, click.Command] = {"keydctl": keydctl, "keyd-server": keyd_server}
# A word of a command, {} for what is filled in, or an argument in capitals. Prose ends it.
FILLED = r"[\w./:@=-]*\{\}[\w./:@={}-]*"
WORD = rf"--?[a-z][a-z-]*(?:=\S+)?|{FILLED}|[A-Z][A-Z_=:/.]*|[a-z][a-z-]*"
COMMAND = re.compile(rf"\b(keydctl|keyd-server)((?: (?:{WORD})(?=[\s`'\",;:.)]|$))+)")


@dataclass(frozen=True)
class Hint:
    """A command as a text of the program names it."""

    place: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {self.program} {' '.join(self.words)}"


def texts(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every text of a module but its own docstring, {} for what is filled in."""
    inside: set[int] = set()
    first = module.body[0] if module.body else None
    if isinstance(first, ast.Expr):
        inside.add(id(first.value))
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            inside.update(id(part) for part in ast.walk(node) if part is not node)
            pieces = [str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values]
            yield node.lineno, "".join(pieces)
        elif id(node) not in inside and isinstance(getattr(node, "value", None), str):
            assert isinstance(node, ast.Constant)
            yield node.lineno, str(node.value)


def hints() -> Iterator[Hint]:
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.parent.name == "v1":
            continue
        for line, text in texts(ast.parse(file.read_text())):
            for program, rest in COMMAND.findall(re.sub(r"\s+", " ", text)):
                place = f"{file.relative_to(PACKAGE.parent)}:{line}"
                yield Hint(place, program, tuple(rest.split()))


def problem(hint: Hint) -> str:
    """What is wrong with a command; empty when nothing is."""
    command, words = PROGRAMS[hint.program], list(hint.words)
    while isinstance(command, click.Group):
        if not words:
            return ""  # a group by itself shows its help
        if "{}" in words[0] or words[0].isupper() or words[0] == "is":
            return ""  # which one is filled in; or a sentence about the commands
        found = command.get_command(click.Context(command), words[0])
        if found is None and command.invoke_without_command:
            break
        if found is None:
            return f"there is no {words[0]}"
        command = found
        words.pop(0)
    return _wrong_arguments(command, words)


def _wrong_arguments(command: click.Command, words: list[str]) -> str:
    options = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts)}
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    least = sum(1 for a in arguments if a.required)
    most = 99 if any(a.nargs < 0 for a in arguments) else len(arguments)
    given, filled = 0, [word for word in words if word == "{}"]
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            name, _, value = word.partition("=")
            option = options.get(name)
            if option is None and name not in ("-h", "--help"):
                return f"there is no option {name}"
            if isinstance(option, click.Option) and not option.is_flag and not value and words:
                words.pop(0)
        elif word.islower() and "{}" not in word and not 0 < given < least:
            break  # prose goes on
        else:
            given += 1
    least_here = 1 if "{}" in filled else least  # what is filled in may be several words
    if given and not least_here <= given <= most:
        return f"takes {least} to {most} arguments, not {given}"
    return ""


ALL = list(hints())


def test_there_are_hints_to_check() -> None:
    assert len(ALL) > 100
    assert {h.program for h in ALL} == set(PROGRAMS)


def test_every_command_that_a_text_names_is_one_that_there_is() -> None:
    wrong = [f"{hint}: {why}" for hint in ALL if (why := problem(hint))]

    assert wrong == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("rotate acme/root", "there is no rotate"),
        ("key rotate {} --now", "there is no option --now"),
        ("role supersede REPOSITORY", "takes 2 to 2 arguments, not 1"),
        ("tuf rotate ROLE", "takes 2 to 2 arguments, not 1"),
        ("key disable {} {} {}", "takes 1 to 2 arguments, not 3"),
    ],
)
def test_a_hint_that_cannot_be_followed_is_found(words: str, why: str) -> None:
    assert problem(Hint("somewhere", "keydctl", tuple(words.split()))) == why
