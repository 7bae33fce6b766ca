"""The documents and the commands say the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from keyd.cli.keydctl import keydctl

ROOT = Path(__file__).parents[3]
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGE = ROOT / "docs" / "keydctl.md"


def block(name: str) -> str:
    """A fenced block of docs/keydctl.md."""
    found = re.search(rf"```{name}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def commands(group: click.Group = keydctl, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command but tuf's, by its full name."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        assert found is not None
        if name == "tuf":
            continue
        if isinstance(found, click.Group):
            yield from commands(found, *path, name)
        else:
            yield " ".join(("keydctl", *path, name)), found


def usage(name: str, command: click.Command) -> str:
    """One line: the command, its arguments, and what it does."""
    ctx = click.Context(command, info_name=name)
    arguments = [p.make_metavar(ctx) for p in command.params if isinstance(p, click.Argument)]
    return f"{' '.join([name, *arguments]):<44} {command.get_short_help_str(200)}".rstrip()


def reference() -> str:
    """The list of commands as the page has it."""
    return "".join(f"{usage(name, command)}\n" for name, command in commands())


def test_the_page_shows_the_help_as_it_is() -> None:
    shown = CliRunner().invoke(keydctl, ["--help"], terminal_width=100, prog_name="keydctl")

    assert block("help") == f"$ keydctl --help\n{shown.output}"


def test_the_page_lists_every_command() -> None:
    assert block("commands") == reference()


def test_every_command_and_option_has_help() -> None:
    silent = [
        f"{name} {parameter.opts[0]}"
        for name, command in commands()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]

    assert silent == []
    assert [name for name, command in commands() if not command.help] == []


def written_commands() -> Iterator[tuple[str, str]]:
    """Each line of a fenced block, in any document, that runs keydctl."""
    for document in DOCUMENTS:
        fenced = re.findall(r"```[^\n]*\n(.*?)```", document.read_text(), re.DOTALL)
        for text in fenced:
            for line in text.replace("\\\n", " ").splitlines():
                if re.match(r"(\$ )?keydctl [a-z]", line):
                    yield document.name, line.removeprefix("$ ")


def test_every_keydctl_line_in_the_documents_is_one_that_exists() -> None:
    wrong = []
    for document, line in written_commands():
        if document == PAGE.name:
            continue
        words = shlex.split(line.split(" #")[0].split("|")[0].split(">")[0])[1:]
        command: click.Command = keydctl
        while words and isinstance(command, click.Group):
            word = words.pop(0)
            if word.startswith("-"):
                # An option of the group itself, with its value.
                option = next((p for p in command.params if word in p.opts), None)
                if not isinstance(option, click.Option):
                    wrong.append(f"{document}: {line}: {word}")
                    break
                del words[: 0 if option.is_flag else 1]
                continue
            found = command.get_command(click.Context(command), word)
            if found is None:
                wrong.append(f"{document}: {line}")
                break
            command = found
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        unknown = [w for w in words if re.match(r"--?[a-z]", w) and w.split("=")[0] not in known]
        if unknown:
            wrong.append(f"{document}: {line}: {unknown}")

    assert wrong == []
