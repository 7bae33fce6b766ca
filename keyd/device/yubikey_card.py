"""The way to one YubiKey beside a live libykcs11: shared, held for the length of one order, and
left with a reset, after which that session goes on. Cutting the power, which is pyscard's default,
would break its handle. Host side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from smartcard.CardConnectionDecorator import CardConnectionDecorator
from smartcard.Exceptions import SmartcardException
from smartcard.pcsc.PCSCExceptions import BaseSCardException
from smartcard.reader.Reader import Reader
from smartcard.scard import (
    SCARD_LEAVE_CARD,
    SCARD_RESET_CARD,
    SCARD_S_SUCCESS,
    SCardBeginTransaction,
    SCardEndTransaction,
)
from ykman.pcsc import ScardSmartCardConnection, list_readers
from yubikit.piv import PivSession

from keyd.errors import DeviceGoneError

RETRY_AFTER_S = 1.0
"""A YubiKey that was pulled may be back by then."""


@contextlib.contextmanager
def reach(token: str, serial: str) -> Iterator[ScardSmartCardConnection]:
    """The YubiKey with this serial, nobody else's turn until it is left.

    Raises:
        DeviceGoneError: it is in no reader.
    """
    for reader in readers():
        with open_alone(reader) as connection:
            if connection is not None and str(PivSession(connection).get_serial()) == serial:
                yield connection
                return
    raise DeviceGoneError(
        f"YubiKey {serial} (token {token}) is in no reader",
        retry_after_s=RETRY_AFTER_S,
        token=token,
    )


def readers() -> list[Reader]:
    """The readers that are YubiKeys, whether one is in it or not.

    Raises:
        SmartcardException: PC/SC does not answer.
    """
    try:
        return [r for r in list_readers() if "yubico yubikey" in r.name.lower()]
    except BaseSCardException as error:
        raise SmartcardException(str(error)) from error


@contextlib.contextmanager
def open_alone(reader: Reader) -> Iterator[ScardSmartCardConnection | None]:
    """What lies in the reader, nobody else's turn until it is left; None where nothing does, or
    another program lets nobody in."""
    try:
        connection = ScardSmartCardConnection(_LeftPowered(reader.createConnection()))
    except SmartcardException:
        yield None
        return
    try:
        with _alone(connection):
            yield connection
    finally:
        connection.close()


class _LeftPowered(CardConnectionDecorator):  # type: ignore[misc]
    """Left with a reset; pyscard takes the disposition only as an argument of connect()."""

    def connect(
        self,
        protocol: object = None,
        mode: object = None,
        disposition: object = None,  # noqa: ARG002 - it is ours to choose
    ) -> None:
        """See CardConnection."""
        super().connect(protocol, mode, SCARD_RESET_CARD)


@contextlib.contextmanager
def _alone(connection: ScardSmartCardConnection) -> Iterator[None]:
    """No other program's command comes between ours: each SELECT of theirs would end our PIN."""
    inner = connection.connection
    while hasattr(inner, "component"):
        inner = inner.component
    if SCardBeginTransaction(inner.hcard) != SCARD_S_SUCCESS:
        raise SmartcardException("SCardBeginTransaction")
    try:
        yield
    finally:
        SCardEndTransaction(inner.hcard, SCARD_LEAVE_CARD)
