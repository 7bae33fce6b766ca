"""The private keys of a card: made, imported, moved, deleted, used."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.yubikey import attestation, crypto
from tests.yubikey.apdu import CardError, Sw, parse_tlvs, tlv
from tests.yubikey.crypto import KeyKind
from tests.yubikey.model import (
    ATTESTATION_SLOT,
    KEY_SLOTS,
    Model,
    Origin,
    PinPolicy,
    TouchPolicy,
    default_pin_policy,
)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key as it lies in a slot; policies are resolved, never DEFAULT."""

    kind: KeyKind
    key: crypto.PrivateKey
    pin: PinPolicy
    touch: TouchPolicy
    origin: Origin


class KeyStore:
    """Slots and their keys. The attestation key is there from the start and survives a reset."""

    def __init__(self, model: Model, maker: attestation.Maker) -> None:
        self._model = model
        # Both kinds of chain have to be verified by somebody.
        kind = KeyKind.P384 if model.is_5_7 else KeyKind.RSA_2048
        key = crypto.generate(kind)
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        self.attestation_certificate: x509.Certificate = maker.certify(model, key)
        self._attestation = StoredKey(
            kind, key, PinPolicy.NEVER, TouchPolicy.NEVER, Origin.GENERATED
        )
        self._attester = (key, self.attestation_certificate)
        self.slots: dict[int, StoredKey] = {}
        self.reset()

    def reset(self) -> None:
        """No keys but the attestation key."""
        self.slots = {ATTESTATION_SLOT: self._attestation}

    def find(self, slot: int) -> StoredKey | None:
        """The slot's key."""
        return self.slots.get(slot)

    async def generate(self, slot: int, template: bytes) -> bytes:
        """GENERATE ASYMMETRIC KEY PAIR; whatever lay there is gone. The public key template."""
        order = parse_tlvs(parse_tlvs(template).get(0xAC, b""))
        kind = self._kind(int.from_bytes(order.get(0x80, b""), "big"))
        pin, touch = self._policies(slot, order)
        # Off the event loop: an RSA key takes long, and the test goes on meanwhile.
        key = await asyncio.to_thread(crypto.generate, kind)
        self.slots[slot] = StoredKey(kind, key, pin, touch, Origin.GENERATED)
        return tlv(0x7F49, crypto.public_template(key))

    def take_in(self, slot: int, algorithm: int, data: bytes) -> None:
        """IMPORT ASYMMETRIC KEY."""
        kind = self._kind(algorithm)
        pin, touch = self._policies(slot, parse_tlvs(data))
        self.slots[slot] = StoredKey(kind, crypto.imported(kind, data), pin, touch, Origin.IMPORTED)

    def move(self, source: int, target: int) -> None:
        """MOVE KEY, or delete it where the target is FF.

        Raises:
            CardError: nothing there to move, or something where it should go.
        """
        if source not in KEY_SLOTS or (target != 0xFF and target not in KEY_SLOTS):
            raise CardError(Sw.WRONG_P1P2)
        if source not in self.slots:
            raise CardError(Sw.NO_REFERENCE)
        if target in self.slots:
            raise CardError(Sw.WRONG_DATA)
        key = self.slots.pop(source)
        if target != 0xFF:
            self.slots[target] = key

    def attest(self, slot: int) -> bytes:
        """ATTEST: DER of the certificate.

        Raises:
            CardError: no key, or one that was made elsewhere.
        """
        stored = self.slots.get(slot)
        if stored is None or stored.origin is not Origin.GENERATED or slot == ATTESTATION_SLOT:
            raise CardError(Sw.WRONG_DATA)
        return attestation.attest(
            self._model, slot, stored.key, (stored.pin, stored.touch), self._attester
        )

    def _kind(self, algorithm: int) -> KeyKind:
        try:
            kind = KeyKind(algorithm)
        except ValueError:
            raise CardError(Sw.WRONG_DATA) from None
        if kind in crypto.SINCE_5_7 and not self._model.is_5_7:
            raise CardError(Sw.WRONG_DATA)
        return kind

    def _policies(self, slot: int, order: dict[int, bytes]) -> tuple[PinPolicy, TouchPolicy]:
        if slot not in KEY_SLOTS:
            raise CardError(Sw.WRONG_P1P2)
        try:
            pin = PinPolicy(int.from_bytes(order.get(0xAA, b""), "big"))
            touch = TouchPolicy(int.from_bytes(order.get(0xAB, b""), "big"))
        except ValueError:
            raise CardError(Sw.WRONG_DATA) from None
        return pin or default_pin_policy(slot), touch or TouchPolicy.NEVER
