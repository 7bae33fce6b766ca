"""The secrets a card compares: PIN, PUK and management key, with their counters."""

from __future__ import annotations

import secrets

from tests.yubikey.apdu import CardError, Sw, parse_tlvs, tlv
from tests.yubikey.crypto import ManagementCipher
from tests.yubikey.model import FACTORY_MANAGEMENT_KEY, FACTORY_TRIES, Model, TouchPolicy

PIN_BYTES = 8
_SHORTEST = 6


class Reference:
    """A PIN or PUK: eight bytes, filled up with FF. ``offered`` counts values that arrived."""

    def __init__(self, factory: str) -> None:
        self._factory = factory.encode().ljust(PIN_BYTES, b"\xff")
        self.offered = 0
        self.total = FACTORY_TRIES
        self.reset()

    def reset(self, tries: int = FACTORY_TRIES) -> None:
        """As it left the factory, with so many tries."""
        self._value = self._factory
        self.total = self.left = tries

    @property
    def is_factory(self) -> bool:
        """True while nobody changed it."""
        return self._value == self._factory

    def check(self, value: bytes) -> None:
        """Compare, which costs a try until it succeeds.

        Raises:
            CardError: wrong (63Cx tells the tries left), or blocked.
        """
        if len(value) != PIN_BYTES:
            raise CardError(Sw.WRONG_DATA)
        self.offered += 1
        if not self.left:
            raise CardError(Sw.BLOCKED)
        if value != self._value:
            self.left -= 1
            raise CardError(self.status())
        self.left = self.total

    def status(self) -> int:
        """What an empty VERIFY answers."""
        return Sw.WRONG_PIN | min(self.left, 15) if self.left else Sw.BLOCKED

    def change(self, new: bytes) -> None:
        """A new value, and all tries back.

        Raises:
            CardError: shorter than six bytes, or padded wrongly.
        """
        text = new.rstrip(b"\xff")
        if len(new) != PIN_BYTES or len(text) < _SHORTEST or b"\xff" in text:
            raise CardError(Sw.WRONG_DATA)
        self._value = new
        self.left = self.total


class ManagementKey:
    """The management key and its mutual authentication (SP 800-73-4, part 2, 3.2.4 and A.1).

    ``proven`` is True from a successful authentication until power or another applet ends it.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.proven = False
        self.reset()

    def reset(self) -> None:
        """The factory's key: 3DES, since firmware 5.7 AES-192."""
        self.cipher = ManagementCipher.AES_192 if self._model.is_5_7 else ManagementCipher.TDES
        self.value = FACTORY_MANAGEMENT_KEY
        self.touch = TouchPolicy.NEVER
        self.forget()

    def forget(self) -> None:
        """Nobody is authenticated any more, nothing is asked."""
        self.proven = False
        self._witness: bytes | None = None
        self._challenge: bytes | None = None

    @property
    def is_factory(self) -> bool:
        """True while nobody changed it."""
        return self.value == FACTORY_MANAGEMENT_KEY

    def authenticate(self, algorithm: int, request: bytes) -> bytes:
        """One step: ask for a witness or a challenge, or answer it.

        Raises:
            CardError: another algorithm than the key's, or a wrong answer.
        """
        if algorithm != self.cipher:
            raise CardError(Sw.WRONG_DATA)
        parts = parse_tlvs(request)
        if parts.get(0x80) == b"":
            self.forget()
            self._witness = secrets.token_bytes(self.cipher.block_bytes)
            return tlv(0x80, self._encrypt(self._witness))
        if parts.get(0x81) == b"":
            self.forget()
            self._challenge = secrets.token_bytes(self.cipher.block_bytes)
            return tlv(0x81, self._challenge)
        witness, challenge = self._witness, self._challenge
        self.forget()
        if witness is not None and parts.get(0x80) == witness and 0x81 in parts:
            if len(parts[0x81]) != self.cipher.block_bytes:
                raise CardError(Sw.WRONG_DATA)
            self.proven = True
            return tlv(0x82, self._encrypt(parts[0x81]))
        if challenge is not None and parts.get(0x82) == self._encrypt(challenge):
            self.proven = True
            return b""
        raise CardError(Sw.SECURITY_NOT_SATISFIED)

    def change(self, data: bytes, *, touch: bool) -> None:
        """SET MANAGEMENT KEY: algorithm, 9B, length, key.

        Raises:
            CardError: an unknown algorithm or a length that is not its own.
        """
        try:
            cipher = ManagementCipher(data[0])
            value = parse_tlvs(data[1:])[0x9B]
        except (IndexError, KeyError, ValueError):
            raise CardError(Sw.WRONG_DATA) from None
        if len(value) != cipher.key_bytes:
            raise CardError(Sw.WRONG_DATA)
        self.cipher, self.value = cipher, value
        self.touch = TouchPolicy.ALWAYS if touch else TouchPolicy.NEVER

    def _encrypt(self, block: bytes) -> bytes:
        return self.cipher.encrypt(self.value, block)
