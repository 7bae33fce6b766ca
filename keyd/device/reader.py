"""The reader a YubiKey is in, watched beside libykcs11. Host side.

libykcs11 answers from memory: a key that was pulled is there for it until the slots are listed, and
listing them ends a session whose card another program has reset. PC/SC tells of removals without
touching the card. Policies and tries are read from the PIV applet that libykcs11 left selected,
by GET METADATA (Yubico, firmware 5.3 and newer): nothing is selected and the card is left as it
is, so that a session goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread
from typing import Any, NamedTuple

from keyd.device import encoding
from keyd.device.ykcs11 import Policy
from keyd.model import KeyAlgorithm

try:
    from smartcard import scard
except ImportError:  # without the extra `yubikey`
    scard = None

_GET_SERIAL = bytes.fromhex("00f8000000")
_VERIFY_STATUS = bytes.fromhex("0020008000")
_PIN_REFERENCE = 0x80
_KIND, _POLICY, _PUBLIC, _TRIES = 0x01, 0x02, 0x04, 0x06
_MODULUS, _EXPONENT, _POINT = 0x81, 0x82, 0x86
_RSA_KINDS = frozenset({0x05, 0x06, 0x07, 0x16})
_CURVES = {
    0x11: KeyAlgorithm.ECDSA_P256,
    0x14: KeyAlgorithm.ECDSA_P384,
    0xE0: KeyAlgorithm.ED25519,
}
_DONE, _BLOCKED, _NO_KEY = 0x9000, 0x6983, 0x6A88
_MORE = 0x61
"""SW1 of an answer of more than 256 bytes, as the metadata of RSA keys have; the rest is asked for
(ISO 7816-4, GET RESPONSE)."""
_GET_RESPONSE = bytes.fromhex("00c0000000")
_LONGEST_BYTES = 2048
"""More than any key's metadata: a card that never ends is not listened to."""
_HELD_S = 0.8
"""So long the card is waited for when somebody else holds it: it can be for a touch."""

_EVENTS_SHIFT = 16
"""pcscd counts insertions and removals in the upper half of a reader's state."""

_PIN_POLICIES = {1: "never", 2: "once", 3: "always"}
_TOUCH_POLICIES = {1: "never", 2: "always", 3: "cached"}


class Seen(NamedTuple):
    """A reader: pcscd's count of insertions and removals, whether a card is in it, and whether
    another program has that open for itself alone (SCARD_SHARE_EXCLUSIVE), when libykcs11 finds the
    reader empty."""

    name: str
    events: int
    is_kept: bool
    is_full: bool

    @property
    def shows_yubikey(self) -> bool:
        """True where libykcs11 should find a token."""
        return self.is_full and not self.is_kept and self.name.startswith("Yubico")


def look_around() -> tuple[Seen, ...] | None:
    """All readers: whatever is plugged in, pulled, kept or given free changes it. No card is
    touched. None where PC/SC cannot be asked."""
    if scard is None:
        return None
    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
    if code != scard.SCARD_S_SUCCESS:
        return None
    try:
        code, names = scard.SCardListReaders(context, [])
        if code != scard.SCARD_S_SUCCESS or not names:
            return None if code != scard.SCARD_E_NO_READERS_AVAILABLE else ()
        code, states = scard.SCardGetStatusChange(
            context, 0, [(name, scard.SCARD_STATE_UNAWARE) for name in names]
        )
        if code != scard.SCARD_S_SUCCESS:
            return None
        return tuple(
            Seen(
                str(name),
                int(state) >> _EVENTS_SHIFT,
                bool(state & scard.SCARD_STATE_EXCLUSIVE),
                bool(state & scard.SCARD_STATE_PRESENT),
            )
            for name, state, _ in states
        )
    finally:
        scard.SCardReleaseContext(context)


class Reader:
    """One reader with one YubiKey in it, from the moment it is made."""

    def __init__(self, context: Any, name: str, serial: str, events: int) -> None:
        self._context = context
        self._name = name
        self._serial = serial
        self._events = events
        self._held_up: Thread | None = None

    @classmethod
    def watch(cls, description: str, serial: str) -> Reader | None:
        """The reader behind a slot of libykcs11 (CK_SLOT_INFO.slotDescription, cut at 64 bytes);
        None where PC/SC cannot be asked beside the module, or the reader is empty."""
        if scard is None:
            return None
        code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
        if code != scard.SCARD_S_SUCCESS:
            return None
        code, names = scard.SCardListReaders(context, [])
        found = [n for n in names if n.startswith(description)] if not code else []
        if len(found) == 1:
            reader = cls(context, found[0], serial, 0)
            events = reader._read_events()
            if events is not None:
                reader._events = events
                return reader
        scard.SCardReleaseContext(context)
        return None

    def close(self) -> None:
        """Look no more."""
        scard.SCardReleaseContext(self._context)

    def has_same_card(self) -> bool:
        """False when the card was pulled since, even if it is back, or pcscd ended."""
        return self._read_events() == self._events

    def card_answers(self) -> bool:
        """True while the card answers anything. pcscd may take a moment to see a removal."""
        return self._transmit((_VERIFY_STATUS,)) is not None

    def reset_card(self) -> None:
        """End what was proven to the card. libykcs11 sees that, and proves its PIN again by itself;
        it does not see that another program selected the applet anew."""
        self._transmit((), scard.SCARD_RESET_CARD)

    def pin_tries(self) -> tuple[int, int] | None:
        """PIN tries that are left, and of how many; None where the card does not tell."""
        for code, data in self._ask(_metadata_of(_PIN_REFERENCE)):
            tries = _find_tag(data, _TRIES)
            if code == _DONE and len(tries) == 2:
                return tries[1], tries[0]
        return None

    def pin_is_proven(self) -> bool | None:
        """True while the card takes the PIN as given; None where it does not tell."""
        for code, _ in self._ask(_VERIFY_STATUS):
            if code == _DONE:
                return True
            if code == _BLOCKED or code >> 4 == 0x63C:
                return False
        return None

    def policies(self, slots: Sequence[int]) -> list[Policy]:
        """What the keys in these PIV slots (0x9a) want."""
        answers = self._ask(*(_metadata_of(slot) for slot in slots))
        return [_policy(*answer) for answer in answers] or [Policy()] * len(slots)

    def public_keys(self, slots: Sequence[int]) -> list[bytes | None]:
        """DER SubjectPublicKeyInfo of the keys in these PIV slots: empty for an empty slot, None
        where the card does not tell."""
        answers = self._ask(*(_metadata_of(slot) for slot in slots))
        return [_public_key(*answer) for answer in answers] or [None] * len(slots)

    def _read_events(self) -> int | None:
        """How often the card changed; None while there is none."""
        code, states = scard.SCardGetStatusChange(
            self._context, 0, [(self._name, scard.SCARD_STATE_UNAWARE)]
        )
        if code != scard.SCARD_S_SUCCESS:
            return None
        state = int(states[0][1])
        return state >> _EVENTS_SHIFT if state & scard.SCARD_STATE_PRESENT else None

    def _ask(self, *commands: bytes) -> list[tuple[int, bytes]]:
        """Status and data of each command; empty when this is not our card, or another applet
        is selected."""
        answers = self._transmit((_GET_SERIAL, *commands)) or [(0, b"")]
        status, serial = answers[0]
        is_ours = status == _DONE and str(int.from_bytes(serial, "big")) == self._serial
        return answers[1:] if is_ours else []

    def _transmit(
        self, commands: Sequence[bytes], leave: int | None = None
    ) -> list[tuple[int, bytes]] | None:
        """None when the card does not answer, or somebody holds it: another program, or
        libykcs11 itself, which keeps its transaction when it could not prove its PIN again.

        ``leave``: how the card is left, as it is if not said: a reset, or the power cut, would end
        what libykcs11 has proven.
        """
        if self._held_up is not None and self._held_up.is_alive():
            return None
        answers: list[list[tuple[int, bytes]] | None] = []
        how = scard.SCARD_LEAVE_CARD if leave is None else leave
        asking = Thread(
            target=lambda: answers.append(_converse(self._name, commands, how)), daemon=True
        )
        asking.start()
        asking.join(_HELD_S)
        self._held_up = asking if asking.is_alive() else None
        return answers[0] if answers else None


def _converse(name: str, commands: Sequence[bytes], leave: int) -> list[tuple[int, bytes]] | None:
    """In a context of its own: a call that waits for the card holds its context."""
    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
    if code != scard.SCARD_S_SUCCESS:
        return None
    try:
        protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
        code, card, protocol = scard.SCardConnect(
            context, name, scard.SCARD_SHARE_SHARED, protocols
        )
        if code != scard.SCARD_S_SUCCESS:
            return None
        try:
            answers = []
            for command in commands:
                if (answer := _exchange(card, protocol, command)) is None:
                    return None
                answers.append(answer)
            return answers
        finally:
            scard.SCardDisconnect(card, leave)
    finally:
        scard.SCardReleaseContext(context)


def _exchange(card: Any, protocol: Any, command: bytes) -> tuple[int, bytes] | None:
    """Status and data of one command; None when the card does not answer."""
    data = b""
    while True:
        code, raw = scard.SCardTransmit(card, protocol, list(command))
        if code != scard.SCARD_S_SUCCESS or len(raw) < 2:
            return None
        part, status = bytes(raw[:-2]), int.from_bytes(raw[-2:], "big")
        data += part
        if status >> 8 != _MORE or not part or len(data) > _LONGEST_BYTES:
            return status, data
        command = _GET_RESPONSE


def _metadata_of(reference: int) -> bytes:
    return bytes((0x00, 0xF7, 0x00, reference, 0x00))


def _policy(status: int, data: bytes) -> Policy:
    policy = _find_tag(data, _POLICY)
    if status == _NO_KEY:
        return Policy(is_there=False)
    if status != _DONE or len(policy) != 2:
        return Policy()
    return Policy(
        _PIN_POLICIES.get(policy[0], "unknown"), _TOUCH_POLICIES.get(policy[1], "unknown")
    )


def _public_key(status: int, data: bytes) -> bytes | None:
    if status == _NO_KEY:
        return b""
    kind, key = _find_tag(data, _KIND), _find_tag(data, _PUBLIC)
    if status != _DONE or len(kind) != 1:
        return None
    try:
        if kind[0] in _RSA_KINDS:
            return encoding.rsa_public_key(_find_tag(key, _MODULUS), _find_tag(key, _EXPONENT))
        curve = _CURVES.get(kind[0])
        return encoding.ec_public_key(curve, _find_tag(key, _POINT)) if curve else None
    except ValueError:
        return None


def _find_tag(data: bytes, tag: int) -> bytes:
    """The value of a tag (BER-TLV, tags of one byte); empty where there is none."""
    at = 0
    while at + 1 < len(data):
        size, start = data[at + 1], at + 2
        if size > 0x80:
            size, start = int.from_bytes(data[start : (end := start + size - 0x80)], "big"), end
        if data[at] == tag:
            return data[start : start + size]
        at = start + size
    return b""
