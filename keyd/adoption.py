"""How a key pair that lies on a token already becomes a version in the registry.

Its attributes are looked at and it has to sign; then entry and version are one step. Nobody can
prove that it was never anywhere else, so its origin says so for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keyd import publickeys
from keyd.approvals import Approvals
from keyd.consents import bindings_asked
from keyd.enrolment import NO_DETAILS, version_entry
from keyd.errors import KeyExistsError, TokenObjectError
from keyd.model import (
    Action,
    Attestation,
    AuditLog,
    Binding,
    Caller,
    Clock,
    Device,
    Effect,
    InsertKey,
    InsertVersion,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Registry,
    SetActive,
    Slot,
    TokenObject,
    VersionState,
)
from keyd.proving import check_attributes, check_signs, proof_of


class Adoption:
    """Finds key pairs on tokens and registers them."""

    def __init__(
        self,
        *,
        device: Device,
        audit: AuditLog,
        registry: Registry,
        clock: Clock,
        approvals: Approvals,
    ) -> None:
        self._device = device
        self._audit = audit
        self._registry = registry
        self._clock = clock
        self._approvals = approvals

    async def objects(self, token: str) -> list[TokenObject]:
        """All key pairs on the token."""
        return await self._device.objects(token)

    async def find(self, token: str, object_id: bytes) -> TokenObject:
        """The one key pair with this CKA_ID.

        Raises:
            TokenObjectError: none, or several.
        """
        matches = [o for o in await self._device.objects(token) if o.object_id == object_id]
        is_yubikey = any(t.is_yubikey for t in self._device.tokens() if t.name == token)
        slot = Slot.of_object(object_id) if is_yubikey else None
        if not matches and slot is not None:
            raise TokenObjectError(
                f"slot {slot} of token {token} holds no key that its module shows",
                hint=f"see what lies there with: keydctl yubikey list {token}",
                token=token,
                slot=slot,
            )
        if len(matches) != 1:
            how_many = "no key pair has" if not matches else f"{len(matches)} key pairs have"
            raise TokenObjectError(
                f"{how_many} the object id {object_id.hex() or '(empty)'} on token {token}",
                hint=f"see what lies there with: keydctl token objects {token}",
                token=token,
            )
        return matches[0]

    async def adopt(
        self,
        caller: Caller,
        token: str,
        name: str,
        number: int,
        found: TokenObject,
        bindings: frozenset[Binding],
        said: str,
        details: Mapping[str, str] = NO_DETAILS,
        proven: Attestation | None = None,
    ) -> None:
        """Register a key pair that is there already; it must sign, and must not be exportable.
        ``proven``: what its device has proven of it."""
        if found.algorithm is None:
            raise TokenObjectError(
                f"keyd does not use this kind of key; it uses {', '.join(KeyAlgorithm)}",
                token=token,
            )
        check_attributes(found)
        scheme = found.algorithm.schemes[0]
        key = self._registry.find(name)
        effects: list[Effect] = []
        if key is None:
            key = Key(
                name=name,
                token=token,
                algorithm=found.algorithm,
                scheme=scheme,
                created_at=self._clock.now(),
                created_by=caller.principal.id,
                bindings=bindings,
            )
            effects.append(InsertKey(key))
        elif (key.algorithm, key.token) != (found.algorithm, token):
            raise KeyExistsError(f"{name} is a {key.algorithm} key on token {key.token}", key=name)
        purpose = proof_of(caller, name, number)
        await check_signs(self._device, token, found.algorithm, key.scheme, found, purpose)
        version = KeyVersion(
            key=name,
            number=number,
            state=VersionState.ENABLED,
            origin=Origin.ATTESTED if proven else Origin.ADOPTED,
            token_serial=found.serial,
            object_id=found.object_id,
            public_key=found.public_key,
            keyids=publickeys.keyids(found.public_key, key.scheme),
            created_at=self._clock.now(),
            created_by=caller.principal.id,
            attestation=proven,
        )
        effects.append(InsertVersion(version))
        # Like a rotation: a further version of a bound key is only staged.
        if not key.active_version or (number > key.active_version and not key.bindings):
            effects.append(SetActive(name, number, expect=key.active_version))
        asked = {
            "bindings": bindings_asked(bindings),
            "fingerprint": version.fingerprint,
            "object_id": found.object_id.hex(),
            "token": token,
            "version": number,
        }
        consent = await self._approvals.consent_to(
            caller, Action.ADOPT, name, asked, key_version=number, said=said
        )
        shown = proven.details() if proven else NO_DETAILS
        details = {**details, **shown, **self._approvals.details(consent)}
        message = "adopted, attested by its device" if proven else "adopted, origin unproven"
        entry = version_entry(caller, Action.ADOPT, key, version, said=said, message=message)
        await self._audit.record(replace(entry, alert=True, details=details), (*consent, *effects))
