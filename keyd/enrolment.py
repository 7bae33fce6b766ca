"""How a key pair on a token becomes a version in the registry, and how that survives a crash.

    generate:  intent entry + PENDING version  ->  token generates  ->  test signature
               ->  outcome entry + ENABLED version
    adopt:     look at the object and its attributes  ->  test signature  ->  entry + version

A PENDING version that a crash left behind is settled when its token is ready: finished when the
key pair is there and signs, undone when it is not. Nothing is ever destroyed on a token here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace

from keyd import publickeys
from keyd.errors import (
    AuditUnavailableError,
    KeydError,
    KeyExistsError,
    TokenObjectError,
)
from keyd.model import (
    SYSTEM,
    Action,
    AuditLog,
    Binding,
    Caller,
    Clock,
    DeleteVersion,
    Device,
    Digest,
    Effect,
    EntryDraft,
    InsertKey,
    InsertVersion,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Outcome,
    Registry,
    Scheme,
    SetActive,
    SignJob,
    TokenObject,
    UpdateVersion,
    VersionState,
)

log = logging.getLogger(__name__)


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
    """Makes, adopts and settles key versions."""

    def __init__(
        self, *, device: Device, audit: AuditLog, registry: Registry, clock: Clock
    ) -> None:
        self._device = device
        self._audit = audit
        self._registry = registry
        self._clock = clock
        self._busy: set[tuple[str, int]] = set()
        self._running: set[asyncio.Task[None]] = set()

    async def generate(
        self,
        caller: Caller,
        action: Action,
        key: Key,
        version: KeyVersion,
        *,
        before: Sequence[Effect] = (),
        activate: bool = False,
        said: str = "",
    ) -> None:
        """Generate ``version`` on its token and enable it. A caller that leaves does not stop it.

        ``before``: effects that belong to the intent entry. The first version of a key is
        activated in any case.
        """
        task = asyncio.create_task(
            self._generate(caller, action, key, version, before, activate, said)
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait until what callers left behind is finished."""
        if self._running:
            await asyncio.wait(list(self._running))

    async def _generate(
        self,
        caller: Caller,
        action: Action,
        key: Key,
        version: KeyVersion,
        before: Sequence[Effect],
        activate: bool,
        said: str,
    ) -> None:
        mark = (key.name, version.number)
        self._busy.add(mark)
        try:
            intent = version_entry(
                caller, action, key, version, said=said, message="about to be generated"
            )
            await self._audit.record(intent, (*before, InsertVersion(version)))
            try:
                found = await self._device.generate(
                    key.token,
                    key.algorithm,
                    version.object_id,
                    f"{key.name}/{version.number}",
                )
                await self._enable(caller, action, key, version, found, activate, said)
            except AuditUnavailableError:
                raise
            except KeydError as e:
                await self._undo_if_absent(caller, action, key, version, e)
                raise
        finally:
            self._busy.discard(mark)

    async def _enable(
        self,
        caller: Caller,
        action: str,
        key: Key,
        version: KeyVersion,
        found: TokenObject,
        activate: bool,
        said: str,
    ) -> None:
        check_attributes(found)
        await self.test_signature(key.token, key.algorithm, key.scheme, found)
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
            )
        ]
        if activate or not key.active_version:
            effects.append(SetActive(key.name, version.number, expect=key.active_version))
            message = "generated on the token, tested and active"
        else:
            message = "generated on the token, tested and staged"
        entry = version_entry(caller, action, key, done, said=said, message=message)
        await self._audit.record(entry, effects)

    async def _undo_if_absent(
        self, caller: Caller, action: str, key: Key, version: KeyVersion, error: KeydError
    ) -> None:
        """After a failed generation: forget the version if the token shows that nothing was made;
        else leave it PENDING for settle()."""
        details: dict[str, str] = {}
        effects: tuple[Effect, ...] = ()
        try:
            objects = await self._device.objects(key.token)
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
            if version.state is VersionState.PENDING
            and (key.name, version.number) not in self._busy
        ]
        if not pending:
            return told
        objects = {o.object_id: o for o in await self._device.objects(token)}
        for key, version in pending:
            found = objects.get(version.object_id)
            try:
                if found is None:
                    message = "undone: its generation was cut off before the token made it"
                    entry = version_entry(caller, "recovery", key, version, message=message)
                    await self._audit.record(entry, (DeleteVersion(key.name, version.number),))
                else:
                    message = "finished: the token had made it when its generation was cut off"
                    await self._enable(
                        caller, "recovery", key, version, found, activate=False, said=message
                    )
            except KeydError as e:
                message = f"stays PENDING: {e.message}"
            log.warning("%s %s", version.name, message)
            told.append(f"{version.name} {message}")
        return told

    # ------------------------------------------------------------------------------- adopt

    async def objects(self, token: str) -> list[TokenObject]:
        """All key pairs on the token."""
        return await self._device.objects(token)

    async def find(self, token: str, object_id: bytes) -> TokenObject:
        """The one key pair with this CKA_ID.

        Raises:
            TokenObjectError: none, or several.
        """
        matches = [o for o in await self._device.objects(token) if o.object_id == object_id]
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
    ) -> None:
        """Register a key pair that is there already; it must sign, and must not be exportable."""
        if found.algorithm is None:
            raise TokenObjectError(
                f"keyd does not use this kind of key; it uses {', '.join(KeyAlgorithm)}",
                token=token,
            )
        check_attributes(found)
        registered = self._registry.find_public_key(found.public_key)
        if registered is not None:
            raise KeyExistsError(
                f"its public key is registered as {registered.name}", key=registered.key
            )
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
        await self.test_signature(token, found.algorithm, key.scheme, found)
        version = KeyVersion(
            key=name,
            number=number,
            state=VersionState.ENABLED,
            origin=Origin.ADOPTED,
            token_serial=found.serial,
            object_id=found.object_id,
            public_key=found.public_key,
            keyids=publickeys.keyids(found.public_key, key.scheme),
            created_at=self._clock.now(),
            created_by=caller.principal.id,
        )
        effects.append(InsertVersion(version))
        if number > key.active_version:
            effects.append(SetActive(name, number, expect=key.active_version))
        entry = version_entry(
            caller, Action.ADOPT, key, version, said=said, message="adopted, origin unproven"
        )
        await self._audit.record(replace(entry, alert=True), effects)

    async def test_signature(
        self, token: str, algorithm: KeyAlgorithm, scheme: Scheme, found: TokenObject
    ) -> None:
        """Have the key pair sign random bytes and verify it; the signature goes nowhere.

        Raises:
            BadSignatureError: private and public key do not belong together.
        """
        message = secrets.token_bytes(32)
        signed: bytes | Digest = message
        if scheme.hash is not None:
            # A digest nobody knows a preimage of: the signature proves nothing about any content.
            signed = Digest(scheme.hash, secrets.token_bytes(scheme.hash.size_bytes))
        job = SignJob(
            object_id=found.object_id,
            public_key=found.public_key,
            algorithm=algorithm,
            scheme=scheme,
            payload=signed.value if isinstance(signed, Digest) else signed,
            serial=found.serial,
        )
        (answer,) = await self._device.sign(token, [job])
        if isinstance(answer, KeydError):
            raise answer
        publickeys.verify(found.public_key, scheme, answer, signed)


def check_attributes(found: TokenObject) -> None:
    """Refuse a private key that could leave its token.

    Raises:
        TokenObjectError: naming the attribute (PKCS#11 4.9: CKA_SENSITIVE, CKA_EXTRACTABLE).
    """
    if not found.sensitive or found.extractable:
        wrong = "is EXTRACTABLE" if found.extractable else "is not SENSITIVE"
        raise TokenObjectError(
            f"the private key {found.label or found.object_id.hex()} {wrong}: it could leave the "
            "token, so keyd does not use it",
            hint="generate the key on the token with: keydctl key create",
        )
