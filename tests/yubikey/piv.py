"""The PIV applet (NIST SP 800-73-4, part 2) with Yubico's instructions.

The instructions beyond the standard are as yubikit/piv.py and libykpiv send them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.serialization import Encoding

from tests.yubikey import crypto
from tests.yubikey.apdu import CardError, Command, Sw, parse_tlvs, tlv
from tests.yubikey.attestation import Maker
from tests.yubikey.keys import KeyStore, StoredKey
from tests.yubikey.metadata import metadata
from tests.yubikey.model import (
    ATTESTATION_CERTIFICATE,
    DISCOVERY_OBJECT,
    FACTORY_PIN,
    FACTORY_PUK,
    MANAGEMENT_REFERENCE,
    PIN_PROTECTED_OBJECTS,
    PIN_REFERENCE,
    PUK_REFERENCE,
    Model,
    PinPolicy,
)
from tests.yubikey.references import PIN_BYTES, ManagementKey, Reference
from tests.yubikey.touch import TouchContact

AID = bytes.fromhex("a000000308")
_SELECTED = bytes.fromhex("61114f0600001000010079074f05a000000308")
_DISCOVERY = bytes.fromhex("7e124f0ba0000003080000100001005f2f024000")
_MOST_OBJECT_BYTES = 3072


class PivApplet:
    """All that stays on the card, and what was proven since it was selected.

    ``key_s``: how long a private-key operation takes besides its computation.
    ``signatures`` counts the private-key operations that were done.
    """

    def __init__(self, model: Model, maker: Maker, contact: TouchContact) -> None:
        self._model = model
        self._contact = contact
        self.keys = KeyStore(model, maker)
        self.pin = Reference(FACTORY_PIN)
        self.puk = Reference(FACTORY_PUK)
        self.management = ManagementKey(model)
        self.key_s = 0.0
        self.signatures = 0
        self._pin_proven = False
        self._pin_fresh = False
        self._objects: dict[int, bytes] = {}
        self._instructions: dict[int, Callable[[Command], Awaitable[bytes] | bytes]] = {
            0x20: self._verify,
            0x24: self._change_reference,
            0x2C: self._reset_retry,
            0x47: self._generate,
            0x87: self._general_authenticate,
            0xCB: self._get_data,
            0xDB: self._put_data,
            0xF7: self._metadata,
            0xF8: lambda _: model.serial.to_bytes(4, "big"),
            0xF9: lambda command: self.keys.attest(command.p1),
            0xFA: self._set_tries,
            0xFB: self._reset,
            0xFD: lambda _: bytes(model.firmware),
            0xFE: self._import,
            0xFF: self._set_management_key,
        }
        if model.is_5_7:
            self._instructions[0xF6] = self._move
        self.factory_reset()

    def factory_reset(self) -> None:
        """Keys, objects and secrets are as at the factory; the attestation key stays."""
        self.keys.reset()
        self.pin.reset()
        self.puk.reset()
        self.management.reset()
        certificate = self.keys.attestation_certificate.public_bytes(Encoding.DER)
        self._objects = {
            ATTESTATION_CERTIFICATE: tlv(0x70, certificate) + tlv(0x71, b"\0") + tlv(0xFE)
        }
        self.deselect()

    def deselect(self) -> None:
        """Nothing is proven any more."""
        self._pin_proven = self._pin_fresh = False
        self.management.forget()

    def select(self) -> bytes:
        """The answer to SELECT."""
        self.deselect()
        return _SELECTED

    async def answer(self, command: Command) -> bytes:
        """One command.

        Raises:
            CardError: it was not done.
        """
        instruction = self._instructions.get(command.ins)
        if instruction is None:
            raise CardError(Sw.NO_SUCH_INSTRUCTION)
        result = instruction(command)
        return result if isinstance(result, bytes) else await result

    # -- PIN and PUK ---------------------------------------------------------------------

    def _verify(self, command: Command) -> bytes:
        if command.p2 != PIN_REFERENCE:
            raise CardError(Sw.NO_REFERENCE)
        if command.p1 == 0xFF and not command.data:
            self._pin_proven = self._pin_fresh = False
            return b""
        if command.p1:
            raise CardError(Sw.WRONG_P1P2)
        if not command.data:
            if not self._pin_proven:
                raise CardError(self.pin.status())
            return b""
        self._pin_proven = self._pin_fresh = False
        self.pin.check(command.data)
        self._pin_proven = self._pin_fresh = True
        return b""

    def _change_reference(self, command: Command) -> bytes:
        references = {PIN_REFERENCE: self.pin, PUK_REFERENCE: self.puk}
        reference = references.get(command.p2)
        if reference is None:
            raise CardError(Sw.NO_REFERENCE)
        reference.check(command.data[:PIN_BYTES])
        reference.change(command.data[PIN_BYTES:])
        return b""

    def _reset_retry(self, command: Command) -> bytes:
        if command.p2 != PIN_REFERENCE:
            raise CardError(Sw.NO_REFERENCE)
        self.puk.check(command.data[:PIN_BYTES])
        self.pin.change(command.data[PIN_BYTES:])
        return b""

    def _set_tries(self, command: Command) -> bytes:
        self._require_management()
        if not self._pin_proven:
            raise CardError(Sw.SECURITY_NOT_SATISFIED)
        if not command.p1 or not command.p2:
            raise CardError(Sw.WRONG_P1P2)
        self.pin.reset(command.p1)
        self.puk.reset(command.p2)
        return b""

    def _reset(self, command: Command) -> bytes:
        if self.pin.left or self.puk.left:
            raise CardError(Sw.CONDITIONS_NOT_SATISFIED)
        self.factory_reset()
        return b""

    # -- keys ----------------------------------------------------------------------------

    def _require_management(self) -> None:
        if not self.management.proven:
            raise CardError(Sw.SECURITY_NOT_SATISFIED)

    async def _generate(self, command: Command) -> bytes:
        self._require_management()
        await asyncio.sleep(self.key_s)
        return await self.keys.generate(command.p2, command.data)

    def _import(self, command: Command) -> bytes:
        self._require_management()
        self.keys.take_in(command.p2, command.p1, command.data)
        return b""

    def _move(self, command: Command) -> bytes:
        self._require_management()
        self.keys.move(command.p2, command.p1)
        return b""

    def _set_management_key(self, command: Command) -> bytes:
        self._require_management()
        if command.p1 != 0xFF or command.p2 not in (0xFF, 0xFE):
            raise CardError(Sw.WRONG_P1P2)
        self.management.change(command.data, touch=command.p2 == 0xFE)
        return b""

    async def _general_authenticate(self, command: Command) -> bytes:
        template = parse_tlvs(command.data).get(0x7C)
        if template is None:
            raise CardError(Sw.WRONG_DATA)
        if command.p2 == MANAGEMENT_REFERENCE:
            answer = self.management.authenticate(command.p1, template)
            if self.management.proven:
                self.management.proven = False
                await self._contact.require(self.management.touch)
                self.management.proven = True
            return tlv(0x7C, answer) if answer else b""
        stored = self.keys.find(command.p2)
        if stored is None or stored.kind != command.p1:
            raise CardError(Sw.WRONG_DATA)
        return tlv(0x7C, tlv(0x82, await self._use(stored, parse_tlvs(template))))

    async def _use(self, stored: StoredKey, order: dict[int, bytes]) -> bytes:
        """One private-key operation, if the key's policies are met."""
        if stored.pin is PinPolicy.ONCE and not self._pin_proven:
            raise CardError(Sw.SECURITY_NOT_SATISFIED)
        if stored.pin is PinPolicy.ALWAYS and not self._pin_fresh:
            raise CardError(Sw.SECURITY_NOT_SATISFIED)
        self._pin_fresh = False
        await self._contact.require(stored.touch)
        await asyncio.sleep(self.key_s)
        if 0x81 in order:
            made = crypto.sign(stored.kind, stored.key, order[0x81])
        elif 0x85 in order:
            made = crypto.agree(stored.kind, stored.key, order[0x85])
        else:
            raise CardError(Sw.WRONG_DATA)
        self.signatures += 1
        return made

    def _metadata(self, command: Command) -> bytes:
        return metadata(command.p2, self.keys, self.pin, self.puk, self.management)

    # -- data objects --------------------------------------------------------------------

    def _get_data(self, command: Command) -> bytes:
        wanted = int.from_bytes(parse_tlvs(command.data).get(0x5C, b""), "big")
        if wanted == DISCOVERY_OBJECT:
            return _DISCOVERY
        if wanted in PIN_PROTECTED_OBJECTS and not self._pin_proven:
            raise CardError(Sw.SECURITY_NOT_SATISFIED)
        if wanted not in self._objects:
            raise CardError(Sw.NOT_FOUND)
        return tlv(0x53, self._objects[wanted])

    def _put_data(self, command: Command) -> bytes:
        self._require_management()
        parts = parse_tlvs(command.data)
        name, value = int.from_bytes(parts.get(0x5C, b""), "big"), parts.get(0x53)
        if not name or value is None or len(value) > _MOST_OBJECT_BYTES:
            raise CardError(Sw.WRONG_DATA)
        if value:
            self._objects[name] = value
        else:
            self._objects.pop(name, None)
        return b""
