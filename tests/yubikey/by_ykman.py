"""What a person does with ykman on a YubiKey that keyd has set up, inside a worker: the management
key lies behind the PIN."""

from __future__ import annotations

from ykman.piv import get_pivman_protected_data
from yubikit.piv import KEY_TYPE, OBJECT_ID, PIN_POLICY, SLOT, TOUCH_POLICY, PivSession

from tests.yubikey.by_yubikit import _piv


def generate(serial: int, pin: str, slot: int) -> None:
    """Make a P-256 key there, without a certificate."""
    with _piv(serial) as session:
        _authenticate(session, pin)
        session.generate_key(SLOT(slot), KEY_TYPE.ECCP256, PIN_POLICY.ONCE, TOUCH_POLICY.NEVER)


def damage_certificate(serial: int, pin: str, slot: int) -> None:
    """Write something into its place that is none."""
    with _piv(serial) as session:
        _authenticate(session, pin)
        session.put_object(OBJECT_ID.from_slot(SLOT(slot)), bytes.fromhex("7003deadbe710100fe00"))


def _authenticate(session: PivSession, pin: str) -> None:
    session.verify_pin(pin)
    key = get_pivman_protected_data(session).key
    assert key is not None
    session.authenticate(key)
