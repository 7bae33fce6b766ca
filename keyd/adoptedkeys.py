"""Key pairs that lie on tokens already, as callers register them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keyd.adoption import Adoption
from keyd.approvals import Approvals
from keyd.errors import (
    InvalidRequestError,
    KeydError,
    KeyExistsError,
    PolicyDeniedError,
    TokenNotFoundError,
)
from keyd.gate import Gate
from keyd.keyfields import binding_details, check_fields, label_order, parse_label
from keyd.model import (
    Action,
    AuditLog,
    Binding,
    Caller,
    Clock,
    Device,
    Key,
    Registry,
    TokenObject,
    check_name,
)
from keyd.rolegrants import RoleGrants
from keyd.slots import InSlots
from keyd.versions import Versions


class AdoptedKeys(Versions):
    """The part of :class:`keyd.keys.Keys` that registers what is there."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: Registry,
        device: Device,
        audit: AuditLog,
        clock: Clock,
        approvals: Approvals,
        check_clock: Callable[[], None],
        destroy_wait_s: int,
        slots: InSlots | None,
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted. ``slots``: where
        keys on YubiKeys lie."""
        super().__init__(
            gate=gate,
            registry=registry,
            device=device,
            audit=audit,
            clock=clock,
            approvals=approvals,
            check_clock=check_clock,
            destroy_wait_s=destroy_wait_s,
        )
        self._slots = slots
        self._grants = RoleGrants(gate, registry)
        self._adoption = Adoption(
            device=device, audit=audit, registry=registry, clock=clock, approvals=approvals
        )

    async def adopt(
        self,
        caller: Caller,
        token: str,
        name: str,
        object_id: bytes,
        *,
        bindings: frozenset[Binding] = frozenset(),
        said: str = "",
    ) -> Key:
        """Register a key pair that lies on a token as version 1 of a new key.

        Raises:
            TokenObjectError: no such object, or attributes keyd does not accept.
            KeyExistsError: the name or the public key is registered already.
        """
        await self._gate.authorize(caller, Action.ADOPT, name)
        check_name("name", name)
        check_fields(bindings, {}, 0)
        token = self._token(token)
        if self._registry.find(name) is not None:
            raise KeyExistsError(f"a key {name} exists already", key=name)
        await self._check_joining(caller, Action.ADOPT, name, bindings)
        found = await self._adoption.find(token, object_id)
        registered = self._registry.find_public_key(found.public_key)
        if registered is not None:
            seen = self._gate.may(caller, Action.LIST, registered.key)
            raise KeyExistsError(
                f"its public key is registered {f'as {registered.name}' if seen else 'already'}",
                key=registered.key if seen else "",
            )
        details = binding_details(frozenset(), bindings) if bindings else {}
        proven = await self._slots.find_proof(token, found) if self._slots else None
        await self._adoption.adopt(caller, token, name, 1, found, bindings, said, details, proven)
        return self._gate.existing(name)

    async def adopt_labelled(
        self, caller: Caller, token: str, *, said: str = ""
    ) -> tuple[Sequence[Key], Sequence[str]]:
        """Register every unregistered key pair whose label is NAME/N, as keyd writes it.

        Answers the keys that gained a version, and a line for each object left alone, which
        takes the right to look at the token.
        """
        known = self._device.tokens()
        token = token or (known[0].name if len(known) == 1 else "")
        await self._gate.authorize(caller, Action.TOKENS, token)
        token = self._token(token)
        names: list[str] = []
        skipped: list[str] = []
        for found in sorted(await self._named(token), key=label_order):
            name, number = parse_label(found.label)
            mark = found.label or found.object_id.hex()
            if not number:
                skipped.append(f"{mark}: the label is not NAME/N")
            elif registered := self._registry.find_public_key(found.public_key):
                if self._gate.may(caller, Action.LIST, registered.key):
                    skipped.append(f"{mark}: registered already")
            else:
                try:
                    await self._gate.authorize(caller, Action.ADOPT, name)
                    proven = await self._slots.find_proof(token, found) if self._slots else None
                    await self._adoption.adopt(
                        caller, token, name, number, found, frozenset(), said, proven=proven
                    )
                    names.append(name)
                except KeydError as e:
                    skipped.append(f"{mark}: {e.message}")
        return [self._gate.existing(name) for name in dict.fromkeys(names)], skipped

    async def _named(self, token: str) -> Sequence[TokenObject]:
        """The key pairs on a token, labelled NAME/N where keyd has named them."""
        objects = await self._adoption.objects(token)
        return await self._slots.labelled(token, objects) if self._slots else objects

    def _token(self, name: str) -> str:
        names = [t.name for t in self._device.tokens()]
        if not name and len(names) == 1:
            return names[0]
        if not name:
            raise InvalidRequestError(
                "token",
                f"name one of the tokens: {', '.join(names)}",
                hint="the same command with --token TOKEN",
            )
        if name not in names:
            raise TokenNotFoundError(
                f"no token {name} is configured", hint="keydctl token list", token=name
            )
        return name

    async def _check_joining(
        self, caller: Caller, action: Action, name: str, added: frozenset[Binding]
    ) -> None:
        """See :meth:`keyd.rolegrants.RoleGrants.check_joining`; a refusal is in the log."""
        try:
            self._grants.check_joining(caller, action, name, added)
        except PolicyDeniedError as e:
            await self._gate.refuse(caller, action, name, e)
            raise
