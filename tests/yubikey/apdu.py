"""ISO 7816-4 as a YubiKey speaks it: commands, status words, BER-TLV, both kinds of chaining."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

_SHORT_LE = 256
_EXTENDED_LE = 65536
_CHAINED = 0x10
_GET_RESPONSE = 0xC0
_MOST_CHAINED_BYTES = 8192


class Sw(IntEnum):
    """Status words (ISO 7816-4, 5.1.3) with the meaning YubiKeys give them."""

    OK = 0x9000
    MORE_DATA = 0x6100
    WRONG_PIN = 0x63C0
    """Plus the tries that are left."""
    WRONG_LENGTH = 0x6700
    SECURITY_NOT_SATISFIED = 0x6982
    """No PIN, no management key, or nobody touched in time."""
    BLOCKED = 0x6983
    CONDITIONS_NOT_SATISFIED = 0x6985
    WRONG_DATA = 0x6A80
    NOT_FOUND = 0x6A82
    NO_REFERENCE = 0x6A88
    WRONG_P1P2 = 0x6B00
    NO_SUCH_INSTRUCTION = 0x6D00
    NO_SUCH_CLASS = 0x6E00


class CardError(Exception):
    """The card answers with a status word other than 9000."""

    def __init__(self, sw: int) -> None:
        super().__init__(f"{sw:04x}")
        self.sw = int(sw)


@dataclass(frozen=True, slots=True)
class Command:
    """One command, put together from its chained parts. ``le``: bytes the answer may have."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes
    le: int


def parse_command(raw: bytes) -> Command:
    """Short and extended form.

    Raises:
        CardError: the lengths do not fit.
    """
    if len(raw) < 4:
        raise CardError(Sw.WRONG_LENGTH)
    cla, ins, p1, p2, *_ = raw
    body = raw[4:]
    if len(body) <= 1:
        return Command(cla, ins, p1, p2, b"", (body[0] if body else 0) or _SHORT_LE)
    if body[0]:
        size, rest, le_bytes, most = body[0], body[1:], 1, _SHORT_LE
    elif len(body) == 3:
        le = int.from_bytes(body[1:], "big") or _EXTENDED_LE
        return Command(cla, ins, p1, p2, b"", le)
    else:
        size, rest = int.from_bytes(body[1:3], "big"), body[3:]
        le_bytes, most = 2, _EXTENDED_LE
    data, wanted = rest[:size], rest[size:]
    if len(data) != size or len(wanted) not in (0, le_bytes):
        raise CardError(Sw.WRONG_LENGTH)
    return Command(cla, ins, p1, p2, data, int.from_bytes(wanted, "big") or most)


class ApduLayer:
    """Raw bytes in, raw bytes out; ``answer`` sees whole commands only.

    A command comes in parts of class 10; an answer longer than Le goes out in parts that GET
    RESPONSE asks for.
    """

    def __init__(self, answer: Callable[[Command], Awaitable[bytes]]) -> None:
        self._answer = answer
        self._parts: bytes = b""
        self._chain: tuple[int, ...] = ()
        self._rest = b""

    def reset(self) -> None:
        """Power was cut: nothing is half said any more."""
        self._parts, self._chain, self._rest = b"", (), b""

    async def transmit(self, raw: bytes) -> bytes:
        """The response to one APDU."""
        try:
            command = parse_command(raw)
            if command.ins == _GET_RESPONSE and not command.cla:
                return self._next_part(command.le)
            self._rest = b""
            whole = self._collect(command)
            if whole is None:
                return _status(Sw.OK)
            self._rest = await self._answer(whole)
            return self._next_part(command.le)
        except CardError as refusal:
            return _status(refusal.sw)

    def _collect(self, command: Command) -> Command | None:
        """The whole command, or None while parts are missing."""
        cla = command.cla & ~_CHAINED
        if cla:
            raise CardError(Sw.NO_SUCH_CLASS)
        chain = (command.ins, command.p1, command.p2)
        before = self._parts if chain == self._chain else b""
        data = before + command.data
        if len(data) > _MOST_CHAINED_BYTES:
            raise CardError(Sw.WRONG_LENGTH)
        if command.cla & _CHAINED:
            self._parts, self._chain = data, chain
            return None
        self._parts, self._chain = b"", ()
        return Command(cla, command.ins, command.p1, command.p2, data, command.le)

    def _next_part(self, le: int) -> bytes:
        part, self._rest = self._rest[:le], self._rest[le:]
        if not self._rest:
            return part + _status(Sw.OK)
        return part + _status(Sw.MORE_DATA | (len(self._rest) if len(self._rest) < 256 else 0))


def _status(sw: int) -> bytes:
    return sw.to_bytes(2, "big")


def tlv(tag: int, *values: bytes) -> bytes:
    """One BER-TLV element around the joined values."""
    body = b"".join(values)
    head = tag.to_bytes((tag.bit_length() + 7) // 8 or 1, "big")
    if len(body) < 0x80:
        return head + bytes([len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return head + bytes([0x80 | len(size)]) + size + body


def parse_tlvs(data: bytes) -> dict[int, bytes]:
    """The elements of one level, by tag.

    Raises:
        CardError: malformed.
    """
    found: dict[int, bytes] = {}
    at = 0
    try:
        while at < len(data):
            tag = data[at]
            at += 1
            if tag & 0x1F == 0x1F:
                while True:
                    tag = tag << 8 | data[at]
                    at += 1
                    if not data[at - 1] & 0x80:
                        break
            size = data[at]
            at += 1
            if size & 0x80:
                count = size & 0x7F
                size = int.from_bytes(data[at : at + count], "big")
                at += count
            if at + size > len(data):
                raise CardError(Sw.WRONG_DATA)
            found[tag] = data[at : at + size]
            at += size
    except IndexError:
        raise CardError(Sw.WRONG_DATA) from None
    return found
