"""A YubiKey's last try of PIN or PUK is spent only by a person who says so."""

from __future__ import annotations

from keyd.errors import TokenLockedError
from keyd.model import YubiKey


def check_pin_tries(token: str, yubikey: YubiKey) -> None:
    """Raise TokenLockedError where one more wrong PIN blocks it."""
    if yubikey.pin_tries == 1:
        raise TokenLockedError(
            f"one more wrong PIN blocks token {token}",
            hint=f"be sure of the PIN, then: keydctl yubikey change-pin {token} --spend-last-try",
            token=token,
        )


def check_puk_tries(token: str, yubikey: YubiKey) -> None:
    """Raise TokenLockedError where one more wrong PUK blocks it for ever; firmware before 5.3 does
    not tell."""
    if yubikey.puk_tries_of and yubikey.puk_tries == 1:
        raise TokenLockedError(
            f"one more wrong PUK blocks it: token {token} can only be reset then, which destroys "
            "its keys",
            hint=f"be sure of the PUK, then: keydctl yubikey unblock {token} --spend-last-try",
            token=token,
        )
