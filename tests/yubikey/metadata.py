"""GET METADATA (firmware 5.3 and newer): what a card tells of its keys and secrets."""

from __future__ import annotations

from tests.yubikey.apdu import CardError, Sw, tlv
from tests.yubikey.crypto import public_template
from tests.yubikey.keys import KeyStore
from tests.yubikey.model import MANAGEMENT_REFERENCE, PIN_REFERENCE, PUK_REFERENCE
from tests.yubikey.references import ManagementKey, Reference

_ALGORITHM, _POLICY, _ORIGIN, _PUBLIC, _IS_FACTORY, _TRIES = range(1, 7)
_PIN_ALGORITHM = 0xFF


def metadata(
    what: int, keys: KeyStore, pin: Reference, puk: Reference, management: ManagementKey
) -> bytes:
    """The answer for a slot, the PIN (80), the PUK (81) or the management key (9B).

    Raises:
        CardError: there is nothing.
    """
    if what in (PIN_REFERENCE, PUK_REFERENCE):
        reference = pin if what == PIN_REFERENCE else puk
        return (
            tlv(_ALGORITHM, bytes((_PIN_ALGORITHM,)))
            + tlv(_IS_FACTORY, bytes((reference.is_factory,)))
            + tlv(_TRIES, bytes((reference.total, reference.left)))
        )
    if what == MANAGEMENT_REFERENCE:
        return (
            tlv(_ALGORITHM, bytes((management.cipher,)))
            + tlv(_POLICY, bytes((0, management.touch)))
            + tlv(_IS_FACTORY, bytes((management.is_factory,)))
        )
    stored = keys.find(what)
    if stored is None:
        raise CardError(Sw.NO_REFERENCE)
    return (
        tlv(_ALGORITHM, bytes((stored.kind,)))
        + tlv(_POLICY, bytes((stored.pin, stored.touch)))
        + tlv(_ORIGIN, bytes((stored.origin,)))
        + tlv(_PUBLIC, public_template(stored.key))
    )
