"""One table from what modules raise to keyd's errors, as a table of cases."""

from __future__ import annotations

from dataclasses import replace

import pkcs11
import pytest

from keyd.device.faults import Situation, ckr_name, is_doubtful, translate
from keyd.errors import (
    DeadlineError,
    DeviceFaultError,
    DeviceGoneError,
    KeydError,
    MechanismMissingError,
    PinRefusedError,
    TokenError,
    TokenLockedError,
    TokenObjectError,
    TouchRefusedError,
)


@pytest.mark.parametrize(
    ("raised", "present", "expected"),
    [
        # A card that was pulled, by the names different modules have for it.
        (pkcs11.DeviceError, True, DeviceGoneError),
        (pkcs11.DeviceRemoved, True, DeviceGoneError),
        (pkcs11.TokenNotPresent, True, DeviceGoneError),
        (pkcs11.SessionHandleInvalid, True, DeviceGoneError),
        (pkcs11.UserNotLoggedIn, True, DeviceGoneError),
        (pkcs11.OperationActive, True, DeviceGoneError),
        # SoftHSM without its folder, and the same codes while the folder is there.
        (pkcs11.ObjectHandleInvalid, False, DeviceGoneError),
        (pkcs11.ObjectHandleInvalid, True, TokenObjectError),
        (pkcs11.NoSuchKey, False, DeviceGoneError),
        (pkcs11.NoSuchKey, True, TokenObjectError),
        (pkcs11.GeneralError, False, DeviceGoneError),
        (pkcs11.GeneralError, True, DeviceFaultError),
        (pkcs11.FunctionFailed, True, DeviceFaultError),
        (pkcs11.PinIncorrect, True, PinRefusedError),
        (pkcs11.PinLenRange, True, PinRefusedError),
        (pkcs11.PinLocked, True, TokenLockedError),
        (pkcs11.UserPinNotInitialized, True, TokenLockedError),
        (pkcs11.MechanismInvalid, True, MechanismMissingError),
        (pkcs11.KeySizeRange, True, MechanismMissingError),
        (pkcs11.DeviceMemory, True, DeviceFaultError),
        (pkcs11.PKCS11Error, True, DeviceFaultError),
    ],
)
def test_the_table(
    raised: type[pkcs11.PKCS11Error], present: bool, expected: type[TokenError]
) -> None:
    error = translate(raised(), "main", "signing", Situation(present=present))

    assert type(error) is expected
    assert error.facts["token"] == "main"
    # Only what may pass by itself says when to come back.
    assert (error.retry_after_s is not None) == (expected is DeviceGoneError)


def test_codes_that_are_clear_do_not_cost_a_look_at_the_token() -> None:
    assert not is_doubtful(pkcs11.PinIncorrect())
    assert not is_doubtful(pkcs11.DeviceRemoved())
    assert is_doubtful(pkcs11.GeneralError())
    assert is_doubtful(pkcs11.DeviceMemory())


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (pkcs11.DeviceError(), "CKR_DEVICE_ERROR"),
        (pkcs11.ObjectHandleInvalid(), "CKR_OBJECT_HANDLE_INVALID"),
        (pkcs11.UserPinNotInitialized(), "CKR_USER_PIN_NOT_INITIALIZED"),
        (pkcs11.PKCS11Error("Unmapped error code 80000001"), "CKR 0x80000001"),
        (pkcs11.PKCS11Error("Failed to cancel operation"), "an error without a code"),
        (pkcs11.NoSuchKey("No key matching {...}"), "no such object"),
    ],
)
def test_an_error_is_named_as_the_standard_names_it(error: pkcs11.PKCS11Error, name: str) -> None:
    assert ckr_name(error) == name


BLINKING = Situation(touch="always", pin_is_proven=True, took_s=15.0, serial="1234567")


@pytest.mark.parametrize(
    ("raised", "situation", "expected"),
    [
        # SW 6982 and 6985 of a card that is there, whose key wants a touch.
        (pkcs11.UserNotLoggedIn, BLINKING, DeadlineError),
        (pkcs11.DeviceError, BLINKING, TouchRefusedError),
        (pkcs11.UserNotLoggedIn, replace(BLINKING, touch="cached", took_s=0.3), DeadlineError),
        (pkcs11.DeviceError, replace(BLINKING, touch="cached", took_s=0.3), TouchRefusedError),
        # The same codes of a key that wants none, of a card that is gone, and of a lost PIN.
        (pkcs11.UserNotLoggedIn, replace(BLINKING, touch="never"), DeviceGoneError),
        (pkcs11.DeviceError, replace(BLINKING, touch="never"), DeviceGoneError),
        (pkcs11.UserNotLoggedIn, replace(BLINKING, present=False), DeviceGoneError),
        (pkcs11.DeviceError, replace(BLINKING, present=False), DeviceGoneError),
        (pkcs11.UserNotLoggedIn, replace(BLINKING, pin_is_proven=False), DeviceGoneError),
        # Nobody tells the policy or the PIN: time tells.
        (pkcs11.UserNotLoggedIn, replace(BLINKING, touch="unknown"), DeadlineError),
        (pkcs11.DeviceError, replace(BLINKING, touch="unknown"), TouchRefusedError),
        (pkcs11.UserNotLoggedIn, replace(BLINKING, pin_is_proven=None), DeadlineError),
        (
            pkcs11.UserNotLoggedIn,
            replace(BLINKING, touch="unknown", pin_is_proven=None, took_s=0.1),
            DeviceGoneError,
        ),
        (pkcs11.DeviceError, replace(BLINKING, touch="unknown", took_s=0.1), DeviceGoneError),
        # No code that means something else becomes a touch.
        (pkcs11.PinIncorrect, BLINKING, PinRefusedError),
        (pkcs11.MechanismInvalid, BLINKING, MechanismMissingError),
        (pkcs11.ObjectHandleInvalid, BLINKING, TokenObjectError),
    ],
)
def test_the_table_reads_the_situation_of_a_token_that_may_blink(
    raised: type[pkcs11.PKCS11Error], situation: Situation, expected: type[KeydError]
) -> None:
    error = translate(raised(), "yubi", "signing", situation)

    assert type(error) is expected
    assert error.facts["serial"] == "1234567"
    # A touch that did not come is not asked for again by whoever retries.
    assert (error.retry_after_s is not None) == (expected is DeviceGoneError)


@pytest.mark.parametrize(
    ("left", "said"), [(2, "PIN, 2 tries are left"), (1, "PIN, 1 try is left"), (None, "PIN (CKR")]
)
def test_a_refused_pin_says_how_many_tries_are_left(left: int | None, said: str) -> None:
    error = translate(pkcs11.PinIncorrect(), "yubi", "logging in", Situation(tries_left=left))

    assert said in error.message
