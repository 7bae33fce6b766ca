"""One YubiKey: its applets behind one contact, whatever reader it is in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.yubikey.apdu import ApduLayer, CardError, Command, Sw, tlv
from tests.yubikey.attestation import Maker
from tests.yubikey.model import Model
from tests.yubikey.pause import Pause
from tests.yubikey.piv import AID as PIV_AID
from tests.yubikey.piv import PivApplet
from tests.yubikey.touch import TouchContact

ATR = bytes.fromhex("3bfd1300008131fe158073c021c057597562694b657940")
"""A YubiKey 5's answer to reset, T=1."""

_MANAGEMENT_AID = bytes.fromhex("a000000527471117")
_OTP_AID = bytes.fromhex("a0000005272001")
_SELECT = 0xA4
_READ_CONFIG = 0x1D
_OTP_REQUEST = 0x01
_OTP_SERIAL = 0x10
_CAPABILITIES = 0x033F
"""OTP, U2F, OpenPGP, PIV, OATH, YubiHSM Auth, FIDO2, and CCID in general."""


@dataclass(slots=True)
class Latency:
    """Seconds that a real card takes: for each command, and for a private-key operation."""

    command_s: float = 0.0
    key_s: float = 0.0


class Card:
    """Answers APDUs. ``instructions`` counts what arrived, by instruction byte."""

    def __init__(self, model: Model, maker: Maker) -> None:
        self.model = model
        self.contact = TouchContact()
        self.piv = PivApplet(model, maker, self.contact)
        self.latency = Latency()
        self.pause = Pause()
        self.instructions: dict[int, int] = {}
        self._selected = b""
        self._apdus = ApduLayer(self._answer)

    def reset(self) -> None:
        """The reader reset the card, or cut and gave power."""
        self.piv.deselect()
        self._selected = b""
        self._apdus.reset()

    def unplug(self) -> None:
        """Pulled out: what lives in memory is lost."""
        self.reset()
        self.contact.forget()

    def set_latency(self, latency: Latency) -> None:
        """From now on it takes this long."""
        self.latency = latency
        self.piv.key_s = latency.key_s

    async def transmit(self, raw: bytes) -> bytes:
        """The response to one APDU, after the time it takes."""
        if self.latency.command_s:
            await asyncio.sleep(self.latency.command_s)
        return await self._apdus.transmit(raw)

    async def _answer(self, command: Command) -> bytes:
        self.instructions[command.ins] = self.instructions.get(command.ins, 0) + 1
        await self.pause.before(command)
        answer = await self._carry_out(command)
        await self.pause.after(command)
        return answer

    async def _carry_out(self, command: Command) -> bytes:
        if command.ins == _SELECT:
            return self._select(command)
        if self._selected == PIV_AID:
            return await self.piv.answer(command)
        if self._selected == _MANAGEMENT_AID and command.ins == _READ_CONFIG:
            return self._device_info(command.p1)
        if self._selected == _OTP_AID and (command.ins, command.p1) == (_OTP_REQUEST, _OTP_SERIAL):
            return self.model.serial.to_bytes(4, "big")
        raise CardError(Sw.NO_SUCH_INSTRUCTION)

    def _select(self, command: Command) -> bytes:
        if command.p1 != 0x04:
            raise CardError(Sw.NOT_FOUND)
        for aid in (PIV_AID, _MANAGEMENT_AID, _OTP_AID):
            if command.data.startswith(aid):
                break
        else:
            raise CardError(Sw.NOT_FOUND)
        self.piv.deselect()
        self._selected = aid
        if aid == PIV_AID:
            return self.piv.select()
        if aid == _MANAGEMENT_AID:
            return b"Virtual mgr - FW version " + self._version.encode()
        # The OTP applet's status: version, sequence, touch level; nothing is programmed.
        return bytes(self.model.firmware) + b"\0\0\0"

    @property
    def _version(self) -> str:
        return ".".join(str(part) for part in self.model.firmware)

    def _device_info(self, page: int) -> bytes:
        """READ CONFIG: the tags of yubikit.management.DeviceInfo."""
        if page:
            raise CardError(Sw.NO_REFERENCE)
        info = (
            tlv(0x01, _CAPABILITIES.to_bytes(2, "big"))
            + tlv(0x02, self.model.serial.to_bytes(4, "big"))
            + tlv(0x03, _CAPABILITIES.to_bytes(2, "big"))
            + tlv(0x04, bytes((self.model.form_factor,)))
            + tlv(0x05, bytes(self.model.firmware))
            + tlv(0x06, b"\0\0")
            + tlv(0x07, b"\x0f")
            + tlv(0x08, b"\0")
            + tlv(0x0A, b"\0")
        )
        return bytes((len(info),)) + info
