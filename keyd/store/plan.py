"""What a group's effects make of the keys they touch. Pure.

The group loads what its items name while it holds the log's lock, plans here, and writes the
difference: so an item's conflict is known before anything of it is written, and its neighbours
are not disturbed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar, assert_never

from keyd.errors import (
    ConflictError,
    KeydError,
    KeyExistsError,
    KeyStateError,
    RotationConflictError,
)
from keyd.model import (
    DeleteVersion,
    Effect,
    Freeze,
    InsertKey,
    InsertVersion,
    Key,
    KeyVersion,
    SetActive,
    SetFlag,
    SetFreeze,
    SetKeyFields,
    StoreSignature,
    UpdateVersion,
    VersionState,
)
from keyd.store.registry import Changes

_What = TypeVar("_What")

Owner = tuple[str, int]
"""Key name and version number."""
Object = tuple[str, bytes]
"""Token serial and CKA_ID."""


class Plan:
    """The touched keys as they will be after the items applied so far."""

    def __init__(
        self,
        keys: Mapping[str, Key],
        public_keys: Mapping[bytes, Owner],
        objects: Mapping[Object, Owner],
        now: datetime,
    ) -> None:
        """Start from what the database holds: the keys by name, and who owns the public keys
        and (not destroyed) token objects the items name."""
        self._keys: dict[str, Key | None] = dict(keys)
        self._public_keys: dict[bytes, Owner | None] = dict(public_keys)
        self._objects: dict[Object, Owner | None] = dict(objects)
        self._changed: dict[str, Key | None] = {}
        self._freezes: dict[str, Freeze | None] = {}
        self._flags: dict[str, str | None] = {}
        self._now = now

    def apply(self, effects: Sequence[Effect]) -> KeydError | None:
        """Apply all effects of one item, or none and return why."""
        item = _Item(self._keys, self._public_keys, self._objects, self._now)
        try:
            for effect in effects:
                item.apply(effect)
        except KeydError as conflict:
            return conflict
        self._keys |= item.keys
        self._changed |= item.keys
        self._public_keys |= item.public_keys
        self._objects |= item.objects
        self._freezes |= item.freezes
        self._flags |= item.flags
        return None

    @property
    def changes(self) -> Changes:
        """What all applied items changed together."""
        return Changes(self._changed, self._freezes, self._flags)


class _Item:
    """One item's effects laid over the plan; thrown away when one of them conflicts."""

    def __init__(
        self,
        keys: Mapping[str, Key | None],
        public_keys: Mapping[bytes, Owner | None],
        objects: Mapping[Object, Owner | None],
        now: datetime,
    ) -> None:
        self._below = (keys, public_keys, objects)
        self._now = now
        self.keys: dict[str, Key | None] = {}
        self.public_keys: dict[bytes, Owner | None] = {}
        self.objects: dict[Object, Owner | None] = {}
        self.freezes: dict[str, Freeze | None] = {}
        self.flags: dict[str, str | None] = {}

    def apply(self, effect: Effect) -> None:
        match effect:
            case StoreSignature():
                pass
            case InsertKey(key):
                if self._find(key.name) is not None:
                    raise KeyExistsError(f"key {key.name} exists already", key=key.name)
                self.keys[key.name] = replace(key, versions=())
            case InsertVersion(version):
                self._insert_version(version)
            case UpdateVersion():
                self._update_version(effect)
            case DeleteVersion(name, number):
                self._delete_version(name, number)
            case SetActive():
                self._set_active(effect)
            case SetKeyFields():
                self._set_key_fields(effect)
            case SetFreeze(name, frozen, by, said):
                self.freezes[name] = Freeze(name, by, said, self._now) if frozen else None
            case SetFlag(name, value):
                self.flags[name] = value
            case _:
                assert_never(effect)

    def _find(self, name: str) -> Key | None:
        return self.keys[name] if name in self.keys else self._below[0].get(name)

    def _get(self, name: str) -> Key:
        key = self._find(name)
        if key is None:
            raise ConflictError(f"key {name} is gone", key=name)
        return key

    def _get_version(self, name: str, number: int) -> tuple[Key, KeyVersion]:
        key = self._get(name)
        version = key.find_version(number)
        if version is None:
            raise ConflictError(f"{name}/versions/{number} is gone", key=name, version=number)
        return key, version

    def _insert_version(self, version: KeyVersion) -> None:
        key = self._get(version.key)
        if key.find_version(version.number) is not None:
            raise KeyExistsError(f"{version.name} exists already", key=key.name)
        self._claim(version)
        versions = sorted((*key.versions, version), key=lambda v: v.number)
        self.keys[key.name] = replace(key, versions=tuple(versions))

    def _update_version(self, effect: UpdateVersion) -> None:
        key, old = self._get_version(effect.key, effect.number)
        if old.state is not effect.expect:
            raise ConflictError(
                f"{old.name} is {old.state}, no longer {effect.expect}",
                key=key.name,
                version=old.number,
                state=old.state,
            )
        destroy_after = old.destroy_after if effect.destroy_after is None else effect.destroy_after
        new = replace(
            old,
            state=old.state if effect.state is None else effect.state,
            public_key=old.public_key if effect.public_key is None else effect.public_key,
            keyids=old.keyids if effect.keyids is None else effect.keyids,
            token_serial=old.token_serial if effect.token_serial is None else effect.token_serial,
            destroy_after=None if effect.clear_destroy_after else destroy_after,
        )
        self._free(old)
        self._claim(new)
        versions = tuple(new if v.number == new.number else v for v in key.versions)
        self.keys[key.name] = replace(key, versions=versions)

    def _delete_version(self, name: str, number: int) -> None:
        key, version = self._get_version(name, number)
        if version.state is not VersionState.PENDING:
            raise ConflictError(
                f"{version.name} is {version.state}, no longer PENDING",
                key=name,
                version=number,
                state=version.state,
            )
        self._free(version)
        rest = tuple(v for v in key.versions if v.number != number)
        self.keys[name] = replace(key, versions=rest) if rest else None

    def _set_active(self, effect: SetActive) -> None:
        key = self._get(effect.key)
        if key.active_version != effect.expect or key.find_version(effect.number) is None:
            raise RotationConflictError(
                f"the active version of {key.name} is {key.active_version}, "
                f"not {effect.expect} any more",
                hint="look at the key again, then retry",
                key=key.name,
                active=key.active_version,
            )
        self.keys[key.name] = replace(key, active_version=effect.number)

    def _set_key_fields(self, effect: SetKeyFields) -> None:
        key = self._get(effect.key)
        period = effect.rotation_period_s
        self.keys[key.name] = replace(
            key,
            bindings=key.bindings if effect.bindings is None else effect.bindings,
            labels=key.labels if effect.labels is None else dict(effect.labels),
            rotation_period_s=key.rotation_period_s if period is None else period,
        )

    def _claim(self, version: KeyVersion) -> None:
        """Take the version's public key and token object, which nobody else may have."""
        owner = (version.key, version.number)
        state = version.state
        if state is VersionState.DESTROYABLE or (
            state is VersionState.DESTROY_SCHEDULED and version.destroy_after is None
        ):
            raise KeyStateError(f"{version.name}: {state} without a time", state=state)
        if version.public_key:
            _take(self.public_keys, self._below[1], version.public_key, owner, "public key")
        elif state is not VersionState.PENDING:
            raise KeyStateError(f"{version.name} has no public key yet", state=state)
        if state is not VersionState.DESTROYED:
            place = (version.token_serial, version.object_id)
            _take(self.objects, self._below[2], place, owner, "token object")

    def _free(self, version: KeyVersion) -> None:
        if version.public_key:
            self.public_keys[version.public_key] = None
        if version.state is not VersionState.DESTROYED:
            self.objects[version.token_serial, version.object_id] = None


def _take(
    mine: dict[_What, Owner | None],
    below: Mapping[_What, Owner | None],
    what: _What,
    owner: Owner,
    noun: str,
) -> None:
    holder = mine[what] if what in mine else below.get(what)
    if holder is not None and holder != owner:
        raise KeyExistsError(
            f"this {noun} is registered already, as {holder[0]}/versions/{holder[1]}",
            key=holder[0],
            version=holder[1],
        )
    mine[what] = owner
