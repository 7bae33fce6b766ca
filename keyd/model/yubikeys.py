"""YubiKeys: slots, policies, what lies in them, and what is proven of it."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

from keyd.errors import InvalidRequestError
from keyd.model.algorithms import KeyAlgorithm
from keyd.model.device import Pin, Purpose

_NO_PURPOSE = Purpose()


class PinPolicy(StrEnum):
    """When a key wants the PIN: never, once for a login, or always, for each signature."""

    NEVER = "never"
    ONCE = "once"
    ALWAYS = "always"


class TouchPolicy(StrEnum):
    """When a key wants a touch; cached: not again within 15 seconds."""

    NEVER = "never"
    ALWAYS = "always"
    CACHED = "cached"


_MAIN = (0x9A, 0x9C, 0x9D, 0x9E)
_RETIRED = tuple(range(0x82, 0x96))


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """A slot of the PIV applet that holds a signing key: 9a, 9c, 9d, 9e, or a retired one,
    82 to 95 (NIST SP 800-73-4, part 1, table 4b)."""

    number: int

    def __str__(self) -> str:
        return f"{self.number:02x}"

    @property
    def object_id(self) -> bytes:
        """CKA_ID of its key pair in libykcs11."""
        return bytes((SLOTS.index(self) + 1,))

    @property
    def is_retired(self) -> bool:
        """One of the twenty for keys that other slots no longer hold."""
        return self.number in _RETIRED

    @classmethod
    def parse(cls, text: str) -> Slot:
        """``9c`` or ``0x9C``.

        Raises:
            InvalidRequestError: with the slots there are.
        """
        found = next((s for s in SLOTS if str(s) == text.lower().removeprefix("0x")), None)
        if found is None:
            raise InvalidRequestError(
                "slot", f"{text[:20]!r} is no slot for keys: there are 9a, 9c, 9d, 9e and 82 to 95"
            )
        return found

    @classmethod
    def of_object(cls, object_id: bytes) -> Slot | None:
        """The slot whose key pair has this CKA_ID, or None."""
        return next((s for s in SLOTS if s.object_id == object_id), None)


SLOTS = tuple(Slot(number) for number in (*_MAIN, *_RETIRED))
"""In the order of their CKA_ID."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a YubiKey said of one key, in a statement that leads to a root keyd trusts.

    ``chain``: DER certificates, the statement first, the root last. ``firmware`` as 5.4.3. Bound to
    a key version by its public key and serial (keyd/attestation.py).
    """

    slot: str
    serial: str
    firmware: str
    form_factor: str
    pin: PinPolicy
    touch: TouchPolicy
    chain: tuple[bytes, ...]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """SHA-256 of each certificate's DER, hex, in the chain's order."""
        return tuple(hashlib.sha256(der).hexdigest() for der in self.chain)

    def details(self) -> dict[str, str]:
        """What an entry says of it."""
        return {
            "attested_by": " ".join(self.fingerprints),
            "firmware": self.firmware,
            "form_factor": self.form_factor,
            "pin_policy": self.pin.value,
            "touch_policy": self.touch.value,
            "slot": self.slot,
            "yubikey": self.serial,
        }

    def to_json(self) -> str:
        """As the database keeps it."""
        return json.dumps(
            {
                "slot": self.slot,
                "serial": self.serial,
                "firmware": self.firmware,
                "form_factor": self.form_factor,
                "pin": self.pin.value,
                "touch": self.touch.value,
                "chain": [base64.b64encode(der).decode() for der in self.chain],
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> Attestation:
        """The inverse of :meth:`to_json`."""
        found = json.loads(text)
        return cls(
            slot=found["slot"],
            serial=found["serial"],
            firmware=found["firmware"],
            form_factor=found["form_factor"],
            pin=PinPolicy(found["pin"]),
            touch=TouchPolicy(found["touch"]),
            chain=tuple(base64.b64decode(der) for der in found["chain"]),
        )


@dataclass(frozen=True, slots=True)
class SlotContent:
    """What lies in one slot; a field is empty or None where the firmware does not tell.

    ``algorithm``: KeyAlgorithm by value, or yubikit's name for a kind keyd does not use.
    ``origin``: generated or imported, by the card's own unproven word. ``public_key``: DER
    SubjectPublicKeyInfo. ``certificate``: DER.
    """

    slot: Slot
    algorithm: str = ""
    pin: PinPolicy | None = None
    touch: TouchPolicy | None = None
    origin: str = ""
    public_key: bytes = b""
    certificate: bytes = b""


@dataclass(frozen=True, slots=True)
class YubiKey:
    """One YubiKey as it stands; reading it spends no try.

    ``pin_tries_of`` and ``puk_tries_of`` are 0 where the firmware (before 5.3) does not tell.
    ``factory``: which of ``pin``, ``puk`` and ``management-key`` are known to be the factory's.
    """

    serial: str
    firmware: str
    form_factor: str
    pin_tries: int
    pin_tries_of: int
    puk_tries: int
    puk_tries_of: int
    factory: frozenset[str]
    management_algorithm: str
    management_protected: bool
    slots: tuple[SlotContent, ...]

    def find(self, slot: Slot) -> SlotContent | None:
        """What lies in the slot, or None."""
        return next((content for content in self.slots if content.slot == slot), None)


@dataclass(frozen=True, slots=True)
class PluggedIn:
    """A YubiKey in a reader that no token is configured for. ``reader``: PC/SC's name of it.
    ``module``: path of libykcs11 on this machine."""

    serial: str
    firmware: str
    form_factor: str
    reader: str
    module: str


@dataclass(frozen=True, slots=True)
class SlotOrder:
    """A key pair to be made in a slot. ``label``: KEY/N, the certificate's common name.
    ``purpose``: for the person who may have to touch the token for that certificate."""

    slot: Slot
    algorithm: KeyAlgorithm
    pin: PinPolicy
    touch: TouchPolicy
    label: str
    purpose: Purpose = _NO_PURPOSE


@dataclass(frozen=True, slots=True)
class SlotStatement:
    """What a card signed about a key of its own, not verified yet: both DER certificates."""

    statement: bytes
    device_certificate: bytes


@dataclass(frozen=True, slots=True)
class MadeInSlot:
    """A key pair that was made. ``certificate``: DER, signed by the key itself."""

    public_key: bytes
    certificate: bytes
    statement: SlotStatement


class YubiKeyDevice(Protocol):
    """The YubiKeys among the tokens, by configured name (device/yubikeys.py).

    Every method raises a TokenError subclass; nothing is retried, and a secret that was refused is
    never sent again.
    """

    async def look(self, token: str) -> YubiKey:
        """Read everything that takes no secret; works while the token is locked."""

    async def plugged_in(self) -> tuple[list[PluggedIn], str]:
        """Look for YubiKeys that are no tokens of ours; also why there may be more, or nothing.
        Raises nothing."""

    async def init(self, token: str, pin: Pin, puk: Pin) -> tuple[str, ...]:
        """Use the factory's secrets once each to set these, and a random management key that lies
        behind the PIN. Answers what was left as it was. The token is LOCKED afterwards."""

    async def change_pin(self, token: str, old: Pin, new: Pin) -> None:
        """One try of the old PIN. A token that was READY is READY again with the new one; with
        the old one where the try was wrong."""

    async def unblock(self, token: str, puk: Pin, new: Pin) -> None:
        """One try of the PUK. The token is LOCKED afterwards."""

    async def generate(self, token: str, order: SlotOrder) -> MadeInSlot:
        """Make a key pair in an empty slot, with the PIN the token is logged in with. Waits for a
        touch where the key wants one.

        Raises:
            TokenObjectError: something lies in the slot; nothing was made.
        """

    async def attest(self, token: str, slot: Slot) -> SlotStatement:
        """The card's statement on the key in the slot.

        Raises:
            TokenObjectError: no key there, or one that was made elsewhere.
        """

    async def write_certificate(self, token: str, slot: Slot, certificate: bytes) -> None:
        """Put a DER certificate into the slot, with the PIN the token is logged in with.

        Raises:
            TokenObjectError: it is not for the key in the slot.
        """


_FACTORY_SECRETS = frozenset({"123456", "12345678"})
_COMMON_SECRETS = frozenset({"password", "passw0rd", "qwertyui", "abcd1234", "11223344", "112233"})
_SECRET_BYTES = range(6, 9)
_FEWEST_CHARACTERS = 4


def check_secret(what: str, secret: Pin) -> None:
    """Refuse a new PIN or PUK that is the factory's, or that a thief tries first.

    Raises:
        InvalidRequestError: why, without quoting it.
    """
    value = secret.reveal()
    if len(value.encode()) not in _SECRET_BYTES or not value.isprintable():
        raise InvalidRequestError(what, "6 to 8 bytes, as a YubiKey takes them")
    steps = {ord(b) - ord(a) for a, b in pairwise(value)}
    if value in _FACTORY_SECRETS:
        why = "that is the factory's, which everybody knows"
    elif value.lower() in _COMMON_SECRETS:
        why = "that is one of the first that are tried"
    elif len(set(value)) < _FEWEST_CHARACTERS:
        why = f"fewer than {_FEWEST_CHARACTERS} different characters are soon guessed"
    elif steps in ({1}, {-1}):
        why = "a plain sequence is soon guessed"
    else:
        return
    raise InvalidRequestError(
        what, why, hint="take random digits; you have three tries, a thief too"
    )
