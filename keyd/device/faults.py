"""ONE table from what a PKCS#11 module raises to keyd's errors.

Codes are ambiguous between modules: a pulled card is CKR_DEVICE_ERROR here and
CKR_OBJECT_HANDLE_INVALID there, and both mean something else while the token is in its place. So
the table reads the token's state beside the code.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import pkcs11

from keyd.errors import (
    DeviceFaultError,
    DeviceGoneError,
    MechanismMissingError,
    PinRefusedError,
    TokenError,
    TokenLockedError,
    TokenObjectError,
)

RETRY_AFTER_S = 1.0
"""A token that returns is used again within this time."""


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


def ckr_name(error: Exception) -> str:
    """The name PKCS#11 gives it, such as CKR_DEVICE_ERROR, or python-pkcs11's own words."""
    name = type(error).__name__
    if name == "PKCS11Error":
        return str(error)[:120]
    return "CKR_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def is_doubtful(error: pkcs11.PKCS11Error) -> bool:
    """True when the token has to be asked whether it is still there before we know."""
    return _MEANINGS.get(type(error), Meaning.DOUBTFUL) is Meaning.DOUBTFUL


def translate(
    error: pkcs11.PKCS11Error, token: str, doing: str, *, present: bool = True
) -> TokenError:
    """The keyd error that ``error`` stands for.

    ``doing``: what was tried, as in "signing". ``present``: whether the token still answers;
    it matters only for errors that :func:`is_doubtful` names. Inside a host a DeviceGoneError
    always means that the session is lost: log in again.
    """
    meaning = _MEANINGS.get(type(error), Meaning.DOUBTFUL)
    if meaning is Meaning.DOUBTFUL:
        present_meaning = _WHILE_PRESENT.get(type(error), Meaning.FAULT)
        meaning = present_meaning if present else Meaning.LOST
    ckr = ckr_name(error)
    if meaning is Meaning.LOST:
        return DeviceGoneError(
            f"token {token} went away while {doing} ({ckr})",
            retry_after_s=RETRY_AFTER_S,
            token=token,
            ckr=ckr,
        )
    if meaning is Meaning.REFUSED:
        return PinRefusedError(
            f"token {token} refused the PIN ({ckr})",
            hint=f"check the PIN, then: keydctl token unlock {token}",
            token=token,
            ckr=ckr,
        )
    if meaning is Meaning.BLOCKED:
        return TokenLockedError(
            f"token {token} takes no PIN ({ckr})",
            hint="unblock it with its PUK or SO PIN",
            token=token,
            ckr=ckr,
        )
    if meaning is Meaning.NO_MECHANISM:
        return MechanismMissingError(
            f"token {token} cannot do this: {doing} ({ckr})", token=token, ckr=ckr
        )
    if meaning is Meaning.NO_OBJECT:
        return TokenObjectError(
            f"token {token} has no such key pair, {doing} ({ckr})", token=token, ckr=ckr
        )
    return DeviceFaultError(f"token {token} failed while {doing} ({ckr})", token=token, ckr=ckr)
