"""A PKCS#11 module in this process: loaded, started afresh, and the token in it that is ours.

Host side, one thread. Finalize + initialize is the one recovery that works for every module tried.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pkcs11
from pkcs11 import TokenFlag

from keyd.device import ykcs11
from keyd.device.failures import NO_CARD_SERVICE
from keyd.device.faults import Situation, translate
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceFaultError

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library  # noqa: N812  (a class, whatever its case)

_INIT_TRIES = 3
_INIT_WAIT_S = 5.0
"""Wait this long for another host that initialises the same module, then go ahead anyway: it may
hang, and a collision is only retried."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which token is ours: its configured name, and the label and serial it must show."""

    name: str
    label: str
    serial: str


def token_serial(token: pkcs11.Token) -> str:
    """The serial as text, without the padding."""
    return token.serial.decode("utf-8", "replace").strip(" \0")


def _pin_state(flags: int) -> str:
    """ok, count-low, final-try or locked, from CK_TOKEN_INFO; reading it spends no try."""
    if flags & TokenFlag.USER_PIN_LOCKED:
        return "locked"
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        return "final-try"
    if flags & TokenFlag.USER_PIN_COUNT_LOW:
        return "count-low"
    return "ok"


def describe(token: pkcs11.Token) -> pb.TokenInfo:
    """What the token says of itself."""
    firmware = token.firmware_version
    return pb.TokenInfo(
        serial=token_serial(token),
        label=token.label.strip(" \0"),
        model=token.model.strip(" \0"),
        manufacturer=token.manufacturer_id.strip(" \0"),
        firmware=ykcs11.version(firmware)
        if ykcs11.is_yubikey(token)
        else f"{firmware[0]}.{firmware[1]}",
        pin_state=_pin_state(token.flags),
    )


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two processes that initialise SoftHSM at once miss its tokens: one after another."""
    with lock.open("ab") as file:
        give_up = time.monotonic() + _INIT_WAIT_S
        while time.monotonic() < give_up:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.005)
        yield


class Module:
    """The library. ``is_stale``: it has to be started afresh before anything else is asked.

    After find(): ``trouble`` says why nothing can be said of any token, ``others`` are the serials
    of tokens that are there and not ours.
    """

    def __init__(self, path: Path, selector: Selector, init_lock: Path) -> None:
        self._path = path
        self._selector = selector
        self._init_lock = init_lock
        self._lib: Library | None = None
        self.is_stale = True
        self.trouble = ""
        self.others: list[str] = []

    @property
    def is_ykcs11(self) -> bool:
        """True for libykcs11."""
        return "ykcs11" in self._path.name

    @property
    def library_version(self) -> tuple[int, int]:
        """CK_INFO.libraryVersion."""
        assert self._lib is not None
        major, minor = self._lib.library_version
        return major, minor

    def find(self) -> pkcs11.Token | None:
        """The one token that matches; None where there is none or the module fails to say.

        Raises:
            DeviceFaultError: the selector matches two tokens.
        """
        assert self._lib is not None
        self.trouble, self.others = "", []
        found: list[pkcs11.Token] = []
        try:
            slots = self._lib.get_slots(token_present=True)
        except pkcs11.DeviceError:
            # libykcs11 when nobody answers at pcscd's socket.
            self.trouble = NO_CARD_SERVICE
            return None
        except pkcs11.PKCS11Error:
            return None
        for slot in slots:
            try:
                token = slot.get_token()
            except pkcs11.PKCS11Error:
                continue
            if not token.flags & TokenFlag.TOKEN_INITIALIZED:
                continue
            label, serial = self._selector.label, self._selector.serial
            if (label and token.label.strip(" \0") != label) or (
                serial and token_serial(token) != serial
            ):
                self.others.append(token_serial(token))
                continue
            found.append(token)
        if len(found) > 1:
            name = self._selector.name
            serials = ", ".join(sorted(token_serial(token) for token in found))
            raise DeviceFaultError(
                f"token {name}: {len(found)} tokens are labelled {self._selector.label!r}, "
                f"with the serials {serials}",
                hint=f"set the serial of token {name} in the configuration",
                token=name,
                serials=serials,
            )
        return found[0] if found else None

    def restart(self) -> None:
        """Load the module, or finalize and initialise it; every session ends.

        Raises:
            TokenError: it does not load or does not start.
        """
        with _alone(self._init_lock):
            for tries_left in reversed(range(_INIT_TRIES)):
                try:
                    if self._lib is None:
                        self._lib = self._load()
                    elif self._lib.initialized:
                        self._lib.reinitialize()
                    else:
                        self._lib.initialize()
                    self.is_stale = False
                    return
                except pkcs11.PKCS11Error as error:
                    if not tries_left:
                        self.is_stale = True
                        raise translate(
                            error,
                            self._selector.name,
                            f"initialising {self._path}",
                            Situation(present=False),
                        ) from error
                    time.sleep(0.02)

    def _load(self) -> Library:
        name = self._selector.name
        if not self._path.is_file():
            raise DeviceFaultError(
                f"token {name}: there is no PKCS#11 module {self._path}",
                hint="install the token's PKCS#11 library or correct `module`",
                token=name,
                module=self._path,
            )
        try:
            return pkcs11.lib(str(self._path))
        except pkcs11.PKCS11Error as error:
            # python-pkcs11 has no class of its own for what dlopen says.
            if type(error) is pkcs11.PKCS11Error:
                raise DeviceFaultError(
                    f"token {name}: {self._path} is not a PKCS#11 module: {error}",
                    hint="correct `module`",
                    token=name,
                    module=self._path,
                ) from error
            raise
