"""What the sections of keyd.toml are made of: their base, and values that are more than a number.

Each check raises ValueError with words for a person. The one for PIN sources never repeats what
it was given: somebody may have written the PIN itself there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from keyd.errors import InvalidRequestError
from keyd.model import check_name

PIN_SOURCES = (
    "credential:NAME (systemd's LoadCredential), file:PATH (readable by its owner only) or prompt"
)

_CREDENTIAL = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_MODES = {"0600": 0o600, "0660": 0o660, "0666": 0o666}
_SOCKET_NAME = re.compile(r"socket:[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_ORIGIN = re.compile(r"[!-*,-~]{1,200}")
_GUNS = re.compile(r"[!-~]{1,256}")
_GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")


class Section(BaseModel):
    """Frozen, strict, and silent about values in errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


def _matching(pattern: re.Pattern[str], says: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(says)
        return value

    return check


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("should be a path in quotes")
    base = (info.context or {}).get("base")
    return Path(base, value) if base else Path(value)


def _pin_source(value: object, info: ValidationInfo) -> str:
    kind, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if value == "prompt":
        return "prompt"
    # Digits alone are a PIN behind the wrong word, not the name of a file.
    if rest and not rest.isdigit():
        if kind == "credential" and _CREDENTIAL.fullmatch(rest) and rest not in (".", ".."):
            return f"credential:{rest}"
        if kind == "file" and "\0" not in rest:
            return f"file:{_path(rest, info)}"
    raise ValueError(
        f"names a source and never holds the PIN itself: {PIN_SOURCES}. "
        "If this was a real PIN, change it: it has been in a file"
    )


def _mode(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value in _MODES.values():
        return value
    if isinstance(value, str) and value in _MODES:
        return _MODES[value]
    raise ValueError('should be "0600" (the service alone), "0660" (a group) or "0666" (everybody)')


def split_address(value: object) -> tuple[str, int]:
    """``127.0.0.1:7443`` or ``[::1]:7443`` as IP address and port.

    Raises:
        ValueError: anything else; names are not looked up.
    """
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    fits = address is not None and (address.version == 6) == bracketed
    if not fits or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("should be an IP address with a port: 127.0.0.1:7443 or [::1]:7443")
    return str(address), int(port)


def _address(value: object) -> str:
    split_address(value)
    return str(value)


def _loopback(value: object) -> str:
    host, _ = split_address(value)
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError("should be a loopback address: metrics have no access control")
    return str(value)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("should be a name in quotes")
    try:
        return check_name("name", value)
    except InvalidRequestError as e:
        raise ValueError(e.facts["why"]) from None


ConfigPath = Annotated[Path, BeforeValidator(_path)]
"""A path; a relative one starts at the folder of keyd.toml."""

PinSourceText = Annotated[str, BeforeValidator(_pin_source)]
"""``credential:NAME``, ``file:PATH`` with the path made absolute, or ``prompt``."""

SocketMode = Annotated[int, BeforeValidator(_mode)]
"""Permission bits of a unix socket."""

Address = Annotated[str, BeforeValidator(_address)]
"""IP address and port."""

LoopbackAddress = Annotated[str, BeforeValidator(_loopback)]
"""IP address and port that only this machine reaches."""

TokenName = Annotated[str, BeforeValidator(_name)]
"""A name as model.check_name allows it."""

SocketPrincipal = Annotated[
    str,
    BeforeValidator(
        _matching(
            _SOCKET_NAME,
            "should be socket:NAME with lower-case letters, digits, '.', '_', '-', as policy.toml "
            "names it",
        )
    ),
]
"""The principal a unix socket stands for."""

LogOrigin = Annotated[
    str,
    BeforeValidator(
        _matching(_ORIGIN, "should be 1 to 200 printable ASCII characters without space and '+'")
    ),
]
"""The log's name (C2SP tlog-checkpoint)."""

GroupName = Annotated[
    str, BeforeValidator(_matching(_GROUP, "should be the name of a group of this machine"))
]
"""A group of this machine."""

GunPattern = Annotated[
    str,
    BeforeValidator(
        _matching(_GUNS, "should be a pattern of 1 to 256 printable ASCII characters, no spaces")
    ),
]
"""A glob over names of Notary collections."""
