"""Keys over their life: list, get, create, rotate, update; adoptedkeys.py and versions.py have the
rest.

Every change is an entry and its effects in one transaction. What also touches a token is written
in two steps, an intent before and the outcome after, so that a crash between any two leaves a
state that recovery.py finishes or undoes.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from keyd import publickeys
from keyd.adoptedkeys import AdoptedKeys
from keyd.approvals import Approvals
from keyd.enrolment import Enrolment, Made
from keyd.errors import (
    InvalidRequestError,
    KeyBoundError,
    KeydError,
    KeyExistsError,
    RotationConflictError,
)
from keyd.gate import Gate
from keyd.keyfields import (
    KeyFilter,
    NewKey,
    asked_of_new,
    asked_of_update,
    binding_details,
    check_fields,
)
from keyd.model import (
    Action,
    AuditLog,
    Binding,
    Caller,
    Clock,
    Device,
    EntryDraft,
    Freeze,
    InsertKey,
    Key,
    KeyVersion,
    Origin,
    Outcome,
    Registry,
    SetKeyFields,
    SlotOrder,
    VersionState,
    check_name,
)
from keyd.proving import proof_of
from keyd.slots import InSlots


class Keys(AdoptedKeys):
    """The registry's front: who may change what, in which order, with which entry."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        device: Device,
        audit: AuditLog,
        clock: Clock,
        enrolment: Enrolment,
        approvals: Approvals,
        check_clock: Callable[[], None],
        destroy_wait_s: int,
        slots: InSlots | None = None,
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted. ``slots``: where
        keys on YubiKeys are made."""
        super().__init__(
            gate=gate,
            registry=registry,
            device=device,
            audit=audit,
            clock=clock,
            approvals=approvals,
            check_clock=check_clock,
            destroy_wait_s=destroy_wait_s,
            slots=slots,
        )
        self._enrolment = enrolment

    # ------------------------------------------------------------------------------- read

    def list(self, caller: Caller, wanted: KeyFilter) -> list[Key]:
        """The keys the caller may see and wants, by name."""
        now = self._clock.now()
        return [
            key
            for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
            if wanted.matches(key, now) and self._gate.may(caller, Action.LIST, key.name)
        ]

    def get(self, caller: Caller, name: str) -> Key:
        """One key; see :meth:`keyd.gate.Gate.get` for the errors."""
        return self._gate.get(caller, name)

    def frozen(self, name: str) -> Freeze | None:
        """The freeze that stops this key, or None."""
        return self._registry.freeze_on(name)

    # ------------------------------------------------------------------------------- create

    async def create(self, caller: Caller, new: NewKey) -> Key:
        """Generate version 1 of a new key on its token; it is the active one.

        Raises:
            KeyExistsError: the name is taken.
            MechanismMissingError: the token cannot make such a key; nothing was made.
        """
        await self._gate.authorize(caller, Action.CREATE, new.name)
        check_name("name", new.name)
        check_fields(new.bindings, new.labels, new.rotation_period_s)
        scheme = new.scheme or new.algorithm.schemes[0]
        publickeys.check_scheme(new.algorithm, scheme)
        token = self._token(new.token)
        if self._registry.find(new.name) is not None:
            raise KeyExistsError(
                f"a key {new.name} exists already",
                hint=f"choose another name, or rotate it: keydctl key rotate {new.name}",
                key=new.name,
            )
        key = Key(
            name=new.name,
            token=token,
            algorithm=new.algorithm,
            scheme=scheme,
            created_at=self._clock.now(),
            created_by=caller.principal.id,
            bindings=new.bindings,
            labels=dict(new.labels),
            rotation_period_s=new.rotation_period_s,
        )
        await self._check_joining(caller, Action.CREATE, new.name, new.bindings)
        order = await self._order(caller, new, token)
        version = self._pending(caller, key, 1, order)
        details = binding_details(frozenset(), new.bindings) if new.bindings else {}
        consent = await self._approvals.consent_to(
            caller,
            Action.CREATE,
            key.name,
            asked_of_new(key, order),
            said=new.said,
        )
        await self._enrolment.generate(
            caller,
            Action.CREATE,
            key,
            version,
            before=(*consent, InsertKey(key)),
            said=new.said,
            details=details | self._approvals.details(consent),
            make=self._maker(caller, key, version, order),
        )
        return self._gate.existing(new.name)

    async def _order(self, caller: Caller, new: NewKey, token: str) -> SlotOrder | None:
        """For a YubiKey: what is made in which slot; refusals are in the log."""
        if self._slots is None or not self._slots.is_yubikey(token):
            if new.slot is not None or new.pin is not None or new.touch is not None:
                # One that was not there since the start has not said what it is.
                await self._device.check(token)
                asked = {"slot": new.slot, "touch": new.touch, "pin": new.pin}
                raise InvalidRequestError(
                    next(name for name, value in asked.items() if value is not None),
                    f"token {token} is not known as a YubiKey: slot, PIN and touch policies are "
                    "for those",
                    hint="leave out --slot, --touch and --pin, or name a YubiKey: keydctl token "
                    "list",
                )
            return None
        if new.slot is None:
            raise InvalidRequestError(
                "slot",
                f"token {token} is a YubiKey: say in which slot the key shall lie",
                hint=f"keydctl key create {new.name} --token {token} --slot 9c --touch always",
            )
        try:
            return await self._slots.order(
                token, new.slot, new.algorithm, f"{new.name}/1", new.pin, new.touch
            )
        except KeydError as e:
            await self._gate.refuse(caller, Action.CREATE, new.name, e)
            raise

    def _maker(
        self, caller: Caller, key: Key, version: KeyVersion, order: SlotOrder | None
    ) -> Callable[[], Awaitable[Made]] | None:
        slots = self._slots
        if order is None or slots is None:
            return None
        told = replace(order, purpose=proof_of(caller, key.name, version.number))
        return lambda: slots.make(key.token, told)

    async def rotate(
        self,
        caller: Caller,
        name: str,
        *,
        at_once: bool,
        expected_newest: int = 0,
        said: str = "",
    ) -> Key:
        """Generate a new version: staged, or with ``at_once`` active in the same step.

        Raises:
            KeyBoundError: at_once for a key bound to a repository.
            RotationConflictError: a version is being made or staged already, or the newest one
                is not ``expected_newest``.
        """
        await self._gate.authorize(caller, Action.ROTATE, name)
        key = self._gate.existing(name)
        if at_once and key.bindings:
            bound = ", ".join(str(b) for b in sorted(key.bindings))
            raise KeyBoundError(
                f"{name} is bound to {bound}: its published root names the old key, so a new "
                "version can only be staged",
                hint="rotate it together with its repository: keydctl tuf rotate DIR ROLE",
                key=name,
            )
        newest = max((v.number for v in key.versions), default=0)
        if expected_newest not in (0, newest):
            raise RotationConflictError(
                f"the newest version of {name} is {newest}, not {expected_newest}", key=name
            )
        for version in key.versions:
            if version.state is VersionState.PENDING or (
                version.state is VersionState.ENABLED and version.number > key.active_version
            ):
                raise RotationConflictError(
                    f"{version.name} is {_shown(version)} already",
                    hint=f"activate it (keydctl key activate {name} {version.number}) or disable "
                    f"it (keydctl key disable {name} {version.number}) first",
                    key=name,
                    version=version.name,
                )
        order = None
        if self._slots is not None and self._slots.is_yubikey(key.token) and key.versions:
            order = await self._slots.successor(
                key.token, key.active or key.versions[-1], key.algorithm, f"{name}/{newest + 1}"
            )
        version = self._pending(caller, key, newest + 1, order)
        consent = await self._approvals.consent_to(
            caller,
            Action.ROTATE,
            name,
            {"at_once": at_once, "version": version.number},
            key_version=version.number,
            said=said,
        )
        try:
            await self._enrolment.generate(
                caller,
                Action.ROTATE,
                key,
                version,
                before=consent,
                activate=at_once,
                said=said,
                details=self._approvals.details(consent),
                make=self._maker(caller, key, version, order),
            )
        except KeyExistsError as e:
            raise RotationConflictError(
                f"another rotation of {name} came first: {e.message}",
                hint="look at the key again, then retry",
                key=name,
            ) from e
        return self._gate.existing(name)

    def _pending(
        self, caller: Caller, key: Key, number: int, order: SlotOrder | None = None
    ) -> KeyVersion:
        self._token(key.token)
        status = next(t for t in self._device.tokens() if t.name == key.token)
        return KeyVersion(
            key=key.name,
            number=number,
            state=VersionState.PENDING,
            origin=Origin.GENERATED,
            token_serial=status.serial,
            object_id=order.slot.object_id if order else secrets.token_bytes(16),
            public_key=b"",
            keyids={},
            created_at=self._clock.now(),
            created_by=caller.principal.id,
        )

    async def update(
        self,
        caller: Caller,
        name: str,
        *,
        bindings: frozenset[Binding] | None = None,
        labels: Mapping[str, str] | None = None,
        rotation_period_s: int | None = None,
        said: str = "",
    ) -> Key:
        """Replace bindings, labels or rotation period; None leaves a field as it is."""
        await self._gate.authorize(caller, Action.BIND, name)
        key = self._gate.existing(name)
        check_fields(bindings or frozenset(), labels or {}, rotation_period_s or 0)
        details = {} if bindings is None else binding_details(key.bindings, bindings)
        await self._check_joining(
            caller, Action.BIND, name, (bindings or frozenset()) - key.bindings
        )
        if labels is not None:
            details["labels"] = ", ".join(f"{k}={v}" for k, v in sorted(labels.items())) or "none"
        if rotation_period_s is not None:
            details["rotation_period_s"] = str(rotation_period_s)
        asked = asked_of_update(bindings, labels, rotation_period_s)
        consent = await self._approvals.consent_to(caller, Action.BIND, name, asked, said=said)
        entry = EntryDraft(
            action=Action.BIND,
            outcome=Outcome.ALLOWED,
            caller=caller,
            key=name,
            said=said,
            details=details | self._approvals.details(consent),
            # A key that loses its bindings signs anything from then on; one that gains another
            # role starts without a mark there, and what it signs may well count here.
            alert=bindings is not None and bool(key.bindings) and bindings != key.bindings,
        )
        change = SetKeyFields(name, bindings, labels, rotation_period_s)
        await self._audit.record(entry, (*consent, change))
        return self._gate.existing(name)


def _shown(version: KeyVersion) -> str:
    return "being generated" if version.state is VersionState.PENDING else "staged"
