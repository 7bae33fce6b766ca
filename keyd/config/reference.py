"""The tables of docs/configuration.md, from the code: ``python -m keyd.config.reference``."""

from __future__ import annotations

import json
from pathlib import Path

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from keyd.config.listeners import (
    NotaryListenerSection,
    TcpListenerSection,
    UnixListenerSection,
)
from keyd.config.sections import (
    LimitsSection,
    LogSection,
    MetricsSection,
    NotarySection,
    RotationSection,
    ServerSection,
    TokenSection,
)

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[server]", ServerSection),
    ("[log]", LogSection),
    ('[[listener]] with kind = "unix"', UnixListenerSection),
    ('[[listener]] with kind = "tcp"', TcpListenerSection),
    ('[[listener]] with kind = "notary"', NotaryListenerSection),
    ("[[token]]", TokenSection),
    ("[[notary]]", NotarySection),
    ("[limits]", LimitsSection),
    ("[metrics]", MetricsSection),
    ("[rotation]", RotationSection),
)


def tables() -> str:
    """All sections as Markdown: for each setting its meaning with unit and range, and default."""
    return "\n".join(_section(title, model) for title, model in SECTIONS)


def _section(title: str, model: type[BaseModel]) -> str:
    about = " ".join((model.__doc__ or "").split())
    lines = [f"### `{title}`", "", about, "", "| setting | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        about = f"{field.description}{_range(field)}"
        lines.append(f"| `{field.alias or name}` | {_default(name, field)} | {about} |")
    return "\n".join(lines) + "\n"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == ():
        return "none"
    if name == "mode":
        return f'`"{value:04o}"`'
    if isinstance(value, int) and value >= 10_000:
        return f"`{value:_}`"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


def _range(field: FieldInfo) -> str:
    least = next((m.ge for m in field.metadata if isinstance(m, annotated_types.Ge)), None)
    most = next((m.le for m in field.metadata if isinstance(m, annotated_types.Le)), None)
    if least is not None and most is not None:
        return f" {least:_} to {most:_}."
    return f" At least {least:_}." if least is not None else ""


if __name__ == "__main__":
    print(tables(), end="")
