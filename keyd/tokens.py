"""Tokens as callers see them: list, unlock, lock, look at what lies there."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from keyd.approvals import Approvals
from keyd.errors import KeydError, PolicyDeniedError, TokenNotFoundError
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    Device,
    Effect,
    EntryDraft,
    Outcome,
    Pin,
    Purpose,
    Registry,
    TokenObject,
    TokenStatus,
)
from keyd.unbroken import Unbroken

_LOOK_S = 0.2
"""How often watchers look; asking the device costs nothing."""


def _is_of(caller: Caller, purpose: Purpose) -> bool:
    return bool(purpose.asked_by) and purpose.asked_by == caller.principal.id


def _all(status: TokenStatus) -> list[Purpose]:
    """What it signs or shall sign, as far as it is told."""
    blinking = [status.touch.purpose] if status.touch is not None else []
    return [*blinking, *(call.purpose for call in status.waiting)]


def _before(caller: Caller, status: TokenStatus, asked: str) -> int:
    """Signatures that come before the next one of the request; 0 where it is its turn."""

    def is_its(purpose: Purpose) -> bool:
        return _is_of(caller, purpose) and purpose.request_id == asked

    if status.touch is not None and is_its(status.touch.purpose):
        return 0
    before = 1 if status.touch is not None else 0
    for call in status.waiting:
        if is_its(call.purpose):
            return before
        before += call.signatures
    return 0


class Tokens:
    """Decides who may touch a token, and writes down what came of it."""

    def __init__(
        self,
        *,
        gate: Gate,
        device: Device,
        audit: AuditLog,
        registry: Registry,
        approvals: Approvals,
    ) -> None:
        self._gate = gate
        self._approvals = approvals
        self._device = device
        self._audit = audit
        self._registry = registry
        self._unbroken = Unbroken()

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        await self._unbroken.drain()

    def list(self, caller: Caller) -> list[TokenStatus]:
        """The tokens the caller may see, in the order of the configuration."""
        return [
            self._shown_status(caller, t)
            for t in self._device.tokens()
            if self._gate.may(caller, Action.TOKENS, t.name)
        ]

    async def watch(
        self, caller: Caller, token: str = "", asked: str = ""
    ) -> AsyncGenerator[TokenStatus, None]:
        """The tokens the caller may see, or this one: now, and each again when it changes.

        ``asked``: the id of a request of the caller's own. Then only the tokens that blink for it
        or make it wait, which whoever asked may see without a grant for tokens.

        Raises:
            PolicyDeniedError: the caller may not see that token.
        """
        if token and not asked:
            await self._gate.authorize(caller, Action.TOKENS, token)
            self._status(token)
        told: dict[str, TokenStatus] = {}
        while True:
            for status in self._watched(caller, token, asked, told):
                shown = self._shown_status(caller, status)
                if asked:
                    shown = replace(shown, before=_before(caller, status, asked))
                if told.get(shown.name) != shown:
                    told[shown.name] = shown
                    yield shown
            await asyncio.sleep(_LOOK_S)

    def _watched(
        self, caller: Caller, token: str, asked: str, told: Mapping[str, TokenStatus]
    ) -> Sequence[TokenStatus]:
        """Those to be told of; a token that blinked for the request is told once more after."""
        if not asked:
            return [t for t in self.list(caller) if token in ("", t.name)]
        return [
            t
            for t in self._device.tokens()
            if t.name in told or any(_is_of(caller, p) and p.request_id == asked for p in _all(t))
        ]

    def _shown_status(self, caller: Caller, status: TokenStatus) -> TokenStatus:
        """Without the names of keys that the caller must not learn of; whole seconds."""
        touch = status.touch
        if touch is not None:
            purpose = self._shown_purpose(caller, touch.purpose)
            touch = replace(touch, purpose=purpose, left_s=float(math.ceil(touch.left_s)))
        waiting = tuple(
            replace(call, purpose=self._shown_purpose(caller, call.purpose))
            for call in status.waiting
        )
        return replace(status, touch=touch, waiting=waiting)

    def _shown_purpose(self, caller: Caller, purpose: Purpose) -> Purpose:
        if _is_of(caller, purpose) or not purpose.key:
            return purpose
        try:
            self._gate.decide(caller, Action.LIST, purpose.key)
        except PolicyDeniedError:
            return Purpose()
        return purpose

    async def unlock(
        self, caller: Caller, token: str, pin: Pin | None, *, spend_last_try: bool = False
    ) -> TokenStatus:
        """Log in with a person's PIN, or once more with the configured source. A caller that
        leaves does not stop it: a PIN that was tried is in the log.

        Raises:
            PinRefusedError: the token refused it; the entry is written, nothing is retried.
            TokenLockedError: only the last try is left and was not offered.
            PolicyDeniedError: over TCP came the PIN of a YubiKey, or of a token that may be one.
        """
        await self._gate.authorize(caller, Action.UNLOCK, token)
        if pin is not None and self._status(token).may_be_yubikey:
            await self._gate.refuse_remote_secret(caller, Action.UNLOCK, token)
        self._status(token)
        # Never the PIN: what people consent to is stored and shown.
        consent = await self._approvals.consent_to(
            caller,
            Action.UNLOCK,
            token,
            {
                "spend_last_try": spend_last_try,
                "with": "a PIN of the caller" if pin else "the configured PIN source",
            },
        )
        return await self._unbroken.run(self._unlock(caller, token, pin, spend_last_try, consent))

    async def _unlock(
        self,
        caller: Caller,
        token: str,
        pin: Pin | None,
        spend_last_try: bool,
        consent: Sequence[Effect],
    ) -> TokenStatus:
        if consent:
            # Used up before the PIN is tried: of two calls with one approval, one tries it.
            intent = self._entry(caller, Action.UNLOCK, token, message="about to log in")
            intent = replace(intent, details=self._approvals.details(consent))
            await self._audit.record(intent, consent)
        try:
            was_tried = await self._device.unlock(token, pin, spend_last_try=spend_last_try)
        except KeydError as e:
            await self._audit.record(self._entry(caller, Action.UNLOCK, token, error=e))
            raise
        how = "with a PIN given by the caller" if pin else "with the configured PIN source"
        if not was_tried:
            how = "it was READY already; no PIN was tried"
        await self._audit.record(self._entry(caller, Action.UNLOCK, token, message=how))
        return self._status(token)

    async def lock(self, caller: Caller, token: str, *, said: str = "") -> TokenStatus:
        """Log out; the token stays LOCKED until somebody unlocks it. A caller that leaves does
        not stop it: what the log says is done."""
        await self._gate.authorize(caller, Action.LOCK, token)
        self._status(token)
        return await self._unbroken.run(self._lock(caller, token, said))

    async def _lock(self, caller: Caller, token: str, said: str) -> TokenStatus:
        await self._audit.record(self._entry(caller, Action.LOCK, token, said=said))
        await self._device.lock(token)
        return self._status(token)

    async def objects(self, caller: Caller, token: str) -> Sequence[tuple[TokenObject, str]]:
        """The key pairs on a token, each with the version it is registered as, or empty."""
        await self._gate.authorize(caller, Action.TOKENS, token)
        self._status(token)
        found = await self._device.objects(token)
        return [self._shown(caller, o) for o in found]

    def _shown(self, caller: Caller, found: TokenObject) -> tuple[TokenObject, str]:
        version = self._registry.find_public_key(found.public_key) if found.public_key else None
        if version is None:
            return found, ""
        # A token is shared: its objects may belong to keys this caller must not learn of, and
        # keyd writes a key's name into the label.
        try:
            self._gate.decide(caller, Action.LIST, version.key)
        except PolicyDeniedError:
            return replace(found, label=""), "(a key you may not see)"
        return found, version.name

    def _status(self, token: str) -> TokenStatus:
        for status in self._device.tokens():
            if status.name == token:
                return status
        raise TokenNotFoundError(
            f"no token {token} is configured", hint="keydctl token list", token=token
        )

    def _entry(
        self,
        caller: Caller,
        action: Action,
        token: str,
        *,
        said: str = "",
        message: str = "",
        error: KeydError | None = None,
    ) -> EntryDraft:
        return EntryDraft(
            action=action,
            outcome=Outcome.FAILED if error else Outcome.ALLOWED,
            caller=caller,
            token=token,
            token_serial=self._status(token).serial,
            policy_hash=self._gate.policy_hash,
            said=said,
            message=error.message if error else message,
            reason_code=error.reason if error else "",
            alert=error is not None,
        )
