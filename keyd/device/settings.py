"""What the configuration says about one token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keyd.errors import ConfigError
from keyd.model import check_name

MAX_HOSTS = 32
"""More host processes than this for one token are surely a slip of the finger."""

TOUCH_WINDOW_S = 15.0
"""How long a YubiKey blinks before it gives up, and how long a touch counts for keys whose policy
is cached."""

_AFTER_TOUCH_S = 5.0


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """One token.

    ``module``: the PKCS#11 library. ``label``, ``serial``: what the token must say of itself; at
    least one is given, and both must match where both are. ``pin_source``: ``credential:NAME``,
    ``file:PATH`` or ``prompt`` (pins.py). ``hosts``: processes that are logged in at once.
    ``token_timeout_s``: how long one PKCS#11 call may take before its host is killed; a YubiKey
    always has time for a touch, its own or one that another program waits for (patience_s).
    ``queue_limit``: signatures that may wait. ``softhsm_conf``: exported to the host as
    SOFTHSM2_CONF.
    """

    name: str
    module: Path
    label: str | None = None
    serial: str | None = None
    pin_source: str = "prompt"
    hosts: int = 1
    token_timeout_s: float = 30.0
    queue_limit: int = 20_000
    softhsm_conf: Path | None = None

    def __post_init__(self) -> None:
        check_name("token", self.name)
        if not self.label and not self.serial:
            raise self._error("give its label or its serial")
        if not 1 <= self.hosts <= MAX_HOSTS:
            raise self._error(f"hosts is {self.hosts}, it can be 1 to {MAX_HOSTS}")
        if self.token_timeout_s <= 0:
            raise self._error("token_timeout must be greater than 0")
        if self.queue_limit < 1:
            raise self._error("queue_limit must be at least 1")
        kind, _, rest = self.pin_source.partition(":")
        if self.pin_source != "prompt" and (kind not in ("credential", "file") or not rest):
            raise self._error(
                # Not quoted: somebody may have written the PIN itself here.
                "pin_source must be prompt, credential:NAME or file:PATH; "
                "a PIN never stands in the configuration"
            )

    @property
    def wanted(self) -> str:
        """What the token must say of itself, in words."""
        selectors = (("label", self.label), ("serial", self.serial))
        return " and ".join(f"{what} {value}" for what, value in selectors if value)

    @property
    def is_yubikey(self) -> bool:
        """True where libykcs11 is the module."""
        return "ykcs11" in self.module.name

    @property
    def patience_s(self) -> float:
        """How long a host may be silent before it is killed."""
        if self.is_yubikey:
            return max(self.token_timeout_s, TOUCH_WINDOW_S + _AFTER_TOUCH_S)
        return self.token_timeout_s

    def _error(self, why: str) -> ConfigError:
        return ConfigError(f"token {self.name}: {why}", token=self.name)
