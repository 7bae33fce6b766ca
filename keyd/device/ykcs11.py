"""What libykcs11 does otherwise than other modules. Host side; its versions as in Debian 12 (2.2.0)
and newer, from its source and its NEWS."""

from __future__ import annotations

from dataclasses import dataclass

import pkcs11
from pkcs11 import Mechanism

from keyd.errors import MechanismMissingError
from keyd.model import KeyAlgorithm

ATTESTATION_ID = b"\x19"
"""CKA_ID of slot F9, whose key signs attestations and nothing else."""

_SLOTS = (0x9A, 0x9C, 0x9D, 0x9E, *range(0x82, 0x96))
"""PIV slots in the order of their CKA_ID, which counts from 1."""

_SINCE = {
    KeyAlgorithm.ED25519: "2.6.0",
    KeyAlgorithm.RSA_3072: "2.5.0",
    KeyAlgorithm.RSA_4096: "2.5.0",
}
"""The first libykcs11 that signs with them."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a key wants. ``pin``: never, once, always or unknown. ``touch``: never, always, cached
    or unknown. ``is_there``: False when the card says that the slot is empty."""

    pin: str = "unknown"
    touch: str = "unknown"
    is_there: bool = True


def is_yubikey(token: pkcs11.Token) -> bool:
    """True for tokens of this module."""
    return str(token.manufacturer_id).startswith("Yubico")


def slot_of(object_id: bytes) -> int | None:
    """The PIV slot behind a CKA_ID; None for the attestation key and what is no slot."""
    number = int.from_bytes(object_id, "big")
    return _SLOTS[number - 1] if len(object_id) == 1 and 1 <= number <= len(_SLOTS) else None


def version(pair: tuple[int, int]) -> str:
    """``5.4.3`` from the CK_VERSION (5, 43): its minor number holds minor and patch."""
    major, minor = pair
    return f"{major}.{minor // 10}.{minor % 10}"


def check_can_sign(
    slot: pkcs11.Slot, algorithm: KeyAlgorithm, token: str, library_version: tuple[int, int]
) -> None:
    """Refuse kinds of keys that the card has and this libykcs11 does not know: it lists them, and
    fails with errors that look like a pulled card.

    Raises:
        MechanismMissingError: with the version that can.
    """
    since = _SINCE.get(algorithm)
    if since is None:
        return
    known = slot.get_mechanisms()
    if algorithm is KeyAlgorithm.ED25519:
        can = Mechanism.EDDSA in known
    else:
        largest = slot.get_mechanism_info(Mechanism.RSA_PKCS).max_key_length or 0
        can = largest >= int(algorithm.value.removeprefix("rsa-"))
    if not can:
        raise MechanismMissingError(
            f"token {token}: libykcs11 {version(library_version)} cannot sign with {algorithm} "
            f"keys, version {since} and newer can",
            hint=f"install libykcs11 {since} or newer, or use a key of ecdsa-p256 or ecdsa-p384",
            token=token,
            algorithm=algorithm,
            needs=since,
        )


def no_generation(token: str) -> MechanismMissingError:
    """Why keys are not made through this module: it takes the management key as the SO PIN, knows
    no policies, and writes over what lies in the slot."""
    return MechanismMissingError(
        f"token {token} is a YubiKey: its keys are made in a slot you name, with a touch policy",
        hint=f"keydctl key create NAME --token {token} --slot 9c --touch always; "
        "the slots that are free: keydctl yubikey list",
        token=token,
    )


def no_destruction(token: str) -> MechanismMissingError:
    """Why keys are not destroyed through this module."""
    return MechanismMissingError(
        f"token {token} is a YubiKey: libykcs11 destroys keys for the holder of the management "
        "key only, and keyd does not keep that",
        hint="firmware 5.7 and newer: ykman piv keys delete SLOT; older ones: ykman piv reset, "
        "which destroys every key on it",
        token=token,
    )
