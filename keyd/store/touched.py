"""Which rows a group's effects name, so that each table is asked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from keyd.model import (
    AddVote,
    CloseApproval,
    DeleteVersion,
    DropMark,
    Effect,
    InsertApproval,
    InsertKey,
    InsertVersion,
    Key,
    PutCeremony,
    PutMark,
    RecordMark,
    RemoveVote,
    SetActive,
    SetFlag,
    SetFreeze,
    SetKeyFields,
    StoreSignature,
    UpdateVersion,
)
from keyd.store.plan_marks import RoleName
from keyd.store.storable import is_text


@dataclass
class Touched:
    """Names of rows, whether they exist or not; without those that no database can be asked for,
    which the plans refuse."""

    keys: set[str] = field(default_factory=set)
    marks: set[RoleName] = field(default_factory=set)
    approvals: set[str] = field(default_factory=set)
    approval_digests: set[bytes] = field(default_factory=set)
    """Of new approvals, whose operation an open one may have."""
    ceremonies: set[str] = field(default_factory=set)
    ceremony_repositories: set[str] = field(default_factory=set)
    _inserted: list[InsertVersion] = field(default_factory=list)
    _updated: list[UpdateVersion] = field(default_factory=list)

    @classmethod
    def by(cls, effects: Sequence[Effect]) -> Touched:
        """What these effects touch."""
        touched = cls()
        for effect in effects:
            touched._add(effect)
        return touched

    def claims(self, before: Mapping[str, Key]) -> tuple[set[bytes], set[bytes]]:
        """The public keys and object ids that the effects may claim, on whatever token."""
        public_keys = {effect.version.public_key for effect in self._inserted}
        object_ids = {effect.version.object_id for effect in self._inserted}
        for effect in self._updated:
            public_keys.add(effect.public_key or b"")
            key = before.get(effect.key)
            version = key.find_version(effect.number) if key else None
            if version is not None:
                object_ids.add(version.object_id)
        return public_keys - {b""}, object_ids

    def _add(self, effect: Effect) -> None:
        match effect:
            case StoreSignature() | SetFreeze() | SetFlag():
                pass
            case InsertKey(key):
                self.keys.add(key.name)
            case InsertVersion(version):
                self.keys.add(version.key)
                self._inserted.append(effect)
            case UpdateVersion():
                self.keys.add(effect.key)
                self._updated.append(effect)
            case DeleteVersion() | SetActive() | SetKeyFields():
                self.keys.add(effect.key)
            case RecordMark() | DropMark():
                self._add_mark(effect.repository, effect.role)
            case PutMark(mark):
                self._add_mark(mark.repository, mark.role)
            case InsertApproval(approval):
                _add_text(self.approvals, approval.id)
                self.approval_digests.add(approval.digest)
            case AddVote() | RemoveVote() | CloseApproval():
                _add_text(self.approvals, effect.approval_id)
            case PutCeremony(ceremony):
                _add_text(self.ceremonies, ceremony.id)
                _add_text(self.ceremony_repositories, ceremony.repository)
            case _:
                assert_never(effect)

    def _add_mark(self, repository: str, role: str) -> None:
        if is_text(repository) and is_text(role):
            self.marks.add((repository, role))


def _add_text(names: set[str], name: str) -> None:
    if is_text(name):
        names.add(name)
