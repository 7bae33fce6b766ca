"""May keyd try a PIN now? The rules that keep it from spending anybody's tries.

By itself keyd tries a PIN once. A durable record is made before and cleared on success; while it
stands, across restarts and hosts, only a person's unlock tries. SoftHSM and some HSMs count
nothing, so this record is the only memory there is.
"""

from __future__ import annotations

import asyncio
import os

from keyd.device.events import KnownKeys
from keyd.device.failures import failure_error, locked_error, unblock_hint
from keyd.device.pins import PinSource, PinTag
from keyd.device.settings import TokenConfig
from keyd.device.supervisor import HostDiedError, HostProcess
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import PinRefusedError, TokenLockedError, WrongTokenError
from keyd.model import Pin, PinAttempts


class Door:
    """The login of one token. Hold ``lock`` around each login: one host at a time."""

    def __init__(self, config: TokenConfig, attempts: PinAttempts, known_keys: KnownKeys) -> None:
        self._config = config
        self._attempts = attempts
        self._known_keys = known_keys
        self._source = PinSource(config.name, config.pin_source, os.environ)
        self._accepted = PinTag()
        self._refused = PinTag()
        self._second_chance = False
        self._cut_short_on = ""
        self._serial = config.serial or ""
        self._standing_for = ""
        self._strange_serial = ""
        self._why_strange = "", ""
        self.lock = asyncio.Lock()
        self.locked_by_hand = False
        self.needs_pin = "needs its PIN"
        """Why a prompt token is LOCKED, to follow the token's name."""

    @property
    def is_prompt(self) -> bool:
        """True where only a person knows the PIN."""
        return self._source.is_prompt

    def read_source(self) -> Pin:
        """The configured PIN, for a person who unlocks without giving one; see PinSource.read."""
        return self._source.read()

    async def forgive(self, serial: str) -> None:
        """A person answered for the token: forget refusals."""
        self.locked_by_hand = False
        self._standing_for = ""
        self._strange_serial = ""
        await asyncio.to_thread(self._attempts.clear, serial)

    async def log_in(
        self, host: HostProcess, info: pb.TokenInfo, *, holds_pin: bool
    ) -> pb.LoggedIn:
        """Log in without a person, if that is allowed.

        ``holds_pin``: the host has a PIN that this token accepted before.

        Raises:
            TokenError: why not; the PIN was sent only where it is a PinRefusedError, or where
                the outcome is unknown.
            HostDiedError: the host ended; the record stands unless the PIN is known to be good.
        """
        self._check_allowed(info, holds_pin)
        pin = None if holds_pin else self._source.read()
        if pin is not None and self._refused.matches(pin):
            # A person's unlock with another PIN has cleared the record, not the source's error.
            raise self._standing_error()
        if self._cut_short_on == info.serial and info.pin_tries and self._is_known_good(pin):
            # Nothing was spent: a count that a wrong PIN had lowered was refused above.
            await asyncio.to_thread(self._attempts.clear, info.serial)
        self._cut_short_on = ""
        if not await asyncio.to_thread(self._attempts.begin, info.serial, self._config.pin_source):
            self._standing_for = info.serial
            raise self._standing_error()

        login = pb.Login(serial=info.serial, keys=self._expected(info.serial))
        if pin is not None:
            login.pin = pin.reveal().encode()
        try:
            reply = await host.ask(pb.Request(login=login))
        except HostDiedError as died:
            if died.asked:
                await self._forgive_unless_suspect(info.serial, pin)
            else:
                await asyncio.to_thread(self._attempts.clear, info.serial)
            raise
        if reply.WhichOneof("what") == "failure":
            error = failure_error(self._config.name, reply.failure)
            if isinstance(error, PinRefusedError):
                self._standing_for = info.serial
                self._was_refused(pin)
            elif not reply.failure.pin_sent:
                self._strange_serial = str(error.facts.get("strange_serial", ""))
                self._why_strange = error.message, error.hint
                await asyncio.to_thread(self._attempts.clear, info.serial)
            else:
                await self._forgive_unless_suspect(info.serial, pin)
            raise error
        await self._succeeded(reply.logged_in.token, pin)
        return reply.logged_in

    async def log_in_person(
        self, host: HostProcess, info: pb.TokenInfo, pin: Pin, *, spend_last_try: bool
    ) -> pb.LoggedIn:
        """Log in because a person asked; on success refusals are forgotten.

        Raises:
            TokenError: why not.
            HostDiedError: the host ended meanwhile.
        """
        login = pb.Login(
            pin=pin.reveal().encode(),
            serial=self._config.serial or "",
            person=True,
            spend_last_try=spend_last_try,
            keys=self._expected(info.serial),
        )
        reply = await host.ask(pb.Request(login=login))
        if reply.WhichOneof("what") == "failure":
            error = failure_error(self._config.name, reply.failure)
            if isinstance(error, PinRefusedError):
                self._was_refused(pin)
            raise error
        self.locked_by_hand = False
        self._strange_serial = ""
        await self._succeeded(reply.logged_in.token, pin)
        return reply.logged_in

    def _expected(self, serial: str) -> list[pb.KeyObject]:
        """What should lie on a YubiKey; other tokens cannot be looked into before the login."""
        if not self._config.is_yubikey:
            return []
        known = self._known_keys(serial)
        return [pb.KeyObject(object_id=i, public_key=key) for i, key in sorted(known.items())]

    def _was_refused(self, pin: Pin | None) -> None:
        if pin is None:
            return
        self._refused.remember(pin)
        if self._accepted.matches(pin):
            self._accepted.forget()

    def _check_allowed(self, info: pb.TokenInfo, holds_pin: bool) -> None:
        name = self._config.name
        # Of a blocked PIN it would say to unlock, which cannot help.
        if self.locked_by_hand and info.pin_state != "locked":
            raise locked_error(name, "was locked by hand")
        if self._serial and info.serial != self._serial:
            raise WrongTokenError(
                f"another token is in the place of {name}: serial {info.serial}, "
                f"it was {self._serial}",
                hint=f"put the right one back, or accept this one: keydctl token unlock {name}",
                token=name,
                serial=info.serial,
                expected=self._serial,
            )
        if info.pin_state == "locked":
            raise TokenLockedError(
                f"the PIN of token {name} is blocked",
                hint=unblock_hint(name, is_yubikey=self._config.is_yubikey),
                token=name,
            )
        if info.pin_state not in ("ok", ""):
            raise locked_error(
                name, f"counts wrong PINs ({info.pin_state}), so keyd tries none by itself"
            )
        if self._strange_serial and self._strange_serial == info.serial:
            message, hint = self._why_strange
            raise TokenLockedError(message, hint=hint, token=name)
        if self._standing_for == info.serial:
            raise self._standing_error()
        if self._source.is_prompt and not holds_pin:
            raise locked_error(name, self.needs_pin)

    async def _succeeded(self, info: pb.TokenInfo, pin: Pin | None) -> None:
        if pin is not None:
            self._accepted.remember(pin)
            if self._refused.matches(pin):
                self._refused.forget()
        self._second_chance = True
        self._serial = info.serial
        self._standing_for = ""
        self.needs_pin = "needs its PIN"
        await asyncio.to_thread(self._attempts.clear, info.serial)

    async def _forgive_unless_suspect(self, serial: str, pin: Pin | None) -> None:
        """A login was cut short. The token accepted this very PIN before, so one more try is no
        guess; a second cut in a row is for a person to look at, unless a YubiKey tells then that
        all its tries are left."""
        if not self._is_known_good(pin):
            return
        if self._second_chance:
            self._second_chance = False
            await asyncio.to_thread(self._attempts.clear, serial)
        elif self._config.is_yubikey:
            self._cut_short_on = serial

    def _is_known_good(self, pin: Pin | None) -> bool:
        """True for a PIN that this token accepted before; None is the one that a host holds."""
        return pin is None or self._accepted.matches(pin)

    def _standing_error(self) -> TokenLockedError:
        return locked_error(
            self._config.name,
            f"refused the PIN from {self._config.pin_source}, or a login with it was cut short; "
            "keyd does not try it again by itself",
        )
