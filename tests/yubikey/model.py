"""What a YubiKey is: its identity, the names of its slots, policies and objects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

FIRMWARE_5_4 = (5, 4, 3)
FIRMWARE_5_7 = (5, 7, 1)

FACTORY_PIN = "123456"
FACTORY_PUK = "12345678"
FACTORY_MANAGEMENT_KEY = bytes.fromhex("010203040506070801020304050607080102030405060708")
FACTORY_TRIES = 3


class FormFactor(IntEnum):
    """As DeviceInfo and attestations number them."""

    USB_A_KEYCHAIN = 1
    USB_A_NANO = 2
    USB_C_KEYCHAIN = 3
    USB_C_NANO = 4


class PinPolicy(IntEnum):
    """When a key wants the PIN. DEFAULT is replaced at generation by the slot's own."""

    DEFAULT = 0
    NEVER = 1
    ONCE = 2
    ALWAYS = 3


class TouchPolicy(IntEnum):
    """When a key wants a touch; CACHED: not again within 15 seconds."""

    DEFAULT = 0
    NEVER = 1
    ALWAYS = 2
    CACHED = 3


class Origin(IntEnum):
    """Where a private key was made."""

    GENERATED = 1
    IMPORTED = 2


ATTESTATION_SLOT = 0xF9
SIGNATURE_SLOT = 0x9C
CARD_AUTHENTICATION_SLOT = 0x9E
RETIRED_SLOTS = tuple(range(0x82, 0x96))
KEY_SLOTS = (0x9A, SIGNATURE_SLOT, 0x9D, CARD_AUTHENTICATION_SLOT, *RETIRED_SLOTS)

PIN_REFERENCE = 0x80
PUK_REFERENCE = 0x81
MANAGEMENT_REFERENCE = 0x9B
FINGERPRINT_REFERENCE = 0x96

ATTESTATION_CERTIFICATE = 0x5FFF01
DISCOVERY_OBJECT = 0x7E
PIN_PROTECTED_OBJECTS = frozenset({0x5FC103, 0x5FC108, 0x5FC109, 0x5FC121})
"""Fingerprints, face, printed information and iris: read only after the PIN (SP 800-73-4)."""


def default_pin_policy(slot: int) -> PinPolicy:
    """What DEFAULT means in this slot."""
    if slot == SIGNATURE_SLOT:
        return PinPolicy.ALWAYS
    return PinPolicy.NEVER if slot == CARD_AUTHENTICATION_SLOT else PinPolicy.ONCE


@dataclass(frozen=True, slots=True)
class Model:
    """Which YubiKey it is; the serial is printed on it."""

    serial: int
    firmware: tuple[int, int, int] = FIRMWARE_5_4
    form_factor: FormFactor = FormFactor.USB_A_KEYCHAIN

    @property
    def is_5_7(self) -> bool:
        """It has RSA 3072/4096, Ed25519, an AES management key, MOVE KEY."""
        return self.firmware >= (5, 7, 0)
