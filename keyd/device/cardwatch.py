"""What a YubiKey tells beside libykcs11, kept for one host: is it there, what does it know of its
PIN, what do its keys want. Host side.

Without PC/SC (reader.py) it knows nothing, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pkcs11

from keyd.device import ykcs11
from keyd.device.faults import Situation
from keyd.device.module import token_serial
from keyd.device.v1 import device_pb2 as pb
from keyd.device.ykcs11 import Policy

if TYPE_CHECKING:
    from keyd.device.reader import Reader, Seen

_LOOK_S = 0.9
"""How often the tries of an idle YubiKey are read: other programs spend them too."""

_UNTOLD = Policy()


def _pin_state_of(left: int, total: int) -> str:
    """ok, count-low, final-try or locked, from the tries that are left."""
    if left <= 1:
        return "final-try" if left else "locked"
    return "ok" if left >= total else "count-low"


def look_around() -> tuple[Seen, ...] | None:
    """See reader.look_around."""
    from keyd.device import reader

    return reader.look_around()


class CardWatch:
    """Of one card at a time."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._tries: tuple[int, int] | None = None
        self._looked_at = 0.0

    @property
    def is_on(self) -> bool:
        """True while a card is watched."""
        return self._reader is not None

    def begin(self, token: pkcs11.Token) -> None:
        """Watch the card behind this token from now on, where that is possible."""
        # Loads PC/SC, which no other token should pay for.
        from keyd.device.reader import Reader

        self.end()
        self._tries = None
        self._reader = Reader.watch(token.slot.slot_description.strip(" \0"), token_serial(token))

    def end(self) -> None:
        """Watch no card."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def sees_card(self) -> bool:
        """True while the card is watched and was not pulled since, not even for a moment."""
        return self._reader is not None and self._reader.has_same_card()

    def card_answers(self) -> bool:
        """The same, asked of the card: pcscd may take a moment to see a removal."""
        return self.sees_card() and self._reader is not None and self._reader.card_answers()

    def read_pin_state(self, info: pb.TokenInfo, *, at_leisure: bool = False) -> None:
        """Put what the card knows of its PIN into ``info``: libykcs11 remembers what it read when
        it connected. ``at_leisure``: not if that was done a moment ago."""
        if not at_leisure or time.monotonic() - self._looked_at > _LOOK_S:
            self._looked_at = time.monotonic()
            found = self._reader.pin_tries() if self._reader is not None else None
            self._tries = found or self._tries
        if self._tries is not None:
            info.pin_tries = self._tries[0]
            info.pin_state = _pin_state_of(*self._tries)

    def policies(self, object_ids: Sequence[bytes]) -> dict[bytes, Policy]:
        """What the keys with these CKA_IDs want; the attestation key is not among them."""
        slots = {i: slot for i in object_ids if (slot := ykcs11.slot_of(i)) is not None}
        if self._reader is None:
            return dict.fromkeys(slots, _UNTOLD)
        return dict(zip(slots, self._reader.policies(list(slots.values())), strict=True))

    def public_keys(self, object_ids: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """The keys with these CKA_IDs as the card tells them now; see Reader.public_keys."""
        slots = {i: slot for i in object_ids if (slot := ykcs11.slot_of(i)) is not None}
        if self._reader is None or not slots:
            return dict.fromkeys(slots)
        return dict(zip(slots, self._reader.public_keys(list(slots.values())), strict=True))

    def lets_prove_again(self) -> bool:
        """True where the card has forgotten a PIN that was not changed, no try was spent, and
        libykcs11 was made to prove it again at its next command."""
        if not self.sees_card() or self._reader is None:
            return False
        if self._reader.pin_is_proven() is not False:
            return False
        tries = self._reader.pin_tries()
        if tries is None or tries[0] < tries[1]:
            return False
        self._reader.reset_card()
        return True

    def situation(
        self, serial: str, *, present: bool, touch: str, took_s: float, object_id: bytes
    ) -> Situation:
        """What the card says after an error; see Situation."""
        if self._reader is None:
            return Situation(present, touch, took_s=took_s, serial=serial)
        proven, tries = self._reader.pin_is_proven(), self._reader.pin_tries()
        left, emptied = tries[0] if tries else None, ""
        if not all(policy.is_there for policy in self.policies([object_id]).values()):
            # No contact lit up for that.
            touch, emptied = "never", f"{ykcs11.slot_of(object_id) or 0:02x}"
        return Situation(present, touch, proven, took_s, serial, left, emptied)
