"""One PKCS#11 module, the one token in it that is ours, and the one session logged in there.

Host side, one thread. python-pkcs11 initialises modules for a single thread and closing a session
logs the whole process out, so the session stays open as long as the process lives, and
finalize + initialize is the one recovery that works for every module tried.
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

from keyd.device.faults import RETRY_AFTER_S, ckr_name, is_doubtful, translate
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import (
    DeviceFaultError,
    DeviceGoneError,
    PinRefusedError,
    TokenError,
    TokenLockedError,
    WrongTokenError,
)

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


def pin_state(token: pkcs11.Token) -> str:
    """ok, count-low, final-try or locked, from the flags; reading them spends no try."""
    flags = token.flags
    if flags & TokenFlag.USER_PIN_LOCKED:
        return "locked"
    if flags & TokenFlag.USER_PIN_FINAL_TRY:
        return "final-try"
    if flags & TokenFlag.USER_PIN_COUNT_LOW:
        return "count-low"
    return "ok"


def token_serial(token: pkcs11.Token) -> str:
    """The serial as text, without the padding."""
    return token.serial.decode("utf-8", "replace").strip(" \0")


def describe(token: pkcs11.Token) -> pb.TokenInfo:
    """What the token says of itself."""
    major, minor = token.firmware_version
    return pb.TokenInfo(
        serial=token_serial(token),
        label=token.label.strip(" \0"),
        model=token.model.strip(" \0"),
        manufacturer=token.manufacturer_id.strip(" \0"),
        firmware=f"{major}.{minor}",
        pin_state=pin_state(token),
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


class TokenSession:
    """The host's way to its token. ``session`` is None until a login, and after a loss.

    ``generation`` counts the logins: object handles live as long as one generation.
    """

    def __init__(self, module: Path, selector: Selector, init_lock: Path) -> None:
        self._module = module
        self._selector = selector
        self._init_lock = init_lock
        self._lib: Library | None = None
        self._token: pkcs11.Token | None = None
        self._pin: str | None = None
        self._stale = False
        self.session: pkcs11.Session | None = None
        self.generation = 0

    @property
    def name(self) -> str:
        """The configured name, for messages."""
        return self._selector.name

    @property
    def holds_pin(self) -> bool:
        """True while a PIN is remembered that the token accepted."""
        return self._pin is not None

    @property
    def accepted_pin(self) -> str | None:
        """That PIN, for yubikit in this same host; it goes nowhere else."""
        return self._pin

    def forget_session(self) -> None:
        """What lies on the token was changed: the next probe initialises the module anew."""
        self._stale = True

    @property
    def serial(self) -> str:
        """Serial of the token the session is on; empty without one."""
        return token_serial(self._token) if self._token is not None else ""

    # -- is it there ---------------------------------------------------------------------

    def probe(self) -> pb.Probed:
        """Look at the token; when it or the session is gone, initialise the module anew.

        Raises:
            TokenError: the module does not load, or the selector matches two tokens.
        """
        token = self._read_token()
        if token is None:
            self._reinitialize()
            token = self._find()
        return pb.Probed(
            token=None if token is None else describe(token),
            logged_in=self.session is not None,
            holds_pin=self.holds_pin,
        )

    def answers(self) -> bool:
        """True while the session's token still tells its state; False marks the session lost.

        CKR_GENERAL_ERROR here is how SoftHSM says that its folder was away, even after it is
        back.
        """
        try:
            if self._token is not None and self.session is not None and not self._stale:
                self._token.slot.get_token()
                return True
        except pkcs11.PKCS11Error:
            pass
        self._stale = True
        return False

    def _read_token(self) -> pkcs11.Token | None:
        """The token as it is now, without touching a session that works."""
        if self._lib is None or self._stale:
            return None
        if self.session is None or self._token is None:
            return self._find()
        try:
            token = self._token.slot.get_token()
        except pkcs11.PKCS11Error:
            return None
        return token if token_serial(token) == self.serial else None

    def _find(self) -> pkcs11.Token | None:
        """The one token that matches; None where there is none or the module fails to say."""
        assert self._lib is not None
        found: list[pkcs11.Token] = []
        try:
            slots = self._lib.get_slots(token_present=True)
        except pkcs11.PKCS11Error:
            return None
        for slot in slots:
            try:
                token = slot.get_token()
            except pkcs11.PKCS11Error:
                continue
            if not token.flags & TokenFlag.TOKEN_INITIALIZED:
                continue
            if self._selector.label and token.label.strip(" \0") != self._selector.label:
                continue
            if self._selector.serial and token_serial(token) != self._selector.serial:
                continue
            found.append(token)
        if len(found) > 1:
            serials = ", ".join(sorted(token_serial(token) for token in found))
            raise DeviceFaultError(
                f"token {self.name}: {len(found)} tokens are labelled {self._selector.label!r}, "
                f"with the serials {serials}",
                hint=f"set the serial of token {self.name} in the configuration",
                token=self.name,
                serials=serials,
            )
        return found[0] if found else None

    def _reinitialize(self) -> None:
        """Load the module, or finalize and initialise it; every session ends."""
        self.session = None
        self._token = None
        with _alone(self._init_lock):
            for tries_left in reversed(range(_INIT_TRIES)):
                try:
                    if self._lib is None:
                        self._lib = self._load()
                    elif self._lib.initialized:
                        self._lib.reinitialize()
                    else:
                        self._lib.initialize()
                    self._stale = False
                    return
                except pkcs11.PKCS11Error as error:
                    if not tries_left:
                        self._stale = True
                        raise translate(
                            error, self.name, f"initialising {self._module}", present=False
                        ) from error
                    time.sleep(0.02)

    def _load(self) -> Library:
        if not self._module.is_file():
            raise DeviceFaultError(
                f"token {self.name}: there is no PKCS#11 module {self._module}",
                hint="install the token's PKCS#11 library or correct `module`",
                token=self.name,
                module=self._module,
            )
        try:
            return pkcs11.lib(str(self._module))
        except pkcs11.PKCS11Error as error:
            # python-pkcs11 has no class of its own for what dlopen says.
            if type(error) is pkcs11.PKCS11Error:
                raise DeviceFaultError(
                    f"token {self.name}: {self._module} is not a PKCS#11 module: {error}",
                    hint="correct `module`",
                    token=self.name,
                    module=self._module,
                ) from error
            raise

    # -- logging in ----------------------------------------------------------------------

    def login(self, request: pb.Login) -> tuple[pb.TokenInfo, TokenError | None, bool]:
        """Log in, once: the token's state, the error, and whether the PIN was sent.

        The token is compared and its PIN flags are read before the PIN goes out. A PIN that was
        refused is forgotten.
        """
        if self.session is not None and self.answers():
            assert self._token is not None
            return describe(self._token), None, False
        info = pb.TokenInfo()
        try:
            if self._lib is None or self._stale:
                self._reinitialize()
            token = self._find()
            if token is None:
                raise DeviceGoneError(
                    f"token {self.name} is not there", retry_after_s=RETRY_AFTER_S, token=self.name
                )
            info = describe(token)
            self._check_token(token, request)
        except TokenError as error:
            return info, error, False

        pin = request.pin.decode("utf-8") if request.HasField("pin") else self._pin
        if pin is None:
            locked = TokenLockedError(f"this host of token {self.name} has no PIN", token=self.name)
            return info, locked, False
        try:
            self.session = token.open(rw=True, user_pin=pin)
        except pkcs11.PKCS11Error as error:
            # The failed login leaks its session: start afresh at the next request.
            self._stale = True
            fault = translate(error, self.name, "logging in", present=False)
            if isinstance(fault, PinRefusedError | TokenLockedError) and pin == self._pin:
                self._pin = None
            return info, fault, True
        self._pin = pin
        self._token = token
        self.generation += 1
        return info, None, True

    def _check_token(self, token: pkcs11.Token, request: pb.Login) -> None:
        serial, state = token_serial(token), pin_state(token)
        if request.serial and serial != request.serial:
            raise WrongTokenError(
                f"token {self.name} has the serial {serial}, expected {request.serial}",
                token=self.name,
                serial=serial,
                expected=request.serial,
            )
        if state == "locked":
            raise TokenLockedError(
                f"the PIN of token {self.name} is blocked",
                hint="unblock it with its PUK or SO PIN",
                token=self.name,
                pin_state=state,
            )
        if request.person and (state != "final-try" or request.spend_last_try):
            return
        if state == "final-try":
            raise TokenLockedError(
                f"one more wrong PIN blocks token {self.name}",
                hint=f"be sure of the PIN, then: keydctl token unlock {self.name} --spend-last-try",
                token=self.name,
                pin_state=state,
            )
        if state != "ok":
            raise TokenLockedError(
                f"token {self.name} counts wrong PINs ({state}), so keyd tries none by itself",
                hint=f"keydctl token unlock {self.name}",
                token=self.name,
                pin_state=state,
            )

    # -- using it ------------------------------------------------------------------------

    def open_session(self) -> pkcs11.Session:
        """The session that is logged in.

        Raises:
            DeviceGoneError: there is none.
        """
        if self.session is None or self._stale:
            raise DeviceGoneError(
                f"token {self.name} is not logged in", retry_after_s=RETRY_AFTER_S, token=self.name
            )
        return self.session

    def fault(self, error: pkcs11.PKCS11Error, doing: str) -> TokenError:
        """The keyd error for what the module raised; asks the token where the code is doubtful.
        A lost session is marked, so that the next probe starts afresh."""
        present = self.answers() if is_doubtful(error) else True
        translated = translate(error, self.name, doing, present=present)
        if isinstance(translated, DeviceGoneError):
            self._stale = True
        return translated

    def object_was_replaced(self, error: pkcs11.PKCS11Error) -> bool:
        """True when only a cached handle is stale: the token itself answers."""
        return ckr_name(error) in ("CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID") and (
            self.answers()
        )
