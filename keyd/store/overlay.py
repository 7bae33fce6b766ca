"""A mapping under change: what an item puts over what the items before it left. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")


class Overlay(Generic[_Name, _Value]):
    """What the database holds, over it the kept changes, over those one item's own."""

    def __init__(self, below: Mapping[_Name, _Value]) -> None:
        self.below = below
        self.changed: dict[_Name, _Value | None] = {}
        """What kept items changed; None for what they removed."""
        self._item: dict[_Name, _Value | None] = {}

    def find(self, name: _Name) -> _Value | None:
        """The value as the item sees it."""
        if name in self._item:
            return self._item[name]
        return self.changed[name] if name in self.changed else self.below.get(name)

    def put(self, name: _Name, value: _Value | None) -> None:
        """Set a value, or remove it with None, in the item's own layer."""
        self._item[name] = value

    def keep(self) -> None:
        """The item went through: what it put is a change now."""
        if self._item:
            self.changed |= self._item
            self._item = {}

    def undo(self) -> None:
        """The item conflicts: forget what it put."""
        self._item = {}
