"""What a group's effects make of keys, freezes and flags. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar, assert_never

from keyd.errors import (
    ConflictError,
    KeyExistsError,
    KeyStateError,
    RotationConflictError,
)
from keyd.model import (
    DeleteVersion,
    Freeze,
    InsertKey,
    InsertVersion,
    Key,
    KeyVersion,
    SetActive,
    SetFlag,
    SetFreeze,
    SetKeyFields,
    UpdateVersion,
    VersionState,
)
from keyd.store.overlay import Overlay
from keyd.store.registry import Changes

_What = TypeVar("_What")

KeyEffect = (
    InsertKey
    | InsertVersion
    | UpdateVersion
    | DeleteVersion
    | SetActive
    | SetKeyFields
    | SetFreeze
    | SetFlag
)
Owner = tuple[str, int]
"""Key name and version number."""
Object = tuple[str, bytes]
"""Token serial and CKA_ID."""


class KeyPlan:
    """The touched keys as they will be after the effects applied so far."""

    def __init__(
        self,
        keys: Mapping[str, Key],
        public_keys: Mapping[bytes, Owner],
        objects: Mapping[Object, Owner],
        now: datetime,
    ) -> None:
        """Start from what the database holds: the keys by name, and who owns the public keys
        and (not destroyed) token objects the items name."""
        self._keys = Overlay(keys)
        self._public_keys = Overlay(public_keys)
        self._objects = Overlay(objects)
        self._freezes: Overlay[str, Freeze] = Overlay({})
        self._flags: Overlay[str, str] = Overlay({})
        self._now = now

    @property
    def layers(self) -> tuple[Overlay[Any, Any], ...]:
        """What an item's end keeps or undoes."""
        return (self._keys, self._public_keys, self._objects, self._freezes, self._flags)

    @property
    def changes(self) -> Changes:
        """What all kept items changed together."""
        return Changes(self._keys.changed, self._freezes.changed, self._flags.changed)

    def apply(self, effect: KeyEffect) -> None:
        """Apply one effect or raise its conflict."""
        match effect:
            case InsertKey(key):
                if self._keys.find(key.name) is not None:
                    raise KeyExistsError(f"key {key.name} exists already", key=key.name)
                self._keys.put(key.name, replace(key, versions=()))
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
                self._freezes.put(name, Freeze(name, by, said, self._now) if frozen else None)
            case SetFlag(name, value):
                self._flags.put(name, value)
            case _:
                assert_never(effect)

    def _get(self, name: str) -> Key:
        key = self._keys.find(name)
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
        self._keys.put(key.name, replace(key, versions=tuple(versions)))

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
            origin=effect.origin or old.origin,
            attestation=effect.attestation or old.attestation,
        )
        self._free(old)
        self._claim(new)
        versions = tuple(new if v.number == new.number else v for v in key.versions)
        self._keys.put(key.name, replace(key, versions=versions))

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
        self._keys.put(name, replace(key, versions=rest) if rest else None)

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
        self._keys.put(key.name, replace(key, active_version=effect.number))

    def _set_key_fields(self, effect: SetKeyFields) -> None:
        key = self._get(effect.key)
        period = effect.rotation_period_s
        self._keys.put(
            key.name,
            replace(
                key,
                bindings=key.bindings if effect.bindings is None else effect.bindings,
                labels=key.labels if effect.labels is None else dict(effect.labels),
                rotation_period_s=key.rotation_period_s if period is None else period,
            ),
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
            _take(self._public_keys, version.public_key, owner, "public key")
        elif state is not VersionState.PENDING:
            raise KeyStateError(f"{version.name} has no public key yet", state=state)
        if state is not VersionState.DESTROYED:
            place = (version.token_serial, version.object_id)
            _take(self._objects, place, owner, "token object")

    def _free(self, version: KeyVersion) -> None:
        if version.public_key:
            self._public_keys.put(version.public_key, None)
        if version.state is not VersionState.DESTROYED:
            self._objects.put((version.token_serial, version.object_id), None)


def _take(layer: Overlay[_What, Owner], what: _What, owner: Owner, noun: str) -> None:
    holder = layer.find(what)
    if holder is not None and holder != owner:
        raise KeyExistsError(
            f"this {noun} is registered already, as {holder[0]}/versions/{holder[1]}",
            key=holder[0],
            version=holder[1],
        )
    layer.put(what, owner)
