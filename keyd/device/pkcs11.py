"""The one token of this process, and the one session logged in there.

Host side, one thread. python-pkcs11 initialises modules for a single thread and closing a session
logs the whole process out, so the session stays open as long as the process lives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pkcs11
from pkcs11 import Attribute, ObjectClass

from keyd.device import ykcs11
from keyd.device.cardwatch import CardWatch, look_around
from keyd.device.entrance import CardKeys, check_keys, check_token
from keyd.device.failures import CARD_IS_KEPT
from keyd.device.faults import RETRY_AFTER_S, Situation, ckr_name, is_doubtful, translate
from keyd.device.module import Module, Selector, describe, token_serial
from keyd.device.v1 import device_pb2 as pb
from keyd.device.ykcs11 import Policy
from keyd.errors import (
    DeviceGoneError,
    KeydError,
    PinRefusedError,
    TokenError,
    TokenLockedError,
)

if TYPE_CHECKING:
    from keyd.device.reader import Seen

_NOTICED_S = 0.5
_EARLY_LOOKS = 25
"""The daemon looks for an absent token five times a second: so this is five seconds."""
_NO_SERIAL_YET = "0"
"""Of a YubiKey that libykcs11 read while pcscd was powering it."""

_NO_POLICY = Policy(touch="never")
_UNTOLD_POLICY = Policy()


class TokenSession:
    """The host's way to its token. ``session`` is None until a login, and after a loss.

    ``generation`` counts the logins: object handles live as long as one generation. ``policies``:
    what the keys of a YubiKey want, by CKA_ID, as read at the login.
    """

    def __init__(self, module: Path, selector: Selector, init_lock: Path) -> None:
        self._module = Module(module, selector, init_lock)
        self._selector = selector
        self._token: pkcs11.Token | None = None
        self._card = CardWatch()
        self._info = pb.TokenInfo()
        self._absent_from: tuple[Seen, ...] | None = None
        self._early_looks = 0
        self._pin: str | None = None
        self._known_keys: CardKeys = {}
        self.session: pkcs11.Session | None = None
        self.policies: Mapping[bytes, Policy] = {}
        self.generation = 0

    @property
    def name(self) -> str:
        """The configured name, for messages."""
        return self._selector.name

    @property
    def accepted_pin(self) -> str | None:
        """The PIN that this token accepted, for keys that want it each time and for yubikit in
        this same host; it goes nowhere else."""
        return self._pin

    @property
    def serial(self) -> str:
        """Serial of the token the session is on; empty without one."""
        return token_serial(self._token) if self._token is not None else ""

    @property
    def is_yubikey(self) -> bool:
        """True while the session is on a YubiKey."""
        return self._token is not None and ykcs11.is_yubikey(self._token)

    @property
    def library_version(self) -> tuple[int, int]:
        """Of the module."""
        return self._module.library_version

    # -- is it there ---------------------------------------------------------------------

    def probe(self) -> pb.Probed:
        """Look at the token; when it or the session is gone, initialise the module anew.

        Raises:
            TokenError: the module does not load, or the selector matches two tokens.
        """
        info = self._look()
        if info is None:
            around = look_around() if self._module.is_ykcs11 else None
            if around is None or around != self._absent_from or self._module.is_stale:
                # libykcs11 selects the applet of every YubiKey it finds, which ends what others
                # have proven to them: it is asked only when something was plugged in or pulled.
                self._restart()
                info = self._look_outside()
                is_absent = info is None and not self._was_too_early(around or ())
                self._absent_from = around if is_absent else None
            if around and any(seen.is_kept for seen in around):
                self._module.trouble = self._module.trouble or CARD_IS_KEPT
        return pb.Probed(
            token=info,
            logged_in=self.session is not None,
            holds_pin=self._pin is not None,
            trouble=self._module.trouble if info is None else "",
            others=self._module.others if info is None else (),
        )

    def _was_too_early(self, around: Sequence[Seen]) -> bool:
        """True while fewer YubiKeys told their serial than there are: one that is just being
        powered does so in a moment. One that never does is not waited for."""
        told = [serial for serial in self._module.others if serial != _NO_SERIAL_YET]
        is_early = len(told) < sum(seen.shows_yubikey for seen in around)
        self._early_looks = self._early_looks + 1 if is_early else 0
        return 0 < self._early_looks < _EARLY_LOOKS

    def answers(self) -> bool:
        """True while the session's token is still there; False marks the session lost."""
        if not self._module.is_stale and self.session is not None and self._is_there():
            return True
        self.forget_session()
        return False

    def forget_session(self) -> None:
        """The session is gone, or what lies on the token was changed: the next probe initialises
        the module anew."""
        self._module.is_stale = True

    def _look(self) -> pb.TokenInfo | None:
        """The token as it is now, without touching a session that works."""
        if self._module.is_stale:
            return None
        if self.session is None:
            return self._look_outside()
        if not self._is_there():
            return None
        assert self._token is not None
        if not self.is_yubikey:
            self._info = describe(self._token.slot.get_token())
        else:
            self._card.read_pin_state(self._info, at_leisure=True)
        return self._info

    def _look_outside(self) -> pb.TokenInfo | None:
        """The token while nobody is logged in."""
        if self._card.sees_card():
            self._card.read_pin_state(self._info, at_leisure=True)
            return self._info
        if self._absent_from is not None:
            return None
        token = self._module.find()
        if token is None:
            self._card.end()
            return None
        self._info = describe(token)
        if ykcs11.is_yubikey(token):
            self._card.begin(token)
            self._card.read_pin_state(self._info)
        return self._info

    def _is_there(self) -> bool:
        """Whether the session's token is in its place, and the same.

        CKR_GENERAL_ERROR here is how SoftHSM says that its folder was away, even after it is back.
        """
        assert self._token is not None
        if self._card.is_on:
            return self._card.sees_card()
        try:
            if self.is_yubikey:
                # libykcs11 looks at its cards only while it lists them.
                found = self._module.find()
                return found is not None and token_serial(found) == self.serial
            return token_serial(self._token.slot.get_token()) == self.serial
        except pkcs11.PKCS11Error:
            return False

    def _restart(self) -> None:
        self.session = None
        self._token = None
        self.policies = {}
        self._absent_from = None
        self._card.end()
        self._module.restart()

    # -- logging in ----------------------------------------------------------------------

    def login(self, request: pb.Login) -> tuple[pb.TokenInfo, KeydError | None, bool]:
        """Log in, once: the token's state, the error, and whether the PIN was sent.

        The token is compared and its PIN tries are read before the PIN goes out. A PIN that was
        refused is forgotten.
        """
        if self.session is not None and self.answers():
            return self._info, None, False
        try:
            was_yubikey = self._info.manufacturer.startswith("Yubico")
            # Unless the card tells its tries itself, only a new connection reads them.
            if self._module.is_stale or (was_yubikey and not self._card.is_on):
                self._restart()
            token = self._module.find()
            if token is None:
                raise DeviceGoneError(
                    f"token {self.name} is not there", retry_after_s=RETRY_AFTER_S, token=self.name
                )
            self._info = describe(token)
            is_yubikey = ykcs11.is_yubikey(token)
            if is_yubikey:
                self._card.begin(token)
                self._card.read_pin_state(self._info)
            check_token(self.name, self._info, request)
            card = self._card.public_keys([key.object_id for key in request.keys])
            check_keys(self.name, self._info.serial, request, card, self._known_keys)
        except TokenError as error:
            return self._info, error, False

        pin = request.pin.decode("utf-8") if request.HasField("pin") else self._pin
        if pin is None:
            locked = TokenLockedError(f"this host of token {self.name} has no PIN", token=self.name)
            return self._info, locked, False
        try:
            self.session = token.open(rw=True, user_pin=pin)
        except pkcs11.PKCS11Error as error:
            # The failed login leaks its session: start afresh at the next request.
            self.forget_session()
            situation = Situation(present=False)
            if is_yubikey:
                self._card.read_pin_state(self._info)
                situation = self._card.situation(
                    self._info.serial, present=False, touch="never", took_s=0.0, object_id=b""
                )
            fault = translate(error, self.name, "logging in", situation)
            if isinstance(fault, PinRefusedError | TokenLockedError) and pin == self._pin:
                self._pin = None
            return self._info, fault, True
        self._pin = pin
        self._known_keys = card
        self._token = token
        self.generation += 1
        if is_yubikey:
            # A good PIN has set the count back; without PC/SC only that is known.
            self._info.pin_state = "ok"
            self._card.read_pin_state(self._info)
            found = self.session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
            self.policies = self._card.policies([bytes(key[Attribute.ID]) for key in found])
        return self._info, None, True

    # -- using it ------------------------------------------------------------------------

    def open_session(self) -> pkcs11.Session:
        """The session that is logged in.

        Raises:
            DeviceGoneError: there is none.
        """
        if self.session is None or self._module.is_stale:
            raise DeviceGoneError(
                f"token {self.name} is not logged in", retry_after_s=RETRY_AFTER_S, token=self.name
            )
        return self.session

    def open_beside(self) -> pkcs11.Session:
        """A second session, logged in like the first; DeviceGoneError and pkcs11.PKCS11Error."""
        self.open_session()
        assert self._token is not None
        return self._token.open(rw=True)

    def lost(self, doing: str) -> DeviceGoneError:
        """What is told of work that was not tried because the session is gone."""
        self.forget_session()
        return DeviceGoneError(
            f"token {self.name} has lost its login while {doing}",
            retry_after_s=RETRY_AFTER_S,
            token=self.name,
        )

    def policy(self, object_id: bytes) -> Policy:
        """What this key wants."""
        return self.policies.get(object_id, _UNTOLD_POLICY if self.is_yubikey else _NO_POLICY)

    def fault(self, error: pkcs11.PKCS11Error, doing: str) -> KeydError:
        """The keyd error for what the module raised; asks the token where the code is doubtful.
        A lost session is marked, so that the next probe starts afresh."""
        present = self.answers() if is_doubtful(error) else True
        return self._translated(error, doing, Situation(present=present))

    def proves_again(self, error: pkcs11.PKCS11Error) -> bool:
        """True when the next try may succeed though this one did not: another program selected the
        card's applet anew, as libykcs11 does in every host that looks for its own YubiKey. The
        PIN went with that, and no contact has blinked."""
        return isinstance(error, pkcs11.UserNotLoggedIn) and self._card.lets_prove_again()

    def signing_fault(
        self, error: pkcs11.PKCS11Error, object_id: bytes, touch: str, took_s: float
    ) -> KeydError:
        """The same for a signature. ``touch``: what the key's policy wanted this time."""
        if not self.is_yubikey:
            return self.fault(error, "signing")
        if self._card.is_on:
            present = self.answers() and self._card.card_answers()
        else:
            # pcscd takes a moment to see that a card is gone, and we cannot ask the card.
            time.sleep(_NOTICED_S)
            present = self.answers()
        situation = self._card.situation(
            self.serial, present=present, touch=touch, took_s=took_s, object_id=object_id
        )
        return self._translated(error, "signing", situation)

    def _translated(self, error: pkcs11.PKCS11Error, doing: str, situation: Situation) -> KeydError:
        translated = translate(error, self.name, doing, situation)
        if isinstance(translated, PinRefusedError | TokenLockedError):
            # A wrong PIN in an operation leaves the session with that operation.
            self._pin = None
            self.forget_session()
        if isinstance(translated, DeviceGoneError) or situation.emptied_slot:
            # libykcs11 goes on with what lay there when it connected.
            self.forget_session()
        return translated

    def object_was_replaced(self, error: pkcs11.PKCS11Error) -> bool:
        """True when only a cached handle is stale: the token itself answers."""
        return ckr_name(error) in ("CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID") and (
            self.answers()
        )
