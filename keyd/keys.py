"""Keys over their life: create, list, get, rotate, activate, enable, disable, destroy, freeze.

Every change is an entry and its effects in one transaction. What also touches a token is written
in two steps, an intent before and the outcome after, so that a crash between any two leaves a
state that recovery.py finishes or undoes.
"""

from __future__ import annotations

import fnmatch
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from keyd import publickeys
from keyd.enrolment import Enrolment, version_entry
from keyd.errors import (
    InvalidRequestError,
    KeyBoundError,
    KeydError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStateError,
    RotationConflictError,
    TokenNotFoundError,
)
from keyd.gate import Gate
from keyd.model import (
    Action,
    AuditLog,
    Binding,
    Caller,
    Clock,
    Device,
    Effect,
    EntryDraft,
    Freeze,
    InsertKey,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Outcome,
    Registry,
    Scheme,
    SetActive,
    SetFreeze,
    SetKeyFields,
    TokenObject,
    UpdateVersion,
    VersionState,
    check_name,
)

MIN_DESTROY_WAIT_S = 86_400
_MAX_LABELS = 64
_MAX_LABEL_CHARS = 256
_MAX_BINDINGS = 256


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a caller wants made. ``token`` may be empty when only one is configured."""

    name: str
    token: str
    algorithm: KeyAlgorithm
    scheme: Scheme | None = None
    bindings: frozenset[Binding] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    rotation_period_s: int = 0
    said: str = ""


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys to list; every field that is set has to match. ``name`` is a glob pattern."""

    token: str = ""
    repository: str = ""
    role: str = ""
    state: VersionState | None = None
    label: str = ""
    name: str = ""


class Keys:
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
        check_clock: Callable[[], None],
        destroy_wait_s: int,
    ) -> None:
        """``check_clock`` raises ClockError while the clock is not to be trusted."""
        self._gate = gate
        self._registry = registry
        self._device = device
        self._audit = audit
        self._clock = clock
        self._enrolment = enrolment
        self._check_clock = check_clock
        self._destroy_wait_s = destroy_wait_s

    # ------------------------------------------------------------------------------- read

    def list(self, caller: Caller, wanted: KeyFilter) -> list[Key]:
        """The keys the caller may see and wants, by name."""
        return [
            key
            for key in self._registry.keys()  # noqa: SIM118 - a method, not a dict
            if self._matches(key, wanted) and self._gate.may(caller, Action.LIST, key.name)
        ]

    def get(self, caller: Caller, name: str) -> Key:
        """One key; see :meth:`keyd.gate.Gate.get` for the errors."""
        return self._gate.get(caller, name)

    def frozen(self, name: str) -> Freeze | None:
        """The freeze that stops this key, or None."""
        return self._registry.freeze_on(name)

    def _matches(self, key: Key, wanted: KeyFilter) -> bool:
        now = self._clock.now()
        label, _, value = wanted.label.partition("=")
        return (
            (not wanted.token or key.token == wanted.token)
            and (not wanted.name or fnmatch.fnmatchcase(key.name, wanted.name))
            and (not label or (label in key.labels and value in ("", key.labels[label])))
            and (
                wanted.state is None
                or any(wanted.state in (v.state, v.shown_state(now)) for v in key.versions)
            )
            and (
                not (wanted.repository or wanted.role)
                or any(
                    (not wanted.repository or fnmatch.fnmatchcase(wanted.repository, b.repository))
                    and (not wanted.role or fnmatch.fnmatchcase(wanted.role, b.role))
                    for b in key.bindings
                )
            )
        )

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
        version = self._pending(caller, key, 1)
        await self._enrolment.generate(
            caller, Action.CREATE, key, version, before=(InsertKey(key),), said=new.said
        )
        return self._gate.existing(new.name)

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
                hint="rotate it together with its repository: keydctl tuf rotate ROLE",
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
        version = self._pending(caller, key, newest + 1)
        await self._enrolment.generate(
            caller, Action.ROTATE, key, version, activate=at_once, said=said
        )
        return self._gate.existing(name)

    def _pending(self, caller: Caller, key: Key, number: int) -> KeyVersion:
        status = next(t for t in self._device.tokens() if t.name == key.token)
        return KeyVersion(
            key=key.name,
            number=number,
            state=VersionState.PENDING,
            origin=Origin.GENERATED,
            token_serial=status.serial,
            object_id=secrets.token_bytes(16),
            public_key=b"",
            keyids={},
            created_at=self._clock.now(),
            created_by=caller.principal.id,
        )

    def _token(self, name: str) -> str:
        names = [t.name for t in self._device.tokens()]
        if not name and len(names) == 1:
            return names[0]
        if not name:
            raise InvalidRequestError("token", f"name one of the tokens: {', '.join(names)}")
        if name not in names:
            raise TokenNotFoundError(
                f"no token {name} is configured", hint="keydctl token list", token=name
            )
        return name

    # ------------------------------------------------------------------------------- change

    async def activate(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """Make an enabled version the one that signs by default."""
        key, version = await self._authorized(caller, Action.ACTIVATE, name, number)
        _expect(version, VersionState.ENABLED)
        if key.active_version == number:
            return key
        effects = (SetActive(name, number, expect=key.active_version),)
        return await self._change(caller, Action.ACTIVATE, key, version, effects, said)

    async def enable(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """DISABLED -> ENABLED."""
        key, version = await self._authorized(caller, Action.ENABLE, name, number)
        _expect(version, VersionState.DISABLED)
        effects = (UpdateVersion(name, number, version.state, VersionState.ENABLED),)
        return await self._change(caller, Action.ENABLE, key, version, effects, said)

    async def disable(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """ENABLED -> DISABLED."""
        key, version = await self._authorized(caller, Action.DISABLE, name, number)
        _expect(version, VersionState.ENABLED)
        effects = (UpdateVersion(name, number, version.state, VersionState.DISABLED),)
        return await self._change(caller, Action.DISABLE, key, version, effects, said)

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
            caller, "schedule-destroy", key, version, effects, said, alert=True
        )

    async def cancel_destroy(
        self, caller: Caller, name: str, number: int, *, said: str = ""
    ) -> Key:
        """DESTROY_SCHEDULED -> DISABLED; the waiting time is forgotten."""
        key, version = await self._authorized(caller, Action.DESTROY, name, number)
        _expect(version, VersionState.DESTROY_SCHEDULED)
        effects = (
            UpdateVersion(
                name, number, version.state, VersionState.DISABLED, clear_destroy_after=True
            ),
        )
        return await self._change(caller, "cancel-destroy", key, version, effects, said)

    async def destroy(self, caller: Caller, name: str, number: int, *, said: str = "") -> Key:
        """Destroy the key pair on its token; only after the waiting time, and only on request.

        Raises:
            KeyStateError: the waiting time is not over (fact ``destroy_after``).
            ClockError: the clock is not to be trusted.
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
        intent = version_entry(
            caller, Action.DESTROY, key, version, said=said, message="about to be destroyed"
        )
        await self._audit.record(replace(intent, alert=True))
        was_there = await self._device.destroy(key.token, version.object_id, version.public_key)
        effects = (
            UpdateVersion(
                name, number, version.state, VersionState.DESTROYED, clear_destroy_after=True
            ),
        )
        message = "destroyed on the token" if was_there else "it was gone from the token already"
        return await self._change(
            caller, Action.DESTROY, key, version, effects, said, alert=True, message=message
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
        details = {}
        if bindings is not None:
            details["bindings"] = ", ".join(str(b) for b in sorted(bindings)) or "none"
        if labels is not None:
            details["labels"] = ", ".join(f"{k}={v}" for k, v in sorted(labels.items())) or "none"
        if rotation_period_s is not None:
            details["rotation_period_s"] = str(rotation_period_s)
        entry = EntryDraft(
            action=Action.BIND,
            outcome=Outcome.ALLOWED,
            caller=caller,
            key=name,
            said=said,
            details=details,
            # A key that loses its bindings signs anything from then on.
            alert=bindings is not None and not key.bindings <= bindings,
        )
        await self._audit.record(entry, (SetKeyFields(name, bindings, labels, rotation_period_s),))
        return self._gate.existing(name)

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
    ) -> Key:
        entry = version_entry(caller, action, key, version, said=said, message=message)
        await self._audit.record(replace(entry, alert=alert), effects)
        return self._gate.existing(key.name)

    # ------------------------------------------------------------------------------- adopt

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
        found = await self._enrolment.find(token, object_id)
        await self._enrolment.adopt(caller, token, name, 1, found, bindings, said)
        return self._gate.existing(name)

    async def adopt_labelled(
        self, caller: Caller, token: str, *, said: str = ""
    ) -> tuple[Sequence[Key], Sequence[str]]:
        """Register every unregistered key pair whose label is NAME/N, as keyd writes it.

        Answers the keys that gained a version, and a line for each object left alone.
        """
        token = self._token(token)
        names: list[str] = []
        skipped: list[str] = []
        for found in sorted(await self._enrolment.objects(token), key=label_order):
            name, number = parse_label(found.label)
            mark = found.label or found.object_id.hex()
            if not number:
                skipped.append(f"{mark}: the label is not NAME/N")
            elif self._registry.find_public_key(found.public_key):
                skipped.append(f"{mark}: registered already")
            else:
                try:
                    await self._gate.authorize(caller, Action.ADOPT, name)
                    await self._enrolment.adopt(
                        caller, token, name, number, found, frozenset(), said
                    )
                    names.append(name)
                except KeydError as e:
                    skipped.append(f"{mark}: {e.message}")
        return [self._gate.existing(name) for name in dict.fromkeys(names)], skipped

    # ------------------------------------------------------------------------------- freeze

    async def freeze(self, caller: Caller, key: str, *, said: str = "") -> Sequence[Freeze]:
        """Stop signing with one key, or with all (empty name); stands across restarts."""
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
        entry = EntryDraft(
            action="freeze" if frozen else "unfreeze",
            outcome=Outcome.ALLOWED,
            caller=caller,
            key=key,
            said=said,
            message=f"signing with {key or 'all keys'} " + ("stopped" if frozen else "goes on"),
            policy_hash=self._gate.policy_hash,
            alert=True,
        )
        await self._audit.record(entry, (SetFreeze(key, frozen, caller.principal.id, said),))
        return self._registry.freezes()


def check_fields(
    bindings: frozenset[Binding], labels: Mapping[str, str], rotation_period_s: int
) -> None:
    """Refuse bindings, labels and periods that cannot be meant.

    Raises:
        InvalidRequestError: naming the field.
    """
    if len(bindings) > _MAX_BINDINGS:
        raise InvalidRequestError("bindings", f"at most {_MAX_BINDINGS}")
    for binding in bindings:
        for what, text in (("repository", binding.repository), ("role", binding.role)):
            if not text or len(text) > _MAX_LABEL_CHARS or not text.isprintable() or " " in text:
                raise InvalidRequestError(
                    "bindings", f"the {what} is 1 to {_MAX_LABEL_CHARS} printable characters"
                )
    if len(labels) > _MAX_LABELS:
        raise InvalidRequestError("labels", f"at most {_MAX_LABELS}")
    for name, value in labels.items():
        check_name("labels", name)
        if len(value) > _MAX_LABEL_CHARS or not value.isprintable():
            raise InvalidRequestError(
                "labels", f"a value is at most {_MAX_LABEL_CHARS} printable characters"
            )
    if not 0 <= rotation_period_s < 2**40:
        raise InvalidRequestError("rotation_period_s", "a number of seconds, 0 for never")


def parse_label(label: str) -> tuple[str, int]:
    """Split a CKA_LABEL NAME/N as keyd writes it; ("", 0) for any other."""
    name, _, number = label.rpartition("/")
    if not number.isascii() or not number.isdigit() or len(number) > 9 or number.startswith("0"):
        return "", 0
    try:
        return check_name("label", name), int(number)
    except InvalidRequestError:
        return "", 0


def label_order(found: TokenObject) -> tuple[str, int]:
    """Order by name, then number, so that version 1 is adopted before version 2."""
    return parse_label(found.label)


def _expect(version: KeyVersion, *states: VersionState) -> None:
    if version.state not in states:
        wanted = " or ".join(states)
        raise KeyStateError(
            f"{version.name} is {version.state}, this needs {wanted}",
            hint=f"keydctl key show {version.key}",
            version=version.name,
            state=version.state,
        )


def _shown(version: KeyVersion) -> str:
    return "being generated" if version.state is VersionState.PENDING else "staged"
