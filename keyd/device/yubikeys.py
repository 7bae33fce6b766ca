"""The YubiKeys among the tokens: what their hosts do with yubikit, and what the sessions of
libykcs11 have to be told of it. Daemon side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from keyd.device.keeper import TokenKeeper
from keyd.device.pluggedin import find_plugged_in
from keyd.device.pool import DevicePool
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceFaultError, KeydError, TokenLockedError
from keyd.model import (
    MadeInSlot,
    Pin,
    PinAttempts,
    PinPolicy,
    PluggedIn,
    Slot,
    SlotContent,
    SlotOrder,
    SlotStatement,
    TokenState,
    TouchPolicy,
    YubiKey,
)

_ATTEMPT = "keydctl yubikey"
"""PinAttempts' source while secrets change: whatever the configured source holds may be the old
PIN, and only a person tries one until somebody has logged in."""


class PoolYubiKeys:
    """Implements model.YubiKeyDevice over the token hosts of a pool."""

    def __init__(
        self, pool: DevicePool, attempts: PinAttempts, now: Callable[[], datetime]
    ) -> None:
        self._pool = pool
        self._attempts = attempts
        self._now = now

    async def look(self, token: str) -> YubiKey:
        """See model.YubiKeyDevice."""
        order = pb.YubiKeyOrder(look=pb.YubiKeyLook())
        reply = await self._pool.keeper(token).ask_aside(pb.Request(yubikey=order))
        return _yubikey(reply.yubikey.state)

    async def init(self, token: str, pin: Pin, puk: Pin) -> tuple[str, ...]:
        """See model.YubiKeyDevice."""
        order = pb.YubiKeyInit(pin=pin.reveal().encode(), puk=puk.reveal().encode())
        report = await self._with_secrets(token, pb.YubiKeyOrder(init=order))
        return tuple(report.done.notes)

    async def change_pin(self, token: str, old: Pin, new: Pin) -> None:
        """See model.YubiKeyDevice."""
        keeper = self._pool.keeper(token)
        was_ready = keeper.status().state is TokenState.READY
        if was_ready:
            # Offered first, beside the sessions: a wrong one leaves them as they are, and what
            # they hold is the right one still.
            check = pb.YubiKeyCheckPin(pin=old.reveal().encode())
            try:
                await self._logged_in(keeper, pb.YubiKeyOrder(check_pin=check))
            except TokenLockedError:
                await keeper.refresh()  # that was the last try: the token says so itself
                raise
        order = pb.YubiKeyChangePin(old_pin=old.reveal().encode(), new_pin=new.reveal().encode())
        await self._with_secrets(token, pb.YubiKeyOrder(change_pin=order))
        if was_ready:
            try:
                await self._pool.unlock(token, new)
            except KeydError as error:
                # Whoever asked must know which PIN is the right one now.
                error.message = f"the PIN is changed, but token {token} is locked: {error.message}"
                error.args = (error.message,)
                error.hint = f"keydctl token unlock {token}, with the new PIN"
                raise

    async def unblock(self, token: str, puk: Pin, new: Pin) -> None:
        """See model.YubiKeyDevice."""
        order = pb.YubiKeyUnblock(puk=puk.reveal().encode(), new_pin=new.reveal().encode())
        await self._with_secrets(token, pb.YubiKeyOrder(unblock=order))

    async def generate(self, token: str, order: SlotOrder) -> MadeInSlot:
        """See model.YubiKeyDevice."""
        wanted = pb.YubiKeyGenerate(
            slot=order.slot.number,
            algorithm=order.algorithm.value,
            pin_policy=order.pin.value,
            touch_policy=order.touch.value,
            common_name=order.label,
            now=int(self._now().timestamp()),
        )
        keeper = self._pool.keeper(token)
        try:
            request = pb.Request(yubikey=pb.YubiKeyOrder(generate=wanted))
            report = (await keeper.ask(request, purpose=order.purpose)).yubikey
        finally:
            # Also after a failure: something may have been made before it.
            await keeper.refresh()
        made = report.made
        return MadeInSlot(made.public_key, made.certificate, _statement(made.attestation))

    async def attest(self, token: str, slot: Slot) -> SlotStatement:
        """See model.YubiKeyDevice."""
        order = pb.YubiKeyOrder(attest=pb.YubiKeyAttest(slot=slot.number))
        reply = await self._pool.keeper(token).ask_aside(pb.Request(yubikey=order))
        return _statement(reply.yubikey.attestation)

    async def write_certificate(self, token: str, slot: Slot, certificate: bytes) -> None:
        """See model.YubiKeyDevice."""
        wanted = pb.YubiKeyWriteCertificate(slot=slot.number, certificate=certificate)
        keeper = self._pool.keeper(token)
        await self._logged_in(keeper, pb.YubiKeyOrder(write_certificate=wanted))
        await keeper.refresh()

    async def plugged_in(self) -> tuple[list[PluggedIn], str]:
        """See model.YubiKeyDevice."""
        names = [token.name for token in self._pool.tokens()]
        configs = [self._pool.keeper(name).config for name in names]
        serials = {token.serial for token in self._pool.tokens()} | {c.serial for c in configs}
        module = next((c.module for c in configs if c.is_yubikey), None)
        return await find_plugged_in({s for s in serials if s}, module)

    async def _logged_in(self, keeper: TokenKeeper, order: pb.YubiKeyOrder) -> pb.YubiKeyReport:
        return (await keeper.ask(pb.Request(yubikey=order))).yubikey

    async def _with_secrets(self, token: str, order: pb.YubiKeyOrder) -> pb.YubiKeyReport:
        """Change secrets while no session of libykcs11 is logged in: one would offer the old PIN,
        which it keeps, at its next turn, and spend a try."""
        keeper = self._pool.keeper(token)
        before = keeper.status()
        if before.serial:
            await asyncio.to_thread(self._attempts.begin, before.serial, _ATTEMPT)
        await keeper.lock()
        try:
            return (await keeper.ask_aside(pb.Request(yubikey=order))).yubikey
        except KeydError as error:
            if before.state is TokenState.READY:
                locked = f"it is locked meanwhile: keydctl token unlock {token}"
                error.hint = f"{error.hint}; {locked}" if error.hint else locked
            raise


def _statement(said: pb.YubiKeyAttestation) -> SlotStatement:
    return SlotStatement(said.statement, said.device_certificate)


def _yubikey(state: pb.YubiKeyState) -> YubiKey:
    if not state.serial:
        raise DeviceFaultError("a token host answered without a YubiKey's state")
    return YubiKey(
        serial=state.serial,
        firmware=state.firmware,
        form_factor=state.form_factor,
        pin_tries=state.pin_tries,
        pin_tries_of=state.pin_tries_of,
        puk_tries=state.puk_tries,
        puk_tries_of=state.puk_tries_of,
        factory=frozenset(state.factory),
        management_algorithm=state.management_algorithm,
        management_protected=state.management_protected,
        slots=tuple(
            SlotContent(
                slot=Slot(found.slot),
                algorithm=found.algorithm,
                pin=PinPolicy(found.pin_policy) if found.pin_policy in _PINS else None,
                touch=TouchPolicy(found.touch_policy) if found.touch_policy in _TOUCHES else None,
                origin=found.origin,
                public_key=found.public_key,
                certificate=found.certificate,
            )
            for found in state.slots
        ),
    )


_PINS = frozenset(PinPolicy)
_TOUCHES = frozenset(TouchPolicy)
