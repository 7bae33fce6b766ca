"""YubiKeys as callers see them: look, set up, change secrets, attest, put certificates.

Who may look may also attest: that only proves what is there. All that changes a card takes the
grant ``provision``; what carries a PIN or PUK is refused over TCP, whatever the policy says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from keyd.approvals import Approvals
from keyd.errors import (
    InvalidRequestError,
    KeydError,
    TokenNotFoundError,
)
from keyd.gate import Gate
from keyd.lasttries import check_pin_tries, check_puk_tries
from keyd.model import (
    Action,
    Attestation,
    AuditLog,
    Caller,
    Device,
    EntryDraft,
    Origin,
    Outcome,
    Pin,
    Registry,
    Slot,
    TokenStatus,
    UpdateVersion,
    YubiKey,
    YubiKeyDevice,
    check_secret,
)
from keyd.newyubikeys import NotConfigured, check_fresh
from keyd.slots import InSlots
from keyd.unbroken import Unbroken


@dataclass(frozen=True, slots=True)
class Looked:
    """One token. ``yubikey`` is None where it could not be read, and ``problem`` says why.
    ``registered``: slot -> KEY/versions/N."""

    status: TokenStatus
    yubikey: YubiKey | None
    problem: str
    registered: Mapping[Slot, str]


@dataclass(frozen=True, slots=True)
class Attested:
    """What is proven of a key, and the version that has it, where the caller may see that."""

    attestation: Attestation
    public_key: bytes
    registered_as: str


class YubiKeys:
    """Decides who may touch a YubiKey, and writes down what came of it."""

    def __init__(
        self,
        *,
        gate: Gate,
        device: Device,
        yubikeys: YubiKeyDevice,
        slots: InSlots,
        audit: AuditLog,
        registry: Registry,
        approvals: Approvals,
    ) -> None:
        self._gate = gate
        self._device = device
        self._yubikeys = yubikeys
        self._slots = slots
        self._audit = audit
        self._registry = registry
        self._approvals = approvals
        self._unbroken = Unbroken()
        self.not_configured = NotConfigured(gate=gate, device=device, yubikeys=yubikeys)

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        await self._unbroken.drain()

    # -- look ------------------------------------------------------------------------------

    async def list(self, caller: Caller, token: str = "") -> Sequence[Looked]:
        """The YubiKeys among the tokens the caller may see; one alone where ``token`` names it."""
        if token:
            await self._gate.authorize(caller, Action.TOKENS, token)
            self._status(token)
        looked = []
        for status in self._device.tokens():
            asked = status.name == token if token else status.is_yubikey
            if not asked or not self._gate.may(caller, Action.TOKENS, status.name):
                continue
            try:
                self._check_yubikey(status.name)
                yubikey = await self._yubikeys.look(status.name)
            except KeydError as e:
                said = e.message.removeprefix("token: ")  # the field of the request
                problem = f"{said}; {e.hint}" if e.hint else said
                looked.append(Looked(status, None, problem, {}))
                continue
            named = {c.slot: self._registered_as(caller, c.public_key) for c in yubikey.slots}
            looked.append(Looked(status, yubikey, "", {s: n for s, n in named.items() if n}))
        return looked

    # -- secrets ---------------------------------------------------------------------------

    async def init(
        self, caller: Caller, token: str, pin: Pin, puk: Pin, *, factory: bool, said: str = ""
    ) -> tuple[TokenStatus, Sequence[str]]:
        """Set up a YubiKey that is as at the factory.

        Raises:
            InvalidRequestError: weak secrets, or nobody said that it is new.
            TokenObjectError: it holds keys, or its PIN was changed already; nothing was tried.
        """
        await self._authorize_local(caller, token)
        check_secret("pin", pin)
        check_secret("puk", puk)
        if pin.reveal() == puk.reveal():
            raise InvalidRequestError("puk", "the PUK must not be the PIN: who has one has both")
        if not factory:
            raise InvalidRequestError(
                "factory",
                "setting up a YubiKey uses the factory's PIN, PUK and management key, a try each",
                hint=f"if it is new or was reset: keydctl yubikey init {token} --factory",
            )
        self._check_yubikey(token)

        async def work() -> tuple[str, ...]:
            check_fresh(token, await self._yubikeys.look(token))
            return await self._yubikeys.init(token, pin, puk)

        notes = await self._change(
            caller, token, "initialised: PIN, PUK and a random management key are set", said, work
        )
        return self._status(token), notes

    async def change_pin(
        self,
        caller: Caller,
        token: str,
        old: Pin,
        new: Pin,
        *,
        spend_last_try: bool = False,
        said: str = "",
    ) -> TokenStatus:
        """Change the PIN; a wrong old one costs a try, and is tried once.

        Raises:
            PinRefusedError: with how many tries are left.
            TokenLockedError: only the last try is left and was not offered.
        """
        await self._authorize_local(caller, token)
        check_secret("new_pin", new)
        if new.reveal() == old.reveal():
            raise InvalidRequestError(
                "new_pin",
                "that is the PIN as it is; nothing was tried",
                hint=f"the same command, with another new PIN: keydctl yubikey change-pin {token}",
            )
        self._check_yubikey(token)
        if not spend_last_try:
            check_pin_tries(token, await self._yubikeys.look(token))
        await self._change(
            caller, token, "PIN changed", said, lambda: self._yubikeys.change_pin(token, old, new)
        )
        return self._status(token)

    async def unblock(
        self,
        caller: Caller,
        token: str,
        puk: Pin,
        new: Pin,
        *,
        spend_last_try: bool = False,
        said: str = "",
    ) -> TokenStatus:
        """Set a new PIN by the PUK; a wrong PUK costs a try, and is tried once.

        Raises:
            PinRefusedError: with how many tries are left.
            TokenLockedError: only the PUK's last try is left and was not offered.
        """
        await self._authorize_local(caller, token)
        check_secret("new_pin", new)
        self._check_yubikey(token)
        if not spend_last_try:
            check_puk_tries(token, await self._yubikeys.look(token))
        await self._change(
            caller,
            token,
            "PIN set anew by the PUK",
            said,
            lambda: self._yubikeys.unblock(token, puk, new),
        )
        return self._status(token)

    # -- keys ------------------------------------------------------------------------------

    async def attest(self, caller: Caller, token: str, slot: Slot, *, said: str = "") -> Attested:
        """Verify what the card states of the key in a slot; a version that has the key is attested
        from then on.

        Raises:
            TokenObjectError: no key there, or nothing is proven.
        """
        await self._gate.authorize(caller, Action.TOKENS, token)
        self._check_yubikey(token)
        yubikey = await self._yubikeys.look(token)
        content = yubikey.find(slot)
        public_key = content.public_key if content else b""
        if not public_key and not yubikey.pin_tries_of:
            # Old firmware does not tell; libykcs11 read it from the attestation or certificate.
            objects = await self._device.objects(token, slot.object_id)
            found = [o.public_key for o in objects]
            public_key = found[0] if found else b""
        proven = await self._slots.prove(token, slot, public_key, yubikey.serial)
        version = self._registry.find_public_key(public_key)
        if (
            version is not None
            and version.token_serial == proven.serial
            and version.attestation != proven
        ):
            entry = replace(
                self._entry(caller, "attest", token, said=said, message="attested by its device"),
                key=version.key,
                version=version.number,
                keyid=version.keyids.get("tuf", ""),
                fingerprint=version.fingerprint,
                details=proven.details(),
            )
            change = UpdateVersion(
                version.key,
                version.number,
                version.state,
                origin=Origin.ATTESTED,
                attestation=proven,
            )
            await self._audit.record(entry, (change,))
        return Attested(proven, public_key, self._registered_as(caller, public_key))

    async def write_certificate(
        self, caller: Caller, token: str, slot: Slot, certificate: bytes, *, said: str = ""
    ) -> None:
        """Put a certificate for the slot's own key into the slot.

        Raises:
            TokenObjectError: it is for another key.
        """
        await self._gate.authorize(caller, Action.PROVISION, token)
        self._check_yubikey(token)
        await self._change(
            caller,
            token,
            f"certificate put into slot {slot}",
            said,
            lambda: self._yubikeys.write_certificate(token, slot, certificate),
        )

    # -- shared ----------------------------------------------------------------------------

    async def _authorize_local(self, caller: Caller, token: str) -> None:
        await self._gate.authorize(caller, Action.PROVISION, token)
        await self._gate.refuse_remote_secret(caller, Action.PROVISION, token)
        self._status(token)

    async def _change(
        self,
        caller: Caller,
        token: str,
        done: str,
        said: str,
        work: Callable[[], Awaitable[tuple[str, ...] | None]],
    ) -> tuple[str, ...]:
        """Ask people, do it, write it down; a caller that leaves does not stop it."""
        # Never the secrets: what people consent to is stored and shown.
        consent = await self._approvals.consent_to(
            caller, Action.PROVISION, token, {"change": done}, said=said
        )

        async def run() -> tuple[str, ...]:
            intent = self._entry(
                caller, Action.PROVISION, token, said=said, message=f"to be {done}"
            )
            intent = replace(intent, details=self._approvals.details(consent))
            await self._audit.record(intent, consent)
            try:
                notes = await work()
            except KeydError as e:
                await self._audit.record(self._entry(caller, Action.PROVISION, token, error=e))
                raise
            entry = self._entry(caller, Action.PROVISION, token, said=said, message=done)
            told = {f"note.{n}": note for n, note in enumerate(notes or ())}
            await self._audit.record(replace(entry, alert=True, details=told))
            return tuple(notes or ())

        return await self._unbroken.run(run())

    def _check_yubikey(self, token: str) -> None:
        status = self._status(token)
        # One that was not seen since the start tells no model.
        if not status.may_be_yubikey:
            raise InvalidRequestError(
                "token", f"{token} is no YubiKey: it says {status.model}", hint="keydctl token list"
            )

    def _registered_as(self, caller: Caller, public_key: bytes) -> str:
        version = self._registry.find_public_key(public_key) if public_key else None
        if version is None or not self._gate.may(caller, Action.LIST, version.key):
            return ""
        return version.name

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
        action: str,
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
