"""What may be done to one key version: activate, enable, disable, destroy; and the freeze.

Every change is an entry and its effects in one transaction. Destruction takes three steps by a
person: schedule, wait, destroy; nothing here acts by itself, whatever the clock says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from keyd.approvals import Approvals
from keyd.enrolment import version_entry
from keyd.errors import (
    InvalidRequestError,
    KeydError,
    KeyNotFoundError,
    KeyStateError,
)
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Caller,
    Clock,
    Device,
    Effect,
    EntryDraft,
    Freeze,
    Key,
    KeyVersion,
    Outcome,
    Registry,
    SetActive,
    SetFreeze,
    UpdateVersion,
    VersionState,
)
from keyd.proving import check_serial
from keyd.unbroken import Unbroken

MIN_DESTROY_WAIT_S = 86_400


class Versions:
    """The part of :class:`keyd.keys.Keys` that changes one version, or stops signing."""

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
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted."""
        self._gate = gate
        self._registry = registry
        self._device = device
        self._audit = audit
        self._clock = clock
        self._approvals = approvals
        self._check_clock = check_clock
        self._destroy_wait_s = destroy_wait_s
        self._unbroken = Unbroken()
        self._doomed: set[str] = set()

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        await self._unbroken.drain()

    async def activate(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """Make an enabled version the one that signs by default."""
        key, version = await self._authorized(caller, Action.ACTIVATE, name, number)
        _expect(version, VersionState.ENABLED)
        if key.active_version == number:
            return key
        effects = (
            UpdateVersion(name, number, VersionState.ENABLED),  # changes nothing: it still is
            SetActive(name, number, expect=key.active_version),
        )
        consent = await self._consent(caller, Action.ACTIVATE, version, said)
        return await self._change(
            caller, Action.ACTIVATE, key, version, effects, said, consent=consent
        )

    async def enable(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """DISABLED -> ENABLED."""
        key, version = await self._authorized(caller, Action.ENABLE, name, number)
        _expect(version, VersionState.DISABLED)
        effects = (UpdateVersion(name, number, version.state, VersionState.ENABLED),)
        consent = await self._consent(caller, Action.ENABLE, version, said)
        return await self._change(
            caller, Action.ENABLE, key, version, effects, said, consent=consent
        )

    async def disable(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """ENABLED -> DISABLED."""
        key, version = await self._authorized(caller, Action.DISABLE, name, number)
        _expect(version, VersionState.ENABLED)
        effects = (UpdateVersion(name, number, version.state, VersionState.DISABLED),)
        consent = await self._consent(caller, Action.DISABLE, version, said)
        return await self._change(
            caller, Action.DISABLE, key, version, effects, said, consent=consent
        )

    async def schedule_destroy(
        self, caller: Caller, name: str, number: int, *, wait_s: int = 0, said: str = ""
    ) -> Key:
        """Stop the version from signing and start its waiting time (seconds; 0: the default)."""
        key, version = await self._authorized(caller, Action.DESTROY, name, number)
        _expect(version, VersionState.ENABLED, VersionState.DISABLED)
        wait_s = wait_s or self._destroy_wait_s
        if wait_s < MIN_DESTROY_WAIT_S:
            raise InvalidRequestError("wait_s", "a key waits at least one day for its destruction")
        self._check_clock()
        consent = await self._consent(
            caller, Action.DESTROY, version, said, step="schedule", wait_s=wait_s
        )
        effects = (
            UpdateVersion(
                name,
                number,
                version.state,
                VersionState.DESTROY_SCHEDULED,
                destroy_after=self._clock.now() + timedelta(seconds=wait_s),
            ),
        )
        return await self._change(
            caller,
            "schedule-destroy",
            key,
            version,
            effects,
            said,
            alert=True,
            consent=consent,
        )

    async def cancel_destroy(
        self, caller: Caller, name: str, number: int, *, said: str = ""
    ) -> Key:
        """DESTROY_SCHEDULED -> DISABLED; the waiting time is forgotten. Waits for nobody: what it
        prevents cannot be undone."""
        key, version = await self._authorized(caller, Action.DESTROY, name, number)
        _expect(version, VersionState.DESTROY_SCHEDULED)
        self._check_not_doomed(version)
        effects = (
            UpdateVersion(
                name, number, version.state, VersionState.DISABLED, clear_destroy_after=True
            ),
        )
        return await self._change(caller, "cancel-destroy", key, version, effects, said)

    async def destroy(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """Destroy the key pair on its token; only after the waiting time, and only on request. A
        caller that leaves does not stop it.

        Raises:
            KeyStateError: the waiting time is not over (fact ``destroy_after``).
            ClockError: the clock is not to be trusted.
            WrongTokenError: another token is in the place of the one that holds it.
        """
        key, version = await self._authorized(caller, Action.DESTROY, name, number)
        _expect(version, VersionState.DESTROY_SCHEDULED)
        self._check_clock()
        if version.shown_state(self._clock.now()) is not VersionState.DESTROYABLE:
            raise KeyStateError(
                f"{version.name} waits until {version.destroy_after} for its destruction",
                hint="come back then; nothing destroys it by itself",
                version=version.name,
                state=version.state,
                destroy_after=version.destroy_after,
            )
        self._check_not_doomed(version)
        check_serial(self._device, key.token, version)
        consent = await self._consent(caller, Action.DESTROY, version, said, step="destroy")
        # People may have been asked meanwhile, and another call have come first.
        self._check_not_doomed(version)
        return await self._unbroken.run(self._destroy(caller, key, version, said, consent))

    async def _destroy(
        self,
        caller: Caller,
        key: Key,
        version: KeyVersion,
        said: str,
        consent: Sequence[Effect],
    ) -> Key:
        # From here on nobody cancels: the token cannot be asked back. A cancellation that came
        # first conflicts with the intent, and nothing is destroyed.
        self._doomed.add(version.name)
        try:
            intent = version_entry(
                caller, Action.DESTROY, key, version, said=said, message="about to be destroyed"
            )
            await self._audit.record(
                replace(intent, alert=True, details=self._approvals.details(consent)),
                (*consent, UpdateVersion(key.name, version.number, VersionState.DESTROY_SCHEDULED)),
            )
            try:
                was_there = await self._device.destroy(
                    key.token, version.object_id, version.public_key
                )
            except KeydError as e:
                failed = replace(intent, outcome=Outcome.FAILED, reason_code=e.reason)
                await self._audit.record(replace(failed, message=e.message, alert=True))
                raise
            effects = (
                UpdateVersion(
                    key.name,
                    version.number,
                    version.state,
                    VersionState.DESTROYED,
                    clear_destroy_after=True,
                ),
            )
            message = "destroyed on the token"
            if not was_there:
                message = "it was gone from the token already"
            return await self._change(
                caller, Action.DESTROY, key, version, effects, said, alert=True, message=message
            )
        finally:
            self._doomed.discard(version.name)

    def _check_not_doomed(self, version: KeyVersion) -> None:
        if version.name in self._doomed:
            raise KeyStateError(
                f"{version.name} is being destroyed",
                version=version.name,
                state=version.state,
            )

    async def _authorized(
        self, caller: Caller, action: Action, name: str, number: int
    ) -> tuple[Key, KeyVersion]:
        await self._gate.authorize(caller, action, name)
        key = self._gate.existing(name)
        version = key.find_version(number)
        if version is None:
            raise KeyNotFoundError(
                f"{name} has no version {number}",
                hint=f"keydctl key show {name}",
                key=name,
            )
        return key, version

    async def _consent(
        self, caller: Caller, action: Action, version: KeyVersion, said: str, **how: object
    ) -> tuple[Effect, ...]:
        """See :meth:`keyd.approvals.Approvals.consent_to`; bound to the very key pair."""
        about = {"fingerprint": version.fingerprint, "version": version.number, **how}
        return await self._approvals.consent_to(
            caller, action, version.key, about, key_version=version.number, said=said
        )

    async def _change(
        self,
        caller: Caller,
        action: str,
        key: Key,
        version: KeyVersion,
        effects: Sequence[Effect],
        said: str,
        *,
        alert: bool = False,
        message: str = "",
        consent: Sequence[Effect] = (),
    ) -> Key:
        entry = version_entry(caller, action, key, version, said=said, message=message)
        entry = replace(entry, alert=alert, details=self._approvals.details(consent))
        await self._audit.record(entry, (*consent, *effects))
        return self._gate.existing(key.name)

    # ------------------------------------------------------------------------------- freeze

    async def freeze(self, caller: Caller, key: str, *, said: str = "") -> Sequence[Freeze]:
        """Stop signing with one key, or with all (empty name); stands across restarts. Answers
        the freezes the caller may see."""
        return await self._set_freeze(caller, key, frozen=True, said=said)

    async def unfreeze(self, caller: Caller, key: str, *, said: str = "") -> Sequence[Freeze]:
        """End a freeze."""
        return await self._set_freeze(caller, key, frozen=False, said=said)

    async def _set_freeze(
        self, caller: Caller, key: str, *, frozen: bool, said: str
    ) -> Sequence[Freeze]:
        await self._gate.authorize(caller, Action.FREEZE, key)
        if key:
            self._gate.existing(key)
        consent = await self._approvals.consent_to(
            caller, Action.FREEZE, key, {"frozen": frozen}, said=said
        )
        entry = EntryDraft(
            action="freeze" if frozen else "unfreeze",
            outcome=Outcome.ALLOWED,
            caller=caller,
            key=key,
            said=said,
            message=f"signing with {key or 'all keys'} " + ("stopped" if frozen else "goes on"),
            policy_hash=self._gate.policy_hash,
            alert=True,
            details=self._approvals.details(consent),
        )
        change = SetFreeze(key, frozen, caller.principal.id, said)
        await self._audit.record(entry, (*consent, change))
        return [
            f
            for f in self._registry.freezes()
            if f.key in ("", key) or self._gate.may(caller, Action.LIST, f.key)
        ]


def _expect(version: KeyVersion, *states: VersionState) -> None:
    if version.state not in states:
        wanted = " or ".join(states)
        raise KeyStateError(
            f"{version.name} is {version.state}, this needs {wanted}",
            hint=f"keydctl key show {version.key}",
            version=version.name,
            state=version.state,
        )
