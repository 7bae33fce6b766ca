"""A YubiKey as it comes from the factory gets secrets of its own. Host side.

It may be pulled, and this process may be killed, after each command. So nothing is in force that is
not kept somewhere: the new management key is written behind the PIN before it is set, and the
factory's PIN goes last; until then all of it can be repeated.
"""

from __future__ import annotations

from ykman.piv import (
    OBJECT_ID_PIVMAN_DATA,
    OBJECT_ID_PIVMAN_PROTECTED_DATA,
    generate_random_management_key,
    get_pivman_data,
    get_pivman_protected_data,
)
from yubikit.core import InvalidPinError, NotSupportedError
from yubikit.core.smartcard import SW, ApduError
from yubikit.piv import DEFAULT_MANAGEMENT_KEY, MANAGEMENT_KEY_TYPE, PivSession

FACTORY_PIN, FACTORY_PUK = "123456", "12345678"
"""Used once each, and only by an init that a person asked for as such."""

_AES_SINCE = (5, 4, 2)


def set_up(piv: PivSession, pin: str, puk: str) -> list[str] | None:
    """Set these, and a random management key that lies behind the PIN: what was left as it was, in
    words. None where the management key is neither the factory's nor behind the PIN; then nothing
    is changed.

    Raises:
        InvalidPinError: the PIN is not the factory's.
        ApduError: the card refused.
    """
    piv.verify_pin(FACTORY_PIN)
    stored = get_pivman_protected_data(piv).key
    # One that is kept already is what an init set that was cut short. Another one over it would
    # be kept before it is set, and then the card could lose both.
    is_kept = stored not in (None, DEFAULT_MANAGEMENT_KEY) and opens(piv, stored)
    if not is_kept:
        if not opens(piv, DEFAULT_MANAGEMENT_KEY):
            return None
        _set_random_management_key(piv)
    notes = _set_puk(piv, puk)
    piv.change_pin(FACTORY_PIN, pin)
    return notes


def opens(piv: PivSession, management_key: bytes) -> bool:
    """Whether it is the card's management key; then it is authenticated. Nothing counts tries."""
    if len(management_key) != piv.management_key_type.key_len:
        return False
    try:
        piv.authenticate(management_key)
    except ApduError as error:
        if error.sw != SW.SECURITY_CONDITION_NOT_SATISFIED:
            raise
        return False
    return True


def _set_random_management_key(piv: PivSession) -> None:
    kind = piv.management_key_type
    if kind is MANAGEMENT_KEY_TYPE.TDES and piv.version >= _AES_SINCE:
        kind = MANAGEMENT_KEY_TYPE.AES192
    key = generate_random_management_key(kind)
    # Not ykman's own pivman_set_mgm_key(): it keeps the key only when it is in force already.
    protected, told = get_pivman_protected_data(piv), get_pivman_data(piv)
    protected.key, told.salt, told.mgm_key_protected = key, None, True
    piv.put_object(OBJECT_ID_PIVMAN_PROTECTED_DATA, protected.get_bytes())
    piv.put_object(OBJECT_ID_PIVMAN_DATA, told.get_bytes())
    piv.set_management_key(kind, key)


def _set_puk(piv: PivSession, puk: str) -> list[str]:
    try:
        is_factory = bool(piv.get_puk_metadata().default_value)
    except NotSupportedError:
        is_factory = True  # firmware before 5.3 does not tell: tried, once
    try:
        if is_factory:
            piv.change_puk(FACTORY_PUK, puk)
            return []
    except InvalidPinError:
        pass
    return [
        "the PUK was not the factory's any more, from an init that was cut short or by somebody "
        "else, and is left as it was"
    ]
