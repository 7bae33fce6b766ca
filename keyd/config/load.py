"""Reading keyd.toml: what is wrong is said with file, line and the nearest valid name."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from keyd import toml_source
from keyd.config.listeners import (
    ListenerSection,
    NotaryListenerSection,
    TcpListenerSection,
    UnixListenerSection,
)
from keyd.config.sections import (
    Config,
    LimitsSection,
    LogSection,
    MetricsSection,
    NotarySection,
    RotationSection,
    ServerSection,
    TokenSection,
)
from keyd.config.values import PIN_SOURCES
from keyd.errors import ConfigError
from keyd.toml_source import Source, nearest

MAX_CONFIG_BYTES = 1024 * 1024
"""Larger files are refused unread."""

_Problem = tuple[toml_source.Path, str]
_KINDS: dict[str, type[BaseModel]] = {
    "unix": UnixListenerSection,
    "tcp": TcpListenerSection,
    "notary": NotaryListenerSection,
}
_ARRAYS = ("listener", "token", "notary")
_SECTIONS: dict[str, type[BaseModel]] = {
    "server": ServerSection,
    "log": LogSection,
    "limits": LimitsSection,
    "metrics": MetricsSection,
    "rotation": RotationSection,
    "token": TokenSection,
    "notary": NotarySection,
}
_SECRET_WORDS = ("pin", "password", "passphrase", "secret")


def load_config(path: Path) -> Config:
    """Read keyd.toml and look whether the files it names are there.

    Raises:
        ConfigError: facts ``file`` and ``line``; every mistake is in the message, one a line.
    """
    path = path.absolute()
    source = _source(path)
    config = _validate(source, path.parent)
    _raise(source, list(_missing_files(config)))
    return config


def parse_config(text: str, name: str = "keyd.toml", base: Path | None = None) -> Config:
    """Parse the text of a keyd.toml without looking at any file.

    ``name``: the file as errors name it; ``base``: the folder where relative paths start.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    return _validate(toml_source.parse(text, name), base)


def _source(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as e:
        raise ConfigError(
            f"{path}: cannot be read: {e.strerror}", hint="keyd-server init writes one", file=path
        ) from e
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes", file=path)
    bad_at: int | None = None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        bad_at, text = e.start, ""
    if bad_at is not None:
        line = raw.count(b"\n", 0, bad_at) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8", file=path, line=line)
    return toml_source.parse(text, str(path))


def _validate(source: Source, base: Path | None) -> Config:
    problems: list[_Problem] = []
    config: Config | None = None
    try:
        config = Config.model_validate(dict(source.data), context={"base": base})
    except ValidationError as e:
        # Without input: what stands in the wrong place may be a PIN.
        problems = [_explain(error) for error in e.errors(include_input=False, include_url=False)]
    # Outside the handler, so that no error carries pydantic's, which holds the input, along.
    if config is not None:
        problems = list(_contradictions(config))
    _raise(source, problems)
    assert config is not None
    return config


def _raise(source: Source, problems: list[_Problem]) -> None:
    """Raise the problems as one error, by line; the facts are the first one's."""
    if not problems:
        return
    problems.sort(key=lambda problem: source.line(problem[0]) or 0)
    errors = [source.error(path, message) for path, message in problems]
    first = source.line(problems[0][0])
    hint = "" if len(errors) == 1 else f"{len(errors)} mistakes"
    message = "\n".join(error.message for error in errors)
    if first is None:
        raise ConfigError(message, hint=hint, file=source.name)
    raise ConfigError(message, hint=hint, file=source.name, line=first)


# -- what pydantic found, in words -------------------------------------------------------------


def _explain(error: Any) -> _Problem:
    """One pydantic error as path and message; values of the file never appear."""
    loc = list(error["loc"])
    if len(loc) > 2 and loc[0] == "listener" and loc[2] in _KINDS:
        del loc[2]  # the tag of the union is no part of the file's path
    path = tuple(loc)
    setting = str(path[-1])[:80] if path else "keyd.toml"
    kind = error["type"]
    if kind == "extra_forbidden":
        return path, _unknown(path, setting, tag=error["loc"][2] if len(loc) > 2 else None)
    if kind == "missing":
        if path in (("listener",), ("token",)):
            return path, f"at least one [[{setting}]] is needed"
        return path, f"{_where(path[:-1])} needs {setting}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return (*path, "kind"), (
            '[[listener]] needs kind = "unix" or kind = "tcp" (or "notary", for notary-server)'
        )
    if kind in ("model_type", "model_attributes_type", "dict_type", "list_type", "tuple_type"):
        if path[-1] == "guns":
            return path, 'guns should be a list of patterns: ["*"]'
        array = path[0] in _ARRAYS
        return path, f"{setting} is a section: [[{setting}]]" if array else (
            f"{setting} is a section: [{setting}]"
        )
    message = str(error["msg"])
    for before, after in (("Value error, ", ""), ("Input should be", "should be")):
        message = message.replace(before, after)
    return path, f"{setting} {message[:1].lower()}{message[1:]}"


def _where(path: toml_source.Path) -> str:
    if not path:
        return "keyd.toml"
    return f"[[{path[0]}]]" if path[0] in _ARRAYS else f"[{path[0]}]"


def _unknown(path: toml_source.Path, setting: str, tag: object) -> str:
    valid = _settings(path[:-1], tag)
    text = f"unknown setting {setting!r} in {_where(path[:-1])}{nearest(setting, valid)}"
    text += f" (allowed here: {', '.join(valid)})"
    if any(word in setting.lower() for word in _SECRET_WORDS):
        text += f". A PIN never stands here: pin names its source, {PIN_SOURCES}"
    return text


def _settings(path: toml_source.Path, tag: object) -> list[str]:
    """The names allowed in a section."""
    model: type[BaseModel] = Config
    if path and path[0] == "listener":
        model = _KINDS.get(str(tag), UnixListenerSection)
    elif path:
        model = _SECTIONS[str(path[0])]
    return [field.alias or name for name, field in model.model_fields.items()]


# -- what only shows when sections are held together -------------------------------------------


def _contradictions(config: Config) -> Iterator[_Problem]:
    if not config.listeners:
        yield ("listener",), "at least one [[listener]] is needed"
    names = [token.name for token in config.tokens]
    for at, token in enumerate(config.tokens):
        if token.name in names[:at]:
            yield ("token", at, "name"), f"token {token.name} exists already"
        if token.label is None and token.serial is None:
            yield ("token", at), f"token {token.name} needs its label or its serial"
    if config.log.token not in names:
        yield (
            ("log", "token"),
            f"no [[token]] is named {config.log.token!r}{nearest(config.log.token, names)}",
        )
    if config.log.checkpoint_file.resolve().is_relative_to(config.server.state_dir.resolve()):
        yield (
            ("log", "checkpoint_file"),
            "checkpoint_file must lie outside state_dir: it shows whether an old copy of that was "
            "put back",
        )
    if config.limits.max_message_bytes > config.limits.max_request_bytes:
        yield ("limits", "max_message_bytes"), "max_message_bytes is above max_request_bytes"
    yield from _listener_contradictions(config.listeners)
    yield from _notary_contradictions(config, names)


def _notary_contradictions(config: Config, tokens: list[str]) -> Iterator[_Problem]:
    for at, place in enumerate(config.notary):
        if place.token not in tokens:
            yield (
                ("notary", at, "token"),
                f"no [[token]] is named {place.token!r}{nearest(place.token, tokens)}",
            )
    doors = [
        at for at, each in enumerate(config.listeners) if isinstance(each, NotaryListenerSection)
    ]
    if doors and not config.notary:
        yield (
            ("listener", doors[0]),
            "a listener for notary-server needs a [[notary]], which says on which token keys are "
            "made",
        )
    if config.notary and not doors:
        yield ("notary", 0), '[[notary]] needs a [[listener]] with kind = "notary"'


def _listener_contradictions(listeners: tuple[ListenerSection, ...]) -> Iterator[_Problem]:
    seen: set[str] = set()
    for at, listener in enumerate(listeners):
        if isinstance(listener, TcpListenerSection):
            named = {"address": listener.address}
            if listener.address.endswith(":0"):
                named = {}
        else:
            named = {"path": str(listener.path), "principal": listener.principal}
            if listener.group and not listener.mode & 0o060:
                yield (
                    ("listener", at, "group"),
                    f'group {listener.group} cannot open a socket of mode "0600"; say "0660"',
                )
        for setting, value in named.items():
            if value in seen:
                yield ("listener", at, setting), f"another listener has the {setting} {value}"
            seen.add(value)


def _missing_files(config: Config) -> Iterator[_Problem]:
    wanted: list[tuple[toml_source.Path, Path | None]] = [
        (("server", "policy"), config.server.policy)
    ]
    for at, listener in enumerate(config.listeners):
        if isinstance(listener, TcpListenerSection):
            wanted += [
                (("listener", at, name), getattr(listener, name))
                for name in ("cert", "key", "client_ca", "deny_list")
            ]
    for at, token in enumerate(config.tokens):
        wanted += [
            (("token", at, name), getattr(token, name)) for name in ("module", "softhsm_conf")
        ]
    for path, file in wanted:
        if file is None:
            continue
        try:
            found = file.stat()
        except OSError as e:
            why = f"{path[-1]} {file}: {(e.strerror or str(e)).lower()}"
            if path[-1] == "module" and isinstance(e, FileNotFoundError):
                why += "; install the package that has it (on Debian ykcs11 for YubiKeys, softhsm2)"
            yield path, why
        else:
            if not stat.S_ISREG(found.st_mode):
                yield path, f"{path[-1]} {file}: not a file"
