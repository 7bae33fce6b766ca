"""Keys as rows: loads them, and writes the difference a group makes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, true

from keyd.model import (
    Attestation,
    Binding,
    Freeze,
    Key,
    KeyAlgorithm,
    KeyVersion,
    Origin,
    Scheme,
    VersionState,
)
from keyd.store.plan_keys import Object, Owner
from keyd.store.registry import Changes, Snapshot
from keyd.store.schema import (
    attestations,
    bindings,
    flags,
    freezes,
    from_microseconds,
    keys,
    labels,
    to_microseconds,
    versions,
)

_CHUNK = 500


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), _CHUNK):
        yield listed[start : start + _CHUNK]


def load_snapshot(connection: Connection) -> Snapshot:
    """Everything the registry holds."""
    found_freezes = {
        row.key: Freeze(row.key, row.by, row.said, from_microseconds(row.since))
        for row in connection.execute(select(freezes))
    }
    found_flags = {row.name: row.value for row in connection.execute(select(flags))}
    return Snapshot.of(_load(connection, None), found_freezes, found_flags)


def load_keys(connection: Connection, names: Collection[str]) -> dict[str, Key]:
    """Those of the named keys that exist."""
    found: dict[str, Key] = {}
    for chunk in _chunks(names):
        found |= _load(connection, chunk)
    return found


def _load(connection: Connection, names: list[str] | None) -> dict[str, Key]:
    def of(column: ColumnElement[str]) -> ColumnElement[bool]:
        return true() if names is None else column.in_(names)

    proven = {
        (row.key, row.number): Attestation.from_json(row.attestation)
        for row in connection.execute(select(attestations).where(of(attestations.c.key)))
    }
    found_versions: dict[str, list[KeyVersion]] = {}
    for row in connection.execute(
        select(versions).where(of(versions.c.key)).order_by(versions.c.number)
    ):
        found_versions.setdefault(row.key, []).append(
            _version(row, proven.get((row.key, row.number)))
        )
    found_bindings: dict[str, list[Binding]] = {}
    for row in connection.execute(select(bindings).where(of(bindings.c.key))):
        found_bindings.setdefault(row.key, []).append(Binding(row.repository, row.role))
    found_labels: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(labels).where(of(labels.c.key))):
        found_labels.setdefault(row.key, {})[row.name] = row.value
    return {
        row.name: Key(
            name=row.name,
            token=row.token,
            algorithm=KeyAlgorithm(row.algorithm),
            scheme=Scheme(row.scheme),
            created_at=from_microseconds(row.created_at),
            created_by=row.created_by,
            bindings=frozenset(found_bindings.get(row.name, ())),
            labels=found_labels.get(row.name, {}),
            rotation_period_s=row.rotation_period_s,
            active_version=row.active_version,
            versions=tuple(found_versions.get(row.name, ())),
        )
        for row in connection.execute(select(keys).where(of(keys.c.name)))
    }


def _version(row: Any, attestation: Attestation | None) -> KeyVersion:
    return KeyVersion(
        key=row.key,
        number=row.number,
        state=VersionState(row.state),
        origin=Origin(row.origin),
        token_serial=row.token_serial,
        object_id=row.object_id,
        public_key=row.public_key or b"",
        keyids=json.loads(row.keyids),
        created_at=from_microseconds(row.created_at),
        created_by=row.created_by,
        destroy_after=(None if row.destroy_after is None else from_microseconds(row.destroy_after)),
        attestation=attestation,
    )


def public_key_owners(connection: Connection, public_keys: Collection[bytes]) -> dict[bytes, Owner]:
    """Who has registered these public keys, in whatever state."""
    found: dict[bytes, Owner] = {}
    columns = (versions.c.public_key, versions.c.key, versions.c.number)
    for chunk in _chunks(public_keys):
        for row in connection.execute(select(*columns).where(versions.c.public_key.in_(chunk))):
            found[row.public_key] = (row.key, row.number)
    return found


def object_owners(connection: Connection, object_ids: Collection[bytes]) -> dict[Object, Owner]:
    """Which versions, not destroyed, have these object ids, on whatever token."""
    found: dict[Object, Owner] = {}
    columns = (versions.c.token_serial, versions.c.object_id, versions.c.key, versions.c.number)
    for chunk in _chunks(object_ids):
        for row in connection.execute(
            select(*columns).where(
                versions.c.object_id.in_(chunk), versions.c.state != VersionState.DESTROYED.value
            )
        ):
            found[row.token_serial, row.object_id] = (row.key, row.number)
    return found


def write_changes(connection: Connection, before: Mapping[str, Key], changes: Changes) -> None:
    """Write what differs. Removals come first, then changes, then what is new, so that a place
    or public key that one item frees is free for the next."""
    new_keys: list[dict[str, Any]] = []
    new_versions: list[dict[str, Any]] = []
    changed_versions: list[KeyVersion] = []
    gone: list[tuple[str, int]] = []
    for name, key in changes.keys.items():
        old = before.get(name)
        old_versions = {v.number: v for v in old.versions} if old else {}
        kept = {v.number for v in key.versions} if key else set()
        gone += [(name, number) for number in old_versions if number not in kept]
        if key is None:
            continue
        if old is None:
            new_keys.append(_key_row(key))
        for version in key.versions:
            if version.number not in old_versions:
                new_versions.append(_version_row(version))
            elif version != old_versions[version.number]:
                changed_versions.append(version)
    for name, number in gone:
        connection.execute(
            delete(versions).where(versions.c.key == name, versions.c.number == number)
        )
    # A destroyed version frees its object before another claims it.
    for version in sorted(changed_versions, key=lambda v: v.state is not VersionState.DESTROYED):
        connection.execute(
            versions.update()
            .where(versions.c.key == version.key, versions.c.number == version.number)
            .values(_version_row(version))
        )
    if new_keys:
        connection.execute(keys.insert(), new_keys)
    for name, key in changes.keys.items():
        _write_key(connection, name, before.get(name), key)
    if new_versions:
        connection.execute(versions.insert(), new_versions)
    _write_attestations(connection, before, changes)
    _write_freezes(connection, changes.freezes)
    _write_flags(connection, changes.flags)


def _write_key(connection: Connection, name: str, old: Key | None, key: Key | None) -> None:
    old_bindings = old.bindings if old else frozenset()
    old_labels = old.labels if old else {}
    new_bindings = key.bindings if key else frozenset()
    new_labels = key.labels if key else {}
    if old_bindings != new_bindings:
        connection.execute(delete(bindings).where(bindings.c.key == name))
        rows = [{"key": name, "repository": b.repository, "role": b.role} for b in new_bindings]
        if rows:
            connection.execute(bindings.insert(), rows)
    if old_labels != new_labels:
        connection.execute(delete(labels).where(labels.c.key == name))
        rows = [{"key": name, "name": k, "value": v} for k, v in new_labels.items()]
        if rows:
            connection.execute(labels.insert(), rows)
    if old is not None and key is None:
        connection.execute(delete(keys).where(keys.c.name == name))
    elif old is not None and key is not None and _key_row(old) != _key_row(key):
        connection.execute(keys.update().where(keys.c.name == name).values(_key_row(key)))


def _key_row(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "token": key.token,
        "algorithm": key.algorithm.value,
        "scheme": key.scheme.value,
        "created_at": to_microseconds(key.created_at),
        "created_by": key.created_by,
        "rotation_period_s": key.rotation_period_s,
        "active_version": key.active_version,
    }


def _version_row(version: KeyVersion) -> dict[str, Any]:
    after = version.destroy_after
    return {
        "key": version.key,
        "number": version.number,
        "state": version.state.value,
        "origin": version.origin.value,
        "token_serial": version.token_serial,
        "object_id": version.object_id,
        "public_key": version.public_key or None,
        "keyids": json.dumps(dict(version.keyids), sort_keys=True),
        "created_at": to_microseconds(version.created_at),
        "created_by": version.created_by,
        "destroy_after": None if after is None else to_microseconds(after),
    }


def _write_attestations(
    connection: Connection, before: Mapping[str, Key], changes: Changes
) -> None:
    for name, key in changes.keys.items():
        old = before.get(name)
        known = {v.number: v.attestation for v in old.versions} if old else {}
        for version in key.versions if key else ():
            proven = version.attestation
            if proven is None or proven == known.get(version.number):
                continue
            place = (attestations.c.key == name) & (attestations.c.number == version.number)
            connection.execute(delete(attestations).where(place))
            connection.execute(
                attestations.insert().values(
                    key=name, number=version.number, attestation=proven.to_json()
                )
            )


def _write_freezes(connection: Connection, changes: Mapping[str, Freeze | None]) -> None:
    for name, freeze in changes.items():
        connection.execute(delete(freezes).where(freezes.c.key == name))
        if freeze is not None:
            since = to_microseconds(freeze.since)
            connection.execute(
                freezes.insert().values(key=name, by=freeze.by, said=freeze.said, since=since)
            )


def _write_flags(connection: Connection, changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        connection.execute(delete(flags).where(flags.c.name == name))
        if value is not None:
            connection.execute(flags.insert().values(name=name, value=value))
