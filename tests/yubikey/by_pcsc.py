"""What other programs do to a card by PC/SC alone, inside a worker."""

from __future__ import annotations

from typing import Any

from smartcard import scard

from tests.yubikey.piv import AID as PIV_AID

_MANAGEMENT_AID = bytes.fromhex("a000000527471117")
_PROTOCOLS = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1


class _Held:
    """The card that is held between two calls."""

    context: Any = None
    card: Any = None


def connect(reader: str, *, exclusive: bool = False) -> str:
    """Open the card in this reader and keep it: what PC/SC says, empty when it did."""
    code, _Held.context = scard.SCardEstablishContext(scard.SCARD_SCOPE_SYSTEM)
    if not code:
        mode = scard.SCARD_SHARE_EXCLUSIVE if exclusive else scard.SCARD_SHARE_SHARED
        code, _Held.card, _ = scard.SCardConnect(_Held.context, reader, mode, _PROTOCOLS)
    return _said(code)


def hold() -> str:
    """Begin a transaction: nobody else's command reaches the card."""
    return _said(scard.SCardBeginTransaction(_Held.card))


def select_another_applet() -> bytes:
    """What an authenticator app does first; a YubiKey has one applet selected at a time."""
    return _transmit(bytes((0, 0xA4, 4, 0, len(_MANAGEMENT_AID))) + _MANAGEMENT_AID)


def select_piv() -> bytes:
    """The PIV applet anew, as each program that uses it does first."""
    return _transmit(bytes((0, 0xA4, 4, 0, len(PIV_AID))) + PIV_AID)


def reset() -> str:
    """SCardReconnect with SCARD_RESET_CARD: a warm reset under everybody's hands."""
    code, _ = scard.SCardReconnect(
        _Held.card, scard.SCARD_SHARE_SHARED, _PROTOCOLS, scard.SCARD_RESET_CARD
    )
    return _said(code)


def leave(*, power_off: bool = False) -> None:
    """Let go of the card: as it is, or without power, which is pyscard's default."""
    how = scard.SCARD_UNPOWER_CARD if power_off else scard.SCARD_LEAVE_CARD
    scard.SCardDisconnect(_Held.card, how)
    scard.SCardReleaseContext(_Held.context)


def _transmit(command: bytes) -> bytes:
    code, answer = scard.SCardTransmit(_Held.card, scard.SCARD_PCI_T1, list(command))
    if code:
        raise OSError(_said(code))
    return bytes(answer)


def _said(code: int) -> str:
    return str(scard.SCardGetErrorMessage(code)) if code else ""
