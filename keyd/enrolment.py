"""How a new key pair on a token becomes a version in the registry, and how that survives a crash.

    intent entry + PENDING version  ->  token generates  ->  test signature
                                    ->  outcome entry + ENABLED version

A PENDING version that a crash left behind is settled when its token is ready: finished when the
key pair is there and signs, undone when it is not. Nothing is ever destroyed on a token here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from keyd import publickeys
from keyd.errors import AuditUnavailableError, KeydError, TokenObjectError
from keyd.model import (
    SYSTEM,
    Action,
    Attestation,
    AuditLog,
    Caller,
    Clock,
    DeleteVersion,
    Device,
    Effect,
    EntryDraft,
    InsertVersion,
    Key,
    KeyVersion,
    Origin,
    Outcome,
    Registry,
    SetActive,
    TokenObject,
    UpdateVersion,
    VersionState,
)
from keyd.proving import check_attributes, check_serial, check_signs, proof_of
from keyd.unbroken import Unbroken

log = logging.getLogger(__name__)

NO_DETAILS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Made:
    """A key pair that was just made. ``details``: what its entry says of it besides. ``is_tested``:
    it has signed something already."""

    found: TokenObject
    attestation: Attestation | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    is_tested: bool = False


def version_entry(
    caller: Caller,
    action: str,
    key: Key,
    version: KeyVersion,
    *,
    said: str = "",
    message: str = "",
) -> EntryDraft:
    """An allowed entry about one version, with everything that identifies it."""
    return EntryDraft(
        action=action,
        outcome=Outcome.ALLOWED,
        caller=caller,
        key=key.name,
        version=version.number,
        keyid=version.keyids.get("tuf", ""),
        fingerprint=version.fingerprint if version.public_key else "",
        token=key.token,
        token_serial=version.token_serial,
        scheme=key.scheme,
        said=said,
        message=message,
    )


class Enrolment:
    """Makes and settles key versions."""

    def __init__(
        self, *, device: Device, audit: AuditLog, registry: Registry, clock: Clock
    ) -> None:
        self._device = device
        self._audit = audit
        self._registry = registry
        self._clock = clock
        self._busy: set[bytes] = set()
        self._unbroken = Unbroken()
        self._told: dict[str, str] = {}

    async def generate(
        self,
        caller: Caller,
        action: Action,
        key: Key,
        version: KeyVersion,
        *,
        before: Sequence[Effect] = (),
        after: Sequence[Effect] = (),
        activate: bool = False,
        said: str = "",
        details: Mapping[str, str] = NO_DETAILS,
        make: Callable[[], Awaitable[Made]] | None = None,
    ) -> None:
        """Generate ``version`` on its token and enable it. A caller that leaves does not stop it.

        ``before``, ``after``: effects that belong to the intent and the outcome entry; ``details``
        go into the intent entry. The first version of a key is activated in any case; another with
        ``activate``, unless the key is bound by then. ``make``: how, where the token's module is
        not to be asked for it; a TokenObjectError of it says that nothing was made.
        """
        await self._unbroken.run(
            self._generate(
                caller, action, key, version, before, activate, said, after, details, make
            )
        )

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        await self._unbroken.drain()

    async def _generate(
        self,
        caller: Caller,
        action: Action,
        key: Key,
        version: KeyVersion,
        before: Sequence[Effect],
        activate: bool,
        said: str,
        after: Sequence[Effect] = (),
        details: Mapping[str, str] = NO_DETAILS,
        make: Callable[[], Awaitable[Made]] | None = None,
    ) -> None:
        # Not name and number: a second creation of the same name ends first and must not unmark.
        mark = version.object_id
        self._busy.add(mark)
        try:
            intent = version_entry(
                caller, action, key, version, said=said, message="about to be generated"
            )
            try:
                await self._device.check(key.token)
            except KeydError as e:
                # A token that cannot even be looked at: nothing is begun, no name is taken.
                failed = replace(intent, outcome=Outcome.FAILED, reason_code=e.reason)
                await self._audit.refuse(replace(failed, message=e.message))
                raise
            await self._audit.record(
                replace(intent, details=details), (*before, InsertVersion(version))
            )
            try:
                made = await (make() if make else self._make(key, version))
                await self._enable(caller, action, key, version, made, activate, said, after)
            except AuditUnavailableError:
                raise
            except KeydError as e:
                nothing_made = make is not None and isinstance(e, TokenObjectError)
                await self._undo_if_absent(caller, action, key, version, e, nothing_made)
                raise
        finally:
            self._busy.discard(mark)

    async def _make(self, key: Key, version: KeyVersion) -> Made:
        label = f"{key.name}/{version.number}"
        return Made(await self._device.generate(key.token, key.algorithm, version.object_id, label))

    async def _enable(
        self,
        caller: Caller,
        action: str,
        key: Key,
        version: KeyVersion,
        made: Made,
        activate: bool,
        said: str,
        after: Sequence[Effect] = (),
    ) -> None:
        found = made.found
        check_attributes(found)
        if not made.is_tested:
            purpose = proof_of(caller, key.name, version.number)
            await check_signs(self._device, key.token, key.algorithm, key.scheme, found, purpose)
        ids = publickeys.keyids(found.public_key, key.scheme)
        done = replace(
            version,
            public_key=found.public_key,
            keyids=ids,
            token_serial=found.serial or version.token_serial,
        )
        effects: list[Effect] = [
            UpdateVersion(
                key.name,
                version.number,
                VersionState.PENDING,
                VersionState.ENABLED,
                public_key=done.public_key,
                keyids=ids,
                token_serial=done.token_serial,
                origin=Origin.ATTESTED if made.attestation else None,
                attestation=made.attestation,
            ),
            *after,
        ]
        # As the key is now: generation took its time, and the key may be bound since.
        now = self._registry.find(key.name) or key
        if not now.active_version or (activate and not now.bindings):
            effects.append(SetActive(key.name, version.number, expect=now.active_version))
            message = "generated on the token, tested and active"
        else:
            message = "generated on the token, tested and staged"
        entry = version_entry(caller, action, key, done, said=said, message=message)
        await self._audit.record(replace(entry, details=made.details), effects)

    async def _undo_if_absent(
        self,
        caller: Caller,
        action: str,
        key: Key,
        version: KeyVersion,
        error: KeydError,
        nothing_made: bool,
    ) -> None:
        """After a failed generation: forget the version if the token shows that nothing was made;
        else leave it PENDING for settle()."""
        details: dict[str, str] = {}
        effects: tuple[Effect, ...] = ()
        try:
            objects = (
                [] if nothing_made else await self._device.objects(key.token, version.object_id)
            )
        except KeydError as e:
            details["left"] = f"PENDING, the token could not be looked at: {e.message}"
        else:
            if any(o.object_id == version.object_id for o in objects):
                details["left"] = "PENDING, the key pair lies on the token"
            else:
                effects = (DeleteVersion(key.name, version.number),)
        entry = version_entry(caller, action, key, version, message=error.message)
        await self._audit.record(
            replace(entry, outcome=Outcome.FAILED, reason_code=error.reason, details=details),
            effects,
        )

    # ------------------------------------------------------------------------------- settle

    def unsettled(self) -> set[str]:
        """The tokens with versions that are PENDING and that nobody is working on."""
        return {
            key.token
            for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
            for version in key.versions
            if version.state is VersionState.PENDING and version.object_id not in self._busy
        }

    async def settle(self, token: str) -> list[str]:
        """Finish or undo what a crash left PENDING on this token, which has to be ready.

        Answers a line for each version it settled; every one is an entry too. A version it
        cannot settle stays PENDING and is told as well.
        """
        told: list[str] = []
        caller = Caller(SYSTEM, "recovery")
        pending = [
            (key, version)
            for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
            if key.token == token
            for version in key.versions
            if version.state is VersionState.PENDING and version.object_id not in self._busy
        ]
        if not pending:
            return told
        # One by one: there are few, and a full token takes long to tell all it has.
        objects = {
            o.object_id: o
            for _, version in pending
            for o in await self._device.objects(token, version.object_id)
        }
        for key, version in pending:
            found = objects.get(version.object_id)
            try:
                # A token that was swapped says nothing about what lies on the other one.
                check_serial(self._device, token, version)
                if found is None:
                    message = "undone: its generation was cut off before the token made it"
                    entry = version_entry(caller, "recovery", key, version, message=message)
                    await self._audit.record(entry, (DeleteVersion(key.name, version.number),))
                else:
                    message = "finished: the token had made it when its generation was cut off"
                    await self._enable(
                        caller, "recovery", key, version, Made(found), activate=False, said=message
                    )
            except KeydError as e:
                message = f"stays PENDING: {e.message}"
            if self._told.get(version.name) != message:
                self._told[version.name] = message
                log.warning("%s %s", version.name, message)
            told.append(f"{version.name} {message}")
        return told
