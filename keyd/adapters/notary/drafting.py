"""The next version of each role that staged changes touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyd.adapters.notary import changes, metadata
from keyd.adapters.notary.changes import Change
from keyd.adapters.notary.metadata import Draft
from keyd.adapters.notary.server import NotaryServer
from keyd.adapters.notary.trusted import Trusted
from keyd.content import envelope
from keyd.content.documents import Targets
from keyd.errors import ContentError


@dataclass(slots=True)
class Drafting:
    """Makes drafts on top of what is served. ``trusted``: None for a collection that is new.
    ``notes``: what did not fit."""

    server: NotaryServer
    trusted: Trusted | None
    now: datetime
    notes: list[str]

    def of_changes(self, staged: Sequence[Change]) -> dict[str, Draft]:
        """Role -> next version, for the targets roles whose content changes.

        Raises:
            RepositoryError: a change that cannot be made.
        """
        roles = list(dict.fromkeys(c.role for c in staged if c.action != "init"))
        drafts = {}
        for role in roles:
            own = [c for c in staged if c.role == role]
            is_witness = any(c.action == "witness" for c in own)
            draft = self.next_targets(role, keep_unverified=is_witness)
            before = draft.says()
            signed: dict[str, Any] = draft.signed
            self.notes += changes.apply(signed, role, own)
            is_new = self.trusted is None or role not in self.trusted.targets
            if is_witness or draft.says() != before or is_new:
                drafts[role] = draft
        return drafts

    def next_targets(self, role: str, *, keep_unverified: bool = False) -> Draft:
        """A targets role as it is, as its next version; empty where nothing of it counts."""
        expires = metadata.expiry(role, self.now)
        if self.trusted is not None and role in self.trusted.targets:
            served = self.trusted.targets[role]
            return metadata.next_draft(role, served.envelope, served.file, expires)
        file = self.server.find(role) if self.trusted is not None else None
        draft = metadata.new_targets(role, expires)
        if file is None:
            return draft
        try:
            there = envelope.parse(file)
        except ContentError:
            return draft
        if keep_unverified and isinstance(there.document, Targets):
            return metadata.next_draft(role, there, file, expires)
        draft.base = there.document.version
        draft.signed["version"] = draft.base + 1
        return draft

    def next_root(self) -> Draft:
        """The root as it is, as its next version."""
        assert self.trusted is not None
        root = self.trusted.root
        expires = metadata.expiry("root", self.now)
        return metadata.next_draft("root", root.envelope, root.file, expires)

    def next_snapshot(self, files: Mapping[str, bytes]) -> Draft:
        """A snapshot with these files in place of what was served of their roles."""
        assert self.trusted is not None
        base = self.trusted.snapshot
        expires = metadata.expiry("snapshot", self.now)
        draft = metadata.next_draft("snapshot", base.envelope, base.file, expires)
        draft.signed["meta"] |= {role: metadata.meta_of(file) for role, file in files.items()}
        return draft
