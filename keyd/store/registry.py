"""The registry as of the last commit: an immutable snapshot, swapped whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from keyd.model import Freeze, Key, KeyVersion

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Snapshot:
    """All keys, freezes and flags at one commit; nobody changes the mappings."""

    keys: Mapping[str, Key]
    public_keys: Mapping[bytes, tuple[str, int]]
    freezes: Mapping[str, Freeze]
    flags: Mapping[str, str]

    @classmethod
    def of(
        cls, keys: Mapping[str, Key], freezes: Mapping[str, Freeze], flags: Mapping[str, str]
    ) -> Snapshot:
        """Index a whole registry."""
        public_keys = {
            version.public_key: (version.key, version.number)
            for key in keys.values()
            for version in key.versions
            if version.public_key
        }
        return cls(keys, public_keys, freezes, flags)

    def changed(self, changes: Changes) -> Snapshot:
        """The snapshot after a commit; what it did not touch is shared."""
        keys, public_keys = dict(self.keys), self.public_keys
        if changes.keys:
            public_keys = dict(public_keys)
        assert isinstance(public_keys, dict)
        for name in changes.keys:
            for version in keys[name].versions if name in keys else ():
                public_keys.pop(version.public_key, None)
        for name, key in changes.keys.items():
            if key is None:
                keys.pop(name, None)
                continue
            keys[name] = key
            for version in key.versions:
                if version.public_key:
                    public_keys[version.public_key] = (name, version.number)
        return Snapshot(
            keys,
            public_keys,
            _merged(self.freezes, changes.freezes),
            _merged(self.flags, changes.flags),
        )

    @cached_property
    def ordered(self) -> tuple[Key, ...]:
        """All keys by name."""
        return tuple(self.keys[name] for name in sorted(self.keys))


def _merged(old: Mapping[str, _Value], new: Mapping[str, _Value | None]) -> Mapping[str, _Value]:
    merged = {name: value for name, value in old.items() if name not in new}
    merged.update({name: value for name, value in new.items() if value is not None})
    return merged


@dataclass(frozen=True)
class Changes:
    """What one commit changed; None for what it removed."""

    keys: Mapping[str, Key | None]
    freezes: Mapping[str, Freeze | None]
    flags: Mapping[str, str | None]

    def __bool__(self) -> bool:
        return bool(self.keys or self.freezes or self.flags)


class KeyRegistry:
    """model.Registry over the current snapshot. Readers on any thread see one commit whole:
    each method reads the reference once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def swap(self, snapshot: Snapshot) -> None:
        """Show another commit; the writer's, after it is durable."""
        self._snapshot = snapshot

    @property
    def snapshot(self) -> Snapshot:
        """The commit that is shown now."""
        return self._snapshot

    def find(self, name: str) -> Key | None:
        """See model.Registry."""
        return self._snapshot.keys.get(name)

    def find_public_key(self, public_key: bytes) -> KeyVersion | None:
        """See model.Registry."""
        snapshot = self._snapshot
        found = snapshot.public_keys.get(public_key) if public_key else None
        return snapshot.keys[found[0]].find_version(found[1]) if found else None

    def keys(self) -> Sequence[Key]:
        """See model.Registry."""
        return self._snapshot.ordered

    def freeze_on(self, name: str) -> Freeze | None:
        """See model.Registry."""
        freezes = self._snapshot.freezes
        return freezes.get(name) or freezes.get("")

    def freezes(self) -> Sequence[Freeze]:
        """See model.Registry."""
        return tuple(self._snapshot.freezes[name] for name in sorted(self._snapshot.freezes))
