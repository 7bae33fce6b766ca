"""keydctl tuf add and remove: what the targets roles list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from keyd.cli.settings import Command, Settings
from keyd.cli.tufkeys import FOLDER, Session
from keyd.cli.tufshapes import answer


@click.command(cls=Command)
@FOLDER
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--as", "as_path", default="", metavar="PATH", help="The target path of one file.")
@click.option("--prefix", default="", metavar="PATH", help="A folder to put them under.")
@click.option("--role", default="targets", show_default=True, help="The role that lists them.")
@click.option("--custom", default="", metavar="JSON", help="An object to keep with each target.")
@click.pass_obj
def add(
    settings: Settings,
    folder: Path,
    files: tuple[Path, ...],
    as_path: str,
    prefix: str,
    role: str,
    custom: str,
) -> int:
    """Add FILES to the targets, or replace them. A folder adds all files below it."""
    targets = _target_paths(files, as_path, prefix)
    extra = _custom(custom)
    opened = Session(settings).open(folder, f"tuf add {len(targets)} target(s)")
    return answer(settings, opened.add(targets, role=role, custom=extra))


@click.command(cls=Command)
@FOLDER
@click.argument("paths", nargs=-1, required=True)
@click.option("--role", default="targets", show_default=True, help="The role that lists them.")
@click.pass_obj
def remove(settings: Settings, folder: Path, paths: tuple[str, ...], role: str) -> int:
    """Take target PATHS out of the metadata. The files stay, for clients under way."""
    opened = Session(settings).open(folder, f"tuf remove {len(paths)} target(s)")
    return answer(settings, opened.remove(paths, role=role))


def _target_paths(files: tuple[Path, ...], as_path: str, prefix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        below = sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]
        for path in below:
            name = path.relative_to(file).as_posix() if file.is_dir() else path.name
            target = f"{prefix.rstrip('/')}/{name}" if prefix else name
            if target in found:
                raise click.UsageError(f"{found[target]} and {path} are both {target}")
            found[target] = path
    if as_path:
        if len(found) != 1:
            raise click.UsageError("--as names one file; use --prefix for several")
        return {as_path: next(iter(found.values()))}
    return found


def _custom(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        content = json.loads(text)
    except ValueError as e:
        raise click.UsageError(f"--custom is no JSON: {e}") from e
    if not isinstance(content, dict):
        raise click.UsageError("--custom has to be a JSON object")
    return content
