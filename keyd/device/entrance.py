"""What is looked at before a PIN is sent: is it the right token, would a wrong PIN block it? Host
side.

A serial is printed on a YubiKey and told by anything that wants to be taken for it, so the keys
that should lie there are compared too.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyd.device import ykcs11
from keyd.device.failures import unblock_hint
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import TokenLockedError, WrongTokenError

CardKeys = Mapping[bytes, bytes | None]
"""Public keys by CKA_ID, as CardWatch.public_keys tells them."""


def check_token(name: str, info: pb.TokenInfo, request: pb.Login) -> None:
    """Refuse another token, and one whose next wrong PIN nobody answers for. ``name``: the
    configured one.

    Raises:
        WrongTokenError: its serial is another.
        TokenLockedError: its PIN is blocked, or tries were spent.
    """
    serial, state = info.serial, info.pin_state
    if request.serial and serial != request.serial:
        raise WrongTokenError(
            f"token {name} has the serial {serial}, expected {request.serial}",
            token=name,
            serial=serial,
            expected=request.serial,
        )
    if state == "locked":
        raise TokenLockedError(
            f"the PIN of token {name} is blocked",
            hint=unblock_hint(name, is_yubikey=info.manufacturer.startswith("Yubico")),
            token=name,
            pin_state=state,
        )
    if request.person and (state != "final-try" or request.spend_last_try):
        return
    if state == "final-try":
        raise TokenLockedError(
            f"one more wrong PIN blocks token {name}",
            hint=f"be sure of the PIN, then: keydctl token unlock {name} --spend-last-try",
            token=name,
            pin_state=state,
        )
    if state != "ok":
        raise TokenLockedError(
            f"token {name} counts wrong PINs ({state}), so keyd tries none by itself",
            hint=f"keydctl token unlock {name}",
            token=name,
            pin_state=state,
        )


def check_keys(name: str, serial: str, request: pb.Login, card: CardKeys, known: CardKeys) -> None:
    """Refuse a YubiKey that holds other keys than are registered. A person may know why: whoever
    unlocks it answers for it.

    ``card``: what it holds now. ``known``: what it held when it took the PIN last.

    Raises:
        TokenLockedError: another key lies in a slot, or all of them are gone.
    """
    told = {k.object_id: k.public_key for k in request.keys if card.get(k.object_id) is not None}
    if request.person or not told:
        return
    strange = [i for i, key in told.items() if card[i] not in (key, known.get(i))]
    other = [f"{ykcs11.slot_of(i) or 0:02x}" for i in strange if card[i]]
    if not other and len(strange) < len(told):
        return
    what = "none of the keys that are registered"
    if other:
        what = f"another key in slot {', '.join(other)} than is registered"
    raise TokenLockedError(
        f"YubiKey {serial} (token {name}) holds {what}: it was reset, or is another one that says "
        "the same serial; keyd offers it no PIN",
        hint=f"look at it: keydctl yubikey list {name}; if it is yours: "
        f"keydctl token unlock {name}",
        token=name,
        strange_serial=serial,
    )
