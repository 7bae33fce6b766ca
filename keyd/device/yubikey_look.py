"""What lies on a YubiKey, read with yubikit. Host side; nothing is proven and nothing changed."""

from __future__ import annotations

import contextlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ykman.pcsc import ScardSmartCardConnection
from ykman.piv import get_pivman_data
from yubikit.core import BadResponseError, NotSupportedError
from yubikit.core.smartcard import SW, ApduError
from yubikit.management import ManagementSession
from yubikit.piv import KEY_TYPE, SLOT, PivSession

from keyd.device.v1 import device_pb2 as pb
from keyd.model import SLOTS, KeyAlgorithm

KINDS = {
    KeyAlgorithm.ECDSA_P256: KEY_TYPE.ECCP256,
    KeyAlgorithm.ECDSA_P384: KEY_TYPE.ECCP384,
    KeyAlgorithm.ED25519: KEY_TYPE.ED25519,
    KeyAlgorithm.RSA_2048: KEY_TYPE.RSA2048,
    KeyAlgorithm.RSA_3072: KEY_TYPE.RSA3072,
    KeyAlgorithm.RSA_4096: KEY_TYPE.RSA4096,
}
_NAMES = {kind: algorithm.value for algorithm, kind in KINDS.items()}
_NOTHING_THERE = (SW.REFERENCE_DATA_NOT_FOUND, SW.FILE_NOT_FOUND)


def look(connection: ScardSmartCardConnection, serial: str) -> pb.YubiKeyState:
    """All that shows without a PIN. ``serial``: decimal."""
    info = ManagementSession(connection).read_device_info()
    piv = PivSession(connection)
    state = pb.YubiKeyState(
        serial=serial,
        firmware=str(info.version),
        form_factor=str(info.form_factor),
        management_protected=get_pivman_data(piv).has_stored_key,
    )
    try:
        pin, puk = piv.get_pin_metadata(), piv.get_puk_metadata()
        management = piv.get_management_key_metadata()
    except NotSupportedError:
        state.pin_tries = piv.get_pin_attempts()
    else:
        state.pin_tries, state.pin_tries_of = pin.attempts_remaining, pin.total_attempts
        state.puk_tries, state.puk_tries_of = puk.attempts_remaining, puk.total_attempts
        state.management_algorithm = management.key_type.name
        known = ("pin", pin), ("puk", puk), ("management-key", management)
        state.factory.extend(name for name, found in known if found.default_value)
    state.slots.extend(found for slot in SLOTS if (found := slot_content(piv, SLOT(slot.number))))
    return state


def slot_content(piv: PivSession, slot: SLOT) -> pb.YubiKeySlot | None:
    """What lies there; None where nothing does. Before firmware 5.3 only a certificate shows, and
    a slot that attests."""
    found = pb.YubiKeySlot(slot=slot)
    # One that is damaged hides neither its key nor the other slots.
    with contextlib.suppress(ApduError, BadResponseError, ValueError):
        found.certificate = piv.get_certificate(slot).public_bytes(Encoding.DER)
    try:
        facts = piv.get_slot_metadata(slot)
    except NotSupportedError:
        with contextlib.suppress(ApduError):
            piv.attest_key(slot)
            found.origin = "generated"
        return found if found.certificate or found.origin else None
    except ApduError as error:
        if error.sw not in _NOTHING_THERE:
            raise
        return found if found.certificate else None
    found.algorithm = _NAMES.get(facts.key_type, facts.key_type.name)
    found.pin_policy = facts.pin_policy.name.lower()
    found.touch_policy = facts.touch_policy.name.lower()
    found.origin = "generated" if facts.generated else "imported"
    found.public_key = facts.public_key.public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return found
