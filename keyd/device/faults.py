"""ONE table from what a PKCS#11 module raises to keyd's errors.

Codes are ambiguous between modules and within one: a pulled card is CKR_DEVICE_ERROR here and
CKR_OBJECT_HANDLE_INVALID there, a refused touch is CKR_DEVICE_ERROR too, and a touch that did not
come is CKR_USER_NOT_LOGGED_IN. So the table reads the situation beside the code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import pkcs11

from keyd.device.failures import unblock_hint
from keyd.device.settings import TOUCH_WINDOW_S
from keyd.errors import (
    DeadlineError,
    DeviceFaultError,
    DeviceGoneError,
    KeydError,
    MechanismMissingError,
    PinRefusedError,
    TokenLockedError,
    TokenObjectError,
    TouchRefusedError,
)

RETRY_AFTER_S = 1.0
"""A token that returns is used again within this time."""

_BLINKED_S = 1.0
"""A signature that took longer than this waited for somebody: cards need a quarter of it."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known beside the code.

    ``present``: the token still answers, the same one. ``touch``: the key's policy (always,
    cached, unknown), never where none was wanted this time. ``pin_is_proven``: the card itself
    takes the PIN as given; None where it does not tell. ``took_s``: how long the call took.
    ``serial``: of a YubiKey, else empty. ``tries_left``: PIN tries, None where not known.
    ``emptied_slot``: where the key was that the card says it does not have any more, else empty.
    """

    present: bool = True
    touch: str = "never"
    pin_is_proven: bool | None = None
    took_s: float = 0.0
    serial: str = ""
    tries_left: int | None = None
    emptied_slot: str = ""

    @property
    def blinked(self) -> bool:
        """The token has waited for a touch. The PIN is looked at first: where it was not proven
        the contact never lit up."""
        if not self.present or self.touch == "never" or self.pin_is_proven is False:
            return False
        is_certain = self.touch != "unknown" and self.pin_is_proven is True
        return is_certain or self.took_s >= _BLINKED_S


class Meaning(Enum):
    """What an error says, whatever its code."""

    LOST = auto()
    """The session is gone, perhaps with the token."""
    DOUBTFUL = auto()
    """LOST if the token no longer answers; else as the code says."""
    REFUSED = auto()
    """The PIN was compared and is wrong."""
    BLOCKED = auto()
    """The token takes no PIN."""
    UNTOUCHED = auto()
    """The time for a touch ran out."""
    UNWANTED = auto()
    """The touch was refused."""
    NO_MECHANISM = auto()
    NO_OBJECT = auto()
    FAULT = auto()


_MEANINGS: dict[type[Exception], Meaning] = {
    pkcs11.DeviceError: Meaning.LOST,
    pkcs11.DeviceRemoved: Meaning.LOST,
    pkcs11.TokenNotPresent: Meaning.LOST,
    pkcs11.TokenNotRecognised: Meaning.LOST,
    pkcs11.NoSuchToken: Meaning.LOST,
    pkcs11.SlotIDInvalid: Meaning.LOST,
    pkcs11.SessionClosed: Meaning.LOST,
    pkcs11.SessionHandleInvalid: Meaning.LOST,
    pkcs11.UserNotLoggedIn: Meaning.LOST,
    # An operation that was cut short stays active in the session: only a new session helps.
    pkcs11.OperationActive: Meaning.LOST,
    pkcs11.GeneralError: Meaning.DOUBTFUL,
    pkcs11.FunctionFailed: Meaning.DOUBTFUL,
    pkcs11.ObjectHandleInvalid: Meaning.DOUBTFUL,
    pkcs11.KeyHandleInvalid: Meaning.DOUBTFUL,
    pkcs11.NoSuchKey: Meaning.DOUBTFUL,
    pkcs11.PinIncorrect: Meaning.REFUSED,
    pkcs11.PinInvalid: Meaning.REFUSED,
    pkcs11.PinLenRange: Meaning.REFUSED,
    pkcs11.PinLocked: Meaning.BLOCKED,
    pkcs11.PinExpired: Meaning.BLOCKED,
    pkcs11.UserPinNotInitialized: Meaning.BLOCKED,
    pkcs11.MechanismInvalid: Meaning.NO_MECHANISM,
    pkcs11.MechanismParamInvalid: Meaning.NO_MECHANISM,
    pkcs11.KeySizeRange: Meaning.NO_MECHANISM,
    pkcs11.FunctionNotSupported: Meaning.NO_MECHANISM,
    pkcs11.DomainParamsInvalid: Meaning.NO_MECHANISM,
    pkcs11.MultipleObjectsReturned: Meaning.NO_OBJECT,
}
_WHILE_PRESENT: dict[type[Exception], Meaning] = {
    pkcs11.ObjectHandleInvalid: Meaning.NO_OBJECT,
    pkcs11.KeyHandleInvalid: Meaning.NO_OBJECT,
    pkcs11.NoSuchKey: Meaning.NO_OBJECT,
}
_AFTER_BLINKING: dict[type[Exception], Meaning] = {
    # SW 6982 and 6985 of the card, as libykcs11 passes them on.
    pkcs11.UserNotLoggedIn: Meaning.UNTOUCHED,
    pkcs11.DeviceError: Meaning.UNWANTED,
    pkcs11.FunctionFailed: Meaning.UNWANTED,
}
_OWN_NAMES = {
    "NoSuchKey": "no such object",
    "NoSuchToken": "no such token",
    "MultipleObjectsReturned": "several objects",
    "AnotherUserAlreadyLoggedIn": "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
}
"""Classes of python-pkcs11 that are not named after a code."""


def ckr_name(error: Exception) -> str:
    """The name PKCS#11 gives it, such as CKR_DEVICE_ERROR. Never python-pkcs11's sentences: they
    speak to programmers, and may quote anything."""
    name = type(error).__name__
    if name == "PKCS11Error":
        code = re.search(r"\b(?:0x)?([0-9a-fA-F]{2,8})\b", str(error))
        return f"CKR 0x{code[1].lower()}" if code else "an error without a code"
    return _OWN_NAMES.get(name) or "CKR_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def is_doubtful(error: pkcs11.PKCS11Error) -> bool:
    """True when the token has to be asked whether it is still there before we know."""
    return _MEANINGS.get(type(error), Meaning.DOUBTFUL) is Meaning.DOUBTFUL


def _meaning(error: pkcs11.PKCS11Error, situation: Situation) -> Meaning:
    meaning = _MEANINGS.get(type(error), Meaning.DOUBTFUL)
    if situation.blinked and type(error) in _AFTER_BLINKING:
        return _AFTER_BLINKING[type(error)]
    if meaning is not Meaning.DOUBTFUL:
        return meaning
    if not situation.present:
        return Meaning.LOST
    return _WHILE_PRESENT.get(type(error), Meaning.FAULT)


_HERE = Situation()


def translate(
    error: pkcs11.PKCS11Error, token: str, doing: str, situation: Situation = _HERE
) -> KeydError:
    """The keyd error that ``error`` stands for.

    ``doing``: what was tried, as in "signing". Whether the token is present matters only for
    errors that :func:`is_doubtful` names, and for those that a touch may explain. Inside a host a
    DeviceGoneError always means that the session is lost: log in again.
    """
    meaning, ckr = _meaning(error, situation), ckr_name(error)
    facts: dict[str, Any] = {"token": token, "ckr": ckr}
    if situation.serial:
        facts["serial"] = situation.serial
    if meaning is Meaning.REFUSED and situation.tries_left is not None:
        facts["tries_left"] = situation.tries_left
    if situation.emptied_slot:
        return TokenObjectError(
            f"token {token} has no key in slot {situation.emptied_slot} any more: another program "
            "deleted it, or reset the YubiKey",
            hint=f"see what is left: keydctl yubikey list {token}; the key cannot be brought back, "
            "sign with another one",
            slot=situation.emptied_slot,
            **facts,
        )
    if meaning is Meaning.LOST:
        return DeviceGoneError(
            f"token {token} went away while {doing} ({ckr})",
            hint=f"see that it is plugged in (keydctl token list); when {token} is back, the same "
            "command works again",
            retry_after_s=RETRY_AFTER_S,
            **facts,
        )
    if meaning is Meaning.UNTOUCHED:
        return DeadlineError(
            f"touch token {situation.serial}: {token} was not touched within "
            f"{TOUCH_WINDOW_S:g} s, and nothing was signed",
            hint="ask again, and touch its contact when it blinks",
            **facts,
        )
    if meaning is Meaning.UNWANTED:
        return TouchRefusedError(
            f"token {situation.serial} ({token}) did not accept a touch, and nothing was signed "
            f"({ckr})",
            hint="ask again, and touch its contact when it blinks",
            **facts,
        )
    if meaning is Meaning.REFUSED:
        return PinRefusedError(
            f"token {token} refused the PIN{_tries(situation)} ({ckr})",
            hint=f"check the PIN, then: keydctl token unlock {token}",
            **facts,
        )
    if meaning is Meaning.BLOCKED:
        return TokenLockedError(
            f"token {token} takes no PIN: it is blocked ({ckr})",
            hint=unblock_hint(token, is_yubikey=bool(situation.serial)),
            **facts,
        )
    if meaning is Meaning.NO_MECHANISM:
        return MechanismMissingError(f"token {token} cannot do this: {doing} ({ckr})", **facts)
    if meaning is Meaning.NO_OBJECT:
        return TokenObjectError(f"token {token} has no such key pair, {doing} ({ckr})", **facts)
    return DeviceFaultError(f"token {token} failed while {doing} ({ckr})", **facts)


def _tries(situation: Situation) -> str:
    left = situation.tries_left
    if left is None:
        return ""
    return f", {left} {'try is' if left == 1 else 'tries are'} left"
