"""YubiKeys that are plugged in and no token yet, for who may see the token they would become."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from keyd.gate import Gate
from keyd.model import Action, Caller, Device, PluggedIn, YubiKeyDevice

_NAME = "yubikey"


@dataclass(frozen=True, slots=True)
class Suggested:
    """One of them, and a name for its token that is not taken."""

    token: str
    yubikey: PluggedIn


class NotConfigured:
    """Finds them. There is no name yet that a grant could be about, so the suggested one counts."""

    def __init__(self, *, gate: Gate, device: Device, yubikeys: YubiKeyDevice) -> None:
        self._gate = gate
        self._device = device
        self._yubikeys = yubikeys
        self._looking = asyncio.Lock()

    async def list(self, caller: Caller) -> tuple[Sequence[Suggested], str]:
        """Those the caller may see, and why there may be more; spends no try."""
        taken = {token.name for token in self._device.tokens()}
        if not any(self._gate.may(caller, Action.TOKENS, name) for name in (_NAME, *taken)):
            return (), ""  # a stranger does not make the daemon look
        async with self._looking:
            found, problem = await self._yubikeys.plugged_in()
        named = [Suggested(_free_name(yubikey.serial, taken), yubikey) for yubikey in found]
        seen = [s for s in named if self._gate.may(caller, Action.TOKENS, s.token)]
        return seen, problem if self._gate.may(caller, Action.TOKENS, _NAME) else ""


def _free_name(serial: str, taken: set[str]) -> str:
    name = f"{_NAME}-{serial}"
    while name in taken:  # a token of another serial that somebody called so
        name += "-new"
    return name
