"""New YubiKeys: plugged in and no token yet, or to be set up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from keyd.errors import TokenObjectError
from keyd.gate import Gate
from keyd.model import Action, Caller, Device, PluggedIn, YubiKey, YubiKeyDevice

_NAME = "yubikey"


@dataclass(frozen=True, slots=True)
class Suggested:
    """One of them, and a name for its token that is not taken."""

    token: str
    yubikey: PluggedIn


class NotConfigured:
    """Finds those that are no tokens. There is no name yet that a grant could be about, so the
    suggested one counts."""

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


def check_fresh(token: str, yubikey: YubiKey) -> None:
    """May it be set up? Where the firmware tells, its PIN has to be the factory's.

    Raises:
        TokenObjectError: it is in use; what to do with it.
    """
    adopt = f"register what is there instead: keydctl key adopt NAME --token {token} --slot 9c"
    if yubikey.slots:
        tells = bool(yubikey.pin_tries_of)
        lies = [(c.slot, c.algorithm or ("a certificate" if tells else "")) for c in yubikey.slots]
        where = ", ".join(f"{slot} ({what or 'unknown'})" for slot, what in lies)
        holds_keys = not tells or any(c.algorithm for c in yubikey.slots)
        slots = ", ".join(str(slot) for slot, _ in lies)
        raise TokenObjectError(
            f"YubiKey {yubikey.serial} holds {'keys' if holds_keys else 'certificates'}, in "
            f"{where}; it is not set up anew",
            hint=adopt
            if holds_keys
            else f"if nobody needs them, delete them first, for each of {slots}: ykman piv "
            "certificates delete SLOT",
            token=token,
        )
    if yubikey.pin_tries_of and "pin" not in yubikey.factory:
        raise TokenObjectError(
            f"the PIN of YubiKey {yubikey.serial} is not the factory's: somebody has set it up",
            hint=f"use it as it is: keydctl token unlock {token}; then {adopt}",
            token=token,
        )
